//! Programs beside the product's, which pass frames: one counts them, one does nothing else. Assembled by hand, so that the
//! product's object holds the product alone.

use std::{
    fs, io,
    os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd},
    ptr,
    sync::atomic::{AtomicU32, Ordering},
};

use anyhow::Context as _;

use super::wire::{c_path, run};

/// The hook of the observer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// Behind the programs that are on tcx now.
    Tcx,
    /// A filter on clsact, which comes after all of tcx, behind those of a lower number.
    Clsact { priority: u16 },
}

/// What has reached an observer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Seen {
    pub frames: u64,
    /// Length of the last one, without a tag that the kernel keeps outside.
    pub last_len: u64,
    /// Its `tc_index`.
    pub last_tc_index: u64,
}

/// An XDP program that lets everything pass, run by the driver: a veth takes what its peer sends back by XDP only where
/// there is one.
pub struct Passing {
    _link: OwnedFd,
}

impl Passing {
    /// Attaches to an interface of the calling thread's namespace.
    pub fn attach(interface: &str) -> anyhow::Result<Self> {
        const BPF_PROG_TYPE_XDP: u32 = 6;
        const BPF_XDP: u32 = 37;
        const XDP_FLAGS_DRV_MODE: u32 = 1 << 2;
        const XDP_PASS: i32 = 2;
        let program = [
            instruction(0xb7, 0, 0, 0, XDP_PASS),
            instruction(0x95, 0, 0, 0, 0), // exit
        ];
        let program = load(BPF_PROG_TYPE_XDP, &program, *b"passing\0\0\0\0\0\0\0\0\0")?;
        let index = nix::net::if_::if_nametoindex(interface)?;
        Ok(Self {
            _link: link(&program, index, BPF_XDP, XDP_FLAGS_DRV_MODE)?,
        })
    }
}

/// An attached program that counts.
pub struct Observer {
    map: OwnedFd,
    /// Keeps the program attached; clsact keeps it with the interface.
    _link: Option<OwnedFd>,
}

impl Observer {
    /// Attaches to the ingress of an interface of the calling thread's namespace.
    pub fn attach(interface: &str, place: Place) -> anyhow::Result<Self> {
        let index = nix::net::if_::if_nametoindex(interface)?;
        let map = create_map()?;
        let program = load_observer(&map)?;
        let link = match place {
            Place::Tcx => Some(link(&program, index, BPF_TCX_INGRESS, 0)?),
            Place::Clsact { priority } => {
                // The qdisc may be there already; the filter shows whether it is.
                let _ = run("tc", &format!("qdisc add dev {interface} clsact"));
                add_filter(&program, interface, priority)?;
                None
            }
        };
        Ok(Self { map, _link: link })
    }

    pub fn seen(&self) -> anyhow::Result<Seen> {
        #[repr(C)]
        struct Lookup {
            map_fd: u32,
            _pad: u32,
            key: u64,
            value: u64,
            flags: u64,
        }
        let key = 0u32;
        let mut seen = Seen::default();
        let attributes = Lookup {
            map_fd: self.map.as_raw_fd() as u32,
            _pad: 0,
            key: ptr::from_ref(&key) as u64,
            value: ptr::from_mut(&mut seen) as u64,
            flags: 0,
        };
        // SAFETY: key and value are of the sizes that the map was made with, and outlive the call.
        unsafe { bpf(BPF_MAP_LOOKUP_ELEM, &attributes) }.context("reading the observer's map")?;
        Ok(seen)
    }
}

const BPF_MAP_CREATE: u32 = 0;
const BPF_MAP_LOOKUP_ELEM: u32 = 1;
const BPF_PROG_LOAD: u32 = 5;
const BPF_OBJ_PIN: u32 = 6;
const BPF_LINK_CREATE: u32 = 28;
const BPF_TCX_INGRESS: u32 = 46;

/// bpf(2).
///
/// # Safety
/// `T` must be laid out as the command wants its `union bpf_attr`, with valid pointers.
unsafe fn bpf<T>(command: u32, attributes: &T) -> io::Result<i32> {
    // SAFETY: as the caller promises; the size is that of `attributes`.
    let result = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            command,
            ptr::from_ref(attributes),
            size_of::<T>(),
        )
    };
    match result {
        0.. => Ok(result as i32),
        _ => Err(io::Error::last_os_error()),
    }
}

fn create_map() -> anyhow::Result<OwnedFd> {
    const BPF_MAP_TYPE_ARRAY: u32 = 2;
    #[repr(C)]
    struct MapCreate {
        map_type: u32,
        key_size: u32,
        value_size: u32,
        max_entries: u32,
        map_flags: u32,
    }
    let attributes = MapCreate {
        map_type: BPF_MAP_TYPE_ARRAY,
        key_size: 4,
        value_size: size_of::<Seen>() as u32,
        max_entries: 1,
        map_flags: 0,
    };
    // SAFETY: no pointers; the descriptor is new and has no other owner.
    unsafe {
        let fd = bpf(BPF_MAP_CREATE, &attributes).context("the observer's map")?;
        Ok(OwnedFd::from_raw_fd(fd))
    }
}

/// `struct bpf_insn`, little-endian.
pub(super) fn instruction(
    code: u8,
    destination: u8,
    source: u8,
    offset: i16,
    immediate: i32,
) -> u64 {
    u64::from(code)
        | u64::from(source << 4 | destination) << 8
        | u64::from(offset as u16) << 16
        | u64::from(immediate as u32) << 32
}

fn load_observer(map: &OwnedFd) -> anyhow::Result<OwnedFd> {
    const BPF_PROG_TYPE_SCHED_CLS: u32 = 3;
    const BPF_PSEUDO_MAP_FD: u8 = 1;
    const BPF_FUNC_MAP_LOOKUP_ELEM: i32 = 1;
    const TC_ACT_UNSPEC: i32 = -1;
    let program = [
        instruction(0xbf, 6, 1, 0, 0),                               // r6 = r1
        instruction(0x62, 10, 0, -4, 0),                             // *(u32 *)(r10 - 4) = 0
        instruction(0xbf, 2, 10, 0, 0),                              // r2 = r10
        instruction(0x07, 2, 0, 0, -4),                              // r2 += -4
        instruction(0x18, 1, BPF_PSEUDO_MAP_FD, 0, map.as_raw_fd()), // r1 = map
        0,
        instruction(0x85, 0, 0, 0, BPF_FUNC_MAP_LOOKUP_ELEM),
        instruction(0x15, 0, 0, 6, 0),  // if r0 == 0, skip six
        instruction(0xb7, 1, 0, 0, 1),  // r1 = 1
        instruction(0xdb, 0, 1, 0, 0),  // lock *(u64 *)(r0 + 0) += r1
        instruction(0x61, 2, 6, 0, 0),  // r2 = skb->len
        instruction(0x7b, 0, 2, 8, 0),  // *(u64 *)(r0 + 8) = r2
        instruction(0x61, 2, 6, 44, 0), // r2 = skb->tc_index
        instruction(0x7b, 0, 2, 16, 0), // *(u64 *)(r0 + 16) = r2
        instruction(0xb7, 0, 0, 0, TC_ACT_UNSPEC),
        instruction(0x95, 0, 0, 0, 0), // exit
    ];
    load(
        BPF_PROG_TYPE_SCHED_CLS,
        &program,
        *b"observer\0\0\0\0\0\0\0\0",
    )
}

pub(super) fn load(program_type: u32, program: &[u64], name: [u8; 16]) -> anyhow::Result<OwnedFd> {
    #[repr(C)]
    struct ProgLoad {
        prog_type: u32,
        instructions: u32,
        program: u64,
        license: u64,
        log_level: u32,
        log_size: u32,
        log: u64,
        kernel_version: u32,
        flags: u32,
        name: [u8; 16],
    }
    let mut log = vec![0u8; 16_384];
    let license = c"GPL";
    let attributes = ProgLoad {
        prog_type: program_type,
        instructions: program.len() as u32,
        program: program.as_ptr() as u64,
        license: license.as_ptr() as u64,
        log_level: 1,
        log_size: log.len() as u32,
        log: log.as_mut_ptr() as u64,
        kernel_version: 0,
        flags: 0,
        name,
    };
    // SAFETY: the program, the licence and the log outlive the call; the descriptor is new and has no other owner.
    unsafe {
        let fd = bpf(BPF_PROG_LOAD, &attributes)
            .with_context(|| format!("a program: {}", String::from_utf8_lossy(&log)))?;
        Ok(OwnedFd::from_raw_fd(fd))
    }
}

fn link(
    program: &OwnedFd,
    interface: u32,
    attach_type: u32,
    flags: u32,
) -> anyhow::Result<OwnedFd> {
    #[repr(C)]
    struct LinkCreate {
        program_fd: u32,
        target_ifindex: u32,
        attach_type: u32,
        flags: u32,
        relative_fd: u32,
        _pad: u32,
        expected_revision: u64,
    }
    let attributes = LinkCreate {
        program_fd: program.as_raw_fd() as u32,
        target_ifindex: interface,
        attach_type,
        flags,
        relative_fd: 0,
        _pad: 0,
        expected_revision: 0,
    };
    // SAFETY: no pointers; the descriptor is new and has no other owner.
    unsafe {
        let fd = bpf(BPF_LINK_CREATE, &attributes).context("attaching a program")?;
        Ok(OwnedFd::from_raw_fd(fd))
    }
}

/// iproute2 adds the filter; it takes the program from a pin.
fn add_filter(program: &OwnedFd, interface: &str, priority: u16) -> anyhow::Result<()> {
    static NUMBER: AtomicU32 = AtomicU32::new(0);
    let pin = format!(
        "/sys/fs/bpf/gpk-{}-{}",
        std::process::id(),
        NUMBER.fetch_add(1, Ordering::Relaxed)
    );
    if pin_to(program, &pin).is_err() {
        run("mount", "-t bpf bpf /sys/fs/bpf")?;
        pin_to(program, &pin)?;
    }
    let added = run(
        "tc",
        &format!(
            "filter add dev {interface} ingress priority {priority} bpf direct-action object-pinned {pin}"
        ),
    );
    fs::remove_file(&pin)?;
    added
}

fn pin_to(program: &OwnedFd, path: &str) -> anyhow::Result<()> {
    #[repr(C)]
    struct Pin {
        path: u64,
        fd: u32,
        flags: u32,
    }
    let path = c_path(path);
    let attributes = Pin {
        path: path.as_ptr() as u64,
        fd: program.as_raw_fd() as u32,
        flags: 0,
    };
    // SAFETY: the path outlives the call.
    unsafe { bpf(BPF_OBJ_PIN, &attributes) }.context("pinning the observer")?;
    Ok(())
}
