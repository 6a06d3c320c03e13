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
        verdict::{Reason, Verdict},
    };

    /// The verdict about a frame to port 53 of a server.
    #[inline(always)]
    pub fn verdict(ifindex: u32, verdict: Verdict) {
        match verdict {
            Verdict::Pass(Reason::NotDns | Reason::OtherServer) => {}
            Verdict::Pass(reason) => passed(ifindex, reason),
            Verdict::Taken => taken(ifindex),
            Verdict::Answered => answered(ifindex),
            Verdict::Spoiled => spoiled(ifindex),
        }
    }

    // Each a function of its own: what they leave in registers and on the stack is gone when they return.

    #[inline(never)]
    fn passed(ifindex: u32, reason: Reason) {
        debug!((), "interface {}: passed, {}", ifindex, reason.label());
    }

    #[inline(never)]
    fn taken(ifindex: u32) {
        debug!((), "interface {}: handed to the responder", ifindex);
    }

    #[inline(never)]
    fn answered(ifindex: u32) {
        debug!((), "interface {}: answered", ifindex);
    }

    #[inline(never)]
    fn spoiled(ifindex: u32) {
        debug!((), "interface {}: spoiled", ifindex);
    }

    /// Whether the end of the name alone led to an entry.
    #[inline(always)]
    pub fn located_by_suffix(is_located: bool) {
        if is_located {
            by_suffix();
        }
    }

    #[inline(never)]
    fn by_suffix() {
        debug!((), "tables: an entry, by the end of the name");
    }

    /// Where the tables of answers led.
    #[inline(always)]
    pub fn located(located: Located) {
        match located {
            Located::Entry => entry(),
            Located::NoTarget => no_target(),
            Located::Nowhere => nowhere(),
        }
    }

    #[inline(never)]
    fn entry() {
        debug!((), "tables: an entry");
    }

    #[inline(never)]
    fn nowhere() {
        debug!((), "tables: nothing");
    }

    /// What the entry said.
    #[inline(always)]
    pub fn found(found: Found) {
        match found {
            Found::Answer => fresh(),
            Found::Stale => stale(),
            Found::NoTarget => no_target(),
            Found::Nothing => nothing(),
        }
    }

    #[inline(never)]
    fn fresh() {
        debug!((), "tables: a fresh answer");
    }

    #[inline(never)]
    fn stale() {
        debug!((), "tables: an answer that is to be refreshed");
    }

    #[inline(never)]
    fn no_target() {
        debug!((), "tables: no target");
    }

    #[inline(never)]
    fn nothing() {
        debug!((), "tables: nothing that may be told");
    }

    /// A refresh was asked for.
    #[inline(never)]
    pub fn claimed() {
        debug!((), "claimed: a refresh is under way");
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
    pub fn located_by_suffix(_is_located: bool) {}

    #[inline(always)]
    pub fn located(_located: Located) {}

    #[inline(always)]
    pub fn found(_found: Found) {}

    #[inline(always)]
    pub fn claimed() {}
}
