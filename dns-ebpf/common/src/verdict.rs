//! What the pipeline decides about a frame, and why; turned into a kernel action in one place, `dns-ebpf/src/main.rs`.

/// The decision about one frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The frame goes on untouched.
    Pass(Reason),
    /// The frame was handed to the responder and is taken off the stack.
    Taken,
    /// The frame is its own answer now and goes back to where it came from.
    Answered,
    /// Rewriting the frame into its answer failed halfway: it is dropped.
    Spoiled,
    /// The name is known to exist, but not what is asked of it, and a limit forbids to ask the responder: the frame goes nowhere.
    /// The existing cache would deny the whole name (RFC 8020). Or the responder would refuse the name, and cannot be asked: the
    /// existing cache would answer it. Or it may hide such a name.
    Unanswered,
}

macro_rules! reasons {
    ($( $(#[doc = $doc:literal])+ $name:ident => $label:literal, )+) => {
        /// Why a frame passes. The discriminant is the index of its counter.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[repr(u32)]
        pub enum Reason { $( $(#[doc = $doc])+ $name, )+ }

        impl Reason {
            /// Every reason, in the order of the counters.
            pub const ALL: &'static [Reason] = &[$( Reason::$name, )+];

            /// The name used in metrics and by `gregor status`.
            pub const fn label(self) -> &'static str {
                match self { $( Reason::$name => $label, )+ }
            }
        }
    };
}

reasons! {
    /// Not IP, not UDP or not to port 53. Never counted: it is all of the pod's other traffic.
    NotDns => "not_dns",
    /// To port 53 of an address that is not among `servers`.
    OtherServer => "other_server",
    /// To a server and perhaps a match, but from an address outside `allow_sources`, or from none that a host can have.
    Source => "source",
    /// IPv4 options. IPv6 extension headers are `NotDns`: what follows them is not parsed.
    IpOptions => "ip_options",
    /// A fragment.
    Fragment => "fragment",
    /// Several datagrams in one buffer (UDP_SEGMENT), more than one buffer (XDP), or larger than an event can carry.
    Oversize => "oversize",
    /// Shorter than its headers say, or its lengths disagree.
    Truncated => "truncated",
    /// QR=1.
    Response => "response",
    /// An opcode other than QUERY.
    Opcode => "opcode",
    /// QDCOUNT ≠ 1, ANCOUNT or NSCOUNT > 0, or more than one additional record.
    Counts => "counts",
    /// A compressed or extended label, or a name over 255 bytes.
    BadName => "bad_name",
    /// A qclass or qtype that gregor leaves to the cache: ANY, AXFR, IXFR, HINFO, other meta types.
    Qtype => "qtype",
    /// No rule matches the name.
    NoRule => "no_rule",
    /// An additional record other than OPT (TSIG, SIG(0)), bytes after the last record, or a second OPT.
    Additional => "additional",
    /// EDNS version ≠ 0.
    EdnsVersion => "edns_version",
    /// Matched, but no responder renews its deadline.
    NoResponder => "no_responder",
    /// Matched, but the interface is over its token bucket.
    RateLimited => "rate_limited",
    /// Matched, but the ring buffer is full.
    RingFull => "ring_full",
    /// Matched, but the tenant has no target: the existing cache answers.
    NoTarget => "no_target",
    /// Matched by nothing but rules that observe.
    Observed => "observed",
    /// Matched by nothing but rules that depend on the client, and nobody is known behind the interface.
    UnknownClient => "unknown_client",
    /// The same, and the query comes from another address than those of the client behind the interface.
    ForgedClient => "forged_client",
    /// Matched by nothing but rules for other clients.
    OtherClient => "other_client",
    /// A map that must be there is not: nothing can be decided.
    Internal => "internal",
}

/// Index of the counter of taken frames, after those of the reasons.
pub const TAKEN: usize = Reason::ALL.len();
/// Index of the counter of frames answered by the program.
pub const ANSWERED: usize = TAKEN + 1;
/// Index of the counter of frames that a failing helper spoiled.
pub const SPOILED: usize = TAKEN + 2;
/// Index of the counter of refreshes asked for.
pub const REFRESHED: usize = TAKEN + 3;
/// Index of the counter of answers that were given past their time; they count as answered too.
pub const EXPIRED: usize = TAKEN + 4;
/// Index of the counter of queries that get no reply.
pub const UNANSWERED: usize = TAKEN + 5;
/// Number of counters.
pub const COUNTERS: usize = 32;

const _: () = assert!(UNANSWERED < COUNTERS);
const _: () = assert!(Reason::Internal as usize + 1 == TAKEN);

impl Verdict {
    /// The verdict with this counter; what has none is an internal error.
    #[inline(always)]
    pub const fn from_counter(counter: u32) -> Verdict {
        const LAST: u32 = Reason::Internal as u32;
        match counter as usize {
            TAKEN => Verdict::Taken,
            ANSWERED => Verdict::Answered,
            SPOILED => Verdict::Spoiled,
            UNANSWERED => Verdict::Unanswered,
            _ if counter <= LAST => {
                // SAFETY: reasons are numbered from 0 without gaps, and `Internal` is the last one.
                Verdict::Pass(unsafe { core::mem::transmute::<u32, Reason>(counter) })
            }
            _ => Verdict::Pass(Reason::Internal),
        }
    }

    /// Index of the counter of this verdict.
    pub const fn counter(self) -> usize {
        match self {
            Verdict::Pass(reason) => reason as usize,
            Verdict::Taken => TAKEN,
            Verdict::Answered => ANSWERED,
            Verdict::Spoiled => SPOILED,
            Verdict::Unanswered => UNANSWERED,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn verdicts_come_back_from_their_counters() {
        for reason in Reason::ALL {
            let verdict = Verdict::Pass(*reason);
            assert_eq!(Verdict::from_counter(verdict.counter() as u32), verdict);
        }
        for verdict in [
            Verdict::Taken,
            Verdict::Answered,
            Verdict::Spoiled,
            Verdict::Unanswered,
        ] {
            assert_eq!(Verdict::from_counter(verdict.counter() as u32), verdict);
        }
        assert_eq!(
            Verdict::from_counter(REFRESHED as u32),
            Verdict::Pass(Reason::Internal)
        );
    }
}
