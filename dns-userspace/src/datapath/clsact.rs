//! The eBPF filters on the ingress side of clsact, found and removed over netlink: by program and handle, where aya goes by
//! the name alone.

use std::io;

use super::netlink::{Netlink, attributes};

/// struct tcmsg.
const MESSAGE: usize = 20;
/// `TC_H_MAKE(TC_H_CLSACT, TC_H_MIN_INGRESS)`.
const INGRESS: u32 = 0xffff_fff2;
/// `TC_H_MAKE(TC_H_CLSACT, TC_H_MIN_EGRESS)`.
const EGRESS: u32 = 0xffff_fff3;
/// rtnetlink(7).
const RTM_DELTFILTER: u16 = 45;
const RTM_GETTFILTER: u16 = 46;
const TCA_OPTIONS: u16 = 2;
const TCA_BPF_NAME: u16 = 7;
const TCA_BPF_ID: u16 = 11;

/// A filter with a program.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Filter {
    ifindex: u32,
    pub handle: u32,
    /// Priority and protocol, as the kernel reports them.
    info: u32,
    /// Of the program, as given when it was attached.
    pub name: String,
    /// Of the program.
    pub program_id: u32,
}

impl Filter {
    pub fn priority(&self) -> u16 {
        (self.info >> 16) as u16
    }
}

/// The filters of an interface of the calling thread's network namespace, in their order; none where there is no clsact.
pub(super) fn filters(ifindex: u32) -> io::Result<Vec<Filter>> {
    filters_at(ifindex, INGRESS)
}

/// The same on its egress.
pub(super) fn egress_filters(ifindex: u32) -> io::Result<Vec<Filter>> {
    filters_at(ifindex, EGRESS)
}

fn filters_at(ifindex: u32, parent: u32) -> io::Result<Vec<Filter>> {
    let mut filters = Vec::new();
    let request = message(ifindex, parent, 0, 0);
    let answer =
        Netlink::open(libc::NETLINK_ROUTE)?.ask(RTM_GETTFILTER, true, &request, |_, body| {
            filters.extend(filter(body));
        });
    match answer {
        Ok(()) => Ok(filters),
        // No clsact, or the interface was removed meanwhile.
        Err(error) if matches!(error.raw_os_error(), Some(libc::EINVAL | libc::ENODEV)) => {
            Ok(Vec::new())
        }
        Err(error) => Err(error),
    }
}

/// Takes a filter off the ingress.
pub(super) fn remove(filter: &Filter) -> io::Result<()> {
    let request = message(filter.ifindex, INGRESS, filter.handle, filter.info);
    Netlink::open(libc::NETLINK_ROUTE)?.change(RTM_DELTFILTER, &request)
}

fn message(ifindex: u32, parent: u32, handle: u32, info: u32) -> [u8; MESSAGE] {
    let mut message = [0; MESSAGE];
    for (at, word) in [(4, ifindex), (8, handle), (12, parent), (16, info)] {
        message[at..at + 4].copy_from_slice(&word.to_ne_bytes());
    }
    message
}

/// The filter of a message; `None` for one without a program.
fn filter(body: &[u8]) -> Option<Filter> {
    let (message, rest) = body.split_first_chunk::<MESSAGE>()?;
    let word = |at: usize| {
        u32::from_ne_bytes([
            message[at],
            message[at + 1],
            message[at + 2],
            message[at + 3],
        ])
    };
    let (_, options) = attributes(rest).find(|(kind, _)| *kind == TCA_OPTIONS)?;
    let (mut name, mut program_id) = (String::new(), None);
    for (kind, value) in attributes(options) {
        match kind {
            TCA_BPF_NAME => {
                let text = value.split(|byte| *byte == 0).next().unwrap_or_default();
                name = String::from_utf8_lossy(text).into_owned();
            }
            TCA_BPF_ID => program_id = Some(u32::from_ne_bytes(*value.first_chunk()?)),
            _ => {}
        }
    }
    Some(Filter {
        ifindex: word(4),
        handle: word(8),
        info: word(16),
        name,
        program_id: program_id?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
        let mut bytes = (value.len() as u16 + 4).to_ne_bytes().to_vec();
        bytes.extend(kind.to_ne_bytes());
        bytes.extend(value);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes
    }

    #[test]
    fn a_filter_is_read_and_named_again() {
        let options = [
            attribute(TCA_BPF_NAME, b"gregor\0"),
            attribute(TCA_BPF_ID, &77u32.to_ne_bytes()),
        ]
        .concat();
        let mut body = message(5, INGRESS, 0x6772, 0x0001_0300).to_vec();
        body.extend(attribute(1, b"bpf\0"));
        body.extend(attribute(TCA_OPTIONS, &options));
        let expected = Filter {
            ifindex: 5,
            handle: 0x6772,
            info: 0x0001_0300,
            name: "gregor".to_owned(),
            program_id: 77,
        };
        assert_eq!(filter(&body), Some(expected));
        // The first message of a chain, which has no program.
        assert_eq!(filter(&body[..MESSAGE + 8]), None);
        assert_eq!(filter(&body[..7]), None);
    }

    #[test]
    fn an_interface_without_clsact_has_no_filters() {
        assert_eq!(filters(1).unwrap(), []);
        assert_eq!(filters(u32::MAX >> 1).unwrap(), []);
    }
}
