//! A and AAAA while a Service is created or deleted and caches have one family and deny the other.

use super::*;

fn nodata() -> Outcome {
    Outcome::Answer(Answer {
        qtype: RecordType::AAAA,
        soa: Some(Box::new((name("cluster.local."), soa_data(30)))),
        ..addresses(&[TARGET], 0, 5)
    })
}

const BOTH: [RecordType; 2] = [RecordType::A, RecordType::AAAA];

/// Asks for both families at once, as resolvers do, and answers look-ups from what the upstream has for each.
async fn ask_both(lab: &Lab, has: impl Fn(RecordType) -> Outcome) -> [Sent; 2] {
    let mut ends = Vec::new();
    for qtype in BOTH {
        lab.asks(3, 1, QNAME, qtype);
    }
    while lab.pending().await > 0 {
        let asked = lab.source.pending.lock().unwrap()[0].0.1;
        lab.resolve(has(asked)).await;
    }
    ends.append(&mut lab.sent());
    ends.try_into().unwrap()
}

fn passes(sent: &[Sent; 2]) -> [bool; 2] {
    [0, 1].map(|index| matches!(sent[index], Sent::PassedOn(_)))
}

/// The upstream still has one family while the other is denied already.
#[tokio::test]
async fn while_a_service_is_deleted_at_most_one_look_up_contradicts_itself() {
    for gone in BOTH {
        let lab = Lab::new(ResponderOptions::default());
        let whole = |qtype| match qtype {
            RecordType::A => found(1, 5),
            _ => nodata(),
        };
        assert_eq!(passes(&ask_both(&lab, whole).await), [false, false]);
        pass(6);
        let half = |qtype| {
            if qtype == gone {
                Outcome::NoTarget
            } else {
                whole(qtype)
            }
        };
        // The look-up that finds out.
        ask_both(&lab, half).await;
        for round in 0..6 {
            let ends = passes(&ask_both(&lab, half).await);
            assert_eq!(ends, [true, true], "{gone} gone, round {round}");
            pass(5);
        }
        // Both are gone.
        let none = |_| Outcome::NoTarget;
        assert_eq!(passes(&ask_both(&lab, none).await), [true, true]);
    }
}

/// The upstream still denies one family of a new Service.
#[tokio::test]
async fn while_a_service_is_created_both_families_are_denied_until_both_exist() {
    for late in BOTH {
        let lab = Lab::new(ResponderOptions::default());
        assert_eq!(
            passes(&ask_both(&lab, |_| Outcome::NoTarget).await),
            [true, true]
        );
        let whole = |qtype| match qtype {
            RecordType::A => found(1, 5),
            _ => nodata(),
        };
        let half = |qtype| {
            if qtype == late {
                Outcome::NoTarget
            } else {
                whole(qtype)
            }
        };
        for round in 0..4 {
            pass(5);
            let ends = passes(&ask_both(&lab, half).await);
            assert_eq!(ends, [true, true], "{late} late, round {round}");
        }
        pass(5);
        assert_eq!(passes(&ask_both(&lab, whole).await), [false, false]);
        let chases = lab.responder.status().chases;
        pass(5);
        assert_eq!(passes(&ask_both(&lab, whole).await), [false, false]);
        assert_eq!(
            lab.responder.status().chases,
            chases + 2,
            "nothing is confirmed any more"
        );
    }
}

/// A pod that only ever asks for one family is not delayed by the other.
#[tokio::test]
async fn one_family_alone_is_served_again_at_once() {
    for qtype in BOTH {
        let lab = Lab::new(ResponderOptions::default());
        lab.asks(3, 1, QNAME, qtype);
        lab.resolve(Outcome::NoTarget).await;
        pass(5);
        lab.asks(3, 2, QNAME, qtype);
        lab.resolve(found(1, 5)).await;
        let sent = lab.sent();
        assert!(matches!(sent[..], [Sent::PassedOn(_), Sent::Reply(..)]));
    }
}

/// A failure to confirm says nothing about the name, and a denial is not held against it for ever.
#[tokio::test]
async fn an_old_denial_and_a_failed_confirmation_do_not_count() {
    let lab = Lab::new(ResponderOptions::default());
    lab.asks(3, 1, QNAME, RecordType::AAAA);
    lab.resolve(Outcome::NoTarget).await;
    lab.sent();
    pass(5);
    lab.asks(3, 2, QNAME, RecordType::A);
    lab.resolve(found(1, 5)).await;
    let (_, confirmed, _) = lab.resolve(timeout()).await;
    assert_eq!(confirmed, RecordType::AAAA);
    assert_eq!(lab.reply().answers.len(), 2);

    let lab = Lab::new(ResponderOptions::default());
    lab.asks(3, 1, QNAME, RecordType::AAAA);
    lab.resolve(Outcome::NoTarget).await;
    lab.sent();
    pass(61);
    lab.asks(3, 2, QNAME, RecordType::A);
    lab.resolve(found(1, 5)).await;
    assert_eq!(lab.reply().answers.len(), 2);
}
