//! Whether the kernel charges maps and programs to RLIMIT_MEMLOCK, as Linux before 5.11 does, and the raising of it; and whether
//! it takes a capability to use a map that is open.
//!
//! That is tried and not concluded from a version: with a limit of zero, a map of one element is refused or it is not.

use std::{
    io,
    os::fd::{AsRawFd as _, OwnedFd},
    sync::OnceLock,
    thread,
};

use nix::sys::resource::{RLIM_INFINITY, Resource, getrlimit, setrlimit};

use super::sys::{Attr, bpf_raw, descriptor};
use crate::privileges::{Role, restrict_thread};

const BPF_MAP_CREATE: libc::c_int = 0;
const BPF_MAP_LOOKUP_ELEM: libc::c_int = 1;
const BPF_MAP_TYPE_ARRAY: u32 = 2;

/// The state of the limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Memlock {
    /// The kernel does not charge it.
    NotCharged,
    /// It charges it, and the limit is unlimited.
    Unlimited,
    /// It charges it, and this many bytes are what this process may have; of all processes of its user together.
    Limited(u64),
    /// That cannot be found out, as by a process that may not create maps at all.
    Unknown,
}

/// Finds out, and raises the limit as far as this process may when it is charged. To be called before anything is loaded, since
/// the limit is zero for a moment; later calls return what the first one found.
pub fn raise_memlock() -> Memlock {
    static FOUND: OnceLock<Memlock> = OnceLock::new();
    *FOUND.get_or_init(|| {
        try_and_raise().unwrap_or_else(|error| {
            tracing::debug!(%error, "cannot find out whether maps are charged to RLIMIT_MEMLOCK");
            Memlock::Unknown
        })
    })
}

fn try_and_raise() -> io::Result<Memlock> {
    let (soft, hard) = getrlimit(Resource::RLIMIT_MEMLOCK)?;
    setrlimit(Resource::RLIMIT_MEMLOCK, 0, hard)?;
    let without_room = create_map();
    setrlimit(Resource::RLIMIT_MEMLOCK, soft, hard)?;
    match without_room {
        Ok(_) => Ok(Memlock::NotCharged),
        // That is also what a process without CAP_BPF gets: then a higher limit does not help.
        Err(error) if error.raw_os_error() == Some(libc::EPERM) => {
            let limit = raise();
            create_map().map(|_| limit)
        }
        Err(error) => Err(error),
    }
}

/// Whether bpf(2) on a map that is open takes CAP_BPF, as it does before Linux 5.19 where kernel.unprivileged_bpf_disabled is set.
/// Found out by trying, like the limit.
pub fn maps_take_bpf() -> bool {
    let Ok(map) = create_map() else {
        return true;
    };
    let looked_up = thread::scope(|scope| {
        let look_up = || {
            restrict_thread(Role::Worker {
                maps_take_bpf: false,
            });
            look_up(&map)
        };
        scope.spawn(look_up).join()
    });
    !matches!(looked_up, Ok(Ok(())))
}

/// The part of `union bpf_attr` for commands on elements.
#[repr(C, align(8))]
struct Element {
    map: u32,
    padding: u32,
    key: u64,
    value: u64,
    flags: u64,
}

fn look_up(map: &OwnedFd) -> io::Result<()> {
    let (key, mut value) = (0u32, 0u64);
    let mut attr = Element {
        map: map.as_raw_fd() as u32,
        padding: 0,
        key: std::ptr::from_ref(&key) as u64,
        value: std::ptr::from_mut(&mut value) as u64,
        flags: 0,
    };
    // SAFETY: the attributes of this command; key and value are as long as those of the map, and outlive the call.
    unsafe { bpf_raw(BPF_MAP_LOOKUP_ELEM, &mut attr) }.map(drop)
}

fn create_map() -> io::Result<OwnedFd> {
    const KEY_BYTES: u32 = 4;
    const VALUE_BYTES: u32 = 8;
    const ELEMENTS: u32 = 1;
    let attr = Attr([BPF_MAP_TYPE_ARRAY, KEY_BYTES, VALUE_BYTES, ELEMENTS]);
    descriptor(BPF_MAP_CREATE, attr)
}

/// As far as this process may: CAP_SYS_RESOURCE removes the limit, any process may raise it to the hard one.
fn raise() -> Memlock {
    if setrlimit(Resource::RLIMIT_MEMLOCK, RLIM_INFINITY, RLIM_INFINITY).is_ok() {
        return Memlock::Unlimited;
    }
    let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_MEMLOCK) else {
        return Memlock::Unknown;
    };
    let raised = setrlimit(Resource::RLIMIT_MEMLOCK, hard, hard);
    match if raised.is_ok() { hard } else { soft } {
        RLIM_INFINITY => Memlock::Unlimited,
        bytes => Memlock::Limited(bytes),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_limit_is_as_before_where_it_is_not_charged() {
        let before = getrlimit(Resource::RLIMIT_MEMLOCK).unwrap();
        if try_and_raise().is_ok_and(|found| found == Memlock::NotCharged) {
            assert_eq!(getrlimit(Resource::RLIMIT_MEMLOCK).unwrap(), before);
        }
    }
}
