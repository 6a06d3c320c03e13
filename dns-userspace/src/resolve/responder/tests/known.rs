//! A limit is never a denial: cached answers are served however often they are asked for, and a name that exists never passes
//! to the existing cache, which would deny it for every type (RFC 8020).

use tokio::sync::mpsc;

use super::*;
use crate::resolve::{
    query::Query,
    stream::{ReplyTo, StreamReply},
};

fn txt(ttl_seconds: u32) -> Outcome {
    Outcome::Answer(Answer {
        qtype: RecordType::TXT,
        rdata: vec![b"\x03one".to_vec()],
        ..addresses(&[TARGET], 0, ttl_seconds)
    })
}

#[tokio::test]
async fn sixty_queries_of_another_type_in_a_row_are_one_look_up() {
    for (qtype, outcome) in [
        (RecordType::TXT, txt(30)),
        (RecordType::MX, nodata(RecordType::MX)),
        (RecordType::SRV, nodata(RecordType::SRV)),
        (RecordType::HINFO, nodata(RecordType::HINFO)),
        (
            RecordType::Unknown(65_000),
            nodata(RecordType::Unknown(65_000)),
        ),
    ] {
        let lab = Lab::new(ResponderOptions::default());
        lab.asks(3, 1, QNAME, qtype);
        assert_eq!(lab.resolve(outcome).await.1, qtype);
        for id in 1..60 {
            lab.asks(3, id, QNAME, qtype);
        }
        let replies = lab.replies();
        assert_eq!(replies.len(), 60, "{qtype}");
        for reply in replies {
            assert_eq!(reply.metadata.response_code, ResponseCode::NoError);
            assert_eq!(reply.answers[0], cname(QNAME, 30, TARGET), "{qtype}");
        }
        let status = lab.responder.status();
        assert_eq!(status.chases, 1, "{qtype}");
        assert_eq!(
            (status.stores["answers"], status.stores["other_types"]),
            (0, 1)
        );
    }
}

#[tokio::test]
async fn sixty_at_once_wait_for_one_look_up() {
    let lab = Lab::new(ResponderOptions::default());
    for id in 0..60 {
        let broker = QNAME.replace("lkc-1", &format!("lkc-{id}"));
        lab.asks(3, id, &broker, RecordType::TXT);
    }
    lab.resolve(txt(9)).await;
    assert_eq!(lab.replies().len(), 60);
}

/// A pod that goes through the types of a name that exists: look-ups are limited, and queries over the limit get no reply and
/// are never passed.
#[tokio::test]
async fn types_beyond_the_limit_are_never_denied() {
    let existing = [
        (RecordType::A, found(1, 300)),
        (RecordType::TXT, txt(300)),
        (RecordType::A, Outcome::NoAddress(name(TARGET))),
    ];
    for (first, outcome) in existing {
        let lab = Lab::new(ResponderOptions::default());
        lab.asks(3, 1, QNAME, first);
        lab.resolve(outcome).await;
        lab.sent();
        let limit = OTHER_TYPES_PER_SECOND as usize - usize::from(first == RecordType::TXT);
        for number in 0..60 {
            lab.asks(3, number, QNAME, RecordType::Unknown(1000 + number));
        }
        assert_eq!(lab.pending().await, limit);
        assert_eq!(lab.sent(), [], "{first}");
        let status = lab.responder.status();
        assert_eq!(status.unanswered as usize, 60 - limit);
        assert_eq!(status.passed_on["rate_limited"], 0);
        // Another pod is not affected, and cached answers are still served.
        lab.asks(4, 1, QNAME, RecordType::Unknown(2000));
        assert_eq!(lab.pending().await, limit + 1);
    }
}

#[tokio::test]
async fn an_expired_answer_is_given_beyond_the_limit() {
    let lab = Lab::new(ResponderOptions::default());
    lab.asks(3, 1, QNAME, RecordType::TXT);
    lab.resolve(txt(9)).await;
    lab.sent();
    pass(10);
    for number in 0..OTHER_TYPES_PER_SECOND as u16 {
        lab.asks(3, number, QNAME, RecordType::Unknown(1000 + number));
    }
    lab.asks(3, 1, QNAME, RecordType::TXT);
    assert_eq!(ttl(&lab.reply()), 30);
}

#[tokio::test]
async fn a_name_without_a_cached_answer_is_left_to_the_existing_cache() {
    let lab = Lab::new(ResponderOptions::default());
    for number in 0..=OTHER_TYPES_PER_SECOND {
        let qname = QNAME.replace("foo", &format!("ns-{number}"));
        lab.asks(3, 1, &qname, RecordType::TXT);
    }
    assert_eq!(lab.sent(), [Sent::PassedOn(3)]);
    assert_eq!(lab.responder.status().passed_on["rate_limited"], 1);
}

/// RFC 8482 §4.1. Java's JNDI asks so.
#[tokio::test]
async fn any_is_answered_with_the_cname_alone() {
    let lab = Lab::new(ResponderOptions::default());
    lab.asks(3, 1, QNAME, RecordType::ANY);
    let (_, qtype, _) = lab.resolve(nodata(RecordType::CNAME)).await;
    assert_eq!(qtype, RecordType::CNAME, "no server is asked for ANY");
    let reply = lab.reply();
    assert_eq!(reply.answers, [cname(QNAME, 30, TARGET)]);
    assert!(reply.authorities.is_empty());
    assert_eq!(reply.queries[0].query_type(), RecordType::ANY);
    // Cached now, for CNAME too.
    lab.asks(3, 2, QNAME, RecordType::CNAME);
    lab.asks(3, 3, QNAME, RecordType::ANY);
    assert_eq!(lab.replies().len(), 2);
    // Without a target the cache answers.
    let bar = QNAME.replace("foo", "bar");
    lab.asks(3, 4, &bar, RecordType::ANY);
    lab.resolve(Outcome::NoTarget).await;
    assert_eq!(lab.sent(), [Sent::PassedOn(3)]);
}

#[tokio::test]
async fn answers_of_other_types_are_bounded_and_end_with_the_name() {
    let lab = Lab::new(ResponderOptions::default());
    for number in 0..200 {
        pass(1);
        lab.asks(3, 1, QNAME, RecordType::Unknown(1000 + number));
        lab.resolve(nodata(RecordType::Unknown(1000 + number)))
            .await;
    }
    assert_eq!(lab.responder.status().stores["other_types"], 1);
    lab.sent();
    // NXDOMAIN for one of them: none comes back.
    lab.asks(3, 1, QNAME, RecordType::A);
    lab.resolve(Outcome::NoTarget).await;
    pass(6);
    lab.sent();
    lab.asks(3, 1, QNAME, RecordType::Unknown(1199));
    assert_eq!(lab.pending().await, 1);
    assert_eq!(lab.responder.status().stores["other_types"], 0);
}

#[tokio::test]
async fn answers_of_other_types_for_many_targets_are_bounded() {
    let lab = Lab::new(ResponderOptions::default());
    for number in 0..200 {
        pass(1);
        let qname = QNAME.replace("foo", &format!("ns-{number}"));
        lab.asks(3, 1, &qname, RecordType::TXT);
        lab.resolve(txt(3600)).await;
    }
    assert_eq!(lab.responder.status().stores["other_types"], 64);
}

/// A client that is over its rate over TCP.
#[tokio::test]
async fn over_the_rate_of_a_stream_cached_answers_are_served_and_nothing_is_denied() {
    let rules = kafka_rule(60);
    let lab = Lab::new(ResponderOptions::default());
    let (sender, mut replies) = mpsc::channel(9);
    let ask = |qname: &str, qtype: RecordType, is_within_rate: bool| {
        let stream = StreamQuery {
            query: Query::parse(&query_bytes(1, qname, qtype, None)).unwrap(),
            client: "10.9.0.2:4000".parse().unwrap(),
            server: SERVER.parse().unwrap(),
            ifindex: 3,
            rules: rules.clone(),
            rule: 0,
            asked_by: None,
            is_within_rate,
            reply: ReplyTo {
                slot: 0,
                replies: sender.clone(),
                queued: Arc::default(),
            },
        };
        lab.responder.handle_stream(stream, None);
    };
    ask(QNAME, RecordType::A, false);
    assert_eq!(replies.recv().await, Some((0, StreamReply::PassOn)));
    ask(QNAME, RecordType::A, true);
    // A client over its rate may wait for a look-up in flight.
    ask(QNAME, RecordType::A, false);
    lab.resolve(found(1, 10)).await;
    ask(QNAME, RecordType::A, false);
    for _ in 0..3 {
        let (_, reply) = replies.recv().await.unwrap();
        assert!(matches!(reply, StreamReply::Answer(_)), "{reply:?}");
    }
    ask(QNAME, RecordType::AAAA, false);
    assert_eq!(replies.recv().await, Some((0, StreamReply::NoReply)));
    assert_eq!(lab.pending().await, 0);
}

/// What an earlier process has published is the last good answer over TCP too; nothing of it is published again.
#[tokio::test]
async fn a_failed_look_up_of_a_stream_gives_what_the_program_has() {
    let rules = kafka_rule(60);
    let section = Section::new(&addresses(&[TARGET], 2, 20)).unwrap();
    let answer = (section.body().unwrap(), Duration::from_secs(40));
    let last_good = LastGood {
        answer: Some(answer),
        exists: true,
    };
    let published = Arc::new(Published(Mutex::default(), last_good));
    let answers: Arc<dyn Publish> = published.clone();
    let lab = Lab::new(ResponderOptions::default());
    let (sender, mut replies) = mpsc::channel(9);
    for answers in [None, Some(&answers)] {
        let stream = StreamQuery {
            query: Query::parse(&query_bytes(1, QNAME, RecordType::A, None)).unwrap(),
            client: "10.9.0.2:4000".parse().unwrap(),
            server: SERVER.parse().unwrap(),
            ifindex: 3,
            rules: rules.clone(),
            rule: 0,
            asked_by: None,
            is_within_rate: true,
            reply: ReplyTo {
                slot: 0,
                replies: sender.clone(),
                queued: Arc::default(),
            },
        };
        lab.responder.handle_stream(stream, answers);
        // The first failure is remembered for the second query.
        if answers.is_none() {
            lab.resolve(Outcome::Failed(Failure::Timeout)).await;
        }
        let Some((_, StreamReply::Answer(reply))) = replies.recv().await else {
            panic!("a reply");
        };
        let reply = Message::from_vec(&reply).unwrap();
        let (code, records) = match answers {
            None => (ResponseCode::ServFail, 0),
            Some(_) => (ResponseCode::NoError, 3),
        };
        assert_eq!(reply.metadata.response_code, code);
        assert_eq!(reply.answers.len(), records, "{reply:?}");
    }
    assert_eq!(published.take(), []);
}
