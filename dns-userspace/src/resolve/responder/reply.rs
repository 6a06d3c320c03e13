//! How a query ends: an answer, the last good answer, SERVFAIL, silence, or on to the existing cache.

use std::time::{Duration, Instant};

use dns_common::wire::{TYPE_A, TYPE_AAAA};
use std::sync::PoisonError;

use tracing::{debug, warn};

use super::{
    Responder,
    waiting::{Origin, Waiting, Way},
};
use crate::{
    inject::{Datagram, Inject},
    model::Term,
    monitor::Verdict,
    resolve::{
        chain::Failure,
        compose::{self, Carrier, ExtendedError},
        source::TargetSource,
        stats::{PassReason, Replied},
        store::{Kept, Key, Known, NEGATIVE_LIFETIME, Trouble},
        stream::StreamReply,
    },
};

/// The TTL of an answer that outlived its own (RFC 8767 §4).
const STALE_TTL: Duration = Duration::from_secs(30);
/// How long a program goes on telling an answer whose time is over, while it is asked for again: longer than an upstream
/// has to answer, unless it is configured to have more.
pub(super) const GRACE: Duration = Duration::from_secs(3);
impl<S: TargetSource, I: Inject> Responder<S, I> {
    pub(super) fn answer(&self, waiting: &Waiting, kept: &Kept, ttl: Duration, replied: Replied) {
        // Rounded up: what is left of a second counts as one.
        let ttl_seconds = (ttl.as_millis().div_ceil(1000) as u32).max(1);
        if let Some((answers, key)) = waiting.entry() {
            match &kept.body {
                Some(body) => {
                    let term = match replied {
                        Replied::Stale => {
                            let left = kept.stale_for(self.options.serve_stale, (self.clock)());
                            let fresh = left.min(NEGATIVE_LIFETIME);
                            Term {
                                fresh,
                                grace: GRACE.min(left - fresh),
                                fixed_ttl: Some(ttl_seconds),
                                unattended: left,
                            }
                        }
                        _ => Term {
                            fresh: ttl,
                            grace: GRACE,
                            fixed_ttl: None,
                            unattended: kept.stale_for(self.options.serve_stale, (self.clock)()),
                        },
                    };
                    answers.answer(waiting.origin.ifindex(), key, body, &term);
                }
                None => answers.withdraw(key),
            }
        }
        if waiting.is_answered {
            return;
        }
        let reply = compose::answer(
            &waiting.query,
            &kept.section,
            ttl_seconds,
            kept.next_rotation(),
            waiting.origin.carrier(),
        );
        let reply = match reply {
            Some(reply) if reply.left_out == 0 => reply.message,
            incomplete => {
                let sent_to_tcp = self.sends_to_tcp(&waiting.origin);
                let message = match incomplete {
                    Some(reply) => Some(reply.message),
                    None => sent_to_tcp.then(|| compose::empty(&waiting.query)),
                };
                if waiting.origin.carrier() == Carrier::Stream {
                    self.warn_cut(waiting);
                }
                let Some(mut message) = message else {
                    return self.servfail(waiting, TOO_LONG);
                };
                if sent_to_tcp {
                    self.stats.truncated.add();
                    compose::truncate(&mut message);
                }
                message
            }
        };
        self.stats.noerror.add();
        self.stats.replied(waiting.namespace.as_deref(), replied);
        self.send(&waiting.origin, &reply);
        self.report_answer(&waiting.origin, "NOERROR", replied);
    }

    /// Not even a stream has room for the whole RRset.
    pub(super) fn warn_cut(&self, waiting: &Waiting) {
        let mut warnings = self.warnings.lock().unwrap_or_else(PoisonError::into_inner);
        if warnings.admit(0, (self.clock)()) {
            warn!(
                namespace = waiting.namespace.as_deref().unwrap_or("none"),
                qtype = waiting.query.qtype,
                "a tenant's target has more records than a DNS message holds; the answer lacks some"
            );
        }
    }

    /// The existing cache answers, now and for as long as this is known.
    pub(super) fn no_target(&self, waiting: &Waiting, left: Duration) {
        if let Some((answers, key)) = &waiting.publish {
            answers.no_target(waiting.origin.ifindex(), key, left);
        }
        self.drop_or_pass_on(&waiting.origin, waiting.is_answered, PassReason::NoTarget);
    }

    /// The upstream failed or contradicts itself: the last good answer, else SERVFAIL.
    pub(super) fn without_answer(
        &self,
        waiting: &Waiting,
        key: &Key,
        trouble: Trouble,
        now: Instant,
    ) {
        let stale = match trouble {
            Trouble::Failed(_) => self.store.stale(key, self.options.serve_stale, now),
            Trouble::BrokenChain | Trouble::NoAddress => None,
        };
        match stale {
            Some(kept) => self.stale(waiting, &kept),
            None => {
                if let Some((answers, key)) = waiting.entry() {
                    answers.withdraw(key);
                    if trouble == Trouble::NoAddress {
                        // For neither family.
                        for qtype in [TYPE_A, TYPE_AAAA] {
                            answers.withdraw(&key.with_qtype(qtype));
                        }
                    }
                }
                if !waiting.is_answered {
                    self.servfail(waiting, extended_error(trouble));
                }
            }
        }
    }

    pub(super) fn stale(&self, waiting: &Waiting, kept: &Kept) {
        let ttl = STALE_TTL.min(waiting.ttl_cap);
        self.stats.stale.add();
        self.answer(waiting, kept, ttl, Replied::Stale);
    }

    /// This node did not look the name up, which says nothing about the name (SEMANTICS rule 13): the last good answer; the
    /// existing cache if nothing is known; and no reply if the name exists, since the cache would deny it.
    pub(super) fn without_look_up(
        &self,
        waiting: &Waiting,
        key: &Key,
        reason: PassReason,
        now: Instant,
    ) {
        match self.store.known(key, self.options.serve_stale, now) {
            Known::Answer(kept) => self.stale(waiting, &kept),
            Known::Exists if waiting.is_answered => {}
            Known::Exists => self.leave_unanswered(&waiting.origin, reason),
            Known::Nothing => self.drop_or_pass_on(&waiting.origin, waiting.is_answered, reason),
        }
    }

    /// The client asks again, and finds what failed here over or its next server.
    pub(super) fn leave_unanswered(&self, origin: &Origin, reason: PassReason) {
        self.stats.unanswered.add();
        if let Way::Stream { reply, .. } = &origin.way
            && let Err(error) = reply.send(StreamReply::Nothing)
        {
            debug!(ifindex = origin.ifindex(), %error, "the connection is gone");
        }
        self.report(origin, |record, _| {
            record.verdict = Verdict::Unanswered;
            record.reason = Some(reason.label().to_owned());
        });
    }

    pub(super) fn servfail(&self, waiting: &Waiting, error: ExtendedError) {
        self.stats.servfail.add();
        self.stats
            .replied(waiting.namespace.as_deref(), Replied::Servfail);
        self.send(&waiting.origin, &compose::servfail(&waiting.query, error));
        self.report_answer(&waiting.origin, "SERVFAIL", Replied::Servfail);
    }

    /// Whether a client that does not get its whole answer now gets it over TCP.
    pub(super) fn sends_to_tcp(&self, origin: &Origin) -> bool {
        let (Some(steer), Way::Frame(frame)) = (&self.steer, &origin.way) else {
            return false;
        };
        Datagram::parse(&frame.frame, frame.l3_offset)
            .is_some_and(|datagram| steer.tell(datagram.destination.ip(), datagram.source.ip()))
    }

    pub(super) fn send(&self, origin: &Origin, reply: &[u8]) {
        let sent = match &origin.way {
            Way::Frame(frame) => self.injector.reply(frame, reply),
            Way::Stream { reply: to, .. } => to.send(StreamReply::Answer(reply.to_vec())),
        };
        if let Err(error) = sent {
            self.stats.send_errors.add();
            debug!(ifindex = origin.ifindex(), %error, "reply not sent");
        }
    }

    /// Passes a query on, unless the program has answered it.
    pub(super) fn drop_or_pass_on(&self, origin: &Origin, is_answered: bool, reason: PassReason) {
        if !is_answered {
            self.pass_on(origin, reason);
        }
    }

    pub(super) fn pass_on(&self, origin: &Origin, reason: PassReason) {
        self.stats.passed(reason);
        let sent = match &origin.way {
            Way::Frame(frame) => self.injector.pass_on(frame),
            Way::Stream { reply, .. } => reply.send(StreamReply::PassOn),
        };
        if let Err(error) = sent {
            self.stats.send_errors.add();
            debug!(ifindex = origin.ifindex(), %error, "query not passed on");
        }
        self.report(origin, |record, _| {
            record.verdict = Verdict::PassedOn;
            record.reason = Some(reason.label().to_owned());
        });
    }
}

const TOO_LONG: ExtendedError = ExtendedError {
    code: 0,
    text: "answer does not fit",
};

/// RFC 8914 §4 and the codes registered there.
pub(super) fn extended_error(trouble: Trouble) -> ExtendedError {
    let (code, text) = match trouble {
        Trouble::BrokenChain => (0, "the end of the target's CNAME chain does not exist"),
        Trouble::NoAddress => (0, "the target has no address of either family"),
        Trouble::Failed(Failure::Timeout) => (22, "no reply for the target"),
        Trouble::Failed(Failure::Network) => (23, "upstream unreachable"),
        Trouble::Failed(Failure::Tcp) => (
            23,
            "the reply for the target needs TCP, which the upstream does not answer",
        ),
        Trouble::Failed(Failure::Rcode) => (0, "upstream failed for the target"),
        Trouble::Failed(Failure::Loop) => (0, "the target's CNAME chain is a loop"),
        Trouble::Failed(Failure::TooLong) => (0, "the target's CNAME chain is too long"),
        Trouble::Failed(Failure::Unusable) => (0, "no usable reply"),
        Trouble::Failed(Failure::Local) => (0, "not looked up"),
    };
    ExtendedError { code, text }
}
