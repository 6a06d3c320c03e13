//! Names of targets: refused with an extended error, or passed and kept as such; never looked up.

use super::*;
use crate::model::Client;

const BARS: &str = "Kafka-Upstream.bar.svc.cluster.local.";

fn protecting() -> Arc<RuleSet> {
    let specs = [RuleSpec {
        name: "kafka".to_owned(),
        matches: pattern("*.aws.private.kafka.managed"),
        cname: "kafka-upstream.{client.namespace}.svc.cluster.local".to_owned(),
        ttl_seconds: 60,
        ..RuleSpec::default()
    }];
    let budget = crate::rules::Budget::of_this_process();
    Arc::new(RuleSet::compile_and_protect(&specs, "", &budget, true).unwrap())
}

/// What comes of a query that the program has taken by the rule at this index.
fn asks(
    lab: &Lab,
    rules: &Arc<RuleSet>,
    published: &Arc<Published>,
    index: usize,
    message: &[u8],
    namespace: Option<&str>,
) {
    let client = namespace.map(|namespace| {
        let client = Client {
            namespace: namespace.to_owned(),
            ..Client::default()
        };
        (9, Arc::new(client))
    });
    lab.intercepts(rules, index, client, published.clone(), message);
}

/// Indices of the rule for the own namespace, and of that for everybody.
const OWN: usize = 1;
const FOREIGN: usize = 2;

#[tokio::test]
async fn a_foreign_target_is_refused_whatever_the_type() {
    let lab = Lab::new(ResponderOptions::default());
    let (rules, published) = (protecting(), Arc::<Published>::default());
    let types = [
        RecordType::A,
        RecordType::AAAA,
        RecordType::HTTPS,
        RecordType::TXT,
        RecordType::ANY,
    ];
    for qtype in types {
        // With who asks and without; also where the program took it for the client's own.
        for (index, namespace) in [(FOREIGN, None), (FOREIGN, Some("foo")), (OWN, Some("foo"))] {
            for edns in [None, Some((1232, true))] {
                let query = query_bytes(7, BARS, qtype, edns);
                asks(&lab, &rules, &published, index, &query, namespace);
                let reply = lab.reply();
                assert_eq!(
                    reply.metadata.response_code,
                    ResponseCode::Refused,
                    "{qtype}"
                );
                assert!(reply.queries[0].name().eq_case(&name(BARS)));
                assert!(reply.answers.is_empty() && reply.authorities.is_empty());
                assert_eq!(reply.edns.is_some(), edns.is_some());
                let wire = reply.to_vec().unwrap();
                let option = [&[0, 15, 0, 29, 0, 18][..], b"target of another namespace"].concat();
                let has_reason = wire.windows(option.len()).any(|window| window == option);
                assert_eq!(has_reason, edns.is_some(), "{wire:02x?}");
            }
        }
    }
    assert_eq!(lab.pending().await, 0);
    assert_eq!(published.take(), []);
    let status = lab.responder.status();
    assert_eq!(status.replies["REFUSED"], 6 * types.len() as u64);
    // The name is somebody else's, and the pod's to make up.
    assert!(status.namespaces.is_empty());
}

#[tokio::test]
async fn the_own_target_passes_and_the_program_does_that_from_then_on() {
    let lab = Lab::new(ResponderOptions::default());
    let (rules, published) = (protecting(), Arc::<Published>::default());
    let query = query_bytes(7, BARS, RecordType::A, None);
    asks(&lab, &rules, &published, OWN, &query, Some("bar"));
    assert_eq!(lab.sent(), [Sent::PassedOn(3)]);
    let id = rules.entries()[OWN].id;
    let key = answer::Key::new(id, RecordType::A.into(), 0, &[b"bar"]).unwrap();
    let [Publication::NoTarget(kept, left)] = published.take()[..] else {
        panic!("nothing is kept");
    };
    assert_eq!((kept, left), (key.of_client(9), Duration::from_secs(60)));
    assert_eq!(lab.responder.status().passed_on["own_target"], 1);
    assert_eq!(lab.pending().await, 0);
}

#[tokio::test]
async fn what_is_no_targets_name_passes() {
    let lab = Lab::new(ResponderOptions::default());
    let (rules, published) = (protecting(), Arc::<Published>::default());
    for index in [OWN, FOREIGN] {
        let query = query_bytes(
            7,
            "a.kafka-upstream.bar.svc.cluster.local.",
            RecordType::A,
            None,
        );
        asks(&lab, &rules, &published, index, &query, None);
        assert_eq!(lab.sent(), [Sent::PassedOn(3)]);
    }
    assert_eq!(lab.responder.status().passed_on["no_rule"], 2);
    assert_eq!(published.take(), []);
}

/// The program has read the name, and the options of an OPT, whose lengths are wrong, are the responder's to read: the existing
/// cache may take them.
#[tokio::test]
async fn a_query_for_a_foreign_target_that_cannot_be_read_gets_no_reply() {
    let lab = Lab::new(ResponderOptions::default());
    let (rules, published) = (protecting(), Arc::<Published>::default());
    let mut query = query_bytes(7, BARS, RecordType::A, None);
    query[11] = 1;
    query.extend(*b"\0\0\x29\x04\xd0\0\0\0\0\0\x05\0\x0a\xff\xff\x01");
    asks(&lab, &rules, &published, FOREIGN, &query, Some("foo"));
    assert_eq!(lab.sent(), []);
    assert_eq!(lab.responder.status().unanswered, 1);
    asks(&lab, &rules, &published, OWN, &query, Some("bar"));
    assert_eq!(lab.sent(), [Sent::PassedOn(3)]);
}
