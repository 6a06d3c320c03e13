//! bpf(2) for links, and for asking what is on a hook.
//!
//! aya opens links by their id to update or detach them, which needs CAP_SYS_ADMIN. gregor keeps the descriptor that it got
//! when it made a link instead: CAP_BPF and CAP_NET_ADMIN are enough for that. Only break-glass, which detaches the links of
//! other processes, opens links by id.

use std::{
    ffi::{CStr, CString},
    io,
    os::{
        fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd},
        unix::ffi::OsStrExt as _,
    },
    path::Path,
};

use super::sys::{Attr, bpf, bpf_raw, descriptor};

const BPF_OBJ_PIN: libc::c_int = 6;
const BPF_OBJ_GET: libc::c_int = 7;
const BPF_PROG_GET_FD_BY_ID: libc::c_int = 13;
const BPF_OBJ_GET_INFO_BY_FD: libc::c_int = 15;
const BPF_PROG_QUERY: libc::c_int = 16;
const BPF_LINK_CREATE: libc::c_int = 28;
const BPF_LINK_UPDATE: libc::c_int = 29;
const BPF_LINK_GET_FD_BY_ID: libc::c_int = 30;
const BPF_LINK_GET_NEXT_ID: libc::c_int = 31;
const BPF_LINK_DETACH: libc::c_int = 34;

const BPF_SK_LOOKUP: u32 = 36;
const BPF_XDP: u32 = 37;
const BPF_TCX_INGRESS: u32 = 46;
const BPF_TCX_EGRESS: u32 = 47;

const BPF_F_BEFORE: u32 = 1 << 3;
const BPF_F_AFTER: u32 = 1 << 4;
const XDP_FLAGS_SKB_MODE: u32 = 1 << 1;
const XDP_FLAGS_DRV_MODE: u32 = 1 << 2;

pub(super) const LINK_TYPE_NETNS: u32 = 5;
/// Programs on one hook that are listed at most; the kernel allows 64 (`BPF_MPROG_MAX`).
const MAX_PROGRAMS: usize = 64;

/// Where a link attaches a program.
#[derive(Clone, Copy, Debug)]
pub(super) enum Place<'a> {
    /// Before all other programs on the ingress of an interface.
    TcxFirst(u32),
    /// After all other programs there.
    TcxLast(u32),
    /// Before all other programs on the egress of an interface.
    TcxEgress(u32),
    /// XDP of an interface, run by the driver.
    XdpNative(u32),
    /// XDP of an interface, run by the kernel.
    XdpGeneric(u32),
    /// Look-ups of sockets in a network namespace.
    SocketLookup(BorrowedFd<'a>),
}

impl Place<'_> {
    /// Target, attach type and flags of BPF_LINK_CREATE.
    fn words(self) -> [u32; 3] {
        match self {
            Place::TcxFirst(ifindex) => [ifindex, BPF_TCX_INGRESS, BPF_F_BEFORE],
            Place::TcxLast(ifindex) => [ifindex, BPF_TCX_INGRESS, BPF_F_AFTER],
            Place::TcxEgress(ifindex) => [ifindex, BPF_TCX_EGRESS, BPF_F_BEFORE],
            Place::XdpNative(ifindex) => [ifindex, BPF_XDP, XDP_FLAGS_DRV_MODE],
            Place::XdpGeneric(ifindex) => [ifindex, BPF_XDP, XDP_FLAGS_SKB_MODE],
            Place::SocketLookup(netns) => [netns.as_raw_fd() as u32, BPF_SK_LOOKUP, 0],
        }
    }
}

/// A program on its hook, for as long as this descriptor is open.
#[derive(Debug)]
pub(super) struct BpfLink(OwnedFd);

impl BpfLink {
    /// Puts a program on a hook.
    pub fn create(program: BorrowedFd<'_>, place: Place<'_>) -> io::Result<Self> {
        let [target, attach_type, flags] = place.words();
        let attr = Attr([program.as_raw_fd() as u32, target, attach_type, flags]);
        descriptor(BPF_LINK_CREATE, attr).map(Self)
    }

    /// Opens the link of any process; needs CAP_SYS_ADMIN.
    pub fn open(id: u32) -> io::Result<Self> {
        descriptor(BPF_LINK_GET_FD_BY_ID, Attr([id, 0, 0, 0])).map(Self)
    }

    /// Opens a link that is pinned; fails where something else is.
    pub fn from_pin(path: &Path) -> io::Result<Self> {
        let link = Self(open(path)?);
        // Maps and programs can be pinned too; only of a link there is this line.
        let facts = std::fs::read_to_string(format!("/proc/self/fdinfo/{}", link.0.as_raw_fd()))?;
        if facts.lines().any(|line| line.starts_with("link_id:")) {
            Ok(link)
        } else {
            Err(io::ErrorKind::InvalidData.into())
        }
    }

    /// Keeps the link when its last descriptor is closed.
    pub fn pin(&self, path: &Path) -> io::Result<()> {
        pin(&self.0, path)
    }

    /// Puts another program in the place of this link's, in one step.
    pub fn update(&self, program: BorrowedFd<'_>) -> io::Result<()> {
        let mut attr = Attr([self.0.as_raw_fd() as u32, program.as_raw_fd() as u32, 0, 0]);
        bpf(BPF_LINK_UPDATE, &mut attr).map(|_| ())
    }

    /// Takes the program off its hook now. Closing the descriptor does that only once no copy of it is left, and a child
    /// that was forked but has not called exec yet has one.
    pub fn detach(&self) -> io::Result<()> {
        let mut attr = Attr([self.0.as_raw_fd() as u32, 0, 0, 0]);
        bpf(BPF_LINK_DETACH, &mut attr).map(|_| ())
    }

    /// Whether the program is on its hook: another process can detach it, and it goes with the interface or the network
    /// namespace. `true` where the kernel does not say.
    pub fn is_attached(&self) -> bool {
        self.info().map_or(true, |info| info.is_attached())
    }

    pub fn info(&self) -> io::Result<LinkInfo> {
        let mut info = LinkInfo::default();
        let address = std::ptr::from_mut(&mut info) as u64;
        let mut attr = Attr([
            self.0.as_raw_fd() as u32,
            size_of::<LinkInfo>() as u32,
            address as u32,
            (address >> 32) as u32,
        ]);
        bpf(BPF_OBJ_GET_INFO_BY_FD, &mut attr)?;
        Ok(info)
    }
}

/// Opens what is pinned.
pub(super) fn open(path: &Path) -> io::Result<OwnedFd> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    descriptor(BPF_OBJ_GET, object(&path, 0))
}

/// Keeps a link or a map when its last descriptor is closed.
pub(super) fn pin(descriptor: &OwnedFd, path: &Path) -> io::Result<()> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    bpf(BPF_OBJ_PIN, &mut object(&path, descriptor.as_raw_fd())).map(|_| ())
}

/// The part of BPF_OBJ_PIN and BPF_OBJ_GET.
fn object(path: &CStr, descriptor: i32) -> Attr {
    let address = path.as_ptr() as u64;
    Attr([address as u32, (address >> 32) as u32, descriptor as u32, 0])
}

/// The beginning of `struct bpf_link_info`, with the fields of a tcx link; that of a namespace has its inode in the place of
/// the interface.
#[repr(C, align(8))]
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct LinkInfo {
    pub link_type: u32,
    pub id: u32,
    pub program_id: u32,
    padding: u32,
    pub ifindex: u32,
    attach_type: u32,
}

impl LinkInfo {
    /// A link that is off its hook but still held has no interface or namespace any more.
    pub fn is_attached(&self) -> bool {
        self.ifindex != 0
    }
}

/// The link after this id, in the whole kernel; needs CAP_SYS_ADMIN.
pub(super) fn next_link(after: u32) -> io::Result<Option<u32>> {
    let mut attr = Attr([after, 0, 0, 0]);
    match bpf(BPF_LINK_GET_NEXT_ID, &mut attr) {
        Ok(_) => Ok(Some(attr.0[1])),
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Ids of the tcx programs on the ingress of an interface, in their order; needs CAP_NET_ADMIN. EINVAL says that the kernel
/// has no tcx.
pub(super) fn tcx_programs(ifindex: u32) -> io::Result<Vec<u32>> {
    programs(ifindex, BPF_TCX_INGRESS)
}

/// The same on its egress.
pub(super) fn tcx_egress_programs(ifindex: u32) -> io::Result<Vec<u32>> {
    programs(ifindex, BPF_TCX_EGRESS)
}

fn programs(ifindex: u32, attach_type: u32) -> io::Result<Vec<u32>> {
    let mut ids = [0u32; MAX_PROGRAMS];
    let mut query = Query {
        target: ifindex,
        attach_type,
        program_ids: ids.as_mut_ptr() as u64,
        program_count: MAX_PROGRAMS as u32,
        ..Query::default()
    };
    // SAFETY: `query` is a `bpf_attr` of this command and length, and `ids` has as many elements as it says; both outlive
    // the call.
    unsafe { bpf_raw(BPF_PROG_QUERY, &mut query) }?;
    let count = (query.program_count as usize).min(MAX_PROGRAMS);
    Ok(ids[..count].to_vec())
}

/// Opens the program of any process; needs CAP_SYS_ADMIN.
pub(super) fn open_program(id: u32) -> io::Result<OwnedFd> {
    descriptor(BPF_PROG_GET_FD_BY_ID, Attr([id, 0, 0, 0]))
}

/// Name of a program, as far as the kernel keeps it.
pub(super) fn program_name(program: impl AsFd) -> io::Result<String> {
    let mut info = ProgramInfo::default();
    let address = std::ptr::from_mut(&mut info) as u64;
    let mut attr = Attr([
        program.as_fd().as_raw_fd() as u32,
        size_of::<ProgramInfo>() as u32,
        address as u32,
        (address >> 32) as u32,
    ]);
    bpf(BPF_OBJ_GET_INFO_BY_FD, &mut attr)?;
    let name = info.name.split(|byte| *byte == 0).next();
    Ok(String::from_utf8_lossy(name.unwrap_or_default()).into_owned())
}

/// The beginning of `struct bpf_prog_info`, down to the name. The pointers in it stay zero: nothing is copied.
#[repr(C, align(8))]
#[derive(Default)]
struct ProgramInfo {
    head: [u32; 4],
    instructions_and_load_time: [u64; 4],
    created_by: u32,
    map_count: u32,
    map_ids: u64,
    name: [u8; 16],
}

/// The part of BPF_PROG_QUERY, all of it: the kernel writes the revision whatever length it was given.
#[repr(C, align(8))]
#[derive(Clone, Copy, Default)]
struct Query {
    target: u32,
    attach_type: u32,
    query_flags: u32,
    attach_flags: u32,
    program_ids: u64,
    program_count: u32,
    padding: u32,
    program_attach_flags: u64,
    link_ids: u64,
    link_attach_flags: u64,
    revision: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn structures_have_the_offsets_of_the_kernels() {
        assert_eq!(size_of::<Query>(), 64);
        assert_eq!(std::mem::offset_of!(Query, program_ids), 16);
        assert_eq!(std::mem::offset_of!(Query, program_count), 24);
        assert_eq!(std::mem::offset_of!(Query, revision), 56);
        assert_eq!(std::mem::offset_of!(ProgramInfo, name), 64);
        assert_eq!(std::mem::offset_of!(LinkInfo, ifindex), 16);
    }
}
