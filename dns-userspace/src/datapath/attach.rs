//! Where a program sits: tcx or clsact, first or last, or XDP, on the ingress of one interface.

use std::io;

use aya::programs::{
    LinkOrder, Program, ProgramError, SchedClassifier, TcAttachType, Xdp, XdpMode as Mode,
    links::FdLink,
    tc::{
        NlOptions, SchedClassifierLink, TcAttachOptions, TcError, TcHandle, qdisc_add_clsact,
        qdisc_detach_program,
    },
    xdp::{XdpLink, XdpLinkId},
};
use nix::net::if_::if_nametoindex;

use super::{PROGRAM, XDP_PROGRAM, breakglass, offload};

/// A network interface of this namespace.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Interface {
    pub index: u32,
    pub name: String,
}

/// The kernel's places for programs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Hook {
    /// Linux 6.6 and later: links that go with the process that holds them.
    Tcx,
    /// Earlier: a netlink filter on the clsact qdisc.
    Clsact,
    /// Before there is an skb: for interfaces where frames arrive from a wire. Linux 5.18 and later.
    Xdp,
}

impl Hook {
    /// The program that goes there.
    #[doc(hidden)]
    pub fn program(self) -> &'static str {
        match self {
            Hook::Tcx | Hook::Clsact => PROGRAM,
            Hook::Xdp => XDP_PROGRAM,
        }
    }
}

/// Who runs an XDP program.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum XdpMode {
    /// The driver.
    Native,
    /// The kernel, where the driver cannot: after it has made an skb.
    Generic,
}

impl XdpMode {
    pub fn name(self) -> &'static str {
        match self {
            XdpMode::Native => "native",
            XdpMode::Generic => "generic",
        }
    }
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
    #[error("neither native XDP ({native}) nor generic ({generic})")]
    Xdp {
        native: Box<ProgramError>,
        generic: Box<ProgramError>,
    },
    #[error("this kernel has no links for XDP; it needs Linux 5.18")]
    NoXdpLink,
    #[error("cannot tell whether it takes VLAN tags out of frames: {0}")]
    Offload(io::Error),
    #[error(
        "it takes VLAN tags out of frames, so an answer would go to the wrong network; turn that off: {0}"
    )]
    VlanOffload(String),
    #[error(transparent)]
    Program(#[from] ProgramError),
}

/// A program on its hook.
pub(super) enum Link {
    Tc(SchedClassifierLink),
    /// Not aya's own wrapper, which may be a netlink attachment that outlives a crash.
    Xdp(FdLink, XdpMode),
}

impl Link {
    /// `None` on a TC hook.
    pub fn mode(&self) -> Option<XdpMode> {
        match self {
            Link::Tc(_) => None,
            Link::Xdp(_, mode) => Some(*mode),
        }
    }
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
    program: &mut Program,
    interface: &Interface,
    hook: Hook,
    order: Order,
) -> Result<Link, AttachError> {
    if if_nametoindex(interface.name.as_str()) != Ok(interface.index) {
        return Err(AttachError::Gone);
    }
    match hook {
        Hook::Tcx => attach_tcx(program.try_into()?, interface, order),
        Hook::Clsact => attach_clsact(program.try_into()?, interface, order),
        Hook::Xdp => attach_xdp(program.try_into()?, interface),
    }
}

fn attach_tcx(
    program: &mut SchedClassifier,
    interface: &Interface,
    order: Order,
) -> Result<Link, AttachError> {
    let order = match order {
        Order::First => LinkOrder::first(),
        Order::Last => LinkOrder::last(),
    };
    attach_tc(program, interface, TcAttachOptions::TcxOrder(order))
}

fn attach_clsact(
    program: &mut SchedClassifier,
    interface: &Interface,
    order: Order,
) -> Result<Link, AttachError> {
    prepare_clsact(&interface.name).map_err(AttachError::Clsact)?;
    let options = NlOptions {
        priority: match order {
            Order::First => FIRST_PRIORITY,
            Order::Last => LAST_PRIORITY,
        },
        handle: HANDLE,
        classid: None,
    };
    attach_tc(program, interface, TcAttachOptions::Netlink(options))
}

fn attach_tc(
    program: &mut SchedClassifier,
    interface: &Interface,
    options: TcAttachOptions,
) -> Result<Link, AttachError> {
    let id = program.attach_with_options(&interface.name, TcAttachType::Ingress, options)?;
    Ok(Link::Tc(program.take_link(id)?))
}

/// Native where the driver can, else generic.
fn attach_xdp(program: &mut Xdp, interface: &Interface) -> Result<Link, AttachError> {
    let remedy = offload::vlan_offload_remedy(&interface.name).map_err(AttachError::Offload)?;
    if let Some(remedy) = remedy {
        return Err(AttachError::VlanOffload(remedy));
    }
    let (id, mode) = match program.attach_to_if_index(interface.index, Mode::Driver) {
        Ok(id) => (id, XdpMode::Native),
        Err(native) => match program.attach_to_if_index(interface.index, Mode::Skb) {
            Ok(id) => (id, XdpMode::Generic),
            Err(generic) => {
                return Err(AttachError::Xdp {
                    native: native.into(),
                    generic: generic.into(),
                });
            }
        },
    };
    Ok(Link::Xdp(own(program, id)?, mode))
}

fn own(program: &mut Xdp, id: XdpLinkId) -> Result<FdLink, AttachError> {
    FdLink::try_from(program.take_link(id)?).map_err(|_| AttachError::NoXdpLink)
}

/// Puts a program in the place of the one that a link holds, in one step.
pub(super) fn replace(program: &mut Program, link: Link) -> Result<Link, AttachError> {
    match link {
        Link::Tc(link) => {
            let program: &mut SchedClassifier = program.try_into()?;
            let id = program.attach_to_link(link)?;
            Ok(Link::Tc(program.take_link(id)?))
        }
        Link::Xdp(link, mode) => {
            let program: &mut Xdp = program.try_into()?;
            let link = XdpLink::try_from(link).map_err(|_| AttachError::NoXdpLink)?;
            let id = program.attach_to_link(link)?;
            Ok(Link::Xdp(own(program, id)?, mode))
        }
    }
}

/// Takes a program off its hook, at once and not only when the last descriptor of its link is closed.
pub(super) fn detach(link: Link) {
    let descriptor = match &link {
        Link::Tc(link) => <&FdLink>::try_from(link).ok(),
        Link::Xdp(link, _) => Some(link),
    };
    let id = descriptor
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
