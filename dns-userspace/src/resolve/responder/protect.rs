//! The names of targets that only their own namespace may ask for: such a query passes, and so do the next ones in the
//! program; one of anybody else is refused.

use std::{net::IpAddr, time::Duration};

use super::{
    Responder,
    client::{Client, ReplyPath},
};
use crate::{
    inject::Inject,
    resolve::{
        compose::{self, ExtendedError},
        query::Query,
        source::TargetSource,
        stats::{PassReason, ReplyKind},
    },
    rules::Protected,
};

/// RFC 8914 §4.19.
const PROHIBITED: ExtendedError = ExtendedError {
    code: 18,
    text: "target of another namespace",
};

/// For how long the program lets a client's own target pass by itself.
const OWN: Duration = Duration::from_secs(60);

impl<S: TargetSource, I: Inject> Responder<S, I> {
    /// Refuses a query to `server`, or passes it on; `id` is that of its client.
    pub(super) fn protect(
        &self,
        client: &Client,
        query: &Query,
        server: IpAddr,
        protected: Protected,
        id: u32,
    ) {
        let Protected::Own { rule, captures } = protected else {
            return self.refuse(client, query);
        };
        if let (ReplyPath::Frame(frame), Some(answers)) = (&client.reply_path, &client.answers)
            && let Some(key) = answers.key(rule, query.qtype, server, &captures, id)
        {
            answers.no_target(frame.ifindex, &key, OWN);
        }
        self.pass_on(client, PassReason::OwnTarget);
    }

    fn refuse(&self, client: &Client, query: &Query) {
        let kind = ReplyKind::Refused;
        self.stats.lock().replied(None, kind);
        self.send(client, &compose::refused(query, PROHIBITED));
        self.report_answer(client, kind.rcode(), false);
    }
}
