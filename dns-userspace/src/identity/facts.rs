//! What the sources of identity say, in the form that the registry takes.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    net::IpAddr,
    str::FromStr,
    time::SystemTime,
};

/// An Ethernet address.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Mac(pub [u8; 6]);

impl FromStr for Mac {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let mut bytes = [0; 6];
        let mut parts = text.split(':');
        for byte in &mut bytes {
            let part = parts.next().filter(|part| part.len() == 2).ok_or(())?;
            *byte = u8::from_str_radix(part, 16).map_err(|_| ())?;
        }
        match parts.next() {
            None => Ok(Mac(bytes)),
            Some(_) => Err(()),
        }
    }
}

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl fmt::Debug for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A pod as a source names it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PodKey {
    pub namespace: String,
    pub pod: String,
    /// Empty where the source does not say.
    pub uid: String,
}

impl PodKey {
    /// Whether both are one pod: of the same UID, or of the same name where one of the sources knows no UID.
    pub fn is(&self, other: &PodKey) -> bool {
        if self.uid.is_empty() || other.uid.is_empty() {
            self.has_name_of(other)
        } else {
            self.uid == other.uid
        }
    }

    /// Whether both have one name. A pod that took the place of another may have its name.
    pub fn has_name_of(&self, other: &PodKey) -> bool {
        self.namespace == other.namespace && self.pod == other.pod
    }
}

/// A result that libcni keeps: an interface of the host, and the pod that it was made for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CniResult {
    pub pod: PodKey,
    /// Interfaces of the result without a sandbox: the veth's end on the host, also the bridge that it is in. With their MAC
    /// address where the plugin says it.
    pub host: Vec<(String, Option<Mac>)>,
    /// The MAC address of the interface in the pod, where the plugin says it.
    pub inside: Option<Mac>,
    /// Of the pod.
    pub addresses: Vec<IpAddr>,
    /// When the file was written.
    pub written: SystemTime,
}

/// A pod of this node as the API server has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pod {
    /// The UID is the one that the CNI is told: of a static pod, that of its manifest.
    pub key: PodKey,
    pub labels: BTreeMap<String, String>,
    pub addresses: Vec<IpAddr>,
    pub host_network: bool,
    /// Phase Succeeded or Failed.
    pub is_finished: bool,
    /// It has a time of deletion.
    pub is_deleted: bool,
}

/// What the watch of the pods reports.
#[derive(Clone, Debug)]
pub enum PodReport {
    /// All pods of this node.
    Listed(Vec<Pod>),
    Applied(Pod),
    Deleted(PodKey),
}

/// A pod of the static file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Entry {
    pub key: PodKey,
    pub labels: BTreeMap<String, String>,
    /// The name of its interface; without, an address says which it is.
    pub interface: Option<String>,
    /// May be none where there is an interface: then it has those that are configured behind it.
    pub addresses: Vec<IpAddr>,
}

/// What was read of an interface, all at one time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Look {
    pub name: String,
    pub mac: Option<Mac>,
    /// What is behind it.
    pub peer: Peer,
}

/// The other end of an interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Peer {
    /// It is no veth with its peer in another network namespace.
    None,
    /// The kernel does not say.
    Unreadable,
    Inside {
        /// Of the peer.
        mac: Option<Mac>,
        /// Of all interfaces of its network namespace; see [`is_ones_own`].
        addresses: BTreeSet<IpAddr>,
    },
}

/// Whether an address may be one pod's: every network namespace has loopback and link-local addresses.
pub fn is_ones_own(address: &IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => {
            !(v4.is_loopback()
                || v4.is_link_local()
                || v4.is_unspecified()
                || v4.is_multicast()
                || v4.is_broadcast())
        }
        IpAddr::V6(v6) => {
            !(v6.is_loopback()
                || v6.is_unicast_link_local()
                || v6.is_unspecified()
                || v6.is_multicast())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mac_addresses_are_read_in_any_case_and_nothing_else_is() {
        let mac = Mac([0x0a, 0x58, 0x0a, 0xf4, 0, 5]);
        for text in ["0a:58:0a:f4:00:05", "0A:58:0A:F4:00:05"] {
            assert_eq!(text.parse(), Ok(mac));
        }
        assert_eq!(mac.to_string(), "0a:58:0a:f4:00:05");
        for text in [
            "",
            "0a:58:0a:f4:00",
            "0a:58:0a:f4:00:05:06",
            "0a:58:0a:f4:00:5",
            "0a-58-0a-f4-00-05",
            "0a:58:0a:f4:00:0g",
        ] {
            assert_eq!(text.parse::<Mac>(), Err(()), "{text}");
        }
    }

    #[test]
    fn a_pod_is_its_uid_and_its_name_where_there_is_none() {
        let key = |pod: &str, uid: &str| PodKey {
            namespace: "foo".to_owned(),
            pod: pod.to_owned(),
            uid: uid.to_owned(),
        };
        assert!(key("a", "1").is(&key("a", "1")));
        assert!(!key("a", "1").is(&key("a", "2")));
        assert!(key("a", "").is(&key("a", "2")));
        assert!(!key("a", "").is(&key("b", "2")));
    }

    #[test]
    fn addresses_that_everybody_has_are_nobodys() {
        for (text, own) in [
            ("10.0.0.1", true),
            ("fd00::1", true),
            ("127.0.0.1", false),
            ("169.254.1.1", false),
            ("::1", false),
            ("fe80::1", false),
            ("ff02::1", false),
            ("0.0.0.0", false),
        ] {
            assert_eq!(is_ones_own(&text.parse().unwrap()), own, "{text}");
        }
    }
}
