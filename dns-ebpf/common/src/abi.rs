//! Values that cross the border between the programs and userspace. Plain data, `repr(C)`, versioned as a whole.

use crate::{verdict::COUNTERS, word::Word};

/// Raised whenever anything in this module, a table of [`crate::dfa`] or [`crate::answer`], or
/// [`crate::name::LiteralWord`] changes its layout.
pub const VERSION: u32 = if cfg!(feature = "other-layout") {
    2006
} else if cfg!(feature = "other-abi") {
    1006
} else {
    6
};
/// Version of [`crate::answer::Slot`] and of what is in it: answers are taken over from another ABI version that has the same.
pub const ANSWERS_LAYOUT: u64 = 1 + OTHER;
/// Version of [`EventHeader`], the frame behind it, [`maps::HEARTBEAT`] and the journal of what was taken: queries are taken over
/// from another ABI version that has the same.
pub const RECORDS_LAYOUT: u64 = 2 + OTHER;
/// Of a build for tests whose layouts are other ones.
const OTHER: u64 = if cfg!(feature = "other-layout") {
    1000
} else {
    0
};

/// Names of the maps, as the loader and the programs spell them.
pub mod maps {
    pub const SERVERS: &str = "SERVERS";
    pub const DFA: &str = "DFA";
    pub const TABLE: &str = "TABLE";
    pub const TAILS: &str = "TAILS";
    pub const COUNTERS: &str = "COUNTERS";
    pub const RING: &str = "RING";
    pub const HEARTBEAT: &str = "HEARTBEAT";
    pub const INTERFACES: &str = "INTERFACES";
    pub const MORE_INTERFACES: &str = "MORE_INTERFACES";
    pub const OTHER_SERVERS: &str = "OTHER_SERVERS";
    pub const SOURCES: &str = "SOURCES";
    pub const SCRATCH: &str = "SCRATCH";
    pub const STEERING: &str = "STEERING";
    pub const STEERED: &str = "STEERED";
    pub const LISTENERS: &str = "LISTENERS";
    pub const OWN: &str = "OWN";
    pub const SETTINGS: &str = "SETTINGS";
    pub const RULES: &str = "RULES";
    pub const OBSERVED: &str = "OBSERVED";
    pub const INDEX: &str = "INDEX";
    pub const ANSWERS: &str = "ANSWERS";
    pub const ABSENT_INDEX: &str = "ABSENT_INDEX";
    pub const ABSENT: &str = "ABSENT";
    pub const SUFFIX_INDEX: &str = "SUFFIX_INDEX";
    pub const HITS: &str = "HITS";
    pub const TRAILER: &str = "TRAILER";
    pub const CLIENT_INDEX: &str = "CLIENT_INDEX";
    pub const CLIENTS: &str = "CLIENTS";
    pub const PERMITS: &str = "PERMITS";
    pub const MONITOR: &str = "MONITOR";
    pub const MONITOR_RING: &str = "MONITOR_RING";
}

/// `tc_index` of a query that the responder has brought back to the ingress that it was taken from: it passes.
///
/// Not a mark: CNIs and kube-proxy give meaning to the bits of marks, and a program in front of gregor's would see it. A pod
/// that sets this number by a program of its own has nothing of it but that its query passes.
pub const RETURNED: u32 = 0x6772;

/// In the mark of a query on its way to the return device, beside the index of the interface, which is below it: no TC program
/// of gregor's is there, so `tc_index` stays as it is. CNIs give meaning to its bits too.
pub const KEEPS_TC_INDEX: u32 = 1 << 31;

/// Behind a query that the responder brings back to an interface where the kernel runs the XDP program (generic XDP), which
/// gets it once more there and cannot read `tc_index`: the program removes the trailer and lets the query pass. Random, and
/// the same for all programs with the same maps; each half as `u64::from_ne_bytes`.
pub type Trailer = [u64; 2];
/// Its bytes.
pub const TRAILER_LEN: u32 = size_of::<Trailer>() as u32;

/// Most pairs of a rule and a client that it is for, where that is not decided by the query.
pub const MAX_PERMITS: u32 = 16_384;

/// Most networks of `allow_sources`.
pub const MAX_SOURCES: u32 = 256;

/// Settings of the sk_lookup program, and where it finds the listeners.
pub mod steer {
    /// No connection is steered.
    pub const NEVER: u32 = 0;
    /// Those of clients that just got TC=1.
    pub const AFTER_TRUNCATION: u32 = 1;
    /// All but the node's own.
    pub const ALWAYS: u32 = 2;
    /// The same, and those that cannot be steered are refused.
    pub const REQUIRED: u32 = 3;

    pub const LISTENER_V4: u32 = 0;
    pub const LISTENER_V6: u32 = 1;
}

/// Values of the map [`maps::OWN`].
pub mod own {
    /// An address of the node.
    pub const ADDRESS: u8 = 1;
    /// A server whose TCP connections all go to the responder ([`steer::REQUIRED`](super::steer::REQUIRED)).
    pub const STEERED: u8 = 2;
}

/// Bits of the constant [`PROTECTION`].
pub mod protection {
    /// What may hide a query from the program does not pass to a server.
    pub const UNREAD: u32 = 1;
    /// Nor do TCP connections, unless the responder gets them.
    pub const TCP: u32 = 2;
}

/// Name of the constant that the loader sets before the verifier sees the programs, which leaves out what is off.
pub const PROTECTION: &str = "PROTECTION";

/// Most clients that are steered at a time; the least recently added go first.
pub const MAX_STEERED: u32 = 8192;
/// Most addresses of the node that the sk_lookup program knows. Connections from one that it does not know are served like
/// a pod's.
pub const MAX_OWN: u32 = 4096;

/// An IPv4 address in network byte order, mapped (RFC 4291 §2.5.5.2), each half as `u64::from_ne_bytes`.
#[inline(always)]
pub const fn mapped(address: u32) -> [u64; 2] {
    [0, 0xffff_u32.to_be() as u64 | (address as u64) << 32]
}

/// Most servers of one address family.
pub const MAX_SERVERS: usize = 16;

/// The server addresses whose queries are looked at, in network byte order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Servers {
    pub v4_count: u32,
    pub v6_count: u32,
    /// `u32::from_ne_bytes(octets)`.
    pub v4: [u32; MAX_SERVERS],
    /// Each half `u64::from_ne_bytes(octets)`.
    pub v6: [[u64; 2]; MAX_SERVERS],
    /// The id of each server in the key of an answer, first those of IPv4, then those of IPv6: see
    /// [`server_id`], or 0 for all of them where answers do not depend on the server.
    pub ids: [u32; 2 * MAX_SERVERS],
}

/// The id of a server in the key of an answer: a hash of its address as IPv6 (RFC 4291 §2.5.5.2), never 0. The same in
/// every process; that no two servers of a configuration have one is checked when it is loaded.
pub const fn server_id(address: [u64; 2]) -> u32 {
    const fn mix(hash: u64, word: u64) -> u64 {
        let mixed = (hash ^ word).wrapping_mul(0xff51_afd7_ed55_8ccd);
        mixed ^ mixed >> 33
    }
    let hash = mix(mix(mix(0x6772, address[0]), address[1]), 0);
    let id = (hash >> 32) as u32;
    if id == 0 { 1 } else { id }
}

/// What may be asked of the responder, as a virtual-scheduling bucket (GCRA): one word, so that a lost race
/// between two processors lets one query through rather than corrupting the bucket.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Bucket {
    /// Theoretical arrival time of the next query, `bpf_ktime_get_ns`.
    pub arrival_ns: u64,
    /// Nanoseconds that one query costs; 0 means no limit.
    pub cost_ns: u64,
    /// How far `arrival_ns` may run ahead of now.
    pub burst_ns: u64,
}

/// An interface that the program is attached to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Interface {
    /// Its index; 0 in a slot that is free.
    pub ifindex: u64,
    pub bucket: Bucket,
    /// How answers leave: [`BY_EGRESS`] or [`TO_PEER`].
    pub egress: u64,
    /// Port of the last process that was found from here ([`PROCESS`]); 0 for none. Written by the programs.
    pub process: u64,
}

/// Answers leave the interface as any frame does.
pub const BY_EGRESS: u64 = 0;
/// Answers go straight to the interface's peer: whatever sits on the way out does not see them.
pub const TO_PEER: u64 = 1;

/// Slots of the array of interfaces. An interface whose slot another one has is in a hash map beside it, which costs its
/// queries about 30 ns more; indexes are given out one after the other, so that takes thousands of them.
pub const INTERFACE_SLOTS: u32 = 4096;

/// The slot of an interface.
#[inline(always)]
pub const fn interface_slot(ifindex: u32) -> u32 {
    ifindex % INTERFACE_SLOTS
}

impl Bucket {
    /// Lets `per_second` through, and `burst` at once; no limit for 0 per second.
    pub const fn new(per_second: u32, burst: u32) -> Self {
        let cost_ns = if per_second == 0 {
            0
        } else {
            1_000_000_000 / per_second as u64
        };
        Self {
            arrival_ns: 0,
            cost_ns,
            burst_ns: cost_ns * burst.saturating_sub(1) as u64,
        }
    }

    /// Whether more than half of the burst is used up.
    #[inline(always)]
    pub fn is_pressing(&self, now_ns: u64) -> bool {
        self.burst_ns > 0 && self.arrival_ns > now_ns + self.burst_ns / 2
    }

    /// Takes one token at `now_ns`, or says that there is none.
    #[inline(always)]
    pub fn admit(&mut self, now_ns: u64) -> bool {
        let arrival = if self.arrival_ns > now_ns {
            self.arrival_ns
        } else {
            now_ns
        };
        if arrival - now_ns > self.burst_ns {
            return false;
        }
        self.arrival_ns = arrival + self.cost_ns;
        true
    }
}

/// Most bytes of a frame that an event carries; larger ones pass.
pub const MAX_FRAME: usize = 1536;

/// In front of the frame in a ring buffer record.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct EventHeader {
    /// Interface that the query came in on, in the namespace that the program is attached in.
    pub ifindex: u32,
    /// [`IS_ANSWERED`] or 0.
    pub flags: u32,
    /// Id of the rule: see [`crate::answer::RuleEntry`].
    #[cfg(not(feature = "other-layout"))]
    pub rule: u64,
    /// Bytes of the frame that follow, from the Ethernet header on.
    pub frame_len: u16,
    /// Where the IP header starts in the frame: 14, 18 or 22.
    pub l3_offset: u16,
    /// Tag that the kernel keeps outside the frame: TCI in host byte order.
    pub vlan_tci: u16,
    /// Its TPID in host byte order, or 0 when there is no such tag.
    pub vlan_tpid: u16,
    #[cfg(feature = "other-layout")]
    pub rule: u64,
    /// Id of the client that asks, where the rule depends on it; else 0.
    pub client: u32,
    #[doc(hidden)]
    pub padding: u32,
}

/// The program has answered this query with what it had; userspace is to find out what is new.
pub const IS_ANSWERED: u32 = 1;

/// Elements of the map [`maps::HEARTBEAT`]: until when the responder is known to drain the ring, `bpf_ktime_get_ns`.
pub const DEADLINE: u32 = 0;
/// The loopback port of the UDP socket that its process holds; 0 while there is no process whose end is to be noticed.
pub const PROCESS: u32 = 1;
/// A responder that has not renewed its deadline for this long before it ends is taken for gone where an answer past its
/// time is at hand; see [`HEARTBEAT_VALID_NS`].
pub const SUSPECT_NS: u64 = 500_000_000;
/// How long a renewed deadline holds. It is renewed every 250 ms or sooner.
pub const HEARTBEAT_VALID_NS: u64 = 1_000_000_000;

/// Whether the program is to report what it decides by itself. Read and written by both sides, hence words.
#[repr(C)]
pub struct Monitor {
    /// Until when, `bpf_ktime_get_ns`; 0 for never. Written by userspace.
    pub until_ns: Word,
    /// Reports left out because there were too many.
    pub left_out: Word,
    /// [`Bucket::arrival_ns`] of [`MONITOR_LIMIT`].
    pub arrival_ns: Word,
    pub padding: Word,
}

/// Most reports, so that watching a flood costs little.
pub const MONITOR_LIMIT: Bucket = Bucket::new(1000, 200);

/// Most bytes of a frame in such a record: two tags, IPv6 and the longest question fit. A power of two, so that the
/// verifier sees the bound of a length.
pub const SEEN_FRAME: usize = 512;

/// A frame that the program decided about by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Seen {
    /// Interface that the query came in on.
    pub ifindex: u32,
    /// [`crate::verdict::Verdict::counter`].
    pub verdict: u32,
    /// Bytes of `frame` that are in use.
    pub len: u32,
    /// 0 when `frame` was read.
    pub failed: u32,
    /// The beginning of the frame: of the reply where the program has answered, else of the query.
    pub frame: [u8; SEEN_FRAME],
}

/// Counters of one processor, indexed by [`crate::verdict::Verdict::counter`].
pub type Counters = [u64; COUNTERS];

#[cfg(test)]
mod tests {
    use super::*;

    /// Pinned tables have them.
    #[test]
    fn ids_of_servers_are_the_same_for_ever() {
        let id = |address: [u8; 4]| server_id(mapped(u32::from_ne_bytes(address)));
        assert_eq!(id([169, 254, 20, 10]), ID_OF_NODE_LOCAL);
        let mut ids: std::vec::Vec<u32> = (0..=u16::MAX)
            .map(|low| {
                let [high, low] = low.to_be_bytes();
                id([10, 96, high, low])
            })
            .collect();
        ids.sort_unstable();
        let len = ids.len();
        ids.dedup();
        // Of 65,536 a random 32-bit hash has half a pair.
        assert!(
            ids.len() + 3 > len && !ids.contains(&0),
            "{} of {len}",
            ids.len()
        );
    }

    const ID_OF_NODE_LOCAL: u32 = 2_058_601_405;

    #[test]
    fn a_bucket_refuses_past_its_burst_and_refills() {
        let mut bucket = Bucket {
            arrival_ns: 0,
            cost_ns: 10,
            burst_ns: 25,
        };
        let taken = (0..10).filter(|_| bucket.admit(1000)).count();
        assert_eq!(taken, 3);
        assert!(!bucket.admit(1004));
        assert!(bucket.admit(1010));
        assert!(!bucket.admit(1010));
    }

    #[test]
    fn a_bucket_presses_from_the_middle_of_its_burst_on() {
        let mut bucket = Bucket {
            arrival_ns: 0,
            cost_ns: 10,
            burst_ns: 40,
        };
        let pressing: Vec<bool> = (0..4)
            .map(|_| {
                bucket.admit(1000);
                bucket.is_pressing(1000)
            })
            .collect();
        assert_eq!(pressing, [false, false, true, true]);
        assert!(!bucket.is_pressing(1020));
        let unlimited = Bucket {
            arrival_ns: 1_000_000,
            ..Bucket::default()
        };
        assert!(!unlimited.is_pressing(0));
    }
}
