//! The sockets behind [`Inject`]: AF_PACKET towards pods and towards the return device.
//!
//! A query that passes goes to the return device, whose program brings it back to the ingress that it was taken from
//! (`datapath/return_path.rs`): reverse path filter, input rules and policies see it as they would without gregor. Its mark
//! says which interface that is. gregor's own program there lets it by: on a TC hook by its `tc_index`; native XDP does not
//! see it, because the driver has nothing to do with it; generic XDP sees it once more and knows it by a trailer behind the
//! frame ([`dns_common::abi::Trailer`]), which it removes. Where the program is gone meanwhile, the trailer is padding.
//!
//! A mark takes a capability, which the threads that read queries do not have: a thread that does nothing else sends the frames
//! that have one.

use std::{
    io,
    os::fd::{AsRawFd, RawFd},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU32, Ordering},
        mpsc::{Receiver, SyncSender, TrySendError, sync_channel},
    },
    thread::{self, JoinHandle},
};

use dns_common::abi::KEEPS_TC_INDEX;
use socket2::{Domain, SockAddr, Socket, Type};

use super::{Inject, QueryFrame, frame};
use crate::{model::Held, privileges};

/// Most frames that wait for the thread that sends them; more are not passed on.
const MAX_WAITING: usize = 1024;

/// Sends frames to interfaces in the network namespace of the thread that opened it.
#[derive(Debug)]
pub struct Injector {
    packet: Socket,
    returning: Returning,
}

impl Injector {
    /// Opens the sockets; needs CAP_NET_RAW, and CAP_NET_ADMIN for marks before Linux 5.17. Queries go back by the device with
    /// this index, which may be made anew. `failed` is called with the error of each that could not be sent.
    ///
    /// # Errors
    /// When a socket cannot be opened or set up, or a thread cannot be started.
    pub fn open(
        return_device: Arc<AtomicU32>,
        failed: impl Fn(io::Error) + Send + 'static,
    ) -> io::Result<Injector> {
        // Protocol 0: this socket sends and never receives.
        let packet = Socket::new(Domain::PACKET, Type::RAW.nonblocking(), None)?;
        // The reply bypasses the egress hook, where a policy that never saw the query may drop it.
        bypass_qdisc(packet.as_raw_fd())?;
        Ok(Injector {
            packet,
            returning: Returning::open(return_device, failed)?,
        })
    }

    /// Sends the queries that wait, and passes none on after that.
    pub fn close(&self) {
        self.returning.close();
    }
}

/// The thread that sends to the return device.
#[derive(Debug)]
struct Returning(Mutex<Option<Thread>>);

#[derive(Debug)]
struct Thread {
    frames: SyncSender<Marked>,
    thread: JoinHandle<()>,
}

/// A frame, and the index of the interface that it goes back to, with [`KEEPS_TC_INDEX`] or without.
struct Marked {
    mark: u32,
    frame: Vec<u8>,
    /// To be released just before it is sent.
    held: Option<Arc<dyn Held>>,
}

impl Returning {
    fn open(
        device: Arc<AtomicU32>,
        failed: impl Fn(io::Error) + Send + 'static,
    ) -> io::Result<Self> {
        // Without PACKET_QDISC_BYPASS: the program is on the egress hook.
        let socket = Socket::new(Domain::PACKET, Type::RAW.nonblocking(), None)?;
        let (frames, waiting) = sync_channel(MAX_WAITING);
        let thread = thread::Builder::new()
            .name("return".to_owned())
            .spawn(move || send_all(&socket, &device, &waiting, failed))?;
        Ok(Self(Mutex::new(Some(Thread { frames, thread }))))
    }

    fn send(&self, query: &QueryFrame) -> io::Result<()> {
        let mut frame = frame::original_frame(query).ok_or_else(not_a_query)?;
        let mut mark = query.ifindex;
        if query.reinjection.keeps_tc_index {
            mark |= KEEPS_TC_INDEX;
        }
        if let Some(trailer) = query.reinjection.trailer {
            // It has been back already, and the program there does not know the trailer: it would come back for ever.
            if frame.ends_with(&trailer) {
                return Err(io::Error::other(
                    "the XDP program has taken a query that was brought back to it",
                ));
            }
            frame.extend(trailer);
        }
        let thread = self.lock();
        let Some(thread) = &*thread else {
            return Err(io::ErrorKind::BrokenPipe.into());
        };
        let held = query.held.clone();
        let sent = thread.frames.try_send(Marked { mark, frame, held });
        sent.map_err(|error| match error {
            TrySendError::Full(_) => io::ErrorKind::WouldBlock.into(),
            TrySendError::Disconnected(_) => io::ErrorKind::BrokenPipe.into(),
        })
    }

    fn close(&self) {
        let Some(Thread { frames, thread }) = self.lock().take() else {
            return;
        };
        drop(frames);
        let _ = thread.join();
    }

    fn lock(&self) -> MutexGuard<'_, Option<Thread>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Returning {
    fn drop(&mut self) {
        self.close();
    }
}

/// Sends until there are no senders any more.
fn send_all(
    socket: &Socket,
    device: &AtomicU32,
    waiting: &Receiver<Marked>,
    failed: impl Fn(io::Error),
) {
    privileges::restrict_to_marks(|| socket.set_mark(1));
    for Marked { mark, frame, held } in waiting {
        let sent = socket.set_mark(mark).and_then(|()| {
            let address = link_address(device.load(Ordering::Relaxed), &frame)?;
            if let Some(held) = &held {
                held.release();
            }
            whole(socket.send_to(&frame, &address)?, frame.len())
        });
        if let Err(error) = sent {
            failed(error);
        }
    }
}

impl Inject for Injector {
    fn reply(&self, query: &QueryFrame, message: &[u8]) -> io::Result<()> {
        let frame = frame::reply(query, message).ok_or_else(not_a_query)?;
        let address = link_address(query.ifindex, &frame)?;
        query.release();
        let sent = self.packet.send_to(&frame, &address)?;
        whole(sent, frame.len())
    }

    fn pass_on(&self, query: &QueryFrame) -> io::Result<()> {
        self.returning.send(query)
    }
}

fn not_a_query() -> io::Error {
    io::Error::new(
        io::ErrorKind::InvalidInput,
        "the frame is not a UDP datagram that gregor answers",
    )
}

fn whole(sent: usize, length: usize) -> io::Result<()> {
    if sent == length {
        Ok(())
    } else {
        Err(io::ErrorKind::WriteZero.into())
    }
}

fn bypass_qdisc(socket: RawFd) -> io::Result<()> {
    let on: libc::c_int = 1;
    // SAFETY: the option is an int, and `on` is one that outlives the call.
    let result = unsafe {
        libc::setsockopt(
            socket,
            libc::SOL_PACKET,
            libc::PACKET_QDISC_BYPASS,
            (&raw const on).cast(),
            size_of_val(&on) as libc::socklen_t,
        )
    };
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// Where a frame leaves; its protocol is the frame's own EtherType.
fn link_address(ifindex: u32, frame: &[u8]) -> io::Result<SockAddr> {
    let ethertype = frame
        .get(12..14)
        .and_then(|bytes| bytes.try_into().ok())
        .map(u16::from_ne_bytes)
        .ok_or_else(not_a_query)?;
    let ifindex = i32::try_from(ifindex).map_err(|_| io::ErrorKind::InvalidInput)?;
    // SAFETY: the storage is large enough for a sockaddr_ll and aligned for it, every bit pattern of which is valid;
    // the length is that of what was written.
    let ((), address) = unsafe {
        SockAddr::try_init(|storage, length| {
            storage
                .cast::<libc::sockaddr_ll>()
                .write(libc::sockaddr_ll {
                    sll_family: libc::AF_PACKET as u16,
                    sll_protocol: ethertype,
                    sll_ifindex: ifindex,
                    sll_hatype: 0,
                    sll_pkttype: 0,
                    sll_halen: 0,
                    sll_addr: [0; 8],
                });
            length.write(size_of::<libc::sockaddr_ll>() as libc::socklen_t);
            Ok(())
        })?
    };
    Ok(address)
}
