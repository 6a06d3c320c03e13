//! One daemon per control socket.

#![allow(
    clippy::unwrap_used,
    clippy::disallowed_names,
    reason = "a panic is the report, and foo is the tenant's name"
)]

mod e2e;

use std::{
    net::{IpAddr, UdpSocket},
    process::Command,
    sync::mpsc,
    thread,
};

use e2e::{
    PATIENCE, REPLY, Wire, addresses, exchange, programs_on, qualified, sorted, until,
};
use gregor_tests::{
    lab::{
        Gregor, Lab, Pod,
        world::{BROKER, FOO_ADDRESSES, NODE_LOCAL_V4},
    },
    tools,
};
use hickory_proto::{
    op::{Message, MessageType},
    rr::{RData, Record, RecordType, rdata::A},
};
use nix::sys::signal::Signal;

const CACHE: IpAddr = IpAddr::V4(NODE_LOCAL_V4);

fn served(pod: &Pod) {
    assert_eq!(pod.getent(BROKER).unwrap(), sorted(FOO_ADDRESSES));
}

fn rules(gregor: &Gregor) -> usize {
    gregor.status().unwrap()["rules"].as_array().unwrap().len()
}

/// The first daemon is told to end and waits for a look-up, so its socket is not served any more. The second one must not
/// begin beside it, and must find its own socket in place once it may.
#[test]
fn a_second_daemon_is_refused_while_the_first_one_ends() {
    let lab = Lab::builder("e2esecond").pod("foo").start().unwrap();
    let upstream = lab
        .node()
        .enter(|| UdpSocket::bind("127.0.0.1:5300").unwrap())
        .unwrap();
    let (asked, was_asked) = mpsc::channel();
    let (release, released) = mpsc::channel::<()>();
    thread::spawn(move || {
        let mut buffer = [0; 4096];
        while let Ok((length, client)) = upstream.recv_from(&mut buffer) {
            let query = Message::from_vec(&buffer[..length]).unwrap();
            let _ = asked.send(());
            if released.recv().is_err() {
                return;
            }
            let mut reply = query.clone();
            reply.metadata.message_type = MessageType::Response;
            let address = RData::A(A([192, 0, 2, 99].into()));
            let name = query.queries[0].name().clone();
            reply.answers = vec![Record::from_rdata(name, 60, address)];
            let _ = upstream.send_to(&reply.to_vec().unwrap(), client);
        }
    });
    let config = format!(
        "{}\n[upstream]\nserver = \"127.0.0.1:5300\"\ntimeout = \"30s\"\n",
        lab.gregor_config()
    );
    let binary = tools::gregor().unwrap();
    let first = lab.start_gregor(&binary, &config).unwrap();
    let (query, _) = Wire::new(&qualified("foo"), RecordType::A).bytes();
    let waiting = lab
        .pod("foo")
        .netns()
        .enter_detached(move || exchange(CACHE, &query, REPLY))
        .unwrap();
    was_asked.recv_timeout(PATIENCE).unwrap();
    first.signal(Signal::SIGTERM);
    until("the programs are gone", || {
        programs_on(&lab, "veth-foo").is_empty().then_some(())
    });

    // One that does start would run on.
    let mut second = Command::new("timeout");
    let control = first.control_path().to_owned();
    second
        .arg("20")
        .arg(&binary)
        .arg("run")
        .arg("--config")
        .arg(first.config_path());
    second.arg("--control").arg(&control);
    let output = lab.node().output(second).unwrap();
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let holder = format!("another gregor (pid {})", first.process().pid());
    assert!(text.contains(&holder), "{text}");
    assert!(programs_on(&lab, "veth-foo").is_empty());

    release.send(()).unwrap();
    let reply = waiting.join().unwrap().unwrap();
    let reply = Message::from_vec(&reply).unwrap();
    assert_eq!(addresses(&reply), [IpAddr::from([192, 0, 2, 99])]);
    let ended = until("the first one ends", || first.process().exited());
    assert_eq!(ended.code(), Some(0), "{}", first.log());
    assert!(!control.exists());

    // The lock is left behind; it is no obstacle.
    let next = lab.start_gregor(&binary, &lab.gregor_config()).unwrap();
    served(lab.pod("foo"));
    assert!(control.exists());
    assert_eq!(rules(&next), 1);
}
