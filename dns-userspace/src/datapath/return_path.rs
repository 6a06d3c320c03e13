//! The way back of a query that passes: into the ingress of the interface that it came in on.
//!
//! A query that is sent on by a socket takes the output path, past the reverse path filter, rules for an input interface
//! and every policy on the ingress: a pod could reach the cache under a forged source. So the responder sends it to a
//! device of gregor's own, whose program redirects it to where the pod's query came from. Behind gregor's program there it
//! takes the way that it would have taken.

use std::{
    io,
    os::fd::AsFd as _,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    thread,
};

use aya::{
    Ebpf,
    programs::{
        Program, SchedClassifier, TcAttachType,
        tc::{NlOptions, SchedClassifierLink, TcAttachOptions, TcHandle, qdisc_detach_program},
    },
};
use nix::net::if_::if_nametoindex;
use rtnetlink::{Handle, LinkUnspec, LinkVeth};

use super::{
    DatapathError, Hook, RETURN_DEVICES, attach,
    clsact::{self, Filter},
    heap,
    link::{self, BpfLink, Place},
    object::{program_of, verify},
};

static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/gregor-return"));

/// Name of the program in the kernel's listings.
pub(super) const PROGRAM: &str = "gregor_return";

/// The largest frame that a veth takes: that of the interface that the query came in on decides.
const MTU: u32 = 65_535;

const HANDLE: TcHandle = TcHandle::new(0, 0x6772);

/// The device, for as long as this lives.
#[derive(Debug)]
pub struct ReturnPath {
    hook: Hook,
    /// Index of the device, shared with its senders.
    index: Arc<AtomicU32>,
    // Before the device goes.
    link: Link,
    device: Device,
}

#[derive(Debug)]
enum Link {
    Bpf(BpfLink),
    Filter(SchedClassifierLink),
}

impl ReturnPath {
    /// Makes the device in the network namespace of the calling thread, or takes the one that is there: that of a crash, or
    /// of another gregor, whose program does the same.
    ///
    /// # Errors
    /// When the kernel has no veth, or refuses the device or its program.
    pub fn open() -> Result<Self, DatapathError> {
        Self::on(attach::detect_hook())
    }

    /// [`ReturnPath::open`] with a hook that is not the best of this kernel.
    #[doc(hidden)]
    pub fn on(hook: Hook) -> Result<Self, DatapathError> {
        let device = Device::make().map_err(DatapathError::ReturnDevice)?;
        let mut ebpf = Ebpf::load(OBJECT)?;
        let program = program_of(&mut ebpf, PROGRAM)?;
        verify(PROGRAM, program)?;
        let attached = |error| DatapathError::Attach {
            interface: RETURN_DEVICES[0].to_owned(),
            error,
        };
        let link = match hook {
            Hook::Tcx | Hook::Xdp => on_tcx(program, device.index),
            Hook::Clsact => on_clsact(program),
        };
        let link = link.map_err(attached)?;
        drop(ebpf);
        // aya reads the kernel's BTF for each object.
        heap::trim_heap();
        Ok(Self {
            hook,
            index: Arc::new(AtomicU32::new(device.index)),
            link,
            device,
        })
    }

    /// Makes the device and removes it again. `true`, and nothing is done, where there is one already.
    ///
    /// # Errors
    /// As [`ReturnPath::open`].
    pub fn try_out() -> Result<bool, DatapathError> {
        if if_nametoindex(RETURN_DEVICES[0]).is_ok() {
            return Ok(true);
        }
        Self::open().map(|_| false)
    }

    /// Leaves the device and its program to a successor: on tcx the program goes with this process, and the successor's is on
    /// it by then, or puts its own there before a query passes.
    pub fn leave(self) {
        let Self { link, device, .. } = self;
        std::mem::forget(device);
        match link {
            Link::Bpf(link) => drop(link),
            Link::Filter(link) => std::mem::forget(link),
        }
    }

    /// Index of the device, also after [`ReturnPath::mend`].
    pub fn index(&self) -> &Arc<AtomicU32> {
        &self.index
    }

    /// Makes anew what another process took away, the device or its program; `true` where one did.
    ///
    /// # Errors
    /// As [`ReturnPath::open`].
    pub fn mend(&mut self) -> Result<bool, DatapathError> {
        if self.is_intact() {
            return Ok(false);
        }
        let mut new = Self::on(self.hook)?;
        self.index.store(new.device.index, Ordering::Relaxed);
        new.index = Arc::clone(&self.index);
        // What is left of it goes by the device's name, which is the new one's.
        std::mem::replace(self, new).leave();
        Ok(true)
    }

    fn is_intact(&self) -> bool {
        if if_nametoindex(RETURN_DEVICES[0]) != Ok(self.device.index) {
            return false;
        }
        match &self.link {
            Link::Bpf(link) => link.is_attached(),
            Link::Filter(_) => clsact::egress_filters(self.device.index).map_or(true, |filters| {
                let is_ours =
                    |filter: &Filter| filter.name == PROGRAM && filter.handle == u32::from(HANDLE);
                filters.iter().any(is_ours)
            }),
        }
    }
}

fn on_tcx(program: &Program, index: u32) -> Result<Link, attach::AttachError> {
    BpfLink::create(program.fd()?.as_fd(), Place::TcxEgress(index))
        .map(Link::Bpf)
        .map_err(|error| attach::AttachError::Link { hook: "tcx", error })
}

fn on_clsact(program: &mut Program) -> Result<Link, attach::AttachError> {
    let device = RETURN_DEVICES[0];
    attach::ensure_clsact(device)?;
    // One that a crash has left is in the place of this one; mostly there is none.
    let _ = qdisc_detach_program(device, TcAttachType::Egress, PROGRAM);
    let options = TcAttachOptions::Netlink(NlOptions {
        priority: 1,
        handle: HANDLE,
        classid: None,
    });
    let program: &mut SchedClassifier = program.try_into()?;
    let id = program.attach_with_options(device, TcAttachType::Egress, options)?;
    Ok(Link::Filter(program.take_link(id)?))
}

/// A pair of veths of which one is up.
#[derive(Debug)]
struct Device {
    index: u32,
}

impl Device {
    fn make() -> io::Result<Self> {
        let index = match if_nametoindex(RETURN_DEVICES[0]) {
            Ok(index) => index,
            Err(_) => {
                netlink(async |handle| {
                    let [device, peer] = RETURN_DEVICES;
                    let pair = LinkVeth::new(device, peer).mtu(MTU).build();
                    handle.link().add(pair).execute().await
                })?;
                if_nametoindex(RETURN_DEVICES[0])?
            }
        };
        let device = Self { index };
        // Best effort: without it, the kernel sends router solicitations that go nowhere.
        let _ = std::fs::write(
            format!("/proc/sys/net/ipv6/conf/{}/disable_ipv6", RETURN_DEVICES[0]),
            "1",
        );
        netlink(async |handle| {
            let up = LinkUnspec::new_with_index(index).up().build();
            handle.link().set(up).execute().await
        })?;
        Ok(device)
    }
}

impl Drop for Device {
    fn drop(&mut self) {
        // Another gregor's program is on it still.
        if link::tcx_egress_programs(self.index).is_ok_and(|programs| !programs.is_empty()) {
            return;
        }
        if let Err(error) = delete(self.index) {
            tracing::debug!(%error, device = RETURN_DEVICES[0], "the device was not removed");
        }
    }
}

/// Removes the device from the network namespace of the calling thread, whoever has made it; `false` where there is none.
pub(super) fn remove() -> io::Result<bool> {
    let [Ok(index), Ok(_)] = RETURN_DEVICES.map(if_nametoindex) else {
        return Ok(false);
    };
    delete(index).map(|()| true)
}

fn delete(index: u32) -> io::Result<()> {
    netlink(async |handle| handle.link().del(index).execute().await)
}

/// Does one thing over rtnetlink, in the network namespace of the calling thread, whatever runtime it is in.
fn netlink(
    request: impl AsyncFnOnce(Handle) -> Result<(), rtnetlink::Error> + Send,
) -> io::Result<()> {
    thread::scope(|scope| {
        let request = scope.spawn(|| {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_io()
                .build()?;
            runtime.block_on(async {
                let (connection, handle, _) = rtnetlink::new_connection()?;
                tokio::spawn(connection);
                request(handle).await.map_err(|error| match error {
                    rtnetlink::Error::NetlinkError(message) => message.to_io(),
                    other => io::Error::other(other),
                })
            })
        });
        request
            .join()
            .unwrap_or_else(|_| Err(io::Error::other("the netlink thread panicked")))
    })
}
