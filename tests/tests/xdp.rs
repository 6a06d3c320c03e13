//! XDP: the table of packets, the allowed sources, and a wire behind which clients are answered by the responder and by the
//! program, natively and generically. Wants root and Linux 5.18.

#![allow(
    clippy::unwrap_used,
    clippy::disallowed_names,
    reason = "a panic is the report, and foo is the tenant's name"
)]

mod e2e;

use std::{
    io,
    net::{IpAddr, Ipv4Addr, UdpSocket},
    os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd},
    process::Command,
};

use dns_common::verdict::{Reason, Verdict};
use e2e::pods::Pods;
use e2e::{
    Load, Metrics, REPLY, Wire, addresses, ethtool, keep_tags, loads, qualified, sorted, until,
    wire,
};
use gregor::datapath::{Hook, LoadOptions, Protection};
use gregor_tests::{
    lab::{
        Ask, Gregor, Lab, Netns, Pod, skip,
        world::{BROKER, FOO_ADDRESSES, FOREIGN, NODE_LOCAL_V4, NODE_LOCAL_V6},
    },
    packets::{
        build::{internet_checksum, name, opt, question, udp_to},
        engine::{Engine as _, Outcome, Xdp, agree, agree_when_closed},
        loaded::{LOOPBACK, Loaded, compile, options},
        probe,
        table::{ALONE, SEVERAL, broker_query, cases},
    },
    tools,
};
use hickory_proto::{
    op::{Message, ResponseCode},
    rr::RecordType,
};
use nix::{net::if_::if_nametoindex, sys::signal::Signal};

fn xdp() -> LoadOptions {
    LoadOptions {
        hook: Hook::Xdp,
        ..options(compile(SEVERAL))
    }
}

/// Whether this kernel runs the program at all; a test that returns for the lack of it is not counted as passed.
fn has_xdp(test: &str) -> bool {
    let lacks = probe::lacks_for_xdp();
    if let Some(lacks) = &lacks {
        skip(test, lacks);
    }
    lacks.is_none()
}

#[test]
fn the_table() {
    if !has_xdp("the_table") {
        return;
    }
    let cases = cases();
    let ran = agree(&mut Xdp::new(SEVERAL).unwrap(), cases.iter());
    assert_eq!(ran, cases.iter().filter(|c| c.engines.xdp).count());
    assert!(ran > 200, "{ran}");
}

#[test]
fn the_table_with_one_rule() {
    if !has_xdp("the_table_with_one_rule") {
        return;
    }
    let cases = cases();
    let ran = agree(
        &mut Xdp::new(ALONE).unwrap(),
        cases.iter().filter(|case| case.holds_alone()),
    );
    assert!(ran > 180, "{ran}");
}

#[test]
fn the_table_where_targets_are_protected() {
    if !has_xdp("the_table_where_targets_are_protected") {
        return;
    }
    let options = LoadOptions {
        protection: Protection {
            keeps_unread: true,
            requires_tcp: true,
        },
        ..xdp()
    };
    let cases = cases();
    let kept = agree_when_closed(&mut Xdp::with_options(&options).unwrap(), cases.iter());
    assert!(kept > 60, "{kept}");
    // Frames of sources outside `allow_sources` are not dropped.
    let none_allowed = LoadOptions {
        sources: Vec::new(),
        ..options
    };
    let mut program = Xdp::with_options(&none_allowed).unwrap();
    for case in cases.iter().filter(|case| case.engines.xdp) {
        let verdict = program.run(&case.frame).unwrap().verdict();
        assert!(
            matches!(verdict, Verdict::Pass(_)),
            "{}: {verdict:?}",
            case.name
        );
    }
}

/// The cost of every reload; see `programs.rs` for the TC program's.
#[test]
fn verifier_budget() {
    let mut loaded = Loaded::new(&xdp()).unwrap();
    let summary = loaded.datapath.summary().unwrap();
    println!(
        "{} instructions verified, {} bytes of machine code, loaded in {:?}",
        summary.verified_instructions, summary.jited_bytes, summary.load_time
    );
    assert!(summary.verified_instructions > 0);
    assert!(
        summary.verified_instructions < 50_000,
        "{}",
        summary.verified_instructions
    );
}

#[test]
fn only_allowed_sources_are_answered() {
    if !has_xdp("only_allowed_sources_are_answered") {
        return;
    }
    let query = broker_query().build().bytes;
    let source: std::net::IpAddr = <[u8; 4]>::try_from(&query[26..30]).unwrap().into();
    let outcome = |sources: &[&str]| {
        let mut loaded = Loaded::new(&LoadOptions {
            sources: sources.iter().map(|net| net.parse().unwrap()).collect(),
            ..xdp()
        })
        .unwrap();
        loaded.datapath.allow_interface(LOOPBACK).unwrap();
        loaded.test_run(&query).unwrap()
    };
    let alone = format!("{source}/32");
    assert!(matches!(outcome(&[&alone]), Outcome::Taken(_)));
    for refused in [&[][..], &["203.0.113.0/24"], &["fd00::/8"]] {
        assert_eq!(outcome(refused), Outcome::Passed(Reason::Source));
    }
}

fn config(lab: &Lab, pod: &Pod) -> String {
    lab.gregor_config().replace(
        "[intercept]\n",
        &format!(
            "[intercept]\nhook = \"xdp\"\ninterfaces = [\"{}\"]\nallow_sources = [\"{}/32\", \"{}/128\"]\n",
            pod.host_interface, pod.v4, pod.v6
        ),
    )
}

fn mode_of(gregor: &Gregor) -> String {
    let status = gregor.status().unwrap();
    status["interfaces"][0]["mode"]
        .as_str()
        .unwrap_or("none")
        .to_owned()
}

/// Whether `gregor check` finds nothing wrong, and what it says.
fn check(gregor: &Gregor) -> (bool, String) {
    let path = gregor.config_path().display().to_string();
    let output = gregor.command(&["check", "--config", &path]).unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    (output.status.success(), text)
}

/// What `ip` says of an interface: `prog/xdp` or `xdpgeneric` where there is a program.
fn shows_xdp(lab: &Lab, pod: &Pod) -> bool {
    let mut command = Command::new("ip");
    command.args(["link", "show", &pod.host_interface]);
    let output = lab.node().output(command).unwrap();
    String::from_utf8_lossy(&output.stdout).contains("prog/xdp")
}

/// A frame that the pod's end received, its tags in their place again.
fn receive(socket: &OwnedFd) -> Option<Vec<u8>> {
    /// `struct tpacket_auxdata`.
    #[repr(C)]
    #[derive(Clone, Copy)]
    struct Auxiliary {
        status: u32,
        len: u32,
        snaplen: u32,
        mac: u16,
        net: u16,
        vlan_tci: u16,
        vlan_tpid: u16,
    }
    const VLAN_VALID: u32 = 1 << 4;
    let mut frame = vec![0u8; 4096];
    let mut control = [0u64; 16];
    let mut part = libc::iovec {
        iov_base: frame.as_mut_ptr().cast(),
        iov_len: frame.len(),
    };
    // SAFETY: a msghdr of zeroes is one; it points to a frame and a control buffer that outlive the call, with their
    // lengths. The control messages are walked as the macros are meant to be.
    unsafe {
        let mut message: libc::msghdr = std::mem::zeroed();
        message.msg_iov = &raw mut part;
        message.msg_iovlen = 1;
        message.msg_control = control.as_mut_ptr().cast();
        message.msg_controllen = size_of_val(&control);
        let received = libc::recvmsg(socket.as_raw_fd(), &raw mut message, 0);
        frame.truncate(usize::try_from(received).ok()?);
        let mut header = libc::CMSG_FIRSTHDR(&raw const message);
        while !header.is_null() {
            if ((*header).cmsg_level, (*header).cmsg_type)
                == (libc::SOL_PACKET, libc::PACKET_AUXDATA)
            {
                let auxiliary = libc::CMSG_DATA(header).cast::<Auxiliary>().read_unaligned();
                if auxiliary.status & VLAN_VALID != 0 {
                    let tag = [
                        auxiliary.vlan_tpid.to_be_bytes(),
                        auxiliary.vlan_tci.to_be_bytes(),
                    ];
                    frame.splice(12..12, tag.concat());
                }
            }
            header = libc::CMSG_NXTHDR(&raw const message, header);
        }
    }
    Some(frame)
}

/// A packet socket on the calling thread's eth0 that sees every frame with its tag.
fn packet_socket() -> OwnedFd {
    let all = (libc::ETH_P_ALL as u16).to_be();
    let address = libc::sockaddr_ll {
        sll_family: libc::AF_PACKET as u16,
        sll_protocol: all,
        sll_ifindex: if_nametoindex("eth0").unwrap() as i32,
        sll_hatype: 0,
        sll_pkttype: 0,
        sll_halen: 0,
        sll_addr: [0; 8],
    };
    let on = 1i32;
    let patience = libc::timeval {
        tv_sec: 10,
        tv_usec: 0,
    };
    // SAFETY: the descriptor is checked and then owned; the address and the options are passed with their sizes.
    unsafe {
        let fd = libc::socket(
            libc::AF_PACKET,
            libc::SOCK_RAW | libc::SOCK_CLOEXEC,
            i32::from(all),
        );
        assert!(fd >= 0, "AF_PACKET: {}", io::Error::last_os_error());
        let socket = OwnedFd::from_raw_fd(fd);
        let set = |level, option, value: *const libc::c_void, size: usize| {
            libc::setsockopt(fd, level, option, value, size as u32)
        };
        let done = [
            set(
                libc::SOL_PACKET,
                libc::PACKET_AUXDATA,
                (&raw const on).cast(),
                4,
            ),
            set(
                libc::SOL_SOCKET,
                libc::SO_RCVTIMEO,
                (&raw const patience).cast(),
                size_of_val(&patience),
            ),
            libc::bind(
                fd,
                (&raw const address).cast(),
                size_of_val(&address) as u32,
            ),
        ];
        assert_eq!(done, [0; 3], "{}", io::Error::last_os_error());
        socket
    }
}

fn send(socket: &OwnedFd, frame: &[u8]) {
    // SAFETY: the pointer and the length are those of the frame.
    let sent = unsafe { libc::send(socket.as_raw_fd(), frame.as_ptr().cast(), frame.len(), 0) };
    assert_eq!(sent, frame.len() as isize, "{}", io::Error::last_os_error());
}

/// Sends a frame from the pod and returns the one that is its reply: addresses and tags are its own the other way round.
/// Both checksums are verified.
fn ask_raw(pod: &Pod, query: &[u8]) -> Message {
    let query = query.to_vec();
    let reply = pod
        .netns()
        .enter(move || {
            let socket = packet_socket();
            send(&socket, &query);
            loop {
                let frame = receive(&socket).expect("a reply");
                if frame.starts_with(&query[6..12]) && frame[6..12] == query[..6] {
                    let l3 = headers(&query);
                    if frame.get(12..l3) == Some(&query[12..l3])
                        && is_reply(&frame[l3..], &query[l3..])
                    {
                        return frame;
                    }
                }
            }
        })
        .unwrap();
    let ip = &reply[headers(&reply)..];
    let (header, addresses) = match ip[0] >> 4 {
        4 => (20, &ip[12..20]),
        _ => (40, &ip[8..40]),
    };
    if header == 20 {
        assert_eq!(
            internet_checksum(&[&ip[..20]]),
            0,
            "IPv4 checksum: {ip:02x?}"
        );
    }
    let len = usize::from(u16::from_be_bytes([ip[header + 4], ip[header + 5]]));
    let udp = &ip[header..header + len];
    assert_eq!(ip.len(), header + len, "nothing behind it");
    assert_ne!(udp[6..8], [0, 0]);
    let pseudo = [&[0, 17][..], &(len as u16).to_be_bytes()].concat();
    assert_eq!(
        internet_checksum(&[addresses, &pseudo, udp]),
        0,
        "UDP checksum: {ip:02x?}"
    );
    Message::from_vec(&udp[8..]).unwrap()
}

/// Where the IP header starts.
fn headers(frame: &[u8]) -> usize {
    let tags = [12, 16]
        .iter()
        .take_while(|&&at| matches!(frame.get(at..at + 2), Some([0x81, 0] | [0x88, 0xa8])));
    14 + 4 * tags.count()
}

/// From where the query went to, with its ports and its ID.
fn is_reply(reply: &[u8], query: &[u8]) -> bool {
    let (at, len, udp) = match query[0] >> 4 {
        4 => (12, 4, 20),
        _ => (8, 16, 40),
    };
    reply.len() > udp + 10
        && reply[at..at + len] == query[at + len..at + 2 * len]
        && reply[at + len..at + 2 * len] == query[at..at + len]
        && reply[udp..udp + 2] == query[udp + 2..udp + 4]
        && reply[udp + 8..udp + 10] == query[udp + 8..udp + 10]
}

fn mac(netns: &Netns, interface: &str) -> [u8; 6] {
    let path = format!("/sys/class/net/{interface}/address");
    let text = netns.enter(move || {
        // A thread of the namespace has its sysfs.
        std::fs::read_to_string(path).unwrap()
    });
    let mut octets = [0; 6];
    for (octet, text) in octets.iter_mut().zip(text.unwrap().trim().split(':')) {
        *octet = u8::from_str_radix(text, 16).unwrap();
    }
    octets
}

fn answered(gregor: &Gregor) -> f64 {
    Metrics::of(gregor).get(r#"gregor_dns_requests_total{verdict="answered",reason="matched"}"#)
}

fn answers_on_a_wire(mode: &str) {
    let lab = Lab::builder("xdpwire").pod("foo").start().unwrap();
    let foo = lab.pod("foo");
    let _other_end = wire(&lab, foo, mode);
    let gregor = lab
        .start_gregor(&tools::gregor().unwrap(), &config(&lab, foo))
        .unwrap();
    assert_eq!(mode_of(&gregor), mode);
    let (ok, text) = check(&gregor);
    assert!(ok && text.contains(&format!("{mode} XDP:")), "{text}");
    let text = gregor.status_text(&[]).unwrap();
    assert!(
        text.contains(&format!("veth-foo ({}) {mode}", if_index(&lab, foo))),
        "{text}"
    );

    let macs = (
        mac(lab.node(), &foo.host_interface),
        mac(foo.netns(), "eth0"),
    );
    let mut id = 0u16;
    let mut query = |server: IpAddr, tags: &[u16], edns: bool| {
        id += 1;
        let mut message = question(name(&qualified("foo")), 1);
        message.id = id;
        if edns {
            message = message.additional(opt(1232, 0, &[]));
        }
        let mut packet = udp_to(server, message.build());
        (packet.destination_mac, packet.source_mac) = macs;
        packet.source = match server {
            IpAddr::V4(_) => foo.v4.into(),
            IpAddr::V6(_) => foo.v6.into(),
        };
        for tpid in tags {
            packet = packet.tag(*tpid, 7);
        }
        packet.build().bytes
    };
    let right = |reply: &Message| {
        assert_eq!(reply.metadata.response_code, ResponseCode::NoError);
        assert_eq!(addresses(reply), sorted(FOO_ADDRESSES));
    };

    for server in [NODE_LOCAL_V4.into(), NODE_LOCAL_V6.into()] {
        let before = Metrics::of(&gregor);
        for tags in [&[][..], &[0x8100], &[0x88a8, 0x8100]] {
            // Taken or answered by now: another server is another key.
            right(&ask_raw(foo, &query(server, tags, false)));
            for edns in [false, true] {
                until(
                    &format!("the program answers {server} {tags:04x?} {edns}"),
                    || {
                        let before = answered(&gregor);
                        right(&ask_raw(foo, &query(server, tags, edns)));
                        (answered(&gregor) > before).then_some(())
                    },
                );
            }
        }
        let after = Metrics::of(&gregor);
        assert!(after.taken() > before.taken(), "the first by the responder");
    }
    assert_eq!(Metrics::of(&gregor).get("gregor_send_errors_total"), 0.0);
    // An ordinary socket verifies what its interface has not.
    let ask = |server: IpAddr| {
        let mut ask = Ask::new(server, &qualified("foo"), RecordType::A);
        ask.timeout = REPLY;
        foo.ask(ask).unwrap()
    };
    // All of them from the program, once none expires in between: also where the frame cannot grow.
    until("a hundred answers of the program in a row", || {
        let before = Metrics::of(&gregor);
        for _ in 0..50 {
            right(&ask(NODE_LOCAL_V4.into()));
            right(&ask(NODE_LOCAL_V6.into()));
        }
        let after = Metrics::of(&gregor);
        (after.taken() == before.taken()).then_some(())
    });
    assert_eq!(foo.getent(BROKER).unwrap(), sorted(FOO_ADDRESSES));

    // What is not gregor's passes.
    let foreign = foo
        .ask(Ask::new(NODE_LOCAL_V4.into(), FOREIGN, RecordType::A))
        .unwrap();
    assert!(!foreign.answers.is_empty());
    assert!(Metrics::of(&gregor).passed("no_rule") > 0.0);
    gregor.stop();
    until("the program goes with its process", || {
        (!shows_xdp(&lab, foo)).then_some(())
    });
}

fn if_index(lab: &Lab, pod: &Pod) -> u32 {
    let interface = pod.host_interface.clone();
    lab.node()
        .enter(move || if_nametoindex(interface.as_str()).unwrap())
        .unwrap()
}

#[test]
fn a_wire_with_native_xdp() {
    answers_on_a_wire("native");
}

#[test]
fn a_wire_with_generic_xdp() {
    answers_on_a_wire("generic");
}

/// A client outside `allow_sources` is answered by the existing cache, as without gregor.
#[test]
fn other_sources_reach_the_cache() {
    let lab = Lab::builder("xdpsource").pod("foo").start().unwrap();
    let foo = lab.pod("foo");
    let _other_end = wire(&lab, foo, "native");
    let stranger = Ipv4Addr::new(10, 244, 1, 77);
    foo.netns()
        .ip(&format!("addr add {stranger}/24 dev eth0\n"))
        .unwrap();
    let gregor = lab
        .start_gregor(&tools::gregor().unwrap(), &config(&lab, foo))
        .unwrap();
    let ask_from = |source: Ipv4Addr| {
        let (query, _) = Wire::new(&qualified("foo"), RecordType::A).bytes();
        let reply = foo.netns().enter(move || {
            let socket = UdpSocket::bind((source, 0)).unwrap();
            socket.set_read_timeout(Some(REPLY)).unwrap();
            socket.send_to(&query, (NODE_LOCAL_V4, 53)).unwrap();
            let mut buffer = [0; 4096];
            let len = socket.recv(&mut buffer).unwrap();
            buffer[..len].to_vec()
        });
        Message::from_vec(&reply.unwrap()).unwrap()
    };
    let reply = ask_from(stranger);
    assert_eq!(reply.metadata.response_code, ResponseCode::NXDomain);
    assert_eq!(Metrics::of(&gregor).passed("source"), 1.0);
    assert!(
        lab.cache()
            .saw(|asked| asked.client == IpAddr::V4(stranger)),
        "{:?}",
        lab.cache().asked()
    );
    assert_eq!(addresses(&ask_from(foo.v4)), sorted(FOO_ADDRESSES));
}

/// Nobody is known on a wire: with `protect_targets` the names of targets are refused to everybody, and `check` warns.
#[test]
fn protected_targets_are_nobodys() {
    let lab = Lab::builder("xdpprot").pod("foo").start().unwrap();
    let foo = lab.pod("foo");
    let _other_end = wire(&lab, foo, "native");
    let pods = Pods::new(&lab);
    pods.say([(foo, "{}")]);
    let plain = format!("{}{}", config(&lab, foo), pods.config());
    let gregor = lab.start_gregor(&tools::gregor().unwrap(), &plain).unwrap();
    let target = "kafka-upstream.foo.svc.cluster.local";
    let ask = |name: &str| {
        foo.ask(Ask::new(NODE_LOCAL_V4.into(), name, RecordType::A))
            .unwrap()
    };
    assert_eq!(addresses(&ask(target)), sorted(FOO_ADDRESSES));
    let (_, said) = check(&gregor);
    assert!(!said.contains("protect_targets"), "{said}");

    let before = loads(&gregor, "success");
    gregor
        .write_config(&format!("{plain}protect_targets = true\n"))
        .unwrap();
    until("the reload", || {
        (loads(&gregor, "success") > before).then_some(())
    });
    for name in [target, "kafka-upstream.bar.svc.cluster.local"] {
        let reply = ask(name);
        assert_eq!(
            reply.metadata.response_code,
            ResponseCode::Refused,
            "{name}"
        );
        assert!(reply.answers.is_empty(), "{name}");
    }
    // The rule is for everybody, and its look-ups are the node's.
    assert_eq!(addresses(&ask(&qualified("foo"))), sorted(FOO_ADDRESSES));
    let (_, said) = check(&gregor);
    assert!(said.contains("its own too"), "{said}");
}

/// A reload replaces the program in one step, a client under load loses nothing; `detach --all` removes it.
#[test]
fn reload_and_detach() {
    let lab = Lab::builder("xdpreload").pod("foo").start().unwrap();
    let foo = lab.pod("foo");
    let _other_end = wire(&lab, foo, "native");
    let gregor = lab
        .start_gregor(&tools::gregor().unwrap(), &config(&lab, foo))
        .unwrap();
    let load = Load::start(foo, NODE_LOCAL_V4.into(), &[vec![qualified("foo")]]);
    load.wait_for(20);
    let program = |gregor: &Gregor| gregor.status().unwrap()["kernel"]["program"]["id"].as_u64();
    for _ in 0..5 {
        let before = program(&gregor);
        gregor.signal(Signal::SIGHUP);
        until("another program", || {
            (program(&gregor) != before).then_some(())
        });
        assert_eq!(mode_of(&gregor), "native");
        load.wait_for(50);
    }
    assert_eq!(load.finish(), Vec::<String>::new());

    assert!(shows_xdp(&lab, foo));
    let output = gregor.command(&["detach", "--all"]).unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{said}");
    assert!(
        said.contains(&format!("on interface {}", if_index(&lab, foo))),
        "{said}"
    );
    assert!(!shows_xdp(&lab, foo));
    let reply = foo
        .ask(Ask::new(
            NODE_LOCAL_V4.into(),
            &qualified("foo"),
            RecordType::A,
        ))
        .unwrap();
    assert_eq!(
        reply.metadata.response_code,
        ResponseCode::NXDomain,
        "the cache answers"
    );
}

/// The interface is not attached to until its tags stay in its frames; both are logged.
#[test]
fn an_interface_that_strips_vlan_tags_is_refused() {
    let lab = Lab::builder("xdptags").pod("foo").start().unwrap();
    let foo = lab.pod("foo");
    let _other_end = wire(&lab, foo, "native");
    ethtool(lab.node(), "-K veth-foo rxvlan on");
    let gregor = lab
        .spawn_gregor(&tools::gregor().unwrap(), &config(&lab, foo))
        .unwrap();
    let remedy = "ethtool -K veth-foo rxvlan off";
    until("the refusal is logged", || {
        gregor
            .status_text(&[])
            .ok()
            .filter(|text| text.contains(remedy))
    });
    assert_eq!(gregor.get("/readyz").unwrap().0, 503);
    assert!(!shows_xdp(&lab, foo));
    let (ok, text) = check(&gregor);
    assert!(!ok && text.contains(remedy), "{text}");

    ethtool(lab.node(), &keep_tags("veth-foo"));
    until("it is attached", || {
        (mode_of(&gregor) == "native").then_some(())
    });
    let (ok, text) = check(&gregor);
    assert!(ok && text.contains("native XDP"), "{text}");
}
