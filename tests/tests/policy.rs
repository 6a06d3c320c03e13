//! Policies on the hooks that gregor uses, their own programs on the pod's interface: one that drops replies to questions that
//! it never saw loses none of gregor's answers, and one that denies questions decides first where `order` says so.

#![allow(
    clippy::unwrap_used,
    clippy::disallowed_names,
    reason = "a panic is the report, and foo is the tenant's name"
)]

mod e2e;

use std::{
    net::{IpAddr, Ipv4Addr, UdpSocket},
    process::Command,
    sync::Arc,
    time::Duration,
};

use aya::{
    Ebpf,
    maps::PerCpuArray,
    programs::{
        LinkOrder, SchedClassifier, TcAttachType,
        tc::{NlOptions, TcAttachOptions, TcError, TcHandle, qdisc_add_clsact},
    },
};
use e2e::{
    Metrics, Wire, addresses, exchange_from, exchange_within, qualified, sorted, until,
    until_the_programs_answer,
};
use gregor_tests::{
    lab::{
        CacheKind, ClusterKind, Gregor, Lab, Netns,
        world::{
            BAR_ADDRESSES, CLUSTER_DNS_V4, CLUSTER_DNS_V6, FOREIGN, NODE_LOCAL_V4, NODE_LOCAL_V6,
        },
    },
    tools,
};
use hickory_proto::{op::Message, rr::RecordType};

const TENANT: &str = "bar";
const INTERFACE: &str = "veth-bar";
const SERVERS: [IpAddr; 4] = [
    IpAddr::V4(NODE_LOCAL_V4),
    IpAddr::V6(NODE_LOCAL_V6),
    IpAddr::V4(CLUSTER_DNS_V4),
    IpAddr::V6(CLUSTER_DNS_V6),
];
/// How long a question is waited for that must not be answered; its being dropped is asserted from a counter.
const SILENCE: Duration = Duration::from_millis(500);
/// Between gregor's places on clsact, first and last.
const PRIORITY: u16 = 100;

#[derive(Clone, Copy, Debug, PartialEq)]
enum Hook {
    Tcx,
    Clsact,
}

const HOOKS: [Hook; 2] = [Hook::Tcx, Hook::Clsact];

#[derive(Clone, Copy, Debug, PartialEq)]
enum Order {
    First,
    Last,
}

/// What drops replies.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Dropper {
    /// Those to questions that it did not see on the way in, behind gregor.
    Tracker,
    /// All of them.
    Silencer,
}

/// Programs of `tests/ebpf/src/policy.rs` on the tenant's interface; they are detached when it is dropped.
struct Policy {
    node: Arc<Netns>,
    ebpf: Option<Ebpf>,
}

impl Policy {
    /// Attaches each program; on tcx, `order` says at which end.
    fn put(lab: &Lab, hook: Hook, order: Order, programs: &[(&'static str, TcAttachType)]) -> Self {
        Self::put_at(lab, hook, order, PRIORITY, programs)
    }

    fn put_at(
        lab: &Lab,
        hook: Hook,
        order: Order,
        priority: u16,
        programs: &[(&'static str, TcAttachType)],
    ) -> Self {
        let programs = programs.to_vec();
        let attach = move || {
            let mut ebpf = Ebpf::load(gregor_tests::PROGRAMS).unwrap();
            if hook == Hook::Clsact {
                match qdisc_add_clsact(INTERFACE) {
                    Ok(()) | Err(TcError::AlreadyAttached) => {}
                    Err(TcError::NetlinkError(error))
                        if error.raw_os_error() == Some(libc::EEXIST) => {}
                    Err(error) => panic!("clsact: {error}"),
                }
            }
            for (name, direction) in programs {
                let program: &mut SchedClassifier =
                    ebpf.program_mut(name).unwrap().try_into().unwrap();
                program.load().unwrap();
                let options = match (hook, order) {
                    (Hook::Tcx, Order::First) => TcAttachOptions::TcxOrder(LinkOrder::first()),
                    (Hook::Tcx, Order::Last) => TcAttachOptions::TcxOrder(LinkOrder::last()),
                    (Hook::Clsact, _) => TcAttachOptions::Netlink(NlOptions {
                        priority,
                        handle: TcHandle::default(),
                        classid: None,
                    }),
                };
                program
                    .attach_with_options(INTERFACE, direction, options)
                    .unwrap();
            }
            ebpf
        };
        Self {
            node: lab.node().clone(),
            ebpf: Some(lab.node().enter(attach).unwrap()),
        }
    }

    fn dropper(lab: &Lab, hook: Hook, dropper: Dropper) -> Self {
        let programs: &[_] = match dropper {
            Dropper::Tracker => &[
                ("policy_track", TcAttachType::Ingress),
                ("policy_untracked", TcAttachType::Egress),
            ],
            Dropper::Silencer => &[("policy_silence", TcAttachType::Egress)],
        };
        Self::put(lab, hook, Order::Last, programs)
    }

    fn deny(lab: &Lab, hook: Hook, order: Order) -> Self {
        Self::put(lab, hook, order, &[("policy_deny", TcAttachType::Ingress)])
    }

    /// In front of what is there, and nothing behind it sees a frame. On clsact the newest of one priority comes first.
    fn silence(lab: &Lab, hook: Hook, priority: u16) -> Self {
        let programs = [("policy_end", TcAttachType::Ingress)];
        Self::put_at(lab, hook, Order::First, priority, &programs)
    }

    fn count(&self, counter: &str) -> u64 {
        let map = self.ebpf.as_ref().unwrap().map(counter).unwrap();
        let map = PerCpuArray::<_, u64>::try_from(map).unwrap();
        map.get(&0, 0).unwrap().iter().sum()
    }
}

impl Drop for Policy {
    /// Filters are taken off by the number of the interface, in the namespace of the calling thread.
    fn drop(&mut self) {
        let ebpf = self.ebpf.take();
        let _ = self.node.enter(move || drop(ebpf));
    }
}

fn lab() -> Lab {
    Lab::builder("policy")
        .pod(TENANT)
        .cache(CacheKind::Embedded)
        .cluster(ClusterKind::Embedded)
        .start()
        .unwrap()
}

fn start(lab: &Lab, hook: Hook, order: Order) -> Gregor {
    let hook = match hook {
        Hook::Tcx => "tcx",
        Hook::Clsact => "clsact",
    };
    let order = match order {
        Order::First => "first",
        Order::Last => "last",
    };
    let config = lab.gregor_config().replace(
        "[intercept]\n",
        &format!("[intercept]\nhook = \"{hook}\"\norder = \"{order}\"\n"),
    );
    let gregor = lab
        .start_gregor(&tools::gregor().unwrap(), &config)
        .unwrap();
    let status = gregor.status().unwrap();
    assert_eq!(
        (&status["hook"], &status["order"]),
        (&hook.into(), &order.into())
    );
    gregor
}

/// Each question that gregor answers, once.
fn questions() -> impl Iterator<Item = (IpAddr, RecordType)> {
    SERVERS
        .into_iter()
        .flat_map(|server| [RecordType::A, RecordType::AAAA].map(|qtype| (server, qtype)))
}

/// Asks one of them, one try; the tenant's own addresses are the only answer that will do.
fn answered(lab: &Lab, server: IpAddr, qtype: RecordType, patience: Duration) -> bool {
    let (query, _) = Wire::new(&qualified(TENANT), qtype).bytes();
    let Some(reply) = exchange_within(lab.pod(TENANT), server, &query, patience) else {
        return false;
    };
    let wanted = BAR_ADDRESSES
        .into_iter()
        .filter(|address| address.is_ipv4() == (qtype == RecordType::A));
    let reply = Message::from_vec(&reply).unwrap();
    assert_eq!(
        addresses(&reply),
        sorted(wanted),
        "{qtype}, asking {server}"
    );
    true
}

/// Every question is answered, by the programs in the end, and then every one of several hundred.
fn every_question_is_answered(lab: &Lab, gregor: &Gregor, what: &str) {
    let ask = || {
        for (server, qtype) in questions() {
            let answered = answered(lab, server, qtype, e2e::REPLY);
            assert!(answered, "{what}: {qtype}, asking {server}: no reply");
        }
    };
    until_the_programs_answer(gregor, what, |_| ask());
    let before = Metrics::of(gregor);
    const ROUNDS: usize = 50;
    for _ in 0..ROUNDS {
        ask();
    }
    let after = Metrics::of(gregor);
    let asked = (ROUNDS * questions().count()) as f64;
    assert_eq!(after.intercepted() - before.intercepted(), asked, "{what}");
}

fn foreign() -> Vec<u8> {
    Wire::new(FOREIGN, RecordType::A).bytes().0
}

/// The dropper drops what it is there to drop, and nothing else.
fn drops(lab: &Lab, policy: &Policy, dropper: Dropper, what: &str) {
    let pod = lab.pod(TENANT);
    let dropped = policy.count("DROPPED");
    match dropper {
        Dropper::Tracker => {
            let tracked = policy.count("TRACKED");
            let reply = exchange_from(pod, SERVERS[0], &foreign());
            assert!(reply.is_some(), "{what}: asked for, so let through");
            assert_eq!(policy.count("TRACKED"), tracked + 1, "{what}");
            assert_eq!(policy.count("DROPPED"), dropped, "{what}");
            // An unsolicited datagram from port 53.
            let pod = pod.v4;
            let [a, b, c, _] = pod.octets();
            let send = move || {
                let socket = UdpSocket::bind((Ipv4Addr::new(a, b, c, 1), 53)).unwrap();
                socket.send_to(&[0; 12], (pod, 40_000)).unwrap();
            };
            lab.node().enter(send).unwrap();
        }
        Dropper::Silencer => {
            let reply = exchange_within(pod, SERVERS[0], &foreign(), SILENCE);
            assert_eq!(reply, None, "{what}");
        }
    }
    until(&format!("{what}: dropped"), || {
        (policy.count("DROPPED") == dropped + 1).then_some(())
    });
}

fn nothing_is_lost(gregor_hook: Hook) {
    let lab = lab();
    for policy_hook in HOOKS {
        for dropper in [Dropper::Tracker, Dropper::Silencer] {
            let what = format!("gregor on {gregor_hook:?}, {dropper:?} on {policy_hook:?}");
            let policy = Policy::dropper(&lab, policy_hook, dropper);
            let gregor = start(&lab, gregor_hook, Order::First);
            drops(&lab, &policy, dropper, &what);
            let seen = || (policy.count("TRACKED"), policy.count("DROPPED"));
            let ((tracked, dropped), asked) = (seen(), Metrics::of(&gregor).intercepted());
            every_question_is_answered(&lab, &gregor, &what);
            let asked = Metrics::of(&gregor).intercepted() - asked;
            // No answer has met it; and no question, unless its hook comes before gregor's.
            let sees_first = (gregor_hook, policy_hook) == (Hook::Clsact, Hook::Tcx);
            let tracks = sees_first && dropper == Dropper::Tracker;
            let tracked = tracked + if tracks { asked as u64 } else { 0 };
            assert_eq!(seen(), (tracked, dropped), "{what}");
            assert_eq!(Metrics::of(&gregor).get("gregor_send_errors_total"), 0.0);
            gregor.stop();
        }
    }
}

#[test]
fn a_dropper_of_replies_loses_no_answer_of_gregor_on_tcx() {
    nothing_is_lost(Hook::Tcx);
}

#[test]
fn a_dropper_of_replies_loses_no_answer_of_gregor_on_clsact() {
    nothing_is_lost(Hook::Clsact);
}

/// A policy agent may start after gregor. Its programs are noticed soon, and from then on nothing is lost.
#[test]
fn a_dropper_attached_later_is_noticed() {
    for hook in HOOKS {
        let lab = lab();
        let gregor = start(&lab, hook, Order::First);
        every_question_is_answered(&lab, &gregor, "before the dropper");
        let policy = Policy::dropper(&lab, hook, Dropper::Silencer);
        let what = format!("a dropper that came later on {hook:?}");
        until(&what, || {
            let mut questions = questions();
            let all = questions.all(|(server, qtype)| answered(&lab, server, qtype, SILENCE));
            all.then_some(())
        });
        drops(&lab, &policy, Dropper::Silencer, &what);
        let dropped = policy.count("DROPPED");
        every_question_is_answered(&lab, &gregor, &what);
        assert_eq!(policy.count("DROPPED"), dropped, "{what}");
        // And without it as before.
        drop(policy);
        every_question_is_answered(&lab, &gregor, "after the dropper");
    }
}

/// No question reaches gregor; each is dropped before it.
fn all_are_denied(lab: &Lab, gregor: &Gregor, policy: &Policy, what: &str) {
    let before = Metrics::of(gregor);
    let denied = policy.count("DENIED");
    for (server, qtype) in questions() {
        let answered = answered(lab, server, qtype, SILENCE);
        assert!(!answered, "{what}: {qtype}, asking {server}: answered");
    }
    let asked = questions().count() as u64;
    assert_eq!(policy.count("DENIED") - denied, asked, "{what}");
    let after = Metrics::of(gregor);
    let of_requests = |metrics: &Metrics| -> Vec<(String, f64)> {
        let requests = metrics.0.iter();
        let requests = requests.filter(|(series, _)| series.contains("dns_requests_total"));
        requests.map(|(series, n)| (series.clone(), *n)).collect()
    };
    assert_eq!(of_requests(&before), of_requests(&after), "{what}");
}

/// Which of two programs sees a question first: on one hook `order` decides, and tcx comes before clsact in any case.
#[test]
fn order_decides_whether_a_deny_program_sees_a_question_first() {
    let lab = lab();
    for gregor_hook in HOOKS {
        for policy_hook in HOOKS {
            for order in [Order::First, Order::Last] {
                let what = format!(
                    "gregor {order:?} on {gregor_hook:?}, a deny program on {policy_hook:?}"
                );
                let policy = Policy::deny(&lab, policy_hook, Order::Last);
                let gregor = start(&lab, gregor_hook, order);
                let gregor_is_first = match (gregor_hook, policy_hook) {
                    (Hook::Tcx, Hook::Clsact) => true,
                    (Hook::Clsact, Hook::Tcx) => false,
                    _ => order == Order::First,
                };
                if gregor_is_first {
                    every_question_is_answered(&lab, &gregor, &what);
                    assert_eq!(policy.count("DENIED"), 0, "{what}");
                } else {
                    all_are_denied(&lab, &gregor, &policy, &what);
                }
                // The policy decides about what gregor passes, whatever the order.
                let denied = policy.count("DENIED");
                let reply = exchange_within(lab.pod(TENANT), SERVERS[0], &foreign(), SILENCE);
                assert_eq!(reply, None, "{what}");
                assert_eq!(policy.count("DENIED"), denied + 1, "{what}");
                drop(policy);
                every_question_is_answered(&lab, &gregor, &what);
                gregor.stop();
            }
        }
    }
}

/// A policy in front of the programs applies to cached answers, too.
#[test]
fn a_deny_program_attached_later_in_front_denies_cached_names_too() {
    let lab = lab();
    for hook in HOOKS {
        let gregor = start(&lab, hook, Order::Last);
        every_question_is_answered(&lab, &gregor, "before the policy");
        let policy = Policy::deny(&lab, hook, Order::First);
        all_are_denied(&lab, &gregor, &policy, &format!("{hook:?}"));
        drop(policy);
        every_question_is_answered(&lab, &gregor, "after the policy");
        gregor.stop();
    }
}

/// The programs in front of gregor's by `gregor status`, and how often it has moved.
fn in_front(gregor: &Gregor) -> (Vec<(String, String)>, u64) {
    let status = gregor.status().unwrap();
    let interfaces = status["interfaces"].as_array().unwrap();
    let interface = interfaces.iter().find(|one| one["name"] == INTERFACE);
    let text = |value: &serde_json::Value| value.as_str().unwrap().to_owned();
    let found = interface.unwrap()["in_front"].as_array().unwrap().iter();
    let found = found.map(|one| (text(&one["hook"]), text(&one["program"])));
    (found.collect(), status["kernel"]["moved"].as_u64().unwrap())
}

fn hook_name(hook: Hook) -> &'static str {
    match hook {
        Hook::Tcx => "tcx",
        Hook::Clsact => "clsact",
    }
}

/// What the daemon calls the one program in front: on tcx it has an id only, since it keeps no capability to look at others'
/// programs.
fn silencer(hook: Hook, found: &(Vec<(String, String)>, u64)) -> Option<String> {
    let ([(place, name)], 0) = (found.0.as_slice(), found.1) else {
        return None;
    };
    let is_id = |name: &str| {
        let id = name.strip_prefix("program ");
        id.is_some_and(|id| id.parse::<u32>().is_ok())
    };
    let is_it = match hook {
        Hook::Tcx => is_id(name),
        Hook::Clsact => name == "policy_end",
    };
    (place == hook_name(hook) && is_it).then(|| name.clone())
}

/// What `gregor check` says of the tenant's interface, and whether all is well.
fn checked(gregor: &Gregor) -> (String, String, bool) {
    let config = gregor.config_path().to_str().unwrap();
    let output = gregor.command(&["check", "--json", "--config", config]);
    let report: serde_json::Value = serde_json::from_slice(&output.unwrap().stdout).unwrap();
    let findings = report["findings"].as_array().unwrap();
    let what = format!("interface {INTERFACE}");
    let finding = findings.iter().find(|one| one["what"] == what).unwrap();
    let text = |key: &str| finding[key].as_str().unwrap().to_owned();
    (text("level"), text("detail"), report["ok"] == true)
}

/// The program is on its hook and is not reached: that is reported, and ends with the other agent's program.
fn a_program_in_front_is_reported(hook: Hook, order: Order, priority: u16) {
    let lab = lab();
    let gregor = start(&lab, hook, order);
    let what = format!("a silencer in front on {hook:?}, {order:?}");
    every_question_is_answered(&lab, &gregor, &what);
    assert_eq!(in_front(&gregor), (Vec::new(), 0), "{what}");
    let policy = Policy::silence(&lab, hook, priority);
    let called = until(&what, || silencer(hook, &in_front(&gregor)));
    let before = Metrics::of(&gregor);
    let (query, _) = Wire::new(&qualified(TENANT), RecordType::A).bytes();
    let reply = exchange_from(lab.pod(TENANT), SERVERS[0], &query).unwrap();
    assert!(addresses(&Message::from_vec(&reply).unwrap()).is_empty());
    let metrics = Metrics::of(&gregor);
    assert_eq!(metrics.intercepted(), before.intercepted(), "{what}");
    let hook_name = hook_name(hook);
    let series = format!("gregor_programs_in_front{{hook=\"{hook_name}\"}}");
    assert_eq!(metrics.get(&series), 1.0, "{what}");
    let text = gregor.status_text(&[]).unwrap();
    let line = format!("IN FRONT OF GREGOR: {called} ({hook_name})");
    assert!(text.contains(&line), "{text}");
    let (level, detail, is_well) = checked(&gregor);
    let part = format!("in front of gregor: policy_end ({hook_name})");
    assert!(detail.contains(&part), "{detail}");
    match order {
        Order::First => assert_eq!((&*level, is_well), ("error", false), "{what}"),
        Order::Last => assert_eq!(level, "warning", "{what}"),
    }
    drop(policy);
    until("nothing is in front", || {
        (in_front(&gregor) == (Vec::new(), 0)).then_some(())
    });
    every_question_is_answered(&lab, &gregor, &what);
    // Once for each change, however often it looked.
    let log = gregor.log();
    assert_eq!(log.matches("in front of gregor's program").count(), 1);
    assert_eq!(log.matches("no program is in front").count(), 1);
    gregor.stop();
}

#[test]
fn a_program_in_front_on_tcx_is_reported() {
    a_program_in_front_is_reported(Hook::Tcx, Order::First, PRIORITY);
}

#[test]
fn a_filter_in_front_is_reported_with_order_last() {
    a_program_in_front_is_reported(Hook::Clsact, Order::Last, u16::MAX);
}

/// The kernel puts the newest filter of one priority first: an agent that attaches later is in front without intent.
#[test]
fn gregor_moves_in_front_of_a_filter_attached_later() {
    let lab = lab();
    let gregor = start(&lab, Hook::Clsact, Order::First);
    let filters = || {
        let mut command = Command::new("tc");
        command.args(["filter", "show", "dev", INTERFACE, "ingress"]);
        let output = lab.node().output(command).unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        let name = |line: &str| Some(line.split_once(" handle ")?.1.split(' ').nth(1)?.to_owned());
        text.lines().filter_map(name).collect::<Vec<_>>()
    };
    every_question_is_answered(&lab, &gregor, "before the filter");
    let policy = Policy::silence(&lab, Hook::Clsact, 1);
    until("it moves in front", || {
        (in_front(&gregor) == (Vec::new(), 1)).then_some(())
    });
    assert_eq!(filters(), ["gregor", "policy_end"]);
    every_question_is_answered(&lab, &gregor, "in front again");
    assert_eq!(Metrics::of(&gregor).get("gregor_programs_moved_total"), 1.0);
    let (level, detail, _) = checked(&gregor);
    assert_eq!(level, "warning", "{detail}");
    assert!(detail.contains("gregor is on it, with policy_end"));

    // A killed process leaves it there, and the next one takes it over.
    gregor.signal(nix::sys::signal::Signal::SIGKILL);
    until("it ends", || gregor.process().exited());
    assert_eq!(filters(), ["gregor", "policy_end"]);
    let gregor = start(&lab, Hook::Clsact, Order::First);
    assert_eq!(filters(), ["gregor", "policy_end"]);
    every_question_is_answered(&lab, &gregor, "taken over");
    // Again, and back to the first handle.
    drop(policy);
    let _policy = Policy::silence(&lab, Hook::Clsact, 1);
    until("it moves in front", || {
        (in_front(&gregor) == (Vec::new(), 1)).then_some(())
    });
    assert_eq!(filters(), ["gregor", "policy_end"]);
    every_question_is_answered(&lab, &gregor, "in front once more");
    gregor.stop();
    assert_eq!(filters(), ["policy_end"]);
}

/// A drop of everything that the tenant's pod asks, in netfilter; returns how to read how often it has dropped.
fn deny_in_netfilter(lab: &Lab) -> impl Fn() -> u64 {
    let node = lab.node().clone();
    let nft = move |arguments: &str| {
        let mut command = Command::new(tools::nft().unwrap());
        command.args(arguments.split(' '));
        let output = node.output(command).unwrap();
        assert!(output.status.success(), "{arguments}: {output:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    nft("add table inet pods");
    nft("add chain inet pods in { type filter hook prerouting priority -300 ; }");
    nft(&format!(
        "add rule inet pods in iifname {INTERFACE} udp dport 53 counter drop"
    ));
    move || {
        let listed = nft("list chain inet pods in");
        let (_, counted) = listed.split_once("counter packets ").unwrap();
        counted.split(' ').next().unwrap().parse().unwrap()
    }
}

/// Netfilter comes after the hooks on the interface: it denies what gregor leaves, and does not see what gregor takes.
#[test]
fn netfilter_sees_no_question_that_gregor_takes() {
    let lab = lab();
    let denied = deny_in_netfilter(&lab);
    for hook in HOOKS {
        let gregor = start(&lab, hook, Order::Last);
        let before = denied();
        let reply = exchange_within(lab.pod(TENANT), SERVERS[0], &foreign(), SILENCE);
        assert_eq!((reply, denied()), (None, before + 1), "{hook:?}");
        every_question_is_answered(&lab, &gregor, &format!("{hook:?}"));
        assert_eq!(denied(), before + 1, "{hook:?}");
        gregor.stop();
    }
}
