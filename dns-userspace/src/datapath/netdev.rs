//! Asks the kernel whether the driver of an interface runs XDP programs itself, without attaching one.
//!
//! The generic netlink family `netdev` of Linux 6.3 tells; the few messages are put together here.

use std::{io, mem::MaybeUninit, time::Duration};

use socket2::{Domain, Protocol, Socket, Type};

use super::XdpMode;

// linux/netlink.h, linux/genetlink.h, linux/netdev.h
const NLMSG_ERROR: u16 = 2;
const NLM_F_REQUEST: u16 = 1;
const GENL_ID_CTRL: u16 = 0x10;
const CTRL_CMD_GETFAMILY: u8 = 3;
const CTRL_ATTR_FAMILY_ID: u16 = 1;
const CTRL_ATTR_FAMILY_NAME: u16 = 2;
const NETDEV_CMD_DEV_GET: u8 = 1;
const NETDEV_A_DEV_IFINDEX: u16 = 1;
const NETDEV_A_DEV_XDP_FEATURES: u16 = 3;
/// Pass, drop and send back.
const NETDEV_XDP_ACT_BASIC: u64 = 1;
/// `struct nlmsghdr` and `struct genlmsghdr`.
const HEADERS: usize = 16 + 4;

/// How each of these interfaces would run a program; `None` where the kernel does not tell.
pub fn xdp_modes(indexes: &[u32]) -> Vec<Option<XdpMode>> {
    let asked = Asker::open();
    indexes
        .iter()
        .map(|index| asked.as_ref().ok()?.mode(*index).ok())
        .collect()
}

struct Asker {
    socket: Socket,
    family: u16,
}

impl Asker {
    fn open() -> io::Result<Self> {
        let socket = Socket::new(
            Domain::from(libc::AF_NETLINK),
            Type::RAW,
            Some(Protocol::from(libc::NETLINK_GENERIC)),
        )?;
        socket.set_read_timeout(Some(Duration::from_secs(2)))?;
        let reply = ask(
            &socket,
            GENL_ID_CTRL,
            CTRL_CMD_GETFAMILY,
            CTRL_ATTR_FAMILY_NAME,
            b"netdev\0",
        )?;
        let family = attribute(&reply, CTRL_ATTR_FAMILY_ID)
            .and_then(|bytes| Some(u16::from_ne_bytes(*bytes.first_chunk()?)))
            .ok_or(io::ErrorKind::NotFound)?;
        Ok(Self { socket, family })
    }

    fn mode(&self, index: u32) -> io::Result<XdpMode> {
        let reply = ask(
            &self.socket,
            self.family,
            NETDEV_CMD_DEV_GET,
            NETDEV_A_DEV_IFINDEX,
            &index.to_ne_bytes(),
        )?;
        let features = attribute(&reply, NETDEV_A_DEV_XDP_FEATURES)
            .and_then(|bytes| Some(u64::from_ne_bytes(*bytes.first_chunk()?)))
            .ok_or(io::ErrorKind::NotFound)?;
        Ok(if features & NETDEV_XDP_ACT_BASIC != 0 {
            XdpMode::Native
        } else {
            XdpMode::Generic
        })
    }
}

/// One request with one attribute; returns the attributes of the reply.
fn ask(socket: &Socket, family: u16, command: u8, name: u16, value: &[u8]) -> io::Result<Vec<u8>> {
    let mut request = Vec::with_capacity(64);
    let len = HEADERS + 4 + value.len().next_multiple_of(4);
    request.extend((len as u32).to_ne_bytes());
    request.extend(family.to_ne_bytes());
    request.extend(NLM_F_REQUEST.to_ne_bytes());
    // Sequence number and port: one question at a time, and the kernel fills the latter in.
    request.extend([0; 8]);
    request.extend([command, 1, 0, 0]);
    request.extend((4 + value.len() as u16).to_ne_bytes());
    request.extend(name.to_ne_bytes());
    request.extend(value);
    request.resize(len, 0);
    socket.send(&request)?;

    let mut buffer = [MaybeUninit::<u8>::uninit(); 8192];
    let received = socket.recv(&mut buffer)?;
    let reply: Vec<u8> = buffer[..received]
        .iter()
        // SAFETY: the kernel has written as many bytes as it says.
        .map(|byte| unsafe { byte.assume_init() })
        .collect();
    let field = |at: usize| {
        reply
            .get(at..at + 2)
            .map_or(0, |bytes| u16::from_ne_bytes([bytes[0], bytes[1]]))
    };
    if field(4) == NLMSG_ERROR {
        let code = reply
            .get(16..)
            .and_then(|bytes| bytes.first_chunk())
            .map_or(0, |bytes| i32::from_ne_bytes(*bytes));
        return Err(io::Error::from_raw_os_error(-code));
    }
    Ok(reply.get(HEADERS..).unwrap_or_default().to_vec())
}

/// The value of the first attribute of this name.
fn attribute(mut attributes: &[u8], name: u16) -> Option<&[u8]> {
    while let [a, b, c, d, ..] = *attributes {
        let len = usize::from(u16::from_ne_bytes([a, b]));
        if u16::from_ne_bytes([c, d]) == name {
            return attributes.get(4..len);
        }
        attributes = attributes.get(len.max(4).next_multiple_of(4)..)?;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_are_found_and_lies_about_lengths_end_the_search() {
        let list = [
            &[5, 0, 1, 0, 7, 0, 0, 0][..],
            &[8, 0, 2, 0, 1, 2, 3, 4],
            &[200, 0, 3, 0],
        ]
        .concat();
        assert_eq!(attribute(&list, 1), Some(&[7][..]));
        assert_eq!(attribute(&list, 2), Some(&[1, 2, 3, 4][..]));
        assert_eq!(attribute(&list, 3), None);
        assert_eq!(attribute(&list, 4), None);
        assert_eq!(attribute(&[0, 0, 9, 9, 1], 1), None);
    }
}
