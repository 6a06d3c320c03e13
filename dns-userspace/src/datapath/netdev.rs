//! Asks the kernel whether the driver of an interface runs XDP programs itself, without attaching one, and who runs the one
//! that is attached.
//!
//! The former is in the generic netlink family `netdev` of Linux 6.3; the few messages are encoded here.

use std::io;

use super::netlink::{Netlink, attributes};

// linux/genetlink.h, linux/netdev.h
const GENL_ID_CTRL: u16 = 0x10;
const CTRL_CMD_GETFAMILY: u8 = 3;
const CTRL_ATTR_FAMILY_ID: u16 = 1;
const CTRL_ATTR_FAMILY_NAME: u16 = 2;
const NETDEV_CMD_DEV_GET: u8 = 1;
const NETDEV_A_DEV_IFINDEX: u16 = 1;
const NETDEV_A_DEV_XDP_FEATURES: u16 = 3;
/// Pass, drop and send back.
const NETDEV_XDP_ACT_BASIC: u64 = 1;
/// `struct genlmsghdr`.
const HEADER: usize = 4;
// linux/if_link.h
const IFLA_XDP_ATTACHED: u16 = 2;
const XDP_ATTACHED_DRV: u8 = 1;
const XDP_ATTACHED_SKB: u8 = 2;
/// `struct ifinfomsg`.
const LINK_HEADER: usize = 16;

/// What runs an XDP program.
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

/// How each of these interfaces would run a program; `None` where the kernel does not say.
pub fn xdp_modes(indexes: &[u32]) -> Vec<Option<XdpMode>> {
    let asked = Asker::open();
    indexes
        .iter()
        .map(|index| asked.as_ref().ok()?.mode(*index).ok())
        .collect()
}

/// Who runs the XDP program that is on an interface.
///
/// # Errors
/// When the interface is gone, has none, or has one that its hardware runs.
pub(super) fn attached_xdp_mode(index: u32) -> io::Result<XdpMode> {
    let mut body = [0; LINK_HEADER];
    body[4..8].copy_from_slice(&index.to_ne_bytes());
    let mut mode = None;
    Netlink::open(libc::NETLINK_ROUTE)?.ask(libc::RTM_GETLINK, false, &body, |_, message| {
        let link = message.get(LINK_HEADER..).unwrap_or_default();
        let attached = attribute(link, libc::IFLA_XDP)
            .and_then(|xdp| attribute(xdp, IFLA_XDP_ATTACHED))
            .and_then(|value| value.first());
        mode = match attached {
            Some(&XDP_ATTACHED_DRV) => Some(XdpMode::Native),
            Some(&XDP_ATTACHED_SKB) => Some(XdpMode::Generic),
            _ => None,
        };
    })?;
    mode.ok_or_else(|| io::ErrorKind::NotFound.into())
}

struct Asker {
    netlink: Netlink,
    family: u16,
}

impl Asker {
    fn open() -> io::Result<Self> {
        let netlink = Netlink::open(libc::NETLINK_GENERIC)?;
        let reply = ask(
            &netlink,
            GENL_ID_CTRL,
            CTRL_CMD_GETFAMILY,
            CTRL_ATTR_FAMILY_NAME,
            b"netdev\0",
        )?;
        let family = attribute(&reply, CTRL_ATTR_FAMILY_ID)
            .and_then(|bytes| Some(u16::from_ne_bytes(*bytes.first_chunk()?)))
            .ok_or(io::ErrorKind::NotFound)?;
        Ok(Self { netlink, family })
    }

    fn mode(&self, index: u32) -> io::Result<XdpMode> {
        let reply = ask(
            &self.netlink,
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
fn ask(
    netlink: &Netlink,
    family: u16,
    command: u8,
    name: u16,
    value: &[u8],
) -> io::Result<Vec<u8>> {
    let mut body = vec![command, 1, 0, 0];
    body.extend((4 + value.len() as u16).to_ne_bytes());
    body.extend(name.to_ne_bytes());
    body.extend(value);
    body.resize(body.len().next_multiple_of(4), 0);
    let mut reply = Vec::new();
    netlink.ask(family, false, &body, |_, message| {
        reply = message.get(HEADER..).unwrap_or_default().to_vec();
    })?;
    Ok(reply)
}

/// The value of the first attribute of this name.
fn attribute(reply: &[u8], name: u16) -> Option<&[u8]> {
    attributes(reply)
        .find(|(found, _)| *found == name)
        .map(|(_, value)| value)
}
