//! A host whose tables are in memory, for tests and fuzzing.

use super::{
    finish,
    host::{Address, Host, Matched},
    is_kept, refuse,
    stages::{
        BySuffix, Chosen, Recognised, choose_next, go_through, locate, locate_by_own_suffix,
        locate_by_suffix, recognise, reply,
    },
};
use crate::{
    abi::Servers,
    answer::{self, Found, Located, RuleEntry},
    client::{Who, identify},
    dfa,
    packet::Packet,
    reply::Replied,
    scratch::Scratch,
    verdict::{Reason, Verdict},
};

/// A host whose tables are in memory, for tests and fuzzing.
pub struct MemoryHost<'a, T, S: FnMut(Matched)> {
    pub servers: Servers,
    pub header: &'a dfa::Header,
    pub table: &'a dfa::Table,
    pub tails: &'a [dfa::Tail],
    /// The tables of answers.
    pub answers: T,
    pub now_ns: u64,
    /// The interface that queries come in on.
    pub ifindex: u32,
    /// What `admit` answers.
    pub admission: Result<(), Reason>,
    /// Bits of [`crate::abi::protection`].
    pub protection: u32,
    /// Called for each frame handed over.
    pub sink: core::cell::RefCell<S>,
}

impl<P: Packet, T: answer::Tables, S: FnMut(Matched)> Host<P> for MemoryHost<'_, T, S> {
    fn servers(&self) -> Option<&Servers> {
        Some(&self.servers)
    }

    fn protection(&self) -> u32 {
        self.protection
    }

    fn keeps(&self, packet: &P, reason: Reason) -> bool {
        is_kept(packet, self, reason)
    }

    fn saw_other_server(&self, _address: Address) {}

    fn may_match(&self, end_of_name: u64) -> bool {
        self.header.may_match(end_of_name)
    }

    fn recognise(&self, scratch: &mut Scratch) -> Recognised {
        recognise(self.header, self.table, self.tails, scratch)
    }

    fn now_ns(&self) -> u64 {
        self.now_ns
    }

    fn rule(&self, index: u32) -> Option<RuleEntry> {
        self.answers.rule(index)
    }

    fn ifindex(&self, _packet: &P) -> u32 {
        self.ifindex
    }

    fn identify(&self, scratch: &mut Scratch) -> Who {
        identify(&self.answers, scratch)
    }

    fn choose(&self, index: u32, scratch: &mut Scratch) -> Chosen {
        let mut next = |index| choose_next(&self.answers, index, scratch, |_| {});
        go_through(next(index), next)
    }

    fn served_expired(&self) {}

    fn locate_by_suffix(&self, scratch: &mut Scratch) -> BySuffix {
        locate_by_suffix(&self.answers, scratch)
    }

    fn locate_by_own_suffix(&self, scratch: &mut Scratch) -> bool {
        locate_by_own_suffix(&self.answers, scratch)
    }

    fn locate(&self, scratch: &mut Scratch) -> Located {
        locate(&self.answers, scratch)
    }

    fn read_answer(&self, scratch: &mut Scratch) -> Found {
        answer::read(&self.answers, scratch)
    }

    fn claim(&self, scratch: &Scratch) {
        answer::claim(&self.answers, &scratch.lookup);
    }

    fn admit(&self, _packet: &P, _now_ns: u64) -> Result<(), Reason> {
        self.admission
    }

    fn hand_over(&self, _packet: &P, matched: &Matched) -> Result<(), Reason> {
        (self.sink.borrow_mut())(*matched);
        Ok(())
    }

    fn finish(&self, packet: &mut P, scratch: &mut Scratch) -> Verdict {
        let verdict = finish(packet, self, scratch);
        refuse(verdict, scratch)
    }

    fn reply(&self, packet: &mut P, scratch: &mut Scratch) -> Replied {
        reply(packet, scratch)
    }
}
