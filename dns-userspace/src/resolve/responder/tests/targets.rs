//! Targets without any address are as broken as chains without an end; what is only a CNAME never leaves gregor.

use super::*;

#[tokio::test]
async fn a_target_without_any_address_is_servfail_with_an_extended_error_for_both_families() {
    for asked in [RecordType::A, RecordType::AAAA] {
        for end in [name("10.0.0.5."), name("fd00.example."), name(TARGET)] {
            let lab = Lab::new(ResponderOptions::default());
            lab.asks(3, 1, QNAME, asked);
            lab.resolve(Outcome::NoAddress(end)).await;
            let reply = lab.reply();
            assert!(is_servfail(&reply) && reply.answers.is_empty(), "{asked}");
            let wire = reply.to_vec().unwrap();
            let text = b"the target has no address of either family";
            assert!(wire.windows(text.len()).any(|window| window == text));
            // One look-up is enough for both families.
            for qtype in [RecordType::A, RecordType::AAAA] {
                lab.asks(3, 2, QNAME, qtype);
                assert!(is_servfail(&lab.reply()), "{asked} then {qtype}");
            }
            assert_eq!(lab.responder.status().targets_without_address, 1);
            // The CNAME is what is asked for there.
            lab.asks(3, 3, QNAME, RecordType::CNAME);
            lab.resolve(nodata(RecordType::CNAME)).await;
            assert_eq!(lab.reply().answers, [cname(QNAME, 30, TARGET)]);
            lab.asks(3, 4, QNAME, RecordType::A);
            assert!(is_servfail(&lab.reply()), "still");
        }
    }
}

/// The tenant has changed its Service to an address: no last good answer, for neither family.
#[tokio::test]
async fn earlier_answers_do_not_come_back() {
    let lab = Lab::new(ResponderOptions::default());
    for (qtype, known) in [
        (RecordType::A, found(1, 10)),
        (RecordType::AAAA, nodata(RecordType::AAAA)),
    ] {
        lab.asks(3, 1, QNAME, qtype);
        lab.resolve(known).await;
    }
    lab.sent();
    pass(11);
    lab.asks(3, 2, QNAME, RecordType::A);
    lab.resolve(Outcome::NoAddress(name("10.0.0.5."))).await;
    assert!(is_servfail(&lab.reply()));
    lab.asks(3, 3, QNAME, RecordType::AAAA);
    assert!(is_servfail(&lab.reply()));
    // And heals.
    pass(5);
    lab.asks(3, 4, QNAME, RecordType::A);
    lab.resolve(found(1, 10)).await;
    assert_eq!(lab.reply().answers.len(), 2);
    lab.asks(3, 5, QNAME, RecordType::AAAA);
    lab.resolve(nodata(RecordType::AAAA)).await;
    assert_eq!(lab.reply().answers.len(), 1);
}

/// RFC 4074 §4.2: servers that deny the name for AAAA and have an A record take nothing from the other family.
#[tokio::test]
async fn a_chain_that_is_broken_for_one_family_leaves_the_other() {
    let lab = Lab::new(ResponderOptions::default());
    lab.asks(3, 1, QNAME, RecordType::A);
    lab.resolve(found(1, 10)).await;
    lab.asks(3, 2, QNAME, RecordType::AAAA);
    lab.resolve(Outcome::BrokenChain).await;
    lab.sent();
    lab.asks(3, 3, QNAME, RecordType::A);
    assert_eq!(lab.reply().answers.len(), 2);
    pass(11);
    lab.asks(3, 4, QNAME, RecordType::A);
    lab.resolve(timeout()).await;
    assert_eq!(lab.reply().answers.len(), 2, "the last good answer");
}

#[tokio::test]
async fn a_query_for_the_cname_gets_no_soa() {
    let lab = Lab::new(ResponderOptions::default());
    lab.asks(3, 1, QNAME, RecordType::CNAME);
    lab.resolve(nodata(RecordType::CNAME)).await;
    let reply = lab.reply();
    assert_eq!(reply.answers, [cname(QNAME, 30, TARGET)]);
    assert!(reply.authorities.is_empty());
}

/// Each refresh of AAAA would be one question more.
#[tokio::test]
async fn an_address_of_the_other_family_is_not_looked_for_again_and_again() {
    let lab = Lab::new(ResponderOptions::default());
    lab.asks(3, 1, QNAME, RecordType::A);
    lab.resolve(found(1, 5)).await;
    lab.asks(3, 2, QNAME, RecordType::AAAA);
    lab.resolve(nodata(RecordType::AAAA)).await;
    // A NODATA is not an address, and an address that expired long ago does not count.
    pass(6);
    lab.asks(3, 3, QNAME, RecordType::A);
    lab.resolve(found(1, 5)).await;
    pass(60);
    lab.asks(3, 4, QNAME, RecordType::AAAA);
    lab.resolve(nodata(RecordType::AAAA)).await;
    let asked = std::mem::take(&mut *lab.source.has_address.lock().unwrap());
    assert_eq!(asked, [false, true, false, false]);
}
