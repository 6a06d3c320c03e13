//! A veth between two network namespaces, a sender of raw frames in the pod's, and nothing else on it.

use std::{
    ffi::CString,
    fs::{self, File},
    io,
    os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd},
    process::Command,
    ptr,
    sync::atomic::{AtomicU32, Ordering},
};

use anyhow::{Context as _, bail, ensure};
use gregor::datapath::Interface;
use nix::{
    net::if_::if_nametoindex,
    sched::{CloneFlags, setns},
};

use super::build::Frame;

/// Large enough for every frame of the table.
const MTU: u32 = 9000;
const NODE_END: &str = "pod0";
const POD_END: &str = "eth0";

/// The node's namespace and the pod's, with a veth between them. The calling thread is moved into the node's.
pub struct Wire {
    /// The host end of the pod's veth, in the calling thread's namespace.
    pub interface: Interface,
    sender: Sender,
    // Last, so that sockets close before their namespace is deleted.
    pod: Namespace,
    node: Namespace,
}

/// Runs `body` on a thread of its own inside a fresh node namespace.
pub fn on_a_wire<T: Send>(body: impl FnOnce(&mut Wire) -> T + Send) -> T {
    on_a_wire_of(1, body)
}

/// The same where the pod's end has so many queues to send from; a veth runs XDP natively where its other end has no more than
/// it has for receiving, one.
pub fn on_a_wire_of<T: Send>(queues: u32, body: impl FnOnce(&mut Wire) -> T + Send) -> T {
    std::thread::scope(|scope| {
        let thread =
            scope.spawn(|| body(&mut Wire::new(queues).expect("namespaces and a veth: root?")));
        match thread.join() {
            Ok(value) => value,
            Err(panic) => std::panic::resume_unwind(panic),
        }
    })
}

impl Wire {
    fn new(queues: u32) -> anyhow::Result<Self> {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let prefix = format!(
            "gpk{}-{}",
            std::process::id(),
            NUMBER.fetch_add(1, Ordering::Relaxed)
        );
        let pod = Namespace::new(format!("{prefix}-pod"))?;
        let node = Namespace::new(format!("{prefix}-node"))?;
        pod.enter()?;
        quiet()?;
        node.enter()?;
        quiet()?;
        ip(&format!(
            "link add {POD_END} numtxqueues {queues} mtu {MTU} arp off netns {} type veth peer name {NODE_END} mtu {MTU} arp off netns {}",
            pod.name, node.name
        ))?;
        ip(&format!("link set {NODE_END} up"))?;
        pod.enter()?;
        ip(&format!("link set {POD_END} up"))?;
        let sender = Sender::new(POD_END)?;
        node.enter()?;
        Ok(Self {
            interface: Interface {
                index: if_nametoindex(NODE_END)?,
                name: NODE_END.to_owned(),
            },
            sender,
            pod,
            node,
        })
    }

    /// Sends a frame from the pod.
    pub fn send(&self, frame: &Frame) -> anyhow::Result<()> {
        self.sender.send(frame)
    }

    /// Sends a frame from the pod as a socket does: what its checksum at `start` + 6 covers is still to be added.
    pub fn send_partial(&self, frame: &[u8], start: usize) -> anyhow::Result<()> {
        self.sender.send_partial(frame, start)
    }

    /// What arrives at the pod from now on.
    pub fn receiver(&self) -> anyhow::Result<Receiver> {
        self.in_pod(|| Receiver::new(POD_END))
    }

    /// Runs `body` in the pod's namespace.
    pub fn in_pod<T>(&self, body: impl FnOnce() -> anyhow::Result<T>) -> anyhow::Result<T> {
        self.pod.enter()?;
        let result = body();
        self.node.enter()?;
        result
    }
}

/// A named network namespace, deleted when dropped.
struct Namespace {
    name: String,
    file: File,
}

impl Namespace {
    fn new(name: String) -> anyhow::Result<Self> {
        ip(&format!("netns add {name}"))?;
        let file = File::open(format!("/run/netns/{name}"))?;
        Ok(Self { name, file })
    }

    /// Moves the calling thread.
    fn enter(&self) -> anyhow::Result<()> {
        setns(&self.file, CloneFlags::CLONE_NEWNET).context("entering a namespace")
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        if let Err(error) = ip(&format!("netns del {}", self.name)) {
            eprintln!("{error:#}");
        }
    }
}

/// Disables unsolicited traffic in the calling thread's namespace.
fn quiet() -> anyhow::Result<()> {
    for scope in ["all", "default"] {
        fs::write(format!("/proc/sys/net/ipv6/conf/{scope}/disable_ipv6"), "1")
            .context("IPv6 off")?;
    }
    ip("link set lo up")
}

/// Runs iproute2's `ip` in the calling thread's namespace.
pub fn ip(arguments: &str) -> anyhow::Result<()> {
    run("ip", arguments)
}

/// Runs a command in the calling thread's namespace.
pub fn run(program: &str, arguments: &str) -> anyhow::Result<()> {
    let output = Command::new(program)
        .args(arguments.split_whitespace())
        .output()
        .with_context(|| program.to_owned())?;
    ensure!(
        output.status.success(),
        "{program} {arguments}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(())
}

/// A socket that puts frames on an interface as they are.
pub struct PlainSender(OwnedFd);

impl PlainSender {
    /// On an interface of the calling thread's namespace.
    pub fn new(interface: &str) -> anyhow::Result<Self> {
        packet_socket(interface).map(Self)
    }

    pub fn send(&self, frame: &[u8]) -> anyhow::Result<()> {
        send(&self.0, frame)
    }
}

/// The same for frames that are in several pieces or several datagrams as well.
struct Sender {
    plain: PlainSender,
    /// With a virtio header in front, which says how a buffer is to be segmented.
    segmented: OwnedFd,
    paged: PagedSender,
}

impl Sender {
    fn new(interface: &str) -> anyhow::Result<Self> {
        let segmented = packet_socket(interface)?;
        set_option(&segmented, libc::PACKET_VNET_HDR, &1i32).context("PACKET_VNET_HDR")?;
        Ok(Self {
            plain: PlainSender::new(interface)?,
            segmented,
            paged: PagedSender::new(packet_socket(interface)?)?,
        })
    }

    fn send(&self, frame: &Frame) -> anyhow::Result<()> {
        match (frame.gso_size, frame.paged) {
            (None, false) => self.plain.send(&frame.bytes),
            (None, true) => self.paged.send(&frame.bytes),
            (Some(size), false) => {
                let mut bytes = segmentation_header(&frame.bytes, size);
                bytes.extend(&frame.bytes);
                send(&self.segmented, &bytes)
            }
            (Some(_), true) => bail!("a buffer that is both paged and segmented"),
        }
        .with_context(|| format!("sending {} bytes", frame.bytes.len()))
    }

    fn send_partial(&self, frame: &[u8], start: usize) -> anyhow::Result<()> {
        const NEEDS_CSUM: u8 = 1;
        let mut bytes = vec![NEEDS_CSUM, 0];
        // No segments, where the checksum starts, and its place from there.
        for field in [0, 0, start as u16, 6] {
            bytes.extend(field.to_ne_bytes());
        }
        bytes.extend(frame);
        send(&self.segmented, &bytes)
    }
}

/// `ethtool -K NAME tso on|off gso on|off`: whether the kernel cuts segments after the interface's programs have seen them
/// as one.
pub fn set_segmentation(interface: &str, on: bool) -> anyhow::Result<()> {
    const ETHTOOL_STSO: u32 = 0x1f;
    const ETHTOOL_SGSO: u32 = 0x24;
    set_feature(interface, ETHTOOL_STSO, on)?;
    set_feature(interface, ETHTOOL_SGSO, on)
}

fn set_feature(interface: &str, command: u32, on: bool) -> anyhow::Result<()> {
    let mut value = [command, u32::from(on)];
    // SAFETY: all of it may be zero.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(interface.bytes()) {
        *to = from as libc::c_char;
    }
    request.ifr_ifru.ifru_data = value.as_mut_ptr().cast();
    // SAFETY: no pointers; the descriptor is checked and then owned. The request names a `struct ethtool_value`, and both
    // outlive the call.
    let result = unsafe {
        let fd = libc::socket(libc::AF_INET, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0);
        ensure!(fd >= 0, "socket: {}", io::Error::last_os_error());
        let socket = OwnedFd::from_raw_fd(fd);
        libc::ioctl(socket.as_raw_fd(), libc::SIOCETHTOOL as _, &raw mut request)
    };
    ensure!(result == 0, "SIOCETHTOOL: {}", io::Error::last_os_error());
    Ok(())
}

/// `struct virtio_net_hdr` (VIRTIO 1.2 §5.1.6) for UDP over IPv4 without tags.
fn segmentation_header(frame: &[u8], size: u16) -> Vec<u8> {
    const NEEDS_CSUM: u8 = 1;
    const GSO_UDP_L4: u8 = 5;
    assert_eq!(frame[12..15], [0x08, 0x00, 0x45]);
    let mut header = vec![NEEDS_CSUM, GSO_UDP_L4];
    // Length of the headers, segment size, where the checksum starts, and its place from there.
    for field in [14 + 20 + 8, size, 14 + 20, 6] {
        header.extend(field.to_ne_bytes());
    }
    header
}

fn send(socket: &OwnedFd, bytes: &[u8]) -> anyhow::Result<()> {
    // SAFETY: the pointer and the length are those of `bytes`.
    let sent = unsafe { libc::send(socket.as_raw_fd(), bytes.as_ptr().cast(), bytes.len(), 0) };
    ensure!(
        sent == bytes.len() as isize,
        "{sent} bytes sent: {}",
        io::Error::last_os_error()
    );
    Ok(())
}

/// Frames that arrive at an interface, as they were before the kernel took their outer tag away.
pub struct Receiver {
    socket: OwnedFd,
    buffer: Vec<u8>,
}

/// A frame that arrived.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Received {
    pub bytes: Vec<u8>,
    /// Whether its checksum is only begun, to be computed by hardware that a veth does not have.
    pub is_partial: bool,
}

/// How long a frame may take that was sent already.
const PATIENCE_MS: i32 = 10_000;

impl Receiver {
    fn new(interface: &str) -> anyhow::Result<Self> {
        let socket = packet_socket_for(interface, libc::ETH_P_ALL as u16)?;
        set_option(&socket, libc::PACKET_AUXDATA, &1i32).context("PACKET_AUXDATA")?;
        const PACKET_IGNORE_OUTGOING: i32 = 23;
        set_option(&socket, PACKET_IGNORE_OUTGOING, &1i32).context("PACKET_IGNORE_OUTGOING")?;
        Ok(Self {
            socket,
            buffer: vec![0; 65_536],
        })
    }

    /// Sets the receive buffer to this many bytes of frames.
    pub fn set_buffer(&self, bytes: i32) -> anyhow::Result<()> {
        // SAFETY: an int and its size.
        let result = unsafe {
            libc::setsockopt(
                self.socket.as_raw_fd(),
                libc::SOL_SOCKET,
                libc::SO_RCVBUFFORCE,
                ptr::from_ref(&bytes).cast(),
                size_of::<i32>() as u32,
            )
        };
        ensure!(
            result == 0,
            "SO_RCVBUFFORCE: {}",
            io::Error::last_os_error()
        );
        Ok(())
    }

    /// The next frame; `None` when none arrives in ten seconds.
    pub fn frame(&mut self) -> anyhow::Result<Option<Received>> {
        if !self.is_ready(PATIENCE_MS)? {
            return Ok(None);
        }
        self.receive().map(Some)
    }

    /// Whether nothing has arrived that was not taken.
    pub fn is_idle(&self) -> anyhow::Result<bool> {
        Ok(!self.is_ready(0)?)
    }

    fn is_ready(&self, timeout_ms: i32) -> anyhow::Result<bool> {
        let mut poll = libc::pollfd {
            fd: self.socket.as_raw_fd(),
            events: libc::POLLIN,
            revents: 0,
        };
        // SAFETY: one pollfd.
        let ready = unsafe { libc::poll(&raw mut poll, 1, timeout_ms) };
        ensure!(ready >= 0, "poll: {}", io::Error::last_os_error());
        Ok(ready > 0)
    }

    fn receive(&mut self) -> anyhow::Result<Received> {
        let mut part = libc::iovec {
            iov_base: self.buffer.as_mut_ptr().cast(),
            iov_len: self.buffer.len(),
        };
        let mut control = [0u64; 16];
        // SAFETY: all of it may be zero.
        let mut header: libc::msghdr = unsafe { std::mem::zeroed() };
        header.msg_iov = &raw mut part;
        header.msg_iovlen = 1;
        header.msg_control = control.as_mut_ptr().cast();
        header.msg_controllen = size_of_val(&control);
        // SAFETY: the header names buffers that outlive the call, with their lengths.
        let len = unsafe { libc::recvmsg(self.socket.as_raw_fd(), &raw mut header, 0) };
        ensure!(len >= 0, "recvmsg: {}", io::Error::last_os_error());
        let mut bytes = self.buffer[..len as usize].to_vec();
        // SAFETY: the kernel has filled in the header; the first message in it, if any, is whole.
        let auxiliary = unsafe {
            let message = libc::CMSG_FIRSTHDR(&raw const header);
            ensure!(
                !message.is_null() && (*message).cmsg_type == libc::PACKET_AUXDATA,
                "no auxiliary data"
            );
            libc::CMSG_DATA(message)
                .cast::<libc::tpacket_auxdata>()
                .read_unaligned()
        };
        if auxiliary.tp_status & libc::TP_STATUS_VLAN_VALID != 0 {
            let tag = [auxiliary.tp_vlan_tpid, auxiliary.tp_vlan_tci].map(u16::to_be_bytes);
            bytes.splice(12..12, tag.concat());
        }
        Ok(Received {
            bytes,
            is_partial: auxiliary.tp_status & libc::TP_STATUS_CSUMNOTREADY != 0,
        })
    }
}

/// A packet socket that receives nothing, bound to an interface.
pub fn packet_socket(interface: &str) -> anyhow::Result<OwnedFd> {
    packet_socket_for(interface, 0)
}

/// A packet socket that receives frames of a protocol, bound to an interface.
fn packet_socket_for(interface: &str, protocol: u16) -> anyhow::Result<OwnedFd> {
    // SAFETY: no pointers; the descriptor is checked and then owned.
    let socket = unsafe {
        let fd = libc::socket(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_CLOEXEC, 0);
        ensure!(fd >= 0, "AF_PACKET: {}", io::Error::last_os_error());
        OwnedFd::from_raw_fd(fd)
    };
    let address = libc::sockaddr_ll {
        sll_family: libc::AF_PACKET as u16,
        sll_protocol: protocol.to_be(),
        sll_ifindex: if_nametoindex(interface)? as i32,
        sll_hatype: 0,
        sll_pkttype: 0,
        sll_halen: 0,
        sll_addr: [0; 8],
    };
    // SAFETY: a sockaddr_ll and its size.
    let bound = unsafe {
        libc::bind(
            socket.as_raw_fd(),
            ptr::from_ref(&address).cast(),
            size_of_val(&address) as u32,
        )
    };
    ensure!(bound == 0, "bind: {}", io::Error::last_os_error());
    Ok(socket)
}

pub fn set_option<T>(socket: &OwnedFd, option: i32, value: &T) -> io::Result<()> {
    // SAFETY: the pointer and the size are those of `value`.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_PACKET,
            option,
            ptr::from_ref(value).cast(),
            size_of::<T>() as u32,
        )
    };
    match result {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// A PACKET_TX_RING of one slot: the kernel makes buffers of its pages, with the Ethernet header alone in the linear
/// part.
struct PagedSender {
    socket: OwnedFd,
    slot: *mut u8,
}

const SLOT: usize = 16_384;
/// TPACKET2_HDRLEN without the address: `struct tpacket2_hdr`, aligned.
const SLOT_HEADER: usize = size_of::<libc::tpacket2_hdr>().next_multiple_of(16);

impl PagedSender {
    fn new(socket: OwnedFd) -> anyhow::Result<Self> {
        const TPACKET_V2: i32 = 1;
        set_option(&socket, libc::PACKET_VERSION, &TPACKET_V2).context("PACKET_VERSION")?;
        let request = libc::tpacket_req {
            tp_block_size: SLOT as u32,
            tp_block_nr: 1,
            tp_frame_size: SLOT as u32,
            tp_frame_nr: 1,
        };
        set_option(&socket, libc::PACKET_TX_RING, &request).context("PACKET_TX_RING")?;
        // SAFETY: a new mapping of the ring, of its size.
        let slot = unsafe {
            libc::mmap(
                ptr::null_mut(),
                SLOT,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED,
                socket.as_raw_fd(),
                0,
            )
        };
        ensure!(
            slot != libc::MAP_FAILED,
            "mmap: {}",
            io::Error::last_os_error()
        );
        Ok(Self {
            socket,
            slot: slot.cast(),
        })
    }

    fn send(&self, bytes: &[u8]) -> anyhow::Result<()> {
        ensure!(SLOT_HEADER + bytes.len() <= SLOT, "larger than a slot");
        // SAFETY: the slot is ours until its status says that it is to be sent; the bytes were seen to fit. The
        // blocking send returns when the kernel has let go of the slot.
        let sent = unsafe {
            let header = self.slot.cast::<libc::tpacket2_hdr>();
            ptr::copy_nonoverlapping(bytes.as_ptr(), self.slot.add(SLOT_HEADER), bytes.len());
            (*header).tp_len = bytes.len() as u32;
            ptr::write_volatile(&raw mut (*header).tp_status, libc::TP_STATUS_SEND_REQUEST);
            libc::send(self.socket.as_raw_fd(), ptr::null(), 0, 0)
        };
        ensure!(
            sent == bytes.len() as isize,
            "{sent} bytes sent: {}",
            io::Error::last_os_error()
        );
        Ok(())
    }
}

impl Drop for PagedSender {
    fn drop(&mut self) {
        // SAFETY: the mapping that `new` made, not used elsewhere.
        unsafe { libc::munmap(self.slot.cast(), SLOT) };
    }
}

/// A path without NULs, for a system call.
pub(super) fn c_path(path: &str) -> CString {
    CString::new(path).expect("no NUL in a path")
}
