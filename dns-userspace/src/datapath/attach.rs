//! Where a program sits: tcx or clsact, first or last, on the ingress of one interface.

use std::io;

use aya::programs::{
    LinkOrder, ProgramError, SchedClassifier, TcAttachType,
    links::FdLink,
    tc::{
        NlOptions, SchedClassifierLink, TcAttachOptions, TcError, TcHandle, qdisc_add_clsact,
        qdisc_detach_program,
    },
};
use nix::net::if_::if_nametoindex;

use super::{PROGRAM, breakglass};

/// A network interface of this namespace.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Interface {
    pub index: u32,
    pub name: String,
}

/// The kernel's two places for TC programs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Hook {
    /// Linux 6.6 and later: links that go with the process that holds them.
    Tcx,
    /// Earlier: a netlink filter on the clsact qdisc.
    Clsact,
}

/// The place among the programs on the hook.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Order {
    First,
    Last,
}

/// Why a program cannot be attached.
#[derive(Debug, thiserror::Error)]
pub enum AttachError {
    #[error("it is gone or has another index now")]
    Gone,
    #[error("clsact: {0}")]
    Clsact(TcError),
    #[error(transparent)]
    Program(#[from] ProgramError),
}

/// Our filter's handle on clsact; a fixed one, so that a filter left by a crash is replaced rather than joined.
const HANDLE: TcHandle = TcHandle::new(0, 0x6772);
const FIRST_PRIORITY: u16 = 1;
const LAST_PRIORITY: u16 = 0xffff;

/// The best hook of this kernel.
pub fn detect_hook() -> Hook {
    match SchedClassifier::query_tcx("lo", TcAttachType::Ingress) {
        Ok(_) => Hook::Tcx,
        Err(_) => Hook::Clsact,
    }
}

/// Names of the tcx programs on the ingress of an interface, in their order.
pub fn programs_on(interface: &str) -> Result<Vec<String>, ProgramError> {
    let (_, programs) = SchedClassifier::query_tcx(interface, TcAttachType::Ingress)?;
    Ok(programs
        .iter()
        .map(|program| program.name_as_str().unwrap_or("?").to_owned())
        .collect())
}

pub(super) fn attach(
    program: &mut SchedClassifier,
    interface: &Interface,
    hook: Hook,
    order: Order,
) -> Result<SchedClassifierLink, AttachError> {
    if if_nametoindex(interface.name.as_str()) != Ok(interface.index) {
        return Err(AttachError::Gone);
    }
    let options = match hook {
        Hook::Tcx => TcAttachOptions::TcxOrder(match order {
            Order::First => LinkOrder::first(),
            Order::Last => LinkOrder::last(),
        }),
        Hook::Clsact => {
            prepare_clsact(&interface.name).map_err(AttachError::Clsact)?;
            TcAttachOptions::Netlink(NlOptions {
                priority: match order {
                    Order::First => FIRST_PRIORITY,
                    Order::Last => LAST_PRIORITY,
                },
                handle: HANDLE,
                classid: None,
            })
        }
    };
    let id = program.attach_with_options(&interface.name, TcAttachType::Ingress, options)?;
    Ok(program.take_link(id)?)
}

/// Takes a program off its hook, at once and not only when the last descriptor of its link is closed.
pub(super) fn detach(link: SchedClassifierLink) {
    let id = <&FdLink>::try_from(&link)
        .ok()
        .and_then(|link| link.info().ok())
        .map(|info| info.id());
    // An interface that is gone took its links with it, so neither of these is an error worth telling.
    if let Some(id) = id {
        let _ = breakglass::detach_now(id);
    }
    drop(link);
}

/// Makes sure of the qdisc and removes a filter that an earlier run left behind.
fn prepare_clsact(interface: &str) -> Result<(), TcError> {
    match qdisc_add_clsact(interface) {
        Ok(()) | Err(TcError::AlreadyAttached) => {}
        Err(TcError::NetlinkError(error)) if error.raw_os_error() == Some(libc::EEXIST) => {}
        Err(error) => return Err(error),
    }
    remove_clsact_filter(interface).map(|_| ())
}

/// Removes our clsact filter from an interface, if there is one; `true` when there was.
pub(super) fn remove_clsact_filter(interface: &str) -> Result<bool, TcError> {
    match qdisc_detach_program(interface, TcAttachType::Ingress, PROGRAM) {
        Ok(()) => Ok(true),
        Err(TcError::IoError(error)) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}
