//! Both parsers read the same, and refuse what is not a message.

use super::{both, hickory, miekg};

/// `a.b` CNAME `c.b`, whose A is 192.0.2.1; OPT with DO and a cookie.
fn reply() -> Vec<u8> {
    let mut message = vec![0x12, 0x34, 0x81, 0x80, 0, 1, 0, 2, 0, 0, 0, 1];
    message.extend(b"\x01A\x01b\0\0\x01\0\x01");
    message.extend(b"\xc0\x0c\0\x05\0\x01\0\0\0\x1e\0\x04\x01c\xc0\x0e");
    message.extend(b"\xc0\x21\0\x01\0\x01\0\0\0\x1e\0\x04\xc0\0\x02\x01");
    message.extend(b"\0\0\x29\x04\xd0\0\0\x80\0\0\x0c\0\x0a\0\x08\x01\x02\x03\x04\x05\x06\x07\x08");
    message
}

#[test]
fn both_read_a_reply() {
    let [reading] = &both(&[reply()]).unwrap()[..] else {
        panic!("one message, one reading");
    };
    assert_eq!(reading.id, 0x1234);
    assert!(reading.qr && reading.rd && reading.ra && !reading.aa && !reading.tc && !reading.ad);
    // The case of the question, and names without pointers.
    assert_eq!(reading.question[0].name, "0141016200");
    let [cname, address] = &reading.answer[..] else {
        panic!("{reading:#?}");
    };
    assert_eq!((cname.name.as_str(), cname.rtype), ("0141016200", 5));
    assert_eq!(cname.data, "0163016200");
    assert_eq!((address.name.as_str(), address.ttl), ("0163016200", 30));
    assert_eq!(address.data, "c0000201");
    let opt = reading.opt.as_ref().unwrap();
    assert_eq!(
        (opt.size, opt.version, opt.dnssec_ok, opt.z),
        (1232, 0, true, 0)
    );
    assert_eq!(opt.options[0].code, 10);
    assert_eq!(opt.options[0].data, "0102030405060708");
}

#[test]
fn both_parsers_refuse_malformed_messages() {
    let good = reply();
    let changed = |at: usize, value: u8| {
        let mut message = good.clone();
        message[at] = value;
        message
    };
    let mut longer = good.clone();
    longer.push(0);
    let mut two_opts = good.clone();
    two_opts[11] = 2;
    two_opts.extend(b"\0\0\x29\x04\xd0\0\0\0\0\0\0");
    let bad = [
        ("a byte behind the last record", longer),
        ("a record that is announced and not there", changed(7, 3)),
        ("a record that is not announced", changed(7, 1)),
        ("half a record", good[..good.len() - 1].to_vec()),
        ("a pointer to itself", changed(22, 0x15)),
        ("a pointer past the end", changed(22, 0xff)),
        ("an address of three bytes", changed(48, 3)),
        ("two OPTs", two_opts),
    ];
    let messages: Vec<&Vec<u8>> = bad.iter().map(|(_, message)| message).collect();
    for ((what, message), second) in bad.iter().zip(miekg(&messages).unwrap()) {
        assert!(second.is_err(), "miekg/dns reads {what}: {second:?}");
        assert!(hickory(message).is_err(), "hickory reads {what}");
    }
}

#[test]
fn thousands_of_messages_take_one_process() {
    let mut messages = vec![reply(); 20_000];
    for (id, message) in messages.iter_mut().enumerate() {
        message[..2].copy_from_slice(&(id as u16).to_be_bytes());
    }
    let readings = both(&messages).unwrap();
    for (id, reading) in readings.iter().enumerate() {
        assert_eq!(usize::from(reading.id), id);
    }
}
