//! Chases through a server that behaves as CoreDNS does: a bare CNAME for what it did not find, rcode dropped.

use std::collections::HashMap;

use hickory_proto::{op::Message, rr::Record};
use tokio::net::UdpSocket;

use super::*;
use crate::resolve::{chain::Answer, testing::*};

const TARGET: &str = "kafka-upstream.foo.svc.cluster.local.";
const END: &str = "vpce-1.vpce.amazonaws.com.";
const LONG: Duration = Duration::from_secs(30);

/// qname, qtype, then rcode, answer section, authority section.
type Entry = (
    &'static str,
    RecordType,
    ResponseCode,
    Vec<Record>,
    Vec<Record>,
);
type Zone = HashMap<(Name, RecordType), (ResponseCode, Vec<Record>, Vec<Record>)>;

fn zone(entries: Vec<Entry>) -> Zone {
    entries
        .into_iter()
        .map(|(owner, qtype, rcode, answers, authorities)| {
            ((name(owner), qtype), (rcode, answers, authorities))
        })
        .collect()
}

/// Serves a zone; says SERVFAIL for what is not in it.
async fn serve(zone: Zone) -> SocketAddr {
    let udp = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let address = udp.local_addr().unwrap();
    tokio::spawn(async move {
        let mut buffer = [0; 2000];
        while let Ok((length, from)) = udp.recv_from(&mut buffer).await {
            let query = Message::from_vec(&buffer[..length]).unwrap();
            let question = &query.queries[0];
            let key = (question.name().clone(), question.query_type());
            let (rcode, answers, authorities) =
                zone.get(&key)
                    .cloned()
                    .unwrap_or((ResponseCode::ServFail, vec![], vec![]));
            let mut reply = message(rcode, answers, authorities);
            reply.metadata.id = query.metadata.id;
            reply.add_query(question.clone());
            udp.send_to(&reply.to_vec().unwrap(), from).await.unwrap();
        }
    });
    address
}

async fn look_up(zone: Zone, qtype: RecordType) -> Explanation {
    explain(&name(TARGET), qtype, serve(zone).await, LONG).await
}

fn bare_cname(qtype: RecordType) -> Entry {
    let answers = vec![cname(TARGET, 30, END)];
    (TARGET, qtype, ResponseCode::NoError, answers, vec![])
}

#[tokio::test]
async fn a_target_with_a_only_is_nodata_for_aaaa() {
    let soa_of_end = vec![soa("amazonaws.com.", 60, 25)];
    let zone = zone(vec![
        bare_cname(RecordType::AAAA),
        (
            END,
            RecordType::AAAA,
            ResponseCode::NoError,
            vec![],
            soa_of_end,
        ),
        (
            END,
            RecordType::A,
            ResponseCode::NoError,
            vec![a(END, 60, [10, 0, 0, 1])],
            vec![],
        ),
    ]);
    let explanation = look_up(zone, RecordType::AAAA).await;
    let expected = Answer {
        qtype: RecordType::AAAA,
        names: vec![name(TARGET), name(END)],
        rdata: vec![],
        soa: Some(Box::new((name("amazonaws.com."), soa_data(25)))),
        ttl_seconds: 25,
    };
    assert_eq!(explanation.outcome, Outcome::Answer(expected));

    let steps = &explanation.steps;
    let asked: Vec<_> = steps.iter().map(|step| (&step.name, step.qtype)).collect();
    assert_eq!(
        asked,
        [
            (&name(TARGET), RecordType::AAAA),
            (&name(END), RecordType::AAAA),
            (&name(END), RecordType::A)
        ]
    );
    let first = steps[0].reply.as_ref().unwrap();
    assert_eq!(
        (first.rcode, first.transport),
        (ResponseCode::NoError, Transport::Udp)
    );
    assert_eq!(first.records.len(), 1);
    assert!(first.records[0].contains(END), "{}", first.records[0]);
}

#[tokio::test]
async fn the_rcode_of_the_end_decides_between_nxdomain_and_failure() {
    let gone = (END, RecordType::A, ResponseCode::NXDomain, vec![], vec![]);
    let broken = zone(vec![bare_cname(RecordType::A), gone]);
    let outcome = look_up(broken, RecordType::A).await.outcome;
    assert_eq!(outcome, Outcome::BrokenChain);

    let unknown = zone(vec![bare_cname(RecordType::A)]);
    let outcome = look_up(unknown, RecordType::A).await.outcome;
    assert_eq!(outcome, Outcome::Failed(Failure::Rcode));
}

#[tokio::test]
async fn a_whole_chain_takes_one_question() {
    let answers = vec![cname(TARGET, 30, END), a(END, 20, [10, 0, 0, 1])];
    let zone = zone(vec![(
        TARGET,
        RecordType::A,
        ResponseCode::NoError,
        answers,
        vec![],
    )]);
    let source = DnsSource::new(LONG);
    let outcome = source
        .look_up(&name(TARGET), RecordType::A, serve(zone).await, false)
        .await;
    let expected = Answer {
        ttl_seconds: 20,
        ..addresses(&[TARGET, END], 1, 20)
    };
    assert_eq!(outcome, Outcome::Answer(expected));
}

#[tokio::test]
async fn a_target_that_does_not_exist_gives_no_target() {
    let missing = (
        TARGET,
        RecordType::A,
        ResponseCode::NXDomain,
        vec![],
        vec![],
    );
    let explanation = look_up(zone(vec![missing]), RecordType::A).await;
    assert_eq!(explanation.outcome, Outcome::NoTarget);
    assert_eq!(explanation.steps.len(), 1);
}

#[tokio::test]
async fn the_whole_chase_ends_with_its_timeout() {
    // Holds the port and never replies.
    let silent = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let server = silent.local_addr().unwrap();
    let timeout = Duration::from_millis(50);
    let explanation = explain(&name(TARGET), RecordType::A, server, timeout).await;
    assert_eq!(explanation.outcome, Outcome::Failed(Failure::Timeout));
    let step = &explanation.steps[0];
    assert_eq!(step.reply.as_ref().unwrap_err(), &Failure::Timeout);
    assert!(step.elapsed >= timeout);
}

/// A source that knows one target.
#[derive(Debug)]
struct Knows(Known);

impl Targets for Knows {
    fn find(&self, target: &Name) -> Known {
        if *target == name(TARGET) {
            self.0.clone()
        } else {
            Known::Nothing
        }
    }
}

async fn look_up_known(known: Known, qtype: RecordType, zone: Zone) -> Outcome {
    let source = DnsSource::new(LONG).with_targets(Arc::new(Knows(known)));
    let server = serve(zone).await;
    source.look_up(&name(TARGET), qtype, server, false).await
}

/// What a cache still has of the target, and two ends.
fn outdated() -> Zone {
    let at = |owner, last| {
        let answers = vec![a(owner, 40, [10, 0, 0, last])];
        (owner, RecordType::A, ResponseCode::NoError, answers, vec![])
    };
    zone(vec![
        (
            TARGET,
            RecordType::A,
            ResponseCode::NoError,
            vec![cname(TARGET, 30, END), a(END, 30, [10, 0, 0, 9])],
            vec![],
        ),
        at(END, 9),
        at("new.example.", 1),
        (
            "gone.example.",
            RecordType::A,
            ResponseCode::NXDomain,
            vec![],
            vec![],
        ),
    ])
}

fn to(alias: &str) -> Known {
    Known::Alias(name(alias))
}

#[tokio::test]
async fn what_is_known_of_a_target_goes_before_what_a_cache_has_of_it() {
    let outcome = look_up_known(to("New.Example."), RecordType::A, outdated()).await;
    let expected = addresses(&[TARGET, "new.example."], 1, 40);
    assert_eq!(outcome, Outcome::Answer(expected));

    let outcome = look_up_known(Known::Absent, RecordType::A, outdated()).await;
    assert_eq!(outcome, Outcome::NoTarget);

    let outcome = look_up_known(Known::Nothing, RecordType::A, outdated()).await;
    let Outcome::Answer(answer) = outcome else {
        panic!("{outcome:?}");
    };
    assert_eq!(answer.names, [name(TARGET), name(END)]);
}

#[tokio::test]
async fn a_known_target_whose_end_is_missing_is_broken_and_does_not_count_as_missing() {
    let outcome = look_up_known(to("gone.example."), RecordType::A, outdated()).await;
    assert_eq!(outcome, Outcome::BrokenChain);
    let outcome = look_up_known(to(TARGET), RecordType::A, outdated()).await;
    assert_eq!(outcome, Outcome::Failed(Failure::Loop));
}

#[tokio::test]
async fn a_known_target_that_is_an_address_is_not_asked_for() {
    // This server knows nothing, and would be asked.
    let outcome = look_up_known(to("10.1.2.3."), RecordType::A, zone(vec![])).await;
    assert_eq!(outcome, Outcome::NoAddress(name("10.1.2.3.")));
    let outcome = look_up_known(to("10.1.2.3."), RecordType::CNAME, zone(vec![])).await;
    assert_eq!(outcome, Outcome::exists(name(TARGET)));
}
