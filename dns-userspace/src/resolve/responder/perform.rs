//! Performs the engine's actions: starts look-ups, publishes, sends replies, passes queries on, and warns.

use std::{
    io,
    sync::{Arc, PoisonError},
};

use tracing::{debug, warn};

use super::{
    Responder,
    client::{Client, ReplyPath},
    task::Task,
};
use crate::{
    inject::{Datagram, Inject},
    model::Transport,
    monitor::Verdict,
    resolve::{
        compose::{self, ExtendedError},
        engine::{Action, AnswerAction, Event},
        query::Query,
        source::TargetSource,
        stats::{PassReason, ReplyKind},
        stream::StreamReply,
    },
};

const TOO_LONG: ExtendedError = ExtendedError {
    code: 0,
    text: "answer does not fit",
};

impl<S: TargetSource, I: Inject> Responder<S, I> {
    /// `epoch` is the engine's at the time of the action.
    pub(super) fn perform(self: &Arc<Self>, action: Action<Arc<Client>>, epoch: u64) {
        match action {
            Action::LookUp(look_up) => {
                tokio::spawn(Task::new(self.clone(), look_up).run());
            }
            Action::Delay(delay, query) => {
                let responder = self.clone();
                let mut query = query;
                tokio::spawn(async move {
                    tokio::time::sleep(delay).await;
                    // Its target may have changed meanwhile.
                    if let (Some(answers), Some(publish)) = (&query.client.answers, &query.publish)
                    {
                        query.published = responder.published_before(&**answers, &publish.key);
                    }
                    responder.apply(Event::RefreshDue(*query));
                });
            }
            Action::Publish {
                client,
                ifindex,
                key,
                entry,
                term,
            } => {
                let published = self.published();
                if *published <= epoch
                    && let (Some(answers), Some(body)) = (&client.answers, &entry.body)
                {
                    answers.answer(ifindex, &key, body, &term);
                }
            }
            Action::PublishNoTarget {
                client,
                ifindex,
                key,
                left,
            } => {
                let published = self.published();
                if *published <= epoch
                    && let Some(answers) = &client.answers
                {
                    answers.no_target(ifindex, &key, left);
                }
            }
            Action::Withdraw { client, key } => {
                if let Some(answers) = &client.answers {
                    answers.withdraw(&key);
                }
            }
            Action::Answer(answer) => self.send_answer(&answer),
            Action::ServFail {
                client,
                query,
                namespace,
                error,
            } => self.send_servfail(&client, &query, namespace.as_deref(), error),
            Action::NoReply { client, reason } => self.leave_unanswered(&client, reason),
            Action::PassOn { client, reason } => self.pass_on(&client, reason),
            Action::Report(target, state) => {
                if let Some(outcomes) = &self.outcomes {
                    outcomes.note(&target, state);
                }
            }
            Action::Warn {
                namespace,
                qtype,
                text,
            } => self.warn(namespace.as_deref(), qtype, text),
        }
    }

    /// Sends as much of an answer as fits, with TC=1 where the client gets the rest over TCP.
    fn send_answer(&self, answer: &AnswerAction<Arc<Client>>) {
        let AnswerAction {
            client,
            query,
            namespace,
            entry,
            ..
        } = answer;
        let reply = compose::answer(
            query,
            &entry.section,
            answer.ttl_seconds,
            answer.rotation,
            client.transport(),
        );
        let message = match reply {
            Some(reply) if reply.left_out == 0 => reply.message,
            incomplete => {
                if client.transport() == Transport::Tcp {
                    self.warn(
                        namespace.as_deref(),
                        query.qtype,
                        "a tenant's target has more records than a DNS message holds; the answer lacks some",
                    );
                }
                let is_steered = self.is_steered(client);
                let message = match incomplete {
                    Some(reply) => Some(reply.message),
                    None => is_steered.then(|| compose::empty(query)),
                };
                let Some(mut message) = message else {
                    return self.send_servfail(client, query, namespace.as_deref(), TOO_LONG);
                };
                if is_steered {
                    self.stats.lock().truncated += 1;
                    compose::truncate(&mut message);
                }
                message
            }
        };
        let kind = if answer.is_stale {
            ReplyKind::Stale
        } else {
            ReplyKind::Answer
        };
        self.stats.lock().replied(namespace.as_deref(), kind);
        self.send(client, &message);
        self.report_answer(client, kind.rcode(), answer.is_stale);
    }

    fn send_servfail(
        &self,
        client: &Client,
        query: &Query,
        namespace: Option<&str>,
        error: ExtendedError,
    ) {
        let kind = ReplyKind::Servfail;
        self.stats.lock().replied(namespace, kind);
        self.send(client, &compose::servfail(query, error));
        self.report_answer(client, kind.rcode(), false);
    }

    /// Whether a client that does not get its whole answer now gets it over TCP.
    fn is_steered(&self, client: &Client) -> bool {
        let (Some(steer), ReplyPath::Frame(frame)) = (&self.steer, &client.reply_path) else {
            return false;
        };
        let identified_on = client.is_known.then_some(frame.ifindex);
        Datagram::parse(&frame.frame, frame.l3_offset).is_some_and(|datagram| {
            let (server, client) = (datagram.destination.ip(), datagram.source.ip());
            steer.steer(server, client, identified_on)
        })
    }

    pub(super) fn send(&self, client: &Client, reply: &[u8]) {
        let sent = match &client.reply_path {
            ReplyPath::Frame(frame) => self.injector.reply(frame, reply),
            ReplyPath::Stream { reply: to, .. } => to.send(StreamReply::Answer(reply.to_vec())),
        };
        self.count_error(client, sent, "reply not sent");
    }

    /// The client asks again, and the failure here is over by then, or its next server answers.
    pub(super) fn leave_unanswered(&self, client: &Client, reason: PassReason) {
        self.stats.lock().unanswered += 1;
        if let ReplyPath::Stream { reply, .. } = &client.reply_path
            && let Err(error) = reply.send(StreamReply::NoReply)
        {
            debug!(ifindex = client.ifindex(), %error, "the connection is closed");
        }
        self.report(client, |record, _| {
            record.verdict = Verdict::Unanswered;
            record.reason = Some(reason.label().to_owned());
        });
    }

    pub(super) fn pass_on(&self, client: &Client, reason: PassReason) {
        self.stats.lock().passed_on(reason);
        let sent = match &client.reply_path {
            ReplyPath::Frame(frame) => self.injector.pass_on(frame),
            ReplyPath::Stream { reply, .. } => reply.send(StreamReply::PassOn),
        };
        self.count_error(client, sent, "query not passed on");
        self.report(client, |record, _| {
            record.verdict = Verdict::PassedOn;
            record.reason = Some(reason.label().to_owned());
        });
    }

    fn count_error(&self, client: &Client, sent: io::Result<()>, text: &str) {
        if let Err(error) = sent {
            self.stats.lock().send_errors += 1;
            debug!(ifindex = client.ifindex(), %error, "{text}");
        }
    }

    fn warn(&self, namespace: Option<&str>, qtype: u16, text: &str) {
        let mut warnings = self.warnings.lock().unwrap_or_else(PoisonError::into_inner);
        if warnings.admit(0, (self.clock)()) {
            let qtype = hickory_proto::rr::RecordType::from(qtype);
            warn!(namespace = namespace.unwrap_or("none"), %qtype, "{text}");
        }
    }
}
