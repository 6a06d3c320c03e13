//! Reports changes of queueing disciplines and their filters as the kernel announces them, so that they need no polling.

use std::{
    io,
    os::fd::{AsRawFd as _, OwnedFd},
};

use nix::{
    errno::Errno,
    sys::socket::{
        AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recv, socket,
    },
};
use tokio::io::unix::AsyncFd;

/// `RTMGRP_TC` of rtnetlink(7).
const GROUP: u32 = 8;

/// The changes in a network namespace.
#[derive(Debug)]
pub struct FilterChanges(AsyncFd<OwnedFd>);

impl FilterChanges {
    /// Those in the namespace of the calling thread, from now on. Wants a tokio runtime.
    pub fn open() -> io::Result<Self> {
        let socket = socket(
            AddressFamily::Netlink,
            SockType::Raw,
            SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK,
            SockProtocol::NetlinkRoute,
        )?;
        bind(socket.as_raw_fd(), &NetlinkAddr::new(0, GROUP))?;
        // SAFETY: the descriptor is the same one for as long as it is owned.
        let socket = unsafe { AsyncFd::register(socket) }?;
        Ok(Self(socket))
    }

    /// Ready when there was a change or more since the last time. Cancel-safe.
    ///
    /// # Errors
    /// When the socket has failed.
    pub async fn next(&self) -> io::Result<()> {
        loop {
            let mut guard = self.0.readable().await?;
            let mut is_changed = false;
            // What has changed does not matter, so a message that is cut or lost does not either.
            let mut buffer = [0; 64];
            loop {
                match recv(self.0.as_raw_fd(), &mut buffer, MsgFlags::empty()) {
                    Ok(_) | Err(Errno::ENOBUFS) => is_changed = true,
                    Err(Errno::EINTR) => {}
                    Err(Errno::EAGAIN) => break,
                    Err(errno) => return Err(errno.into()),
                }
            }
            guard.clear_ready();
            if is_changed {
                return Ok(());
            }
        }
    }
}
