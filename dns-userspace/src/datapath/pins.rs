//! Where maps and links outlive the process: a directory of bpffs, with a folder for each ABI version.
//!
//! A process writes pinned tables only while it holds the lock on the directory. The kernel releases that with the process,
//! however it ends.

use std::{
    collections::HashSet,
    fs::{self, File},
    io,
    os::unix::fs::{DirBuilderExt as _, MetadataExt as _},
    path::{Path, PathBuf},
};

use aya::maps::MapInfo;
use dns_common::abi;
use nix::{
    errno::Errno,
    fcntl::{Flock, FlockArg},
    sys::{
        statfs::{BPF_FS_MAGIC, statfs},
        statvfs::FsFlags,
    },
    unistd::geteuid,
};

use super::{causes::one_line, confinement::Confinement, link::BpfLink};

/// The default directory for pins.
pub const STATE: &str = "/sys/fs/bpf/gregor";

/// A directory as a marker: its presence means that the programs were detached on purpose. bpffs takes no plain files.
const DISMISSED: &str = "detached";

/// A folder in that of a version, whose presence says which records its processes can read.
fn records() -> String {
    format!("records-{}", abi::RECORDS_LAYOUT)
}

/// The folder of links in that of a version.
const LINKS: &str = "links";

/// Why the directory cannot be used. Each says what to do.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    #[error("{} is not on bpffs; mount it (mount -t bpf bpf /sys/fs/bpf; in a container, mount the node's /sys/fs/bpf), or give a directory of bpffs with --state", .0.display())]
    NotBpffs(PathBuf),
    #[error("{} is on a bpffs that is mounted read-only; mount it writable (mount -o remount,rw /sys/fs/bpf; in a container, no readOnly: true for the volume)", .0.display())]
    ReadOnly(PathBuf),
    #[error("cannot make {}: {error}; {remedy}", path.display())]
    Make {
        path: PathBuf,
        error: io::Error,
        remedy: String,
    },
    #[error("{} is {how}, who could replace what is pinned there; remove it (rm -r {}), or give another directory with --state", path.display(), path.display())]
    Foreign { path: PathBuf, how: String },
    #[error("cannot lock {}: {error}", path.display())]
    Lock { path: PathBuf, error: io::Error },
    #[error("another gregor owns {}; stop it first, take over from it with --handover, or give this one another directory with --state", .0.display())]
    Held(PathBuf),
    #[error("the programs that are pinned in {} are attached in another network namespace; remove them with `gregor detach --all`, or give another directory with --state", .0.display())]
    OtherNetwork(PathBuf),
}

/// A directory of bpffs.
#[derive(Clone, Debug)]
pub struct State {
    root: PathBuf,
}

/// The right to write what is pinned.
#[derive(Debug)]
pub struct Claim {
    lock: Flock<File>,
}

impl State {
    /// Whether a directory is on a bpffs, or would be once it is made, that this process may write and no other user.
    pub fn is_usable(root: &Path) -> Result<(), StateError> {
        let make = |error| cannot_make(root, error);
        let mut existing = root;
        while !existing.exists() {
            existing = existing
                .parent()
                .ok_or_else(|| make(io::ErrorKind::NotFound.into()))?;
        }
        let fs_type = statfs(existing).map_err(|errno| make(errno.into()))?;
        if fs_type.filesystem_type() != BPF_FS_MAGIC {
            return Err(StateError::NotBpffs(root.to_owned()));
        }
        if fs_type.flags().contains(FsFlags::ST_RDONLY) {
            return Err(StateError::ReadOnly(root.to_owned()));
        }
        if existing != root {
            return Ok(());
        }
        let metadata = fs::metadata(root).map_err(make)?;
        match foreign(metadata.uid(), metadata.mode(), geteuid().as_raw()) {
            None => Ok(()),
            Some(how) => Err(StateError::Foreign {
                path: root.to_owned(),
                how,
            }),
        }
    }

    /// Makes the directory where it is missing.
    pub fn open(root: &Path) -> Result<Self, StateError> {
        Self::is_usable(root)?;
        let state = Self {
            root: root.to_owned(),
        };
        state
            .make_folders()
            .map_err(|error| cannot_make(root, error))?;
        Ok(state)
    }

    /// [`State::is_usable`], and a directory is made where [`State::open`] would make one, and removed again: a security module
    /// may forbid that and nothing else.
    pub fn try_out(root: &Path) -> Result<(), StateError> {
        Self::is_usable(root)?;
        let first_missing = root
            .ancestors()
            .take_while(|path| !path.exists())
            .last()
            .map(Path::to_owned);
        let tried =
            first_missing.unwrap_or_else(|| root.join(format!("check-{}", std::process::id())));
        match fs::DirBuilder::new().mode(0o755).create(&tried) {
            Ok(()) => {
                // A gregor that starts at this moment may use it already.
                let _ = fs::remove_dir(&tried);
                Ok(())
            }
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
            Err(error) => Err(cannot_make(root, error)),
        }
    }

    /// Whether a lock is on the directory that is at the path now: it was not removed, and no other bpffs was mounted.
    pub fn is_claimed_by(&self, claim: &Claim) -> bool {
        self.is_here(&claim.lock)
    }

    /// Whether `detach --all` has detached the programs, or does so now: they are not attached again then.
    pub fn is_dismissed(&self) -> bool {
        self.root.join(DISMISSED).exists()
    }

    /// Takes the lock; `None` while another process has it.
    pub fn try_claim(&self) -> Result<Option<Claim>, StateError> {
        let failed = |error| StateError::Lock {
            path: self.root.clone(),
            error,
        };
        loop {
            let directory = match File::open(&self.root) {
                // A process that ends in order removes the directory.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    make_directory(&self.root).map_err(failed)?;
                    continue;
                }
                opened => opened.map_err(failed)?,
            };
            match Flock::lock(directory, FlockArg::LockExclusiveNonblock) {
                Ok(lock) if self.is_here(&lock) => {
                    self.make_folders().map_err(failed)?;
                    // It was for the one before.
                    let _ = fs::remove_dir(self.root.join(DISMISSED));
                    return Ok(Some(Claim { lock }));
                }
                // It was removed between opening and locking: a lock on it excludes no other process.
                Ok(_) => {}
                Err((_, Errno::EWOULDBLOCK)) => return Ok(None),
                Err((_, errno)) => return Err(failed(errno.into())),
            }
        }
    }

    /// Whether an open directory is the one at the path.
    fn is_here(&self, directory: &File) -> bool {
        let inode = |metadata: &fs::Metadata| (metadata.dev(), metadata.ino());
        match (directory.metadata(), fs::metadata(&self.root)) {
            (Ok(open), Ok(here)) => inode(&open) == inode(&here),
            _ => false,
        }
    }

    pub fn root(&self) -> &Path {
        &self.root
    }

    fn version(&self) -> PathBuf {
        self.root.join(format!("v{}", abi::VERSION))
    }

    fn make_folders(&self) -> io::Result<()> {
        make_directory(&self.links())?;
        make_directory(&self.version().join(records()))
    }

    /// Whether every other version that has a folder, as one that waits to take over has, can read what programs of this one hand
    /// over.
    pub fn successors_read_records(&self) -> bool {
        self.other_versions()
            .all(|version| version.join(records()).exists())
    }

    fn links(&self) -> PathBuf {
        self.version().join(LINKS)
    }

    /// Where a map is pinned.
    pub(super) fn map(&self, name: &str) -> PathBuf {
        self.version().join(name)
    }

    /// Where a link is pinned; `place` is unique to it.
    pub(super) fn link(&self, place: &str) -> PathBuf {
        self.links().join(place)
    }

    /// The links that are pinned, with their places.
    pub(super) fn pinned_links(&self) -> Vec<(String, BpfLink)> {
        let mut links = Vec::new();
        for path in files(&self.links()) {
            let Some(place) = path.file_name().and_then(|name| name.to_str()) else {
                continue;
            };
            match BpfLink::from_pin(&path) {
                Ok(link) => links.push((place.to_owned(), link)),
                Err(error) => {
                    tracing::warn!(path = %path.display(), %error, "cannot open a pinned link");
                }
            }
        }
        links
    }

    /// The folders of other ABI versions.
    pub(super) fn other_versions(&self) -> impl Iterator<Item = PathBuf> {
        let own = self.version();
        versions(&self.root).filter(move |path| *path != own)
    }

    /// Removes what other ABI versions have pinned, which detaches their programs.
    pub(super) fn remove_other_versions(&self) {
        for path in self.other_versions() {
            tracing::info!(path = %path.display(), "removing what another version has pinned");
            remove_version(&path);
        }
    }

    /// Whether no process has left anything of this ABI version.
    pub fn is_empty(&self) -> bool {
        files(&self.version()).iter().all(|path| path.is_dir()) && files(&self.links()).is_empty()
    }

    /// Removes all that is pinned; links are detached first. Only for the holder of the lock.
    pub fn remove(&self) {
        remove_version(&self.version());
        let _ = fs::remove_dir(self.root.join(DISMISSED));
        // Stays if it has another version.
        let _ = fs::remove_dir(&self.root);
    }
}

/// Whose a directory is, where others than the user may write it.
fn foreign(owner: u32, mode: u32, user: u32) -> Option<String> {
    const OTHERS_WRITE: u32 = 0o022;
    if owner != user {
        return Some(format!("owned by user {owner}"));
    }
    (mode & OTHERS_WRITE != 0).then(|| "writable for other users".to_owned())
}

/// The remedy depends on what is in force for this process.
fn cannot_make(path: &Path, error: io::Error) -> StateError {
    let module = match error.kind() {
        io::ErrorKind::PermissionDenied => Confinement::look().module,
        _ => None,
    };
    StateError::Make {
        path: path.to_owned(),
        error,
        remedy: match module {
            Some(module) => format!(
                "{module} is in force for this process; let it write there, or give a container another profile \
                 (securityContext.appArmorProfile, type Unconfined)"
            ),
            None => "run as root, or give another directory of bpffs with --state".to_owned(),
        },
    }
}

/// With those above it, for this user to write, whatever the umask.
pub(super) fn make_directory(path: &Path) -> io::Result<()> {
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o755)
        .create(path)
}

/// The folders of all ABI versions in a directory; whatever else is in it is not gregor's.
fn versions(root: &Path) -> impl Iterator<Item = PathBuf> {
    files(root).into_iter().filter(|path| {
        let name = path.file_name().and_then(|name| name.to_str());
        let number = name.and_then(|name| name.strip_prefix('v'));
        number.is_some_and(|number| number.parse::<u32>().is_ok()) && path.is_dir()
    })
}

/// Ids of the programs whose links are pinned in a directory. Opening a pin takes no capability that opening by an id takes.
pub(super) fn linked_programs(root: &Path) -> HashSet<u32> {
    versions(root)
        .flat_map(|version| files(&version.join(LINKS)))
        .filter_map(|pin| BpfLink::from_pin(&pin).ok()?.info().ok())
        .map(|link| link.program_id)
        .collect()
}

/// Removes what is pinned in a directory. The marker of [`dismiss`] stays while a process owns the directory. `removed` is
/// called with each path. Returns what failed.
pub(super) fn clear(root: &Path, removed: &mut impl FnMut(&Path)) -> Vec<String> {
    let failures = versions(root)
        .flat_map(|version| remove_tree(&version, removed))
        .collect();
    forget(root);
    failures
}

/// Removes a directory in which nothing is left but the marker of [`dismiss`], unless a process owns it.
pub fn forget(root: &Path) {
    let owner = File::open(root).map(|root| Flock::lock(root, FlockArg::LockExclusiveNonblock));
    if matches!(owner, Ok(Ok(_))) {
        let _ = fs::remove_dir(root.join(DISMISSED));
        let _ = fs::remove_dir(root);
    }
}

/// Sets the marker: the programs are to stay detached as long as the process lives that owns the directory now.
pub(super) fn dismiss(root: &Path) -> io::Result<()> {
    match fs::create_dir(root.join(DISMISSED)) {
        Err(error)
            if !matches!(
                error.kind(),
                io::ErrorKind::AlreadyExists | io::ErrorKind::NotFound
            ) =>
        {
            Err(error)
        }
        _ => Ok(()),
    }
}

fn remove_version(version: &Path) {
    for failure in remove_tree(version, &mut |_| {}) {
        tracing::warn!(failure, "cannot remove a pin");
    }
}

/// Removes pins and the directories that they are in; links are detached first, since others may hold them. `removed` is called
/// with each path. Returns what failed.
fn remove_tree(directory: &Path, removed: &mut impl FnMut(&Path)) -> Vec<String> {
    let mut failures = Vec::new();
    let Ok(entries) = fs::read_dir(directory) else {
        return failures;
    };
    for path in entries.filter_map(Result::ok).map(|entry| entry.path()) {
        if path.is_dir() {
            failures.extend(remove_tree(&path, removed));
            continue;
        }
        // No link, or one whose interface was removed: the pin is removed all the same.
        if let Ok(link) = BpfLink::from_pin(&path) {
            let _ = link.detach();
        }
        match fs::remove_file(&path) {
            Ok(()) => removed(&path),
            Err(error) => failures.push(format!("{}: {error}", path.display())),
        }
    }
    let _ = fs::remove_dir(directory);
    failures
}

fn files(directory: &Path) -> Vec<PathBuf> {
    fs::read_dir(directory)
        .into_iter()
        .flatten()
        .filter_map(Result::ok)
        .map(|entry| entry.path())
        .collect()
}

/// What makes a map one that a program can use in the place of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Shape {
    pub kind: u32,
    pub key_bytes: u32,
    pub value_bytes: u32,
    pub elements: u32,
}

impl Shape {
    /// Of a pinned map; `None` where there is none that can be opened.
    pub fn of_pin(path: &Path) -> Option<Self> {
        if !path.exists() {
            return None;
        }
        match MapInfo::from_pin(path) {
            Ok(info) => Some(Self {
                kind: info.map_type().map_or(u32::MAX, |kind| kind as u32),
                key_bytes: info.key_size(),
                value_bytes: info.value_size(),
                elements: info.max_entries(),
            }),
            Err(error) => {
                tracing::warn!(path = %path.display(), error = one_line(&error), "cannot open a pinned map");
                None
            }
        }
    }
}

/// Removes a pin, and the directory entry of a link with it.
pub(super) fn unpin(path: &Path) {
    if let Err(error) = fs::remove_file(path)
        && error.kind() != io::ErrorKind::NotFound
    {
        tracing::warn!(path = %path.display(), %error, "cannot remove a pin");
    }
}

/// Pins a link in the place of one that has ended.
pub(super) fn pin_link(link: &BpfLink, path: &Path) -> io::Result<()> {
    match link.pin(path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            unpin(path);
            link.pin(path)
        }
        result => result,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A directory that no other test has; its owner is to remove it.
    fn directory(name: &str) -> PathBuf {
        let path = std::env::temp_dir().join(format!("gregor-pins-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&path);
        fs::create_dir(&path).unwrap();
        path
    }

    #[test]
    fn only_folders_of_versions_are_gregors() {
        let root = directory("versions");
        for name in ["v2", "v3", "v", "vx", "cilium", "3"] {
            fs::create_dir(root.join(name)).unwrap();
        }
        fs::write(root.join("v4"), "").unwrap();
        let mut found: Vec<_> = versions(&root).collect();
        found.sort();
        assert_eq!(found, [root.join("v2"), root.join("v3")]);
        assert_eq!(clear(&root, &mut |_| {}), Vec::<String>::new());
        assert_eq!(versions(&root).count(), 0);
        assert!(root.join("cilium").exists());
        fs::remove_dir_all(&root).unwrap();
    }

    /// The owner sees the marker until it ends.
    #[test]
    fn the_marker_of_a_dismissal_stays_with_the_owner() {
        let root = directory("dismissed");
        let state = State { root: root.clone() };
        let claim = state.try_claim().unwrap().unwrap();
        assert!(!state.is_dismissed());
        dismiss(&root).unwrap();
        dismiss(&root).unwrap();
        clear(&root, &mut |_| {});
        assert!(state.is_dismissed());
        drop(claim);
        clear(&root, &mut |_| {});
        assert!(!root.exists());
        dismiss(&root).unwrap();
    }

    #[test]
    fn a_directory_that_others_write_is_not_used() {
        assert_eq!(foreign(0, 0o40755, 0), None);
        assert_eq!(foreign(1000, 0o40700, 1000), None);
        assert_eq!(
            foreign(1000, 0o40700, 0).as_deref(),
            Some("owned by user 1000")
        );
        for mode in [0o40775, 0o40757, 0o41777] {
            let how = foreign(0, mode, 0);
            assert_eq!(how.as_deref(), Some("writable for other users"));
        }
    }

    #[test]
    fn a_directory_outside_bpffs_is_refused_with_the_remedy() {
        let root = std::env::temp_dir().join("gregor-state-that-is-not-there");
        let error = State::open(&root).unwrap_err().to_string();
        assert!(error.contains("mount -t bpf bpf /sys/fs/bpf"), "{error}");
        assert!(!root.exists());
    }
}
