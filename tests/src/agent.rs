//! What other agents on a node do to foreign programs.

use std::{
    ffi::CString,
    fs, io,
    os::{
        fd::{AsRawFd as _, FromRawFd as _, OwnedFd},
        unix::ffi::OsStrExt as _,
    },
    path::{Path, PathBuf},
};

/// Detaches a link by force, as an agent can that does not hold it: BPF_LINK_DETACH.
pub fn detach_by_force(pin: &Path) -> io::Result<()> {
    const OBJ_GET: libc::c_long = 7;
    const LINK_DETACH: libc::c_long = 34;
    let bpf = |command: libc::c_long, attributes: &[u64; 2]| {
        // SAFETY: both commands read no more than these bytes; a path in them is live.
        let result = unsafe { libc::syscall(libc::SYS_bpf, command, attributes.as_ptr(), 16) };
        match result {
            0.. => Ok(result as u64),
            _ => Err(io::Error::last_os_error()),
        }
    };
    let path = CString::new(pin.as_os_str().as_bytes())?;
    let link = bpf(OBJ_GET, &[path.as_ptr() as u64, 0])?;
    // SAFETY: the kernel has just made the descriptor.
    let link = unsafe { OwnedFd::from_raw_fd(link as i32) };
    bpf(LINK_DETACH, &[link.as_raw_fd() as u64, 0]).map(|_| ())
}

/// The links that gregor has pinned in a directory of the calling thread's mount namespace.
pub fn pinned_links(state: &Path) -> io::Result<Vec<PathBuf>> {
    let mut links = Vec::new();
    for version in fs::read_dir(state)? {
        for link in fs::read_dir(version?.path().join("links"))? {
            links.push(link?.path());
        }
    }
    Ok(links)
}
