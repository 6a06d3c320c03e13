//! Removes what a lab made: on drop, on a signal, or at the next start after a kill.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, Once, Weak,
        atomic::{AtomicI32, Ordering},
    },
    thread,
};

use tokio::signal::unix::{SignalKind, signal};

use crate::{netns, process::Process, sync::lock};

static LIVE: Mutex<Vec<Weak<Mutex<Made>>>> = Mutex::new(Vec::new());
static EXIT_CODE: AtomicI32 = AtomicI32::new(130);

/// Everything to be removed.
#[derive(Debug, Default)]
pub(crate) struct Made {
    pub namespaces: Vec<String>,
    pub processes: Vec<Process>,
    pub directories: Vec<PathBuf>,
}

impl Made {
    /// Ends the processes, gregor first because it was started last, and removes the rest. Safe to call again.
    pub fn remove(&mut self) {
        while let Some(process) = self.processes.pop() {
            process.stop();
        }
        for name in self.namespaces.drain(..) {
            netns::delete(&name);
        }
        for directory in self.directories.drain(..) {
            let _ = fs::remove_dir_all(directory);
        }
    }
}

/// The exit code after an interrupt has been cleaned up after: 130 unless being interrupted is the normal end.
pub fn exit_code_on_interrupt(code: i32) {
    EXIT_CODE.store(code, Ordering::Relaxed);
}

/// A list that is emptied when the process gets SIGTERM or SIGINT.
pub(crate) fn register() -> Arc<Mutex<Made>> {
    static HANDLER: Once = Once::new();
    HANDLER.call_once(watch_signals);
    let made = Arc::new(Mutex::new(Made::default()));
    let mut live = lock(&LIVE);
    live.retain(|weak| weak.strong_count() > 0);
    live.push(Arc::downgrade(&made));
    made
}

fn watch_signals() {
    let spawned = thread::Builder::new().name("signals".into()).spawn(|| {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .expect("a runtime with one thread");
        let interrupted = runtime.block_on(async {
            let mut interrupt = signal(SignalKind::interrupt()).expect("SIGINT can be handled");
            let mut terminate = signal(SignalKind::terminate()).expect("SIGTERM can be handled");
            let mut hangup = signal(SignalKind::hangup()).expect("SIGHUP can be handled");
            tokio::select! {
                _ = interrupt.recv() => true,
                _ = terminate.recv() => false,
                _ = hangup.recv() => false,
            }
        });
        // Held to the end: no lab may be half made while the process exits.
        let live = lock(&LIVE);
        for made in live.iter().filter_map(Weak::upgrade) {
            lock(&made).remove();
        }
        std::process::exit(if interrupted {
            EXIT_CODE.load(Ordering::Relaxed)
        } else {
            143
        });
    });
    if let Err(error) = spawned {
        eprintln!("no signal handler, so an interrupt leaves namespaces behind: {error}");
    }
}

/// The name of a lab: prefix, owner and a number, so that the next one knows which process made it.
pub(crate) fn lab_name(prefix: &str, number: usize) -> String {
    format!("{prefix}.{}.{number}", std::process::id())
}

/// Removes the labs of `prefix` whose process has ended; returns the number of namespaces.
pub fn sweep(prefix: &str) -> usize {
    let stale = |name: &str| owner(prefix, name).is_some_and(|pid| !is_alive(pid));
    let mut removed = 0;
    for name in netns::names().iter().filter(|name| stale(name)) {
        netns::delete(name);
        removed += 1;
    }
    for directory in [Path::new("/etc/netns").to_owned(), std::env::temp_dir()] {
        for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
            if stale(&entry.file_name().to_string_lossy()) {
                let _ = fs::remove_dir_all(entry.path());
            }
        }
    }
    removed
}

fn owner(prefix: &str, name: &str) -> Option<u32> {
    let rest = name.strip_prefix(prefix)?.strip_prefix('.')?;
    let (pid, rest) = rest.split_once('.')?;
    let number = rest.split('.').next()?;
    number.parse::<usize>().ok()?;
    pid.parse().ok()
}

fn is_alive(pid: u32) -> bool {
    Path::new("/proc").join(pid.to_string()).exists()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_of_the_prefix_have_an_owner() {
        assert_eq!(owner("run", "run.123.0.node"), Some(123));
        assert_eq!(owner("run", "run.123.0"), Some(123));
        assert_eq!(owner("run", "runner.123.0.node"), None);
        assert_eq!(owner("run", "run.x.0.node"), None);
        assert_eq!(owner("run", "run"), None);
        assert_eq!(owner("run", "run.123"), None);
    }
}
