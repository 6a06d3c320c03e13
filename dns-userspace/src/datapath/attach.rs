//! Attaches a program to the ingress of one interface: by tcx or clsact, first or last, or by XDP.

use std::{io, os::fd::AsFd as _, path::Path};

use aya::programs::{
    Program, ProgramError, SchedClassifier, TcAttachType,
    tc::{NlOptions, SchedClassifierLink, TcAttachOptions, TcError, TcHandle, qdisc_add_clsact},
};
use nix::net::if_::{if_indextoname, if_nametoindex};

use super::{
    Interface, PROGRAM, XDP_PROGRAM,
    clsact::{self, Filter},
    link::{self, BpfLink, Place},
    netdev::{self, XdpMode},
    offload,
    pins::{STATE, linked_programs},
};

/// The hooks of the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Hook {
    /// Linux 6.6 and later: links that end with the process that holds them.
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

/// The place among the programs on the hook.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Order {
    First,
    Last,
}

/// A program that gets the frames of an interface before gregor's, which sees only what that one passes on.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct InFront {
    /// `tcx` or `clsact`.
    pub hook: &'static str,
    /// Name of the program or filter; `program ID` where the name cannot be read, which takes CAP_SYS_ADMIN on tcx.
    pub name: String,
    /// A filter of gregor's own priority: it is in front because it came later, not on purpose.
    pub is_by_chance: bool,
}

/// Why a program cannot be attached.
#[derive(Debug, thiserror::Error)]
pub enum AttachError {
    #[error("it does not exist any more or has another index")]
    Gone,
    #[error("clsact")]
    Clsact(#[source] TcError),
    #[error("its clsact filters")]
    Filters(#[source] io::Error),
    #[error("the kernel makes no link on {hook}")]
    Link {
        hook: &'static str,
        #[source]
        error: io::Error,
    },
    #[error(
        "other programs have all the places that the kernel has on tcx; detach some (`bpftool net`)"
    )]
    Full(#[source] io::Error),
    #[error("neither native XDP ({native}) nor generic ({generic})")]
    Xdp {
        native: io::Error,
        generic: io::Error,
    },
    #[error("another program cannot be put in the place of the one on it")]
    Replace(#[source] io::Error),
    #[error("cannot find out whether it takes VLAN tags out of frames")]
    Offload(#[source] io::Error),
    #[error(
        "it takes VLAN tags out of frames, so an answer would go to the wrong network; turn that off: {0}"
    )]
    VlanOffload(String),
    #[error(transparent)]
    Program(#[from] ProgramError),
}

/// A program on its hook.
pub(super) enum Link {
    /// On tcx; and on XDP, with its mode. Ends with the process.
    Bpf(BpfLink, Option<XdpMode>),
    /// A netlink filter on clsact, which outlives a crash.
    Filter(SchedClassifierLink),
}

impl Link {
    /// A link that was pinned. Where the kernel does not say who runs an XDP program, it is taken to be the kernel: a
    /// query that the responder brings back has a trailer then.
    pub fn adopted(link: BpfLink, hook: Hook, index: u32) -> Self {
        let mode = || netdev::attached_xdp_mode(index).unwrap_or(XdpMode::Generic);
        Link::Bpf(link, (hook == Hook::Xdp).then(mode))
    }

    /// `None` on a TC hook.
    pub fn mode(&self) -> Option<XdpMode> {
        match self {
            Link::Bpf(_, mode) => *mode,
            Link::Filter(_) => None,
        }
    }
}

/// Our filter's handle on clsact; a fixed one, so that a filter left by a crash is replaced rather than joined.
const HANDLE: TcHandle = TcHandle::new(0, 0x6772);
/// That of a filter that was moved to the front, and back to [`HANDLE`] the next time.
const OTHER_HANDLE: TcHandle = TcHandle::new(0, 0x6773);
const FIRST_PRIORITY: u16 = 1;
const LAST_PRIORITY: u16 = 0xffff;

/// Index of the loopback interface, in every network namespace.
const LOOPBACK: u32 = 1;

/// Whether this kernel has tcx; the error where that is unknown, as for a process without CAP_NET_ADMIN.
pub fn has_tcx() -> io::Result<bool> {
    match link::tcx_programs(LOOPBACK) {
        Ok(_) => Ok(true),
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => Ok(false),
        Err(error) => Err(error),
    }
}

/// The best hook of this kernel.
pub fn detect_hook() -> Hook {
    match has_tcx() {
        Ok(true) => Hook::Tcx,
        // A process that may not ask may not attach either, and gets that error then.
        Ok(false) | Err(_) => Hook::Clsact,
    }
}

/// Names of the tcx programs on the ingress of an interface, in their order. Looking at a program takes CAP_SYS_ADMIN; without
/// it, those whose links are pinned in the usual directory are gregor's, and another one is `program ID`.
pub fn programs_on(interface: &str) -> io::Result<Vec<String>> {
    let programs = link::tcx_programs(if_nametoindex(interface)?)?;
    let ours = linked_programs(Path::new(STATE));
    let name = |id| link::program_name(link::open_program(id)?);
    Ok(programs
        .into_iter()
        .map(|id| match name(id) {
            Ok(name) => name,
            Err(_) if ours.contains(&id) => PROGRAM.to_owned(),
            Err(_) => format!("program {id}"),
        })
        .collect())
}

fn name_of(id: u32) -> String {
    link::open_program(id)
        .and_then(link::program_name)
        .unwrap_or_else(|_| format!("program {id}"))
}

/// What gets the frames of an interface before the program of this link; on XDP there is nothing in front.
pub(super) fn in_front(
    link: &Link,
    interface: &Interface,
    order: Order,
) -> io::Result<Vec<InFront>> {
    let on_tcx = |ids: &[u32]| -> Vec<InFront> {
        let program = |id: &u32| InFront {
            hook: "tcx",
            name: name_of(*id),
            is_by_chance: false,
        };
        ids.iter().map(program).collect()
    };
    match link {
        Link::Bpf(_, Some(_)) => Ok(Vec::new()),
        Link::Bpf(link, None) => {
            let own = link.info()?.program_id;
            let programs = link::tcx_programs(interface.index)?;
            let place = programs.iter().position(|id| *id == own);
            // Not on the hook: that is noticed elsewhere.
            Ok(on_tcx(&programs[..place.unwrap_or(0)]))
        }
        Link::Filter(_) => {
            // Before Linux 6.6 there is no tcx.
            let programs = link::tcx_programs(interface.index).unwrap_or_default();
            let mut found = on_tcx(&programs);
            let own = priority(order);
            let filters = clsact::filters(interface.index)?;
            let is_ours = |filter: &Filter| has_our_place(filter) && filter.priority() == own;
            if let Some(place) = filters.iter().position(is_ours) {
                found.extend(filters[..place].iter().map(|filter| InFront {
                    hook: "clsact",
                    name: filter.name.clone(),
                    is_by_chance: order == Order::First && filter.priority() == own,
                }));
            }
            Ok(found)
        }
    }
}

/// Moves our filter in front of those of its priority: it is attached a second time, as the newest one, before the first one is
/// removed.
pub(super) fn move_in_front(
    program: &mut Program,
    link: Link,
    interface: &Interface,
    order: Order,
) -> Result<Link, AttachError> {
    let link = match link {
        Link::Filter(link) => link,
        // A program in front on tcx was placed there on purpose.
        link @ Link::Bpf(..) => return Ok(link),
    };
    let handle = if link.handle()? == HANDLE {
        OTHER_HANDLE
    } else {
        HANDLE
    };
    let moved = add_filter(program.try_into()?, interface, order, handle)?;
    aya::programs::links::Link::detach(link)?;
    Ok(Link::Filter(moved))
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
        Hook::Tcx => attach_tcx(program, interface, order),
        Hook::Clsact => attach_clsact(program.try_into()?, interface, order),
        Hook::Xdp => attach_xdp(program, interface),
    }
}

fn attach_tcx(program: &Program, interface: &Interface, order: Order) -> Result<Link, AttachError> {
    let place = match order {
        Order::First => Place::TcxFirst(interface.index),
        Order::Last => Place::TcxLast(interface.index),
    };
    match BpfLink::create(program.fd()?.as_fd(), place) {
        Ok(link) => Ok(Link::Bpf(link, None)),
        Err(error) if error.raw_os_error() == Some(libc::ERANGE) => Err(AttachError::Full(error)),
        Err(error) => Err(AttachError::Link { hook: "tcx", error }),
    }
}

fn attach_clsact(
    program: &mut SchedClassifier,
    interface: &Interface,
    order: Order,
) -> Result<Link, AttachError> {
    prepare_clsact(interface)?;
    add_filter(program, interface, order, HANDLE).map(Link::Filter)
}

/// Where another filter has the handle, that is an error.
fn add_filter(
    program: &mut SchedClassifier,
    interface: &Interface,
    order: Order,
    handle: TcHandle,
) -> Result<SchedClassifierLink, AttachError> {
    let options = NlOptions {
        priority: priority(order),
        handle,
        classid: None,
    };
    let options = TcAttachOptions::Netlink(options);
    let id = program.attach_with_options(&interface.name, TcAttachType::Ingress, options)?;
    Ok(program.take_link(id)?)
}

/// Native where the driver can, else generic.
fn attach_xdp(program: &Program, interface: &Interface) -> Result<Link, AttachError> {
    let remedy = offload::vlan_offload_remedy(&interface.name).map_err(AttachError::Offload)?;
    if let Some(remedy) = remedy {
        return Err(AttachError::VlanOffload(remedy));
    }
    let program = program.fd()?.as_fd();
    match BpfLink::create(program, Place::XdpNative(interface.index)) {
        Ok(link) => Ok(Link::Bpf(link, Some(XdpMode::Native))),
        Err(native) => match BpfLink::create(program, Place::XdpGeneric(interface.index)) {
            Ok(link) => Ok(Link::Bpf(link, Some(XdpMode::Generic))),
            Err(generic) => Err(AttachError::Xdp { native, generic }),
        },
    }
}

/// Puts a program in the place of the one that a link holds, in one step.
pub(super) fn replace(program: &mut Program, link: Link) -> Result<Link, AttachError> {
    match link {
        Link::Bpf(link, mode) => match link.update(program.fd()?.as_fd()) {
            Ok(()) => Ok(Link::Bpf(link, mode)),
            Err(error) => {
                // At once, as with `detach`: the earlier program is about to go.
                let _ = link.detach();
                Err(AttachError::Replace(error))
            }
        },
        Link::Filter(link) => {
            let program: &mut SchedClassifier = program.try_into()?;
            let id = program.attach_to_link(link)?;
            Ok(Link::Filter(program.take_link(id)?))
        }
    }
}

/// The filter that an earlier process has left in the place of ours; `None` where there is none.
pub(super) fn left_filter(interface: &Interface, order: Order) -> Option<Link> {
    let filters = our_filters(interface, order).ok()?;
    let (first, others) = filters.split_first()?;
    // It was moving.
    for other in others {
        let _ = clsact::remove(other);
    }
    let handle = if first.handle == u32::from(OTHER_HANDLE) {
        OTHER_HANDLE
    } else {
        HANDLE
    };
    SchedClassifierLink::attached(
        &interface.name,
        TcAttachType::Ingress,
        priority(order),
        handle,
        None,
    )
    .ok()
    .map(Link::Filter)
}

/// The filters in the place of ours: one, or two for the moment at which it moves.
fn our_filters(interface: &Interface, order: Order) -> io::Result<Vec<Filter>> {
    let mut filters = clsact::filters(interface.index)?;
    filters.retain(|filter| has_our_place(filter) && filter.priority() == priority(order));
    Ok(filters)
}

fn priority(order: Order) -> u16 {
    match order {
        Order::First => FIRST_PRIORITY,
        Order::Last => LAST_PRIORITY,
    }
}

/// Leaves a program on its hook: a pinned link stays, and so does any filter.
pub(super) fn leave(link: Link) {
    match link {
        Link::Bpf(link, _) => drop(link),
        Link::Filter(link) => std::mem::forget(link),
    }
}

/// Whether another process detached a program from an interface that is still there: a filter with its qdisc, a link by
/// BPF_LINK_DETACH. The removal of an interface is an event of its own.
pub(super) fn is_removed(link: &Link, interface: &Interface, order: Order) -> bool {
    let is_on_hook = match link {
        Link::Bpf(link, _) => link.is_attached(),
        Link::Filter(_) => our_filters(interface, order).map_or(true, |ours| !ours.is_empty()),
    };
    !is_on_hook && if_indextoname(interface.index).is_ok()
}

/// Detaches a program.
pub(super) fn detach(link: Link) {
    if let Link::Bpf(link, _) = &link {
        // The links of a removed interface have ended with it: that error is not reported.
        let _ = link.detach();
    }
    drop(link);
}

/// Makes sure of the qdisc.
pub(super) fn ensure_clsact(interface: &str) -> Result<(), AttachError> {
    match qdisc_add_clsact(interface) {
        Ok(()) | Err(TcError::AlreadyAttached) => Ok(()),
        Err(TcError::NetlinkError(error)) if error.raw_os_error() == Some(libc::EEXIST) => Ok(()),
        Err(error) => Err(AttachError::Clsact(error)),
    }
}

/// Makes sure of the qdisc and removes a filter that an earlier run left behind. That one has our handle: opening its program
/// to look closer takes CAP_SYS_ADMIN.
fn prepare_clsact(interface: &Interface) -> Result<(), AttachError> {
    ensure_clsact(&interface.name)?;
    remove_our_filters(interface.index).map_err(AttachError::Filters)
}

fn remove_our_filters(index: u32) -> io::Result<()> {
    let filters = clsact::filters(index)?;
    filters
        .iter()
        .filter(|filter| has_our_place(filter))
        .try_for_each(clsact::remove)
}

/// Removes the filters that a process has left on clsact, where this one attaches elsewhere.
pub(super) fn remove_left_filters() {
    let interfaces = nix::net::if_::if_nameindex();
    for interface in interfaces.iter().flat_map(|interfaces| interfaces.iter()) {
        if let Err(error) = remove_our_filters(interface.index()) {
            let interface = interface.name().to_string_lossy();
            tracing::warn!(%interface, %error, "a filter that was left cannot be removed");
        }
    }
}

/// Whether a filter is called like ours and has a handle of ours.
pub(super) fn has_our_place(filter: &Filter) -> bool {
    let handles = [HANDLE, OTHER_HANDLE].map(u32::from);
    filter.name == PROGRAM && handles.contains(&filter.handle)
}
