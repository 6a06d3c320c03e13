//! In which form a server is asked again, and when its reply is final: with or without EDNS, in mixed or lower case; no I/O.

use hickory_proto::op::{Message, ResponseCode};

use super::{
    exchange::Attempt,
    infra::{CaseDoubt, RetryReason, Style, case_doubt, case_matters},
};
use crate::{model::Transport, resolve::chain::Failure};

/// A reply, and what it took to get it.
#[derive(Clone, Debug)]
pub struct UpstreamReply {
    pub message: Message,
    pub transport: Transport,
    /// Why the question was asked more than once.
    pub retries: Vec<RetryReason>,
}

/// The end of asking.
#[derive(Debug)]
pub struct Done {
    pub result: Result<UpstreamReply, Failure>,
    /// The facts about the server that the reply confirms.
    pub learned: Vec<RetryReason>,
}

/// The forms in which one question has been asked.
#[derive(Debug)]
pub struct Retry {
    style: Style,
    retries: Vec<RetryReason>,
    /// The reply to the question in mixed case, while the one in lower case is awaited.
    first: Option<(Message, Transport)>,
}

impl Retry {
    pub fn new(style: Style) -> Retry {
        Retry {
            style,
            retries: Vec::new(),
            first: None,
        }
    }

    /// How to ask next.
    pub fn style(&self) -> Style {
        self.style
    }

    /// Takes the result of a question. `None` to ask once more, in the form of [`Retry::style`]; each time that has one feature
    /// less, so this ends.
    pub fn take(&mut self, is_mixed_case: bool, result: Result<Attempt, Failure>) -> Option<Done> {
        let (message, transport, plain_only) = match result {
            Err(failure) => {
                let first = self.first.take();
                let fallback =
                    first.filter(|(reply, _)| case_doubt(reply) == Some(CaseDoubt::Failed));
                let result = match fallback {
                    Some((message, transport)) => Ok(self.reply(message, transport)),
                    None => Err(failure),
                };
                return Some(Done {
                    result,
                    learned: Vec::new(),
                });
            }
            Ok(Attempt::NoEdns) => {
                self.style.edns = false;
                self.retries.push(RetryReason::WithoutEdns);
                return None;
            }
            Ok(Attempt::OtherCase) => {
                self.style.mixed_case = false;
                self.retries.push(RetryReason::CaseNotKept);
                return None;
            }
            Ok(Attempt::Reply {
                message,
                transport,
                plain_only,
            }) => (*message, transport, plain_only),
        };
        if self.first.is_none() && is_mixed_case && case_doubt(&message).is_some() {
            self.style.mixed_case = false;
            self.retries.push(RetryReason::LowerCase);
            self.first = Some((message, transport));
            return None;
        }
        if plain_only {
            self.retries.push(RetryReason::WithoutEdns);
        }
        let first = self.first.as_ref().map(|(message, _)| message);
        let learned = confirmed(&self.retries, first, &message);
        Some(Done {
            result: Ok(self.reply(message, transport)),
            learned,
        })
    }

    fn reply(&mut self, message: Message, transport: Transport) -> UpstreamReply {
        UpstreamReply {
            message,
            transport,
            retries: std::mem::take(&mut self.retries),
        }
    }
}

/// What the reply confirms of the reasons for asking again.
fn confirmed(
    retries: &[RetryReason],
    first: Option<&Message>,
    reply: &Message,
) -> Vec<RetryReason> {
    let is_confirmed = |reason: &RetryReason| match reason {
        RetryReason::WithoutEdns => !matches!(
            reply.metadata.response_code,
            ResponseCode::FormErr | ResponseCode::NotImp
        ),
        RetryReason::CaseNotKept => true,
        RetryReason::LowerCase => first.is_some_and(|first| case_matters(first, reply)),
    };
    retries.iter().copied().filter(is_confirmed).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::resolve::testing::*;

    fn reply(rcode: ResponseCode) -> Result<Attempt, Failure> {
        Ok(Attempt::Reply {
            message: Box::new(message(rcode, vec![], vec![])),
            transport: Transport::Udp,
            plain_only: false,
        })
    }

    fn positive() -> Result<Attempt, Failure> {
        let address = a("kafka-upstream.foo.svc.cluster.local.", 9, [10, 0, 0, 1]);
        Ok(Attempt::Reply {
            message: Box::new(message(ResponseCode::NoError, vec![address], vec![])),
            transport: Transport::Udp,
            plain_only: false,
        })
    }

    #[test]
    fn a_refused_opt_is_left_out_and_cached_when_the_reply_without_it_is_not_a_refusal() {
        for (second, expected) in [
            (positive(), vec![RetryReason::WithoutEdns]),
            (reply(ResponseCode::NotImp), vec![]),
        ] {
            let mut retry = Retry::new(Style {
                edns: true,
                mixed_case: false,
            });
            assert!(retry.take(false, Ok(Attempt::NoEdns)).is_none());
            assert!(!retry.style().edns);
            let done = retry.take(false, second).unwrap();
            assert_eq!(done.learned, expected);
            assert_eq!(done.result.unwrap().retries, [RetryReason::WithoutEdns]);
        }
    }

    #[test]
    fn a_denial_in_mixed_case_is_confirmed_in_lower_case() {
        let mut retry = Retry::new(Style::FULL);
        let denial = reply(ResponseCode::NXDomain);
        assert!(retry.take(true, denial).is_none());
        assert!(!retry.style().mixed_case);
        let done = retry.take(false, positive()).unwrap();
        assert_eq!(done.result.unwrap().message.answers.len(), 1);
        assert_eq!(done.learned, [RetryReason::LowerCase]);
    }

    #[test]
    fn without_a_second_reply_a_denial_is_a_failure_and_a_failure_is_the_reply() {
        for (first, is_reply) in [
            (ResponseCode::NXDomain, false),
            (ResponseCode::ServFail, true),
        ] {
            let mut retry = Retry::new(Style::FULL);
            assert!(retry.take(true, reply(first)).is_none());
            let done = retry.take(false, Err(Failure::Timeout)).unwrap();
            assert_eq!(done.result.is_ok(), is_reply, "{first}");
            assert!(done.learned.is_empty());
        }
    }
}
