//! Asks the kernel one thing at a time over netlink: the request as bytes, each message of the answer as bytes.

use std::{io, mem::MaybeUninit, os::fd::AsRawFd as _, time::Duration};

use socket2::{Domain, Protocol, Socket, Type};

/// `struct nlmsghdr`.
const HEADER: usize = 16;
/// The kernel answers at once; this limit is for one that does not.
const PATIENCE: Duration = Duration::from_secs(2);
/// Buffer size for one datagram of a dump.
const BUFFER: usize = 64 << 10;

/// A socket of one netlink protocol.
pub struct Netlink(Socket);

impl Netlink {
    pub fn open(protocol: i32) -> io::Result<Self> {
        let domain = Domain::from(libc::AF_NETLINK);
        let socket = Socket::new(domain, Type::RAW, Some(Protocol::from(protocol)))?;
        socket.set_read_timeout(Some(PATIENCE))?;
        Ok(Self(socket))
    }

    /// The same, with requests that the kernel checks to the last bit (NETLINK_GET_STRICT_CHK): without, it ignores what it does
    /// not know in them, such as the network namespace that they are about.
    pub fn open_strict(protocol: i32) -> io::Result<Self> {
        let netlink = Self::open(protocol)?;
        let on: libc::c_int = 1;
        // SAFETY: the option is a `c_int`, and its length is given.
        let result = unsafe {
            libc::setsockopt(
                netlink.0.as_raw_fd(),
                libc::SOL_NETLINK,
                libc::NETLINK_GET_STRICT_CHK,
                std::ptr::from_ref(&on).cast(),
                size_of_val(&on) as libc::socklen_t,
            )
        };
        if result < 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(netlink)
    }

    /// Sends one request and visits every message of the answer: its type, and what follows its header. An error that the
    /// kernel reports is an error of this call.
    pub fn ask(
        &self,
        kind: u16,
        is_dump: bool,
        body: &[u8],
        mut visit: impl FnMut(u16, &[u8]),
    ) -> io::Result<()> {
        let dump = if is_dump { libc::NLM_F_DUMP } else { 0 };
        self.send(kind, dump, body)?;
        self.receive(is_dump, &mut visit)
    }

    /// Sends a request that has no answer but whether it was done.
    pub fn change(&self, kind: u16, body: &[u8]) -> io::Result<()> {
        self.send(kind, libc::NLM_F_ACK, body)?;
        self.receive(false, &mut |_, _| {})
    }

    fn send(&self, kind: u16, flags: libc::c_int, body: &[u8]) -> io::Result<()> {
        let mut request = ((HEADER + body.len()) as u32).to_ne_bytes().to_vec();
        request.extend(kind.to_ne_bytes());
        request.extend(((libc::NLM_F_REQUEST | flags) as u16).to_ne_bytes());
        // Sequence number and port: one question at a time, and the kernel fills the latter in.
        request.extend([0; 8]);
        request.extend_from_slice(body);
        self.0.send(&request).map(|_| ())
    }

    fn receive(&self, is_dump: bool, visit: &mut impl FnMut(u16, &[u8])) -> io::Result<()> {
        let mut buffer = vec![MaybeUninit::<u8>::uninit(); BUFFER];
        loop {
            let received = self.0.recv(&mut buffer)?;
            // SAFETY: the kernel has written as many bytes as it says.
            let mut rest =
                unsafe { std::slice::from_raw_parts(buffer.as_ptr().cast::<u8>(), received) };
            while let Some(header) = rest.first_chunk::<HEADER>() {
                let length =
                    u32::from_ne_bytes([header[0], header[1], header[2], header[3]]) as usize;
                let kind = u16::from_ne_bytes([header[4], header[5]]);
                let Some(message) = rest.get(HEADER..length) else {
                    return Err(io::ErrorKind::InvalidData.into());
                };
                match i32::from(kind) {
                    libc::NLMSG_DONE => return Ok(()),
                    libc::NLMSG_ERROR => {
                        let code = message
                            .first_chunk()
                            .map_or(0, |code| i32::from_ne_bytes(*code));
                        return match code {
                            0 => Ok(()),
                            _ => Err(io::Error::from_raw_os_error(-code)),
                        };
                    }
                    _ => visit(kind, message),
                }
                rest = rest.get(length.next_multiple_of(4)..).unwrap_or(&[]);
            }
            if !is_dump {
                return Ok(());
            }
        }
    }
}

/// Attributes of a netlink message: name and value. A wrong length ends them.
pub fn attributes(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let length = usize::from(u16::from_ne_bytes(*bytes.first_chunk()?));
        let name = u16::from_ne_bytes(*bytes.get(2..)?.first_chunk()?);
        let value = bytes.get(4..length)?;
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or(&[]);
        // Without the bits for nesting and byte order.
        Some((name & 0x3fff, value))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_are_found_and_wrong_lengths_end_the_search() {
        let list = [
            &[5, 0, 1, 0, 7, 0, 0, 0][..],
            &[8, 0, 2, 0x80, 1, 2, 3, 4],
            &[200, 0, 3, 0],
        ]
        .concat();
        let found: Vec<(u16, &[u8])> = attributes(&list).collect();
        assert_eq!(found, [(1, &[7][..]), (2, &[1, 2, 3, 4][..])]);
        assert_eq!(attributes(&[3, 0, 1, 0]).count(), 0);
        assert_eq!(attributes(&[0, 0, 9, 9, 1]).count(), 0);
    }
}
