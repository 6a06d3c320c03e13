//! Why the kernel side cannot do what it should, with the cause kept.

use std::{io, net::IpAddr, path::PathBuf, time::Duration};

use aya::{EbpfError, maps::MapError, pin::PinError, programs::ProgramError};
use dns_common::abi::{MAX_SERVERS, MAX_SOURCES};

pub use super::causes::one_line;
pub(super) use super::causes::{ENOTSUPP, errno_text, os_error};
use super::{RETURN_DEVICES, attach::AttachError, pins::StateError, stage::Stage, verifier};

/// Why the kernel side cannot do what it should. The cause is in [`std::error::Error::source`], not in the text: print it with
/// [`one_line`].
#[derive(Debug, thiserror::Error)]
pub enum DatapathError {
    #[error("the eBPF object does not load")]
    Object(#[source] EbpfError),
    #[error("map {name} cannot be created")]
    CreateMap {
        name: String,
        #[source]
        error: io::Error,
    },
    #[error(transparent)]
    Refused(#[from] Refused),
    #[error("this kernel has no bpf_xdp_load_bytes (Linux 5.18)")]
    NoXdpLoadBytes,
    #[error("the kernel has not finished {stage} after {} s", limit.as_secs_f64())]
    TooLong { stage: Stage, limit: Duration },
    #[error("a thread for loading cannot be started, or it panicked")]
    Thread,
    #[error("a program of gregor")]
    Program(#[from] ProgramError),
    #[error("map {name}")]
    Map {
        name: &'static str,
        #[source]
        error: MapError,
    },
    #[error("the eBPF object has no {0}")]
    Missing(&'static str),
    #[error("more than {MAX_SERVERS} server addresses of one family")]
    TooManyServers,
    #[error("more than {MAX_SOURCES} networks of sources")]
    TooManySources,
    #[error("the number of processors, from {path}")]
    Processors {
        path: &'static str,
        #[source]
        error: io::Error,
    },
    #[error("interface {interface}")]
    Attach {
        interface: String,
        #[source]
        error: AttachError,
    },
    #[error("memory of map {name}")]
    Mapping {
        name: &'static str,
        #[source]
        error: io::Error,
    },
    #[error("ring buffer {name}")]
    Ring {
        name: &'static str,
        #[source]
        error: io::Error,
    },
    #[error("`gregor detach --all` took the programs off; restart gregor to have them back")]
    Dismissed,
    #[error("the link of the program for TCP")]
    Link(#[source] io::Error),
    #[error("cannot pin {}", path.display())]
    Pin {
        path: PathBuf,
        #[source]
        error: PinError,
    },
    #[error(transparent)]
    State(#[from] StateError),
    #[error("another process has taken over the tables")]
    LetGo,
    #[error(
        "the server addresses {0} and another one have the same id; this is a case in four thousand million: leave one out"
    )]
    SameServerId(IpAddr),
    #[error("the pair of veths by which queries pass ({} and {})", RETURN_DEVICES[0], RETURN_DEVICES[1])]
    ReturnDevice(#[source] io::Error),
}

impl From<EbpfError> for DatapathError {
    fn from(error: EbpfError) -> Self {
        match error {
            EbpfError::MapError(MapError::CreateError { name, io_error }) => Self::CreateMap {
                name,
                error: io_error,
            },
            error => Self::Object(error),
        }
    }
}

/// A program that the kernel does not take.
#[derive(Clone, Debug, thiserror::Error)]
#[error("the kernel refuses program {program}: {}", self.reason())]
pub struct Refused {
    pub program: &'static str,
    /// The error number of BPF_PROG_LOAD.
    pub errno: i32,
    /// What the verifier said; empty when the program did not come so far.
    pub log: String,
    /// How long it took, for the refusal and for its reason.
    pub took: Duration,
}

impl Refused {
    /// What is wrong with it, on one line.
    pub fn reason(&self) -> String {
        verifier::reason(&self.log).unwrap_or_else(|| errno_text(self.errno))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn causes_are_on_the_line_once() {
        let create = MapError::CreateError {
            name: "ANSWERS".to_owned(),
            io_error: io::Error::from_raw_os_error(libc::ENOMEM),
        };
        let error = DatapathError::from(EbpfError::MapError(create));
        assert_eq!(
            one_line(&error),
            "map ANSWERS cannot be created: ENOMEM: Out of memory"
        );
        assert_eq!(os_error(&error), Some(libc::ENOMEM));

        let error = DatapathError::Object(EbpfError::MapError(MapError::IoError(
            io::Error::from_raw_os_error(libc::EPERM),
        )));
        assert_eq!(
            one_line(&error),
            "the eBPF object does not load: map error: Operation not permitted (os error 1): \
             EPERM: Operation not permitted"
        );
        let error = DatapathError::Attach {
            interface: "veth0".to_owned(),
            error: AttachError::Link {
                hook: "tcx",
                error: io::Error::from_raw_os_error(libc::EPERM),
            },
        };
        assert_eq!(
            one_line(&error),
            "interface veth0: the kernel makes no link on tcx: EPERM: Operation not permitted"
        );
    }

    #[test]
    fn a_refused_program_has_its_reason_and_not_the_log() {
        let mut refused = Refused {
            program: "gregor",
            errno: libc::EACCES,
            log: "0: (b7) r1 = 0\nR4 invalid zero-sized read: u64=[0,4294967295]\nprocessed 6098 insns (limit 1000000)\n"
                .to_owned(),
            took: Duration::ZERO,
        };
        assert_eq!(
            one_line(&DatapathError::from(refused.clone())),
            "the kernel refuses program gregor: R4 invalid zero-sized read: u64=[0,4294967295]"
        );
        refused.log.clear();
        assert_eq!(
            refused.to_string(),
            "the kernel refuses program gregor: EACCES: Permission denied"
        );
        refused.errno = ENOTSUPP;
        assert!(refused.to_string().ends_with("ENOTSUPP: Not supported"));
    }
}
