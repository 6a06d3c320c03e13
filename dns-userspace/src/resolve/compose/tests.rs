use hickory_proto::{
    op::{Message, ResponseCode},
    rr::{RData, Record},
};

use proptest::prelude::*;

use super::*;
use crate::resolve::testing::*;

const QNAME: &str = "LKC-1.eu.aws.private.kafka.managed.Foo.svc.cluster.local.";
const TARGET: &str = "kafka-upstream.foo.svc.cluster.local.";
const END: &str = "vpce-1.vpce.svc.cluster.local.";

fn datagram(query: &Query, section: &Section, ttl: u32, rotation: usize) -> Option<Vec<u8>> {
    answer(query, section, ttl, rotation, Transport::Udp).map(|reply| reply.message)
}

fn compose(opt: Option<(u16, bool)>, answer_of: &Answer, ttl: u32, rotation: usize) -> Vec<u8> {
    let query = query(QNAME, answer_of.qtype, opt);
    let section = Section::new(answer_of).unwrap();
    let bytes = datagram(&query, &section, ttl, rotation).unwrap();
    assert_eq!(&bytes[12..12 + query.question().len()], query.question());
    bytes
}

fn parse(bytes: &[u8]) -> Message {
    Message::from_vec(bytes).unwrap()
}

fn rrset(message: &Message) -> Vec<u8> {
    let address = |record: &Record| match &record.data {
        RData::A(address) => Some(address.0.octets()[3]),
        _ => None,
    };
    message.answers.iter().filter_map(address).collect()
}

#[test]
fn chain_then_addresses_with_one_ttl() {
    let bytes = compose(None, &addresses(&[TARGET, END], 2, 60), 17, 0);
    let message = parse(&bytes);
    assert_eq!(
        message.answers,
        [
            cname(QNAME, 17, TARGET),
            cname(TARGET, 17, END),
            a(END, 17, [10, 0, 0, 1]),
            a(END, 17, [10, 0, 0, 2]),
        ]
    );
    assert!(message.authorities.is_empty() && message.edns.is_none());
}

#[test]
fn these_exact_bytes() {
    let query = query("a.b.", RecordType::A, Some((4096, true)));
    let section = Section::new(&addresses(&["c.d.", "e.d."], 1, 60)).unwrap();
    let expected = [
        b"\x42\x42\x81\x80\0\x01\0\x03\0\0\0\x01" as &[u8],
        b"\x01a\x01b\0\0\x01\0\x01",
        b"\xc0\x0c\0\x05\0\x01\0\0\0\x1e\0\x05\x01c\x01d\0",
        // Owner at 33, `d.` at 35.
        b"\xc0\x21\0\x05\0\x01\0\0\0\x1e\0\x04\x01e\xc0\x23",
        b"\xc0\x32\0\x01\0\x01\0\0\0\x1e\0\x04\x0a\0\0\x01",
        b"\0\0\x29\x04\xd0\0\0\x80\0\0\0",
    ]
    .concat();
    assert_eq!(datagram(&query, &section, 30, 0).unwrap(), expected);
}

#[test]
fn the_same_section_follows_questions_of_any_length() {
    let section = Section::new(&addresses(&[TARGET, END], 3, 60)).unwrap();
    let long = format!("{}{}", "abcdefghi.".repeat(24), "x.");
    for qname in ["x.", QNAME, &long] {
        let query = query(qname, RecordType::A, Some((1232, false)));
        let message = parse(&datagram(&query, &section, 5, 0).unwrap());
        assert_eq!(message.answers[0], cname(qname, 5, TARGET));
        assert_eq!(message.answers[1], cname(TARGET, 5, END));
        assert_eq!(message.answers[4], a(END, 5, [10, 0, 0, 3]));
    }
}

#[test]
fn flags_copy_rd_and_cd_and_nothing_else() {
    for (sent, expected) in [
        (0x0000u16, 0x8080u16),
        (0x0100, 0x8180),
        (0x0010, 0x8090),
        (0x0130, 0x8190),
    ] {
        let mut bytes = query_bytes(9, QNAME, RecordType::A, None);
        bytes[2..4].copy_from_slice(&sent.to_be_bytes());
        let query = Query::parse(&bytes).unwrap();
        let section = Section::new(&addresses(&[TARGET], 1, 60)).unwrap();
        let reply = datagram(&query, &section, 5, 0).unwrap();
        assert_eq!(reply[2..4], expected.to_be_bytes(), "flags {sent:04x}");
        let error = servfail(&query, ERROR);
        assert_eq!(error[2..4], (expected | 2).to_be_bytes());
    }
}

#[test]
fn addresses_are_rotated() {
    let answer_of = addresses(&[TARGET], 3, 60);
    let order = |rotation| rrset(&parse(&compose(None, &answer_of, 5, rotation)));
    assert_eq!(order(0), [1, 2, 3]);
    assert_eq!(order(1), [2, 3, 1]);
    assert_eq!(order(2), [3, 1, 2]);
    assert_eq!(order(3), [1, 2, 3]);
    assert_eq!(order(usize::MAX).len(), 3);
}

#[test]
fn as_many_addresses_as_fit_and_never_tc() {
    let answer_of = addresses(&[TARGET, END], 120, 60);
    for (opt, limit) in [
        (None, 512),
        (Some((0, false)), 512),
        (Some((511, true)), 512),
        (Some((512, false)), 512),
        (Some((513, false)), 513),
        (Some((1232, true)), 1232),
        (Some((65535, false)), 1232),
    ] {
        let bytes = compose(opt, &answer_of, 5, 7);
        let message = parse(&bytes);
        assert!(bytes.len() <= limit, "{opt:?}");
        // One more address would not have fitted.
        assert!(bytes.len() + 16 > limit, "{opt:?}");
        assert!(!message.metadata.truncation);
        assert_eq!(message.edns.is_some(), opt.is_some());
        assert_eq!(rrset(&message)[0], 8);
    }
}

#[test]
fn the_opt_of_a_reply_has_our_size_and_the_do_bit() {
    for dnssec_ok in [false, true] {
        let message = parse(&compose(
            Some((4096, dnssec_ok)),
            &addresses(&[TARGET], 1, 9),
            5,
            0,
        ));
        let edns = message.edns.unwrap();
        assert_eq!(edns.max_payload(), UDP_SIZE);
        assert_eq!(edns.flags().dnssec_ok, dnssec_ok);
        assert_eq!(edns.version(), 0);
        assert!(edns.options().as_ref().is_empty());
    }
}

#[test]
fn a_ttl_is_never_zero() {
    let message = parse(&compose(None, &addresses(&[TARGET], 1, 60), 0, 0));
    assert!(message.answers.iter().all(|record| record.ttl == 1));
}

fn nodata(soa: bool) -> Answer {
    Answer {
        qtype: RecordType::AAAA,
        names: vec![name(TARGET), name(END)],
        rdata: vec![],
        soa: soa.then(|| Box::new((name("cluster.local."), soa_data(30)))),
        ttl_seconds: 30,
    }
}

#[test]
fn nodata_is_chain_and_soa_with_the_same_ttl() {
    let message = parse(&compose(Some((1232, false)), &nodata(true), 11, 3));
    assert_eq!(message.metadata.response_code, ResponseCode::NoError);
    assert_eq!(
        message.answers,
        [cname(QNAME, 11, TARGET), cname(TARGET, 11, END)]
    );
    assert_eq!(message.authorities, [soa("cluster.local.", 11, 30)]);
    let message = parse(&compose(None, &nodata(false), 11, 3));
    assert_eq!((message.answers.len(), message.authorities.len()), (2, 0));
}

#[test]
fn qtype_cname_is_the_cname_alone() {
    let answer_of = Answer {
        qtype: RecordType::CNAME,
        rdata: vec![],
        ..addresses(&[TARGET, END], 0, 9)
    };
    let message = parse(&compose(None, &answer_of, 9, 0));
    assert_eq!(message.answers, [cname(QNAME, 9, TARGET)]);
    assert!(message.authorities.is_empty());
}

#[test]
fn other_types_keep_their_rdata() {
    let answer_of = Answer {
        qtype: RecordType::TXT,
        rdata: vec![b"\x03one".to_vec(), b"\x05three".to_vec()],
        ..addresses(&[TARGET], 0, 9)
    };
    let message = parse(&compose(None, &answer_of, 9, 0));
    let texts: Vec<String> = message.answers[1..]
        .iter()
        .map(|record| record.data.to_string())
        .collect();
    assert_eq!(texts.len(), 2);
    assert!(texts[0].contains("one") && texts[1].contains("three"));
}

#[test]
fn a_chain_behind_which_no_address_fits_gives_no_answer() {
    let label = "x".repeat(60);
    let names: Vec<String> = (0..3)
        .map(|number| format!("{number}{label}.{number}{label}.{number}{label}."))
        .collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let section = Section::new(&addresses(&names, 1, 9)).unwrap();
    let plain = query(QNAME, RecordType::A, None);
    assert_eq!(datagram(&plain, &section, 9, 0), None);
    let edns = query(QNAME, RecordType::A, Some((1232, false)));
    assert!(datagram(&edns, &section, 9, 0).is_some());
}

const ERROR: ExtendedError = ExtendedError {
    code: 22,
    text: "no reply",
};

#[test]
fn servfail_explains_itself_only_where_opt_allows() {
    let with_opt = servfail(&query(QNAME, RecordType::A, Some((1232, true))), ERROR);
    let message = parse(&with_opt);
    assert_eq!(message.metadata.response_code, ResponseCode::ServFail);
    assert!(message.edns.is_some() && message.answers.is_empty());
    assert!(with_opt.ends_with(b"\0\x0e\0\x0f\0\x0a\0\x16no reply"));
    let without = servfail(&query(QNAME, RecordType::A, None), ERROR);
    assert!(parse(&without).edns.is_none());
}

#[test]
fn the_longest_chain_with_the_longest_names_stays_in_reach_of_its_pointers() {
    let label = "y".repeat(62);
    let names: Vec<String> = (0..11)
        .map(|number| {
            let number = char::from(b'a' + number);
            format!("{number}{label}.{number}{label}.{number}{label}.{number}.")
        })
        .collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let section = Section::new(&addresses(&names, 100, 9)).unwrap();
    assert!(section.len() < MAX_POINTER / 2);
}

fn dns_name() -> impl Strategy<Value = String> {
    // Few labels to choose from, so that suffixes are shared.
    prop::collection::vec("[a-c]{1,2}|[a-z0-9]{1,50}", 1..5)
        .prop_map(|labels| labels.join(".") + ".")
}

proptest! {
    /// Whatever the names, sizes and numbers: a reply parses back to what went in and stays within its limit.
    #[test]
    fn replies_parse_back(
        qname in dns_name(),
        names in prop::collection::vec(dns_name(), 1..8),
        count in 0..100u8,
        opt in prop::option::of((any::<u16>(), any::<bool>())),
        rotation: usize,
        ttl in 1..100u32,
    ) {
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let mut answer_of = addresses(&names, count, 60);
        answer_of.soa = (count == 0).then(|| Box::new((name(names[0]), soa_data(9))));
        let query = query(&qname, RecordType::A, opt);
        let section = Section::new(&answer_of).unwrap();
        prop_assert_eq!(section.chain(), Some(answer_of.names.clone()));
        if let Some(body) = section.body() {
            let again = Section::of_body(&body).unwrap();
            prop_assert_eq!(again.chain(), section.chain());
        }
        let Some(bytes) = datagram(&query, &section, ttl, rotation) else {
            prop_assert!(section.len() + 12 + query.question().len() + 11 > 512);
            return Ok(());
        };
        prop_assert!(bytes.len() <= limit(&query, Transport::Udp));
        let message = parse(&bytes);
        let mut owner = qname.as_str();
        for (record, target) in message.answers.iter().zip(&names) {
            prop_assert_eq!(record, &cname(owner, ttl, target));
            owner = target;
        }
        let records = &message.answers[names.len()..];
        let mut seen = Vec::new();
        for record in records {
            prop_assert_eq!(&record.name, &name(owner));
            prop_assert_eq!(record.ttl, ttl);
            seen.push(record.data.clone());
        }
        seen.dedup();
        prop_assert_eq!(seen.len(), records.len());
        if count > 0 {
            prop_assert!(!records.is_empty() && records.len() <= usize::from(count));
        }
        for record in &message.authorities {
            prop_assert_eq!(record, &soa(names[0], ttl, 9));
        }
        prop_assert_eq!(message.edns.is_some(), opt.is_some());
    }
}

#[test]
fn a_stream_has_the_addresses_that_a_datagram_leaves_out() {
    let section = Section::new(&addresses(&[TARGET, END], 60, 9)).unwrap();
    let query = query(QNAME, RecordType::A, None);
    let cut = answer(&query, &section, 9, 7, Transport::Udp).unwrap();
    assert!(cut.message.len() <= 512);
    let sent = rrset(&parse(&cut.message)).len();
    assert!(sent > 0);
    assert_eq!(cut.left_out, 60 - sent);

    let whole = answer(&query, &section, 9, 7, Transport::Tcp).unwrap();
    assert_eq!(whole.left_out, 0);
    assert_eq!(rrset(&parse(&whole.message)).len(), 60);
    assert_eq!(whole.message[..12][..6], cut.message[..6]);
}

#[test]
fn a_stream_carries_as_many_addresses_as_fit_into_64_kib() {
    let count = |message: &[u8]| parse(message).answers.len() - 2;
    let query = query(QNAME, RecordType::A, Some((1232, false)));
    let section = Section::new(&many_addresses(&[TARGET, END], 4000)).unwrap();
    let whole = answer(&query, &section, 9, 3999, Transport::Tcp).unwrap();
    assert_eq!((whole.left_out, count(&whole.message)), (0, 4000));
    let cut = answer(&query, &section, 9, 3999, Transport::Udp).unwrap();
    assert_eq!(cut.left_out, 4000 - count(&cut.message));

    // More than any message holds: the reply says how many it lacks.
    let section = Section::new(&many_addresses(&[TARGET, END], 5000)).unwrap();
    let cut = answer(&query, &section, 9, 0, Transport::Tcp).unwrap();
    assert!(cut.message.len() <= 65_535 && cut.message.len() > 65_000);
    assert_eq!(cut.left_out, 5000 - count(&cut.message));
    assert!(cut.left_out > 0);
}

#[test]
fn truncation_is_one_bit() {
    for opt in [None, Some((1232, true))] {
        let query = query(QNAME, RecordType::A, opt);
        let mut message = empty(&query);
        assert!(!parse(&message).metadata.truncation);
        let before = message.clone();
        truncate(&mut message);
        let parsed = parse(&message);
        assert!(parsed.metadata.truncation && parsed.answers.is_empty());
        assert_eq!(parsed.edns.is_some(), opt.is_some());
        message[2] ^= 2;
        assert_eq!(message, before);
    }
}

/// The path of a program over a frame in memory, with one answer in its tables.
mod in_the_kernel {
    use dns_common::{
        abi::Servers,
        answer::{Key, Lifetime, MemoryTables},
        packet::SlicePacket,
        pipeline::{MemoryHost, intercept},
        scratch::Scratch,
        verdict::Verdict,
    };

    use super::*;
    use crate::rules::{MatchSpec, RuleSet, RuleSpec};

    pub const SUFFIX: &str = "kernel.test.";
    const SERVER: [u8; 4] = [10, 96, 0, 10];
    const HEADERS: usize = 14 + 20 + 8;

    fn rules() -> RuleSet {
        RuleSet::compile(&[RuleSpec {
            name: "all".to_owned(),
            matches: MatchSpec::Pattern(format!("*.{}", SUFFIX.trim_end_matches('.'))),
            cname: "target.test".to_owned(),
            ttl_seconds: 60,
            follow: true,
            ..RuleSpec::default()
        }])
        .unwrap()
    }

    fn frame(message: &[u8]) -> Vec<u8> {
        let mut frame = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 8, 0, 0x45, 0];
        frame.extend((28 + message.len() as u16).to_be_bytes());
        frame.extend([0, 0, 0, 0, 64, 17, 0, 0, 10, 1, 2, 3]);
        frame.extend(SERVER);
        frame.extend([0x81, 0x12, 0, 53]);
        frame.extend((8 + message.len() as u16).to_be_bytes());
        frame.extend([0, 0]);
        frame.extend(message);
        frame
    }

    /// Successive replies to one query, each a message; fewer where the program hands the query over.
    pub fn replies(query: &[u8], qtype: u16, body: &Body, ttl: u32, count: usize) -> Vec<Vec<u8>> {
        let rules = rules();
        let captures = rules.entries().into_iter().map(|entry| entry.captures);
        let mut answers = MemoryTables::new(1, captures.collect());
        let key = Key::new(0, qtype, 0, &[]).unwrap();
        let lifetime = Lifetime {
            fresh_until_ns: u64::from(ttl) * 1_000_000_000,
            serve_until_ns: u64::MAX,
            ..Lifetime::default()
        };
        assert!(answers.insert(&key, body, &lifetime));
        let mut servers = Servers {
            v4_count: 1,
            ..Servers::default()
        };
        servers.v4[0] = u32::from_ne_bytes(SERVER);
        let host = MemoryHost {
            ifindex: 1,
            servers,
            header: &rules.table().header,
            table: &rules.table().entries,
            tails: &rules.table().tails,
            answers,
            now_ns: 1,
            admission: Ok(()),
            protection: 0,
            sink: std::cell::RefCell::new(|_| {}),
        };
        let mut scratch = Scratch::new();
        let mut replies = Vec::new();
        for _ in 0..count {
            let mut bytes = frame(query);
            let len = bytes.len();
            bytes.resize(len + 1500, 0);
            let mut packet = SlicePacket::with_room(&mut bytes, len);
            match intercept(&mut packet, &host, || Some(&mut scratch)) {
                Verdict::Answered => replies.push(packet.bytes()[HEADERS..].to_vec()),
                Verdict::Taken => {}
                verdict => panic!("{verdict:?}"),
            }
        }
        replies
    }
}

/// rdata of one size, as addresses and most else have it.
fn rrset_of() -> impl Strategy<Value = (RecordType, Vec<Vec<u8>>)> {
    let of = |qtype, len, most| {
        prop::collection::vec(prop::collection::vec(any::<u8>(), len), 0..most)
            .prop_map(move |rdata| (qtype, rdata))
    };
    prop_oneof![
        of(RecordType::A, 4usize, 45),
        of(RecordType::AAAA, 16, 30),
        (0usize..120).prop_flat_map(move |len| of(RecordType::HTTPS, len, 4)),
        (0usize..120).prop_flat_map(move |len| of(RecordType::SVCB, len, 4)),
        Just((RecordType::CNAME, Vec::new())),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(3000))]

    /// Whatever is asked and whatever the answer: where the program answers, it answers as the responder would, byte for byte;
    /// and where it does not, the answer does not fit into the entry or not all of it into the client's message.
    #[test]
    fn the_program_answers_as_the_responder_does(
        labels in prop::collection::vec("[A-Za-z0-9]{1,3}|[a-z0-9]{1,63}", 1..6),
        names in prop::collection::vec(dns_name(), 1..11),
        (qtype, rdata) in rrset_of(),
        soa: bool,
        opt in prop::option::of((prop_oneof![Just(512u16), Just(1232), any::<u16>()], any::<bool>())),
        id: u16,
        flags in prop::sample::select(vec![0u16, 0x0100, 0x0110, 0x0130]),
        ttl in 1..200_000u32,
    ) {
        let mut qname = labels.join(".");
        qname.truncate(255 - 2 - in_the_kernel::SUFFIX.len() - 1);
        let qname = format!("{}.{}", qname.trim_end_matches('.'), in_the_kernel::SUFFIX);
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let answer_of = Answer {
            qtype,
            names: names.iter().map(|text| name(text)).collect(),
            soa: (soa && rdata.is_empty() && qtype != RecordType::CNAME)
                .then(|| Box::new((name(names[0]), soa_data(9)))),
            rdata,
            ttl_seconds: 60,
        };
        let mut bytes = query_bytes(id, &qname, qtype, opt);
        bytes[2..4].copy_from_slice(&flags.to_be_bytes());
        let query = Query::parse(&bytes).unwrap();
        let section = Section::new(&answer_of).unwrap();
        let Some(body) = section.body() else {
            let sizes: Vec<usize> = section.rrset.iter().map(ExactSizeIterator::len).collect();
            let doubled = section.len() + sizes.iter().sum::<usize>();
            let uneven = sizes.iter().any(|size| size % 2 != 0 || *size != sizes[0]);
            let fixed = match section.rrset.first() {
                Some(_) => 0..section.chain_end,
                None => 0..section.len(),
            };
            prop_assert!(
                doubled > dns_common::answer::SECTION_LEN
                    || uneven
                    || section.rrset.len() > dns_common::answer::MAX_RECORDS
                    || within(&section.pointers, &fixed).len() > dns_common::answer::MAX_POINTERS,
                "refused without need"
            );
            return Ok(());
        };
        prop_assert_eq!(Section::of_body(&body), Some(section.clone()));
        let rounds = 2 * section.rrset.len().max(1);
        let replies = in_the_kernel::replies(&bytes, qtype.into(), &body, ttl, rounds);
        let opt_len = if opt.is_some() { 11 } else { 0 };
        let whole = 12 + query.question().len() + section.len() + opt_len;
        prop_assert_eq!(
            replies.len(),
            if whole <= limit(&query, Transport::Udp) { rounds } else { 0 },
            "{} bytes where {} are taken", whole, limit(&query, Transport::Udp)
        );
        for (rotation, reply) in replies.iter().enumerate() {
            let expected = answer(&query, &section, ttl, rotation, Transport::Udp);
            let expected = expected.map(|expected| expected.message);
            prop_assert_eq!(Some(reply), expected.as_ref());
        }
    }
}
