//! Inputs in, next steps out, with a simulated clock.

use hickory_proto::rr::RecordType;

use super::*;
use crate::resolve::{testing::name, upstream::infra::Style};

const QNAME: &str = "kafka-upstream.foo.svc.cluster.local.";
const RETRY_AFTER: Duration = Duration::from_millis(500);
const TIMEOUT: Duration = Duration::from_secs(2);

/// An exchange that began at the returned time; letters change their case by turns where `style` says so.
fn exchange(style: Style) -> (Exchange, Instant) {
    let now = Instant::now();
    let policy = RetryPolicy {
        deadline: now + TIMEOUT,
        retry_after: RETRY_AFTER,
    };
    let mut is_upper = false;
    let question = Question::new(&name(QNAME), RecordType::A, 0x1234, style, || {
        is_upper = !is_upper;
        is_upper
    });
    (Exchange::new(question, policy, now), now)
}

/// The reply to a question, with these flags and one address.
fn reply(exchange: &Exchange, flags: u16) -> Vec<u8> {
    let mut reply = vec![0x12, 0x34];
    reply.extend(flags.to_be_bytes());
    reply.extend([0, 1, 0, 1, 0, 0, 0, 0]);
    reply.extend(exchange.question().section());
    reply.extend(b"\xc0\x0c\0\x01\0\x01\0\0\0\x3c\0\x04\x0a\0\0\x01");
    reply
}

const NOERROR: u16 = 0x8180;
const TRUNCATED: u16 = 0x8380;
const FORMERR: u16 = 0x8181;

fn has_opt(message: &[u8]) -> bool {
    message[11] == 1
}

fn wait(next: &Next) -> Instant {
    match next {
        Next::Wait(until) => *until,
        other => panic!("{other:?}"),
    }
}

fn failure(next: Next) -> Failure {
    match next {
        Next::Done(Err(failure)) => failure,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_question_is_sent_again_after_each_pause_and_without_its_opt_from_the_third_try_on() {
    let (mut exchange, start) = exchange(Style::FULL);
    for (number, expected) in [true, true, false, false].into_iter().enumerate() {
        let now = start + RETRY_AFTER * number as u32;
        let Next::Send(message) = exchange.time(now) else {
            panic!("nothing sent in try {number}");
        };
        assert_eq!(has_opt(&message), expected, "try {number}");
        let until = wait(&exchange.sent(Ok(())));
        assert_eq!(until, now + RETRY_AFTER);
        let early = until - Duration::from_millis(1);
        assert_eq!(wait(&exchange.time(early)), until);
    }
    assert_eq!(failure(exchange.time(start + TIMEOUT)), Failure::Timeout);
}

#[test]
fn a_late_try_moves_the_next_one_and_none_is_later_than_the_deadline() {
    let (mut exchange, start) = exchange(Style::FULL);
    exchange.time(start);
    let late = start + RETRY_AFTER * 3 + Duration::from_millis(100);
    assert!(matches!(exchange.time(late), Next::Send(_)));
    assert_eq!(wait(&exchange.sent(Ok(()))), start + TIMEOUT);
}

#[test]
fn a_local_failure_ends_at_once_and_an_unreachable_server_at_the_deadline() {
    let (mut local, start) = exchange(Style::FULL);
    local.time(start);
    assert_eq!(failure(local.sent(Err(Failure::Local))), Failure::Local);

    let (mut remote, start) = exchange(Style::FULL);
    remote.time(start);
    remote.sent(Ok(()));
    wait(&remote.received(Received::Unreachable, start));
    assert_eq!(failure(remote.time(start + TIMEOUT)), Failure::Network);
}

#[test]
fn the_reply_is_taken_and_shows_whether_the_opt_was_left_out() {
    for (tries, expected) in [(2, false), (3, true)] {
        let (mut exchange, start) = exchange(Style::FULL);
        for number in 0..tries {
            exchange.time(start + RETRY_AFTER * number);
        }
        let reply = reply(&exchange, NOERROR);
        let Next::Done(Ok(Attempt::Reply {
            transport,
            plain_only,
            ..
        })) = exchange.received(Received::Reply(reply), start)
        else {
            panic!("not taken after {tries} tries");
        };
        assert_eq!((transport, plain_only), (Transport::Udp, expected));
    }
}

#[test]
fn a_refused_opt_and_another_case_end_the_question() {
    let (mut exchange, start) = exchange(Style::FULL);
    exchange.time(start);
    let refused = reply(&exchange, FORMERR);
    assert!(matches!(
        exchange.received(Received::Reply(refused), start),
        Next::Done(Ok(Attempt::NoEdns))
    ));
    let lower = reply(&exchange, NOERROR).to_ascii_lowercase();
    assert!(matches!(
        exchange.received(Received::Reply(lower), start),
        Next::Done(Ok(Attempt::OtherCase))
    ));
}

#[test]
fn truncation_asks_tcp_until_the_deadline_and_a_failure_there_is_labelled() {
    for (outcome, expected) in [
        (Failure::Timeout, Failure::Tcp),
        (Failure::Network, Failure::Tcp),
        (Failure::Local, Failure::Local),
    ] {
        let (mut exchange, start) = exchange(Style::FULL);
        exchange.time(start);
        let cut = reply(&exchange, TRUNCATED);
        let Next::AskTcp(until) = exchange.received(Received::Reply(cut), start) else {
            panic!("TCP is not asked");
        };
        assert_eq!(until, start + TIMEOUT);
        assert_eq!(failure(exchange.tcp_ended(Err(outcome))), expected);
    }
    let (mut exchange, start) = exchange(Style::FULL);
    exchange.time(start);
    let cut = reply(&exchange, TRUNCATED);
    exchange.received(Received::Reply(cut.clone()), start);
    assert_eq!(failure(exchange.tcp_ended(Ok(cut))), Failure::Unusable);
}

#[test]
fn guesses_ask_tcp_once_for_a_part_of_the_time_and_the_right_reply_is_still_taken() {
    let (mut exchange, start) = exchange(Style::FULL);
    exchange.time(start);
    wait(&exchange.received(Received::Mismatches(MAX_MISMATCHES - 1), start));
    let mut forged = reply(&exchange, NOERROR);
    forged[0] ^= 1;
    let Next::AskTcp(until) = exchange.received(Received::Reply(forged), start) else {
        panic!("TCP is not asked");
    };
    assert_eq!(until, start + RETRY_AFTER);
    wait(&exchange.tcp_ended(Err(Failure::Timeout)));
    wait(&exchange.received(Received::Mismatches(100), start));
    let right = reply(&exchange, NOERROR);
    assert!(matches!(
        exchange.received(Received::Reply(right), start),
        Next::Done(Ok(Attempt::Reply { .. }))
    ));
}

#[test]
fn a_server_that_does_not_keep_lower_case_is_asked_over_tcp_at_once() {
    let (mut exchange, start) = exchange(Style {
        edns: true,
        mixed_case: false,
    });
    exchange.time(start);
    let upper = reply(&exchange, NOERROR).to_ascii_uppercase();
    assert!(matches!(
        exchange.received(Received::Reply(upper.clone()), start),
        Next::AskTcp(_)
    ));
    // A connection is hard to forge, so that case is not needed against forgery.
    assert!(matches!(
        exchange.tcp_ended(Ok(upper)),
        Next::Done(Ok(Attempt::Reply {
            transport: Transport::Tcp,
            ..
        }))
    ));
}
