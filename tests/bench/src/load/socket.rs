//! Sends prebuilt frames out of a pod's interface, up to 64 with one system call, past the queueing discipline.

use std::{
    io,
    os::fd::{AsRawFd as _, OwnedFd},
    ptr,
};

use anyhow::{Context as _, Result};

use gregor_tests::packets::wire::{packet_socket, set_option};

/// Most frames of one call.
pub const BATCH: usize = 64;

/// A packet socket with the frames that it sends round and round.
pub struct Frames {
    socket: OwnedFd,
    headers: Vec<libc::mmsghdr>,
    next: usize,
    // What the headers point to; neither is touched again.
    _vectors: Box<[libc::iovec]>,
    _frames: Vec<Vec<u8>>,
}

// SAFETY: the pointers lead to heap memory that moves with the value and that only `send` uses, through `&mut self`.
unsafe impl Send for Frames {}

impl Frames {
    /// Frames to be sent from an interface of the calling thread's namespace.
    pub fn new(interface: &str, mut frames: Vec<Vec<u8>>) -> Result<Self> {
        let socket = packet_socket(interface)?;
        set_option(&socket, libc::PACKET_QDISC_BYPASS, &1i32).context("PACKET_QDISC_BYPASS")?;
        let mut vectors: Box<[libc::iovec]> = frames
            .iter_mut()
            .map(|frame| libc::iovec {
                iov_base: frame.as_mut_ptr().cast(),
                iov_len: frame.len(),
            })
            .collect();
        let headers = vectors
            .iter_mut()
            .map(|vector| {
                // SAFETY: all zeroes is a header without address, data and control message.
                let mut header: libc::mmsghdr = unsafe { std::mem::zeroed() };
                header.msg_hdr.msg_iov = ptr::from_mut(vector);
                header.msg_hdr.msg_iovlen = 1;
                header
            })
            .collect();
        Ok(Self {
            socket,
            headers,
            next: 0,
            _vectors: vectors,
            _frames: frames,
        })
    }

    /// How many frames there are.
    pub fn count(&self) -> usize {
        self.headers.len()
    }

    /// Sends up to `most` of the next frames and returns how many went; none when the interface takes no more just now.
    pub fn send(&mut self, most: usize) -> io::Result<usize> {
        let end = self.headers.len().min(self.next + most.min(BATCH));
        let batch = &mut self.headers[self.next..end];
        // SAFETY: the headers, their vectors and the frames live as long as `self`; the kernel writes the lengths of
        // the headers alone.
        let sent = unsafe {
            libc::sendmmsg(
                self.socket.as_raw_fd(),
                batch.as_mut_ptr(),
                batch.len() as u32,
                0,
            )
        };
        let Ok(sent) = usize::try_from(sent) else {
            let error = io::Error::last_os_error();
            return match error.raw_os_error() {
                Some(libc::ENOBUFS | libc::EAGAIN | libc::EINTR) => Ok(0),
                _ => Err(error),
            };
        };
        self.next = (self.next + sent) % self.headers.len();
        Ok(sent)
    }
}
