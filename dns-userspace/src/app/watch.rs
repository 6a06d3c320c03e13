//! When to load the configuration again: on SIGHUP, and when the content of the file has changed.

use std::{
    hash::{DefaultHasher, Hash as _, Hasher as _},
    io,
    path::{Path, PathBuf},
    time::Duration,
};

use notify::{RecommendedWatcher, RecursiveMode, Watcher as _};
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    sync::mpsc,
    time::Instant,
};

/// An editor or the kubelet makes several changes in a row.
const SETTLE: Duration = Duration::from_millis(200);

/// Why to load again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    Signal,
    Change,
    /// Other servers are learnt.
    Servers,
    /// Other namespaces have the labels that rules select them by.
    Namespaces,
}

/// Waits for causes to load the configuration again.
pub struct Reloads {
    path: PathBuf,
    hangup: Signal,
    /// One slot: changes that come while one waits are the same change.
    changes: mpsc::Receiver<()>,
    /// Dropping it ends the watch.
    _watcher: Option<RecommendedWatcher>,
    seen: Option<u64>,
    /// When a change was noticed that has not settled yet.
    noticed: Option<Instant>,
}

impl Reloads {
    /// Watches the directory of `path`, not the file: a ConfigMap is updated by swapping the `..data` symlink beside
    /// it, and editors replace files. Without a watch, SIGHUP remains.
    pub async fn watch(path: &Path) -> io::Result<Self> {
        let (sender, changes) = mpsc::channel(1);
        // The watch has a thread of its own, which has the capabilities of the one that starts it: here, none.
        let watched = path.to_owned();
        let watcher = tokio::task::spawn_blocking(move || watch_directory(&watched, sender)).await;
        let watcher = match watcher.map_err(io::Error::other)? {
            Ok(watcher) => Some(watcher),
            Err(error) => {
                tracing::warn!(
                    %error,
                    "cannot watch the configuration for changes; send SIGHUP after a change"
                );
                None
            }
        };
        Ok(Self {
            path: path.to_owned(),
            hangup: signal(SignalKind::hangup())?,
            changes,
            _watcher: watcher,
            seen: fingerprint(path),
            noticed: None,
        })
    }

    /// Ready when the configuration is to be loaded again. Cancel-safe.
    pub async fn next(&mut self) -> Cause {
        loop {
            let noticed = self.noticed;
            let watching = self._watcher.is_some();
            tokio::select! {
                _ = self.hangup.recv() => {
                    self.noticed = None;
                    self.seen = fingerprint(&self.path);
                    return Cause::Signal;
                }
                () = settle(noticed), if noticed.is_some() => {
                    self.noticed = None;
                    let now = fingerprint(&self.path);
                    // A file that is gone for a moment is being replaced.
                    if now.is_some() && now != self.seen {
                        self.seen = now;
                        return Cause::Change;
                    }
                }
                Some(()) = self.changes.recv(), if watching => {
                    // Kept outside of this future, so that a caller who gives up during the pause loses nothing.
                    self.noticed.get_or_insert_with(Instant::now);
                }
            }
        }
    }
}

async fn settle(noticed: Option<Instant>) {
    if let Some(noticed) = noticed {
        tokio::time::sleep_until(noticed + SETTLE).await;
    }
}

fn watch_directory(path: &Path, sender: mpsc::Sender<()>) -> notify::Result<RecommendedWatcher> {
    let directory = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    let mut watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
        // Reading the file is an event too, and would have us read it again.
        if !matches!(&event, Ok(event) if event.kind.is_access()) {
            let _ = sender.try_send(());
        }
    })?;
    watcher.watch(directory, RecursiveMode::NonRecursive)?;
    Ok(watcher)
}

fn fingerprint(path: &Path) -> Option<u64> {
    let bytes = std::fs::read(path).ok()?;
    let mut hasher = DefaultHasher::new();
    bytes.hash(&mut hasher);
    Some(hasher.finish())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A directory laid out as the kubelet lays out a ConfigMap.
    struct ConfigMap(PathBuf);

    impl ConfigMap {
        fn new(name: &str) -> Self {
            let directory =
                std::env::temp_dir().join(format!("gregor-watch-{name}-{}", std::process::id()));
            std::fs::create_dir_all(&directory).unwrap();
            let map = Self(directory);
            map.update("1", "first");
            std::os::unix::fs::symlink("..data/gregor.toml", map.path()).unwrap();
            map
        }

        fn path(&self) -> PathBuf {
            self.0.join("gregor.toml")
        }

        /// New data in a directory of its own, then one swap of the symlink.
        fn update(&self, version: &str, text: &str) {
            let data = self.0.join(format!("..{version}"));
            std::fs::create_dir(&data).unwrap();
            std::fs::write(data.join("gregor.toml"), text).unwrap();
            let aside = self.0.join("..data_tmp");
            std::os::unix::fs::symlink(format!("..{version}"), &aside).unwrap();
            std::fs::rename(&aside, self.0.join("..data")).unwrap();
        }
    }

    impl Drop for ConfigMap {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }

    #[tokio::test]
    async fn a_swapped_configmap_is_a_change_once() {
        let map = ConfigMap::new("swap");
        let mut reloads = Reloads::watch(&map.path()).await.unwrap();
        map.update("2", "second");
        assert_eq!(reloads.next().await, Cause::Change);
        assert_eq!(std::fs::read_to_string(map.path()).unwrap(), "second");

        // The same content again is none, so what comes next is the third.
        map.update("3", "second");
        map.update("4", "third");
        assert_eq!(reloads.next().await, Cause::Change);
        assert_eq!(reloads.seen, fingerprint(&map.path()));
    }

    #[tokio::test]
    async fn a_cancelled_wait_loses_no_change() {
        let map = ConfigMap::new("cancel");
        let mut reloads = Reloads::watch(&map.path()).await.unwrap();
        map.update("2", "second");
        // Gives up while the change settles.
        while reloads.noticed.is_none() {
            let _ = tokio::time::timeout(Duration::from_millis(10), reloads.next()).await;
        }
        assert_eq!(reloads.next().await, Cause::Change);
    }
}
