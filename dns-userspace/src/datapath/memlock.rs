//! Whether the kernel charges maps and programs to RLIMIT_MEMLOCK, as Linux before 5.11 does, and the raising of it.
//!
//! That is tried and not concluded from a version: with a limit of zero, a map of one element is refused or it is not.

use std::{io, sync::OnceLock};

use nix::sys::resource::{RLIM_INFINITY, Resource, getrlimit, setrlimit};

use super::sys::{Attr, descriptor};

const BPF_MAP_CREATE: libc::c_int = 0;
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
        Ok(()) => Ok(Memlock::NotCharged),
        // That is also what a process without CAP_BPF gets: then a higher limit does not help.
        Err(error) if error.raw_os_error() == Some(libc::EPERM) => {
            let limit = raise();
            create_map().map(|()| limit)
        }
        Err(error) => Err(error),
    }
}

fn create_map() -> io::Result<()> {
    const KEY_BYTES: u32 = 4;
    const VALUE_BYTES: u32 = 8;
    const ELEMENTS: u32 = 1;
    let attr = Attr([BPF_MAP_TYPE_ARRAY, KEY_BYTES, VALUE_BYTES, ELEMENTS]);
    descriptor(BPF_MAP_CREATE, attr).map(drop)
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
