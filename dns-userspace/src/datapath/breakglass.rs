//! Break-glass: takes every program of gregor off every hook, also while a hung gregor holds the links.
//!
//! aya has no BPF_LINK_DETACH, so this speaks bpf(2) itself: walk all links of the kernel, look at the program of each,
//! detach those that are ours. Links are found in every network namespace; netlink filters (clsact) only in this one.

use std::{
    collections::HashSet,
    fs, io,
    os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd, RawFd},
    path::{Path, PathBuf},
};

use aya::programs::loaded_programs;

use super::{PROGRAM, XDP_PROGRAM, attach, steer};

/// Where gregor pins what it pins.
const PIN_DIRECTORY: &str = "/sys/fs/bpf/gregor";

/// What was removed, and what could not be.
#[derive(Debug, Default)]
pub struct DetachReport {
    /// Links detached, as `link ID on interface INDEX` or `link ID on network namespace INODE`.
    pub links: Vec<String>,
    /// Interfaces whose clsact filter was removed.
    pub filters: Vec<String>,
    /// Pins removed.
    pub pins: Vec<PathBuf>,
    /// What failed, with what.
    pub failures: Vec<String>,
}

/// Removes every program and pin that any gregor made.
pub fn detach_all() -> anyhow::Result<DetachReport> {
    let mut report = DetachReport::default();
    let programs: HashSet<u32> = loaded_programs()
        .filter_map(Result::ok)
        .filter(|program| program.name_as_str().is_some_and(is_ours))
        .map(|program| program.id())
        .collect();
    detach_links(&programs, &mut report)?;
    detach_filters(&mut report)?;
    remove_pins(Path::new(PIN_DIRECTORY), &mut report);
    Ok(report)
}

fn is_ours(name: &str) -> bool {
    [PROGRAM, XDP_PROGRAM, steer::PROGRAM].contains(&name)
}

fn detach_links(programs: &HashSet<u32>, report: &mut DetachReport) -> io::Result<()> {
    let mut id = 0;
    while let Some(next) = next_link(id)? {
        id = next;
        // A link may go while we walk.
        let Ok(link) = open_link(id) else { continue };
        let Ok(info) = link_info(&link) else { continue };
        // A link that is off its hook but still held by somebody has no interface or namespace any more.
        if !programs.contains(&info.program_id) || info.ifindex == 0 {
            continue;
        }
        let place = match info.link_type {
            LINK_TYPE_NETNS => format!("network namespace {}", info.ifindex),
            _ => format!("interface {}", info.ifindex),
        };
        match detach_link(&link) {
            Ok(()) => report.links.push(format!("link {id} on {place}")),
            Err(error) => report.failures.push(format!("link {id}: {error}")),
        }
    }
    Ok(())
}

fn detach_filters(report: &mut DetachReport) -> io::Result<()> {
    for interface in nix::net::if_::if_nameindex()?.iter() {
        let name = interface.name().to_string_lossy().into_owned();
        // An interface without clsact answers with an error of its own kind: there is nothing to remove then.
        if let Ok(true) = attach::remove_clsact_filter(&name) {
            report.filters.push(name);
        }
    }
    Ok(())
}

fn remove_pins(directory: &Path, report: &mut DetachReport) {
    let Ok(entries) = fs::read_dir(directory) else {
        return;
    };
    for path in entries.filter_map(Result::ok).map(|entry| entry.path()) {
        match fs::remove_file(&path) {
            Ok(()) => report.pins.push(path),
            Err(error) => report.failures.push(format!("{}: {error}", path.display())),
        }
    }
    let _ = fs::remove_dir(directory);
}

const BPF_OBJ_GET_INFO_BY_FD: libc::c_int = 15;
const BPF_LINK_UPDATE: libc::c_int = 29;
const BPF_LINK_GET_FD_BY_ID: libc::c_int = 30;
const BPF_LINK_GET_NEXT_ID: libc::c_int = 31;
const BPF_LINK_DETACH: libc::c_int = 34;
const LINK_TYPE_NETNS: u32 = 5;

/// The part of `union bpf_attr` that these commands use; the kernel takes the rest as zero.
#[repr(C, align(8))]
#[derive(Clone, Copy, Default)]
struct Attr([u32; 4]);

/// The head of `struct bpf_link_info`, with the fields of a tcx link; that of a namespace has its inode in the place of the
/// interface.
#[repr(C, align(8))]
#[derive(Clone, Copy, Default)]
struct LinkInfo {
    link_type: u32,
    id: u32,
    program_id: u32,
    padding: u32,
    ifindex: u32,
    attach_type: u32,
}

fn bpf(command: libc::c_int, attr: &mut Attr) -> io::Result<libc::c_long> {
    // SAFETY: `attr` is live and of the length given; the kernel reads and writes no more than that of it.
    let result = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            command,
            std::ptr::from_mut(attr),
            size_of::<Attr>(),
        )
    };
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(result)
    }
}

fn next_link(after: u32) -> io::Result<Option<u32>> {
    let mut attr = Attr([after, 0, 0, 0]);
    match bpf(BPF_LINK_GET_NEXT_ID, &mut attr) {
        Ok(_) => Ok(Some(attr.0[1])),
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Takes a link off its hook now. Closing its descriptor does that only once no copy of it is left, and a child that was
/// forked but has not called exec yet has one.
pub(super) fn detach_now(id: u32) -> io::Result<()> {
    detach_link(&open_link(id)?)
}

/// Puts another program in the place of a link's, in one step.
pub(super) fn update_link(link: &OwnedFd, program: RawFd) -> io::Result<()> {
    bpf(
        BPF_LINK_UPDATE,
        &mut Attr([link.as_raw_fd() as u32, program as u32, 0, 0]),
    )
    .map(|_| ())
}

pub(super) fn open_link(id: u32) -> io::Result<OwnedFd> {
    let fd = bpf(BPF_LINK_GET_FD_BY_ID, &mut Attr([id, 0, 0, 0]))?;
    // SAFETY: the kernel just made this descriptor for us.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as libc::c_int) })
}

fn link_info(link: &OwnedFd) -> io::Result<LinkInfo> {
    let mut info = LinkInfo::default();
    let address = std::ptr::from_mut(&mut info) as u64;
    let mut attr = Attr([
        link.as_raw_fd() as u32,
        size_of::<LinkInfo>() as u32,
        address as u32,
        (address >> 32) as u32,
    ]);
    bpf(BPF_OBJ_GET_INFO_BY_FD, &mut attr)?;
    Ok(info)
}

pub(super) fn detach_link(link: &OwnedFd) -> io::Result<()> {
    bpf(
        BPF_LINK_DETACH,
        &mut Attr([link.as_raw_fd() as u32, 0, 0, 0]),
    )
    .map(|_| ())
}
