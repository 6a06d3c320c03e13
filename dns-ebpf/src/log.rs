//! Lines about what the program decides, in objects built with the feature `log` only; never a name.

#[cfg(feature = "log")]
pub use lines::*;

#[cfg(not(feature = "log"))]
pub use silence::*;

#[cfg(feature = "log")]
mod lines {
    use aya_log_ebpf::debug;
    use dns_common::{
        answer::{Found, Located},
        verdict::{COUNTERS, Reason, Verdict},
        verifier,
    };

    /// The verdict about a frame to port 53 of a server.
    #[inline(always)]
    pub fn verdict(ifindex: u32, verdict: Verdict) {
        match verdict {
            Verdict::Pass(Reason::NotDns | Reason::OtherServer) => {}
            Verdict::Pass(_) => {
                gregor_log_passed(ifindex, verdict.counter() as u32);
            }
            Verdict::Taken => {
                gregor_log_taken(ifindex);
            }
            Verdict::Answered => {
                gregor_log_answered(ifindex);
            }
            Verdict::Spoiled => {
                gregor_log_spoiled(ifindex);
            }
            Verdict::Unanswered => {
                gregor_log_unanswered(ifindex);
            }
        }
    }

    // Each a global function, which the verifier checks once and by itself: it returns a number, which says nothing.

    #[inline(never)]
    #[unsafe(no_mangle)]
    extern "C" fn gregor_log_passed(ifindex: u32, counter: u32) -> u32 {
        // Bounded: of a number without bounds, Linux 6.18 warns that its own bounds contradict each other.
        let counter = verifier::index::<{ COUNTERS as u32 - 1 }>(counter) as u32;
        if let Verdict::Pass(reason) = Verdict::from_counter(counter) {
            debug!((), "interface {}: passed, {}", ifindex, reason.label());
        }
        0
    }

    #[inline(never)]
    #[unsafe(no_mangle)]
    extern "C" fn gregor_log_taken(ifindex: u32) -> u32 {
        debug!((), "interface {}: handed to the responder", ifindex);
        0
    }

    #[inline(never)]
    #[unsafe(no_mangle)]
    extern "C" fn gregor_log_answered(ifindex: u32) -> u32 {
        debug!((), "interface {}: answered", ifindex);
        0
    }

    #[inline(never)]
    #[unsafe(no_mangle)]
    extern "C" fn gregor_log_unanswered(ifindex: u32) -> u32 {
        debug!((), "interface {}: left unanswered", ifindex);
        0
    }

    #[inline(never)]
    #[unsafe(no_mangle)]
    extern "C" fn gregor_log_spoiled(ifindex: u32) -> u32 {
        debug!((), "interface {}: spoiled", ifindex);
        0
    }

    /// Where the tables of answers led.
    #[inline(always)]
    pub fn located(located: Located) {
        match located {
            Located::Entry => {
                gregor_log_entry();
            }
            Located::NoTarget => {
                gregor_log_no_target();
            }
            Located::Nowhere => {
                gregor_log_nowhere();
            }
        }
    }

    #[inline(never)]
    #[unsafe(no_mangle)]
    extern "C" fn gregor_log_entry() -> u32 {
        debug!((), "tables: an entry");
        0
    }

    #[inline(never)]
    #[unsafe(no_mangle)]
    extern "C" fn gregor_log_nowhere() -> u32 {
        debug!((), "tables: nothing");
        0
    }

    /// What the entry said.
    #[inline(always)]
    pub fn found(found: Found) {
        match found {
            Found::Answer => {
                gregor_log_fresh();
            }
            Found::Stale => {
                gregor_log_stale();
            }
            Found::NoTarget => {
                gregor_log_no_target();
            }
            Found::Expired => {
                gregor_log_expired();
            }
            Found::Nothing => {
                gregor_log_nothing();
            }
        }
    }

    #[inline(never)]
    #[unsafe(no_mangle)]
    extern "C" fn gregor_log_expired() -> u32 {
        debug!((), "tables: an answer past its time, and no responder");
        0
    }

    #[inline(never)]
    #[unsafe(no_mangle)]
    extern "C" fn gregor_log_fresh() -> u32 {
        debug!((), "tables: a fresh answer");
        0
    }

    #[inline(never)]
    #[unsafe(no_mangle)]
    extern "C" fn gregor_log_stale() -> u32 {
        debug!((), "tables: an answer that is to be refreshed");
        0
    }

    #[inline(never)]
    #[unsafe(no_mangle)]
    extern "C" fn gregor_log_no_target() -> u32 {
        debug!((), "tables: no target");
        0
    }

    #[inline(never)]
    #[unsafe(no_mangle)]
    extern "C" fn gregor_log_nothing() -> u32 {
        debug!((), "tables: no entry that may be used");
        0
    }

    /// A refresh was asked for.
    #[inline(always)]
    pub fn claimed() {
        gregor_log_claimed();
    }

    #[inline(never)]
    #[unsafe(no_mangle)]
    extern "C" fn gregor_log_claimed() -> u32 {
        debug!((), "claimed: a refresh is under way");
        0
    }
}

#[cfg(not(feature = "log"))]
mod silence {
    use dns_common::{
        answer::{Found, Located},
        verdict::Verdict,
    };

    #[inline(always)]
    pub fn verdict(_ifindex: u32, _verdict: Verdict) {}

    #[inline(always)]
    pub fn located(_located: Located) {}

    #[inline(always)]
    pub fn found(_found: Found) {}

    #[inline(always)]
    pub fn claimed() {}
}
