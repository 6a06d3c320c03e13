//! One daemon per control socket: a lock beside the socket, held until the process ends.
//!
//! The kernel releases the lock with the process, however that ends, so a file that is left behind is no obstacle. It is
//! never removed: a process that still waits for the old file and one that locks a new one would both hold "the" lock.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read as _, Write as _},
    os::unix::fs::{MetadataExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
};

use nix::{
    errno::Errno,
    fcntl::{Flock, FlockArg},
};
use tokio::net::UnixListener;

use crate::observe::{self, ServeError};

/// Why this process may not own the socket.
#[derive(Debug, thiserror::Error)]
pub enum OwnerError {
    #[error(
        "another gregor{holder} owns the control socket {}; stop it first, or give this one another --control path",
        socket.display()
    )]
    Held { socket: PathBuf, holder: String },
    #[error("cannot lock {}: {error}; {}", path.display(), remedy(error))]
    Lock { path: PathBuf, error: io::Error },
    #[error(transparent)]
    Socket(#[from] ServeError),
}

fn remedy(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            "free space and inodes there (df, df -i), or give another path with --control"
        }
        _ => "give a writable path with --control",
    }
}

/// The right to the control socket, and to every interface that this daemon attaches to.
#[derive(Debug)]
pub struct Owner {
    socket: PathBuf,
    /// Device and inode of the socket that this process made.
    made: Option<(u64, u64)>,
    /// `None` for a successor: what keeps two of them apart is the lock on what is pinned.
    lock: Option<Flock<File>>,
}

impl Owner {
    /// One that takes the socket over from whichever gregor has it.
    pub fn successor(socket: &Path) -> Self {
        Self {
            socket: socket.to_owned(),
            made: None,
            lock: None,
        }
    }

    /// Locks; fails at once when another process holds the lock.
    pub fn claim(socket: &Path) -> Result<Self, OwnerError> {
        let path = lock_path(socket);
        let failed = |error| OwnerError::Lock {
            path: path.clone(),
            error,
        };
        if let Some(directory) = path.parent() {
            fs::create_dir_all(directory).map_err(failed)?;
        }
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .custom_flags(libc::O_NOFOLLOW)
            .open(&path)
            .map_err(failed)?;
        match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(mut lock) => {
                write_holder(&mut lock).map_err(failed)?;
                Ok(Self {
                    socket: socket.to_owned(),
                    made: None,
                    lock: Some(lock),
                })
            }
            Err((mut file, Errno::EWOULDBLOCK)) => Err(OwnerError::Held {
                socket: socket.to_owned(),
                holder: holder(&mut file),
            }),
            Err((_, errno)) => Err(failed(errno.into())),
        }
    }

    /// Whether the control socket is one that this process made.
    pub fn has_bound(&self) -> bool {
        self.made.is_some()
    }

    /// Makes the control socket, in the place of a predecessor's.
    pub fn bind(&mut self) -> Result<UnixListener, OwnerError> {
        let listener = observe::bind_control(&self.socket, self.lock.is_none())?;
        self.made = inode(&self.socket);
        Ok(listener)
    }
}

impl Drop for Owner {
    /// Removes the socket that this process made, and no other, before the lock is released.
    fn drop(&mut self) {
        if self.made.is_some() && self.made == inode(&self.socket) {
            let _ = fs::remove_file(&self.socket);
        }
    }
}

fn lock_path(socket: &Path) -> PathBuf {
    let mut path = socket.as_os_str().to_owned();
    path.push(".lock");
    path.into()
}

fn inode(path: &Path) -> Option<(u64, u64)> {
    let metadata = fs::symlink_metadata(path).ok()?;
    Some((metadata.dev(), metadata.ino()))
}

/// Numbers of processes mean something within one pid namespace only: containers that share the directory have others.
fn pid_namespace() -> Option<u64> {
    fs::metadata("/proc/self/ns/pid")
        .ok()
        .map(|namespace| namespace.ino())
}

fn write_holder(file: &mut File) -> io::Result<()> {
    file.set_len(0)?;
    let namespace = pid_namespace().unwrap_or(0);
    writeln!(file, "{} {namespace}", std::process::id())
}

/// ` (pid 4711)`, or nothing when the holder has not written it yet.
fn holder(file: &mut File) -> String {
    let mut text = String::new();
    let _ = file.take(64).read_to_string(&mut text);
    describe(&text, pid_namespace())
}

fn describe(text: &str, own_namespace: Option<u64>) -> String {
    let mut words = text
        .split_whitespace()
        .map_while(|word| word.parse::<u64>().ok());
    let Some(pid) = words.next() else {
        return String::new();
    };
    match (words.next(), own_namespace) {
        (Some(theirs), Some(own)) if theirs != own => {
            format!(" (pid {pid} in another container)")
        }
        _ => format!(" (pid {pid})"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Scratch(PathBuf);

    impl Scratch {
        fn new(name: &str) -> Self {
            let path = std::env::temp_dir().join(format!("gregor-{name}-{}", std::process::id()));
            fs::create_dir(&path).unwrap();
            Self(path)
        }
    }

    impl Drop for Scratch {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn the_holder_is_named() {
        assert_eq!(describe("4711 99\n", Some(99)), " (pid 4711)");
        assert_eq!(
            describe("1 98\n", Some(99)),
            " (pid 1 in another container)"
        );
        assert_eq!(describe("4711", Some(99)), " (pid 4711)");
        assert_eq!(describe("", Some(99)), "");
        assert_eq!(describe("x", None), "");
    }

    #[tokio::test]
    async fn one_owner_at_a_time_and_a_lock_file_left_behind_does_not_matter() {
        let scratch = Scratch::new("owner");
        let socket = scratch.0.join("gregor.sock");
        // What a killed gregor leaves behind.
        fs::write(lock_path(&socket), "4711 1\n").unwrap();
        fs::write(&socket, "").unwrap();
        let mut owner = Owner::claim(&socket).unwrap();
        let error = Owner::claim(&socket).unwrap_err().to_string();
        let own = format!("another gregor (pid {})", std::process::id());
        assert!(error.contains(&own), "{error}");

        let listener = owner.bind().unwrap();
        drop(listener);
        drop(owner);
        assert!(!socket.exists());
        assert!(Owner::claim(&socket).is_ok());
    }

    #[tokio::test]
    async fn a_socket_of_another_process_is_not_removed() {
        let scratch = Scratch::new("foreign");
        let socket = scratch.0.join("gregor.sock");
        let mut owner = Owner::claim(&socket).unwrap();
        let _listener = owner.bind().unwrap();
        let theirs = scratch.0.join("theirs");
        fs::write(&theirs, "").unwrap();
        fs::rename(&theirs, &socket).unwrap();
        drop(owner);
        assert!(socket.exists());
    }
}
