//! What identifies and what does not, case by case; `machine` looks for what these leave out.

mod machine;

use std::time::Duration;

use super::*;
use crate::identity::facts::Mac;

const CNI: &[IdentitySource] = &[IdentitySource::Cni];
const API: &[IdentitySource] = &[IdentitySource::Kubernetes];
const BOTH: &[IdentitySource] = &[IdentitySource::Cni, IdentitySource::Kubernetes];
const FILE: &[IdentitySource] = &[IdentitySource::File];

pub fn key(namespace: &str, pod: &str, uid: &str) -> PodKey {
    PodKey {
        namespace: namespace.to_owned(),
        pod: pod.to_owned(),
        uid: uid.to_owned(),
    }
}

pub fn ip(last: u8) -> IpAddr {
    IpAddr::from([10, 0, 0, last])
}

pub fn mac(number: u32) -> Mac {
    let [a, b, c, d] = number.to_be_bytes();
    Mac([2, 0, a, b, c, d])
}

pub fn at(seconds: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
}

/// A veth with `host` and `inside` as its addresses, and these behind it.
pub fn look(name: &str, number: u32, addresses: &[IpAddr]) -> Look {
    Look {
        name: name.to_owned(),
        mac: Some(mac(number)),
        peer: Peer::Inside {
            mac: Some(mac(number + 1)),
            addresses: addresses.iter().copied().collect(),
        },
    }
}

/// What the bridge plugin leaves.
pub fn result(pod: PodKey, name: &str, number: u32, addresses: &[IpAddr]) -> CniResult {
    CniResult {
        pod,
        host: vec![
            ("cni0".to_owned(), Some(mac(1))),
            (name.to_owned(), Some(mac(number))),
        ],
        inside: Some(mac(number + 1)),
        addresses: addresses.to_vec(),
        written: at(1),
    }
}

pub fn pod(key: PodKey, addresses: &[IpAddr]) -> Pod {
    Pod {
        key,
        labels: BTreeMap::from([("tier".to_owned(), "gold".to_owned())]),
        addresses: addresses.to_vec(),
        host_network: false,
        is_finished: false,
        is_deleted: false,
    }
}

/// A registry, and what it published last.
struct Lab {
    registry: Registry,
    known: BTreeMap<u32, Who>,
    time: u64,
}

impl Lab {
    fn new(order: &[IdentitySource]) -> Lab {
        Lab {
            registry: Registry::new(order.to_vec()),
            known: BTreeMap::new(),
            time: 100,
        }
    }

    fn veth(&mut self, index: u32, name: &str, number: u32, addresses: &[IpAddr]) {
        self.registry.appeared(index, name);
        self.read(index, name, number, addresses);
    }

    fn read(&mut self, index: u32, name: &str, number: u32, addresses: &[IpAddr]) {
        let ticket = self.registry.ticket(index).unwrap();
        let look = look(name, number, addresses);
        assert!(self.registry.looked(ticket, Some(look)));
    }

    /// Reads everything again, which finds the same.
    fn read_again(&mut self) {
        for index in self.registry.indexes() {
            let ticket = self.registry.ticket(index).unwrap();
            let look = self.registry.links[&index].look.clone();
            assert!(self.registry.looked(ticket, look));
        }
    }

    fn who(&mut self, index: u32) -> Who {
        self.time += 1;
        if self.registry.links[&index].look.is_some() {
            self.read_again();
        }
        self.known.extend(self.registry.settle(at(self.time)));
        self.known[&index].clone()
    }

    /// Name of the pod, or why nobody is known.
    fn name(&mut self, index: u32) -> Result<String, WhyNot> {
        self.who(index).map(|identity| identity.pod.clone())
    }

    fn routes(&mut self, routes: &[(IpAddr, u32)]) {
        let moment = self.registry.moment();
        self.registry
            .routed(moment, routes.iter().copied().collect());
    }
}

fn ok(pod: &str) -> Result<String, WhyNot> {
    Ok(pod.to_owned())
}

#[test]
fn without_sources_nobody_is_known() {
    let mut lab = Lab::new(&[]);
    lab.veth(7, "veth7", 10, &[ip(1)]);
    assert_eq!(lab.name(7), Err(WhyNot::Off));
    lab.registry.select(CNI.to_vec());
    assert_eq!(lab.name(7), Err(WhyNot::Unknown));
}

#[test]
fn a_result_identifies_the_interface_that_it_names_and_the_api_adds_labels() {
    let mut lab = Lab::new(BOTH);
    let a = key("foo", "a", "1");
    lab.registry.appeared(7, "veth7");
    assert_eq!(lab.name(7), Err(WhyNot::Unread));
    lab.read(7, "veth7", 10, &[ip(1)]);
    // The API server may know it.
    assert_eq!(lab.name(7), Err(WhyNot::Unlisted));
    lab.registry.pods(PodReport::Listed(vec![]));
    assert_eq!(lab.name(7), Err(WhyNot::Unknown));
    let addresses = [ip(1), "fd00::1".parse().unwrap()];
    lab.registry
        .cni("a", Some(result(a.clone(), "veth7", 10, &addresses)));
    let found = lab.who(7).unwrap();
    assert_eq!(
        (&*found.namespace, &*found.pod, &*found.uid),
        ("foo", "a", "1")
    );
    assert_eq!(found.addresses, addresses);
    assert_eq!((found.source, &found.labels), (IdentitySource::Cni, &None));

    lab.registry
        .pods(PodReport::Listed(vec![pod(a.clone(), &[])]));
    let labelled = lab.who(7).unwrap();
    assert_eq!(labelled.labels.as_ref().unwrap()["tier"], "gold");
    assert_eq!(labelled.since, found.since);
    // Nothing new, nothing published.
    assert_eq!(lab.registry.settle(at(1)), []);

    lab.registry.pods(PodReport::Deleted(a));
    assert_eq!(lab.name(7), Err(WhyNot::Finished));
}

#[test]
fn mac_addresses_that_do_not_agree_identify_nobody() {
    for (number, expected) in [(10, ok("a")), (11, Err(WhyNot::Disagrees))] {
        let mut lab = Lab::new(CNI);
        lab.veth(7, "veth7", 10, &[ip(1)]);
        let said = result(key("foo", "a", "1"), "veth7", number, &[ip(1)]);
        lab.registry.cni("a", Some(said));
        assert_eq!(lab.name(7), expected);
    }
    // One agrees, the other does not.
    let mut lab = Lab::new(CNI);
    lab.veth(7, "veth7", 10, &[ip(1)]);
    let mut said = result(key("foo", "a", "1"), "veth7", 10, &[ip(1)]);
    said.inside = Some(mac(99));
    lab.registry.cni("a", Some(said.clone()));
    assert_eq!(lab.name(7), Err(WhyNot::Disagrees));
    said.inside = None;
    lab.registry.cni("a", Some(said.clone()));
    assert_eq!(lab.name(7), ok("a"));
    // None is said: an address has to be there.
    said.host[1].1 = None;
    lab.registry.cni("a", Some(said.clone()));
    assert_eq!(lab.name(7), ok("a"));
    said.addresses = vec![ip(2)];
    lab.registry.cni("a", Some(said));
    assert_eq!(lab.name(7), Err(WhyNot::Disagrees));
}

#[test]
fn a_stale_result_bars_everybody_of_another_name() {
    let mut lab = Lab::new(BOTH);
    lab.veth(7, "veth7", 10, &[ip(1)]);
    let stale = result(key("foo", "old", "1"), "veth7", 20, &[ip(1)]);
    lab.registry.cni("old", Some(stale));
    let new = key("bar", "new", "2");
    lab.registry.pods(PodReport::Applied(pod(new, &[ip(1)])));
    assert_eq!(lab.name(7), Err(WhyNot::Disagrees));
    lab.registry.cni("old", None);
    assert_eq!(lab.name(7), ok("new"));
}

#[test]
fn a_foreign_address_disqualifies_its_interface_and_not_the_victims() {
    for order in [CNI, API, BOTH] {
        for routed in [false, true] {
            let mut lab = Lab::new(order);
            let (a, v) = (key("bad", "a", "1"), key("good", "v", "2"));
            lab.veth(1, "veth1", 10, &[ip(1)]);
            lab.veth(2, "veth2", 20, &[ip(2)]);
            if routed {
                lab.routes(&[(ip(1), 1), (ip(2), 2)]);
            }
            if order.contains(&IdentitySource::Cni) {
                let a = result(a.clone(), "veth1", 10, &[ip(1)]);
                lab.registry.cni("a", Some(a));
                let v = result(v.clone(), "veth2", 20, &[ip(2)]);
                lab.registry.cni("v", Some(v));
            }
            let listed = vec![pod(a.clone(), &[ip(1)]), pod(v.clone(), &[ip(2)])];
            lab.registry.pods(PodReport::Listed(listed));
            assert_eq!((lab.name(1), lab.name(2)), (ok("a"), ok("v")));
            for inside in [&[ip(1), ip(2)][..], &[ip(2)]] {
                lab.read(1, "veth1", 10, inside);
                assert_eq!(lab.name(1), Err(WhyNot::ForeignAddress), "{order:?}");
                assert_eq!(lab.name(2), ok("v"), "{order:?}");
            }
            // Behind a veth that the API cannot tell from a pod's.
            lab.veth(3, "veth3", 30, &[ip(2)]);
            assert!(lab.name(3).is_err());
            assert_eq!(lab.name(2), ok("v"), "{order:?}");
            // It takes its own address again.
            lab.read(1, "veth1", 10, &[ip(1)]);
            assert_eq!(lab.name(1), ok("a"));
            // The victim ends, and the API does not know that yet.
            lab.registry.vanished(2);
            lab.registry.cni("v", None);
            lab.read(1, "veth1", 10, &[ip(2)]);
            assert!(lab.name(1).is_err_and(|why| why != WhyNot::Unknown) || order == CNI);
            if let Ok(name) = lab.name(1) {
                assert_eq!(name, "a");
            }
        }
    }
}

#[test]
fn an_address_that_was_added_later_identifies_nobody() {
    let mut lab = Lab::new(API);
    lab.veth(1, "veth1", 10, &[ip(1)]);
    // Before the API knows the pod.
    lab.read(1, "veth1", 10, &[ip(2)]);
    let v = pod(key("good", "v", "2"), &[ip(2)]);
    lab.registry.pods(PodReport::Applied(v));
    assert_eq!(lab.name(1), Err(WhyNot::ForeignAddress));
}

#[test]
fn an_address_that_is_used_again_waits_until_the_api_has_its_pod() {
    let mut lab = Lab::new(API);
    let (v, a) = (key("good", "v", "1"), key("bad", "a", "2"));
    lab.registry
        .pods(PodReport::Applied(pod(v.clone(), &[ip(1)])));
    lab.veth(1, "veth1", 10, &[ip(1)]);
    assert_eq!(lab.name(1), ok("v"));
    lab.registry.vanished(1);
    lab.veth(1, "veth9", 20, &[ip(1)]);
    assert_eq!(lab.name(1), Err(WhyNot::Ambiguous));
    // What is said of the old pod changes nothing.
    lab.registry
        .pods(PodReport::Applied(pod(v.clone(), &[ip(1)])));
    assert_eq!(lab.name(1), Err(WhyNot::Ambiguous));
    lab.registry.pods(PodReport::Applied(pod(a, &[ip(1)])));
    assert_eq!(lab.name(1), Err(WhyNot::Ambiguous));
    lab.registry.pods(PodReport::Deleted(v));
    assert_eq!(lab.name(1), ok("a"));
}

#[test]
fn two_pods_with_one_address() {
    let mut lab = Lab::new(CNI);
    let (a, b) = (key("foo", "a", "1"), key("bar", "b", "2"));
    lab.veth(1, "veth1", 10, &[ip(1)]);
    lab.veth(2, "veth2", 20, &[ip(1)]);
    lab.registry
        .cni("a", Some(result(a.clone(), "veth1", 10, &[ip(1)])));
    assert_eq!(lab.name(1), ok("a"));
    // Nobody, while both have it.
    lab.registry
        .cni("b", Some(result(b, "veth2", 20, &[ip(1)])));
    assert_eq!(lab.name(1), Err(WhyNot::Ambiguous));
    assert_eq!(lab.name(2), Err(WhyNot::Ambiguous));
    // The route says where it lives.
    lab.routes(&[(ip(1), 2)]);
    assert_eq!(lab.name(1), Err(WhyNot::Ambiguous));
    assert_eq!(lab.name(2), ok("b"));
    lab.routes(&[]);
    // The first does not have it any more.
    lab.read(1, "veth1", 10, &[]);
    assert_eq!(lab.name(2), ok("b"));
    lab.read(1, "veth1", 10, &[ip(1)]);
    assert_eq!(lab.name(2), Err(WhyNot::Ambiguous));
    // The first has finished.
    lab.registry.select(BOTH.to_vec());
    let mut finished = pod(a, &[ip(1)]);
    finished.is_finished = true;
    lab.registry.pods(PodReport::Applied(finished));
    assert_eq!(lab.name(1), Err(WhyNot::Finished));
    assert_eq!(lab.name(2), ok("b"));
}

#[test]
fn pods_that_cannot_be_behind_a_veth() {
    for order in [API, BOTH] {
        for (what, why) in [
            (
                (|pod: &mut Pod| pod.is_finished = true) as fn(&mut Pod),
                WhyNot::Finished,
            ),
            (|pod| pod.host_network = true, WhyNot::HostNetwork),
        ] {
            let mut lab = Lab::new(order);
            let a = key("foo", "a", "1");
            lab.veth(1, "veth1", 10, &[ip(1)]);
            if order == BOTH {
                let result = result(a.clone(), "veth1", 10, &[ip(1)]);
                lab.registry.cni("a", Some(result));
            }
            let mut pod = pod(a, &[ip(1)]);
            lab.registry.pods(PodReport::Applied(pod.clone()));
            assert_eq!(lab.name(1), ok("a"));
            what(&mut pod);
            lab.registry.pods(PodReport::Applied(pod));
            assert_eq!(lab.name(1), Err(why));
        }
    }
    // One that is being deleted keeps its interface, and gets no other.
    let mut lab = Lab::new(API);
    let mut pod = pod(key("foo", "a", "1"), &[ip(1)]);
    pod.is_deleted = true;
    lab.veth(1, "veth1", 10, &[ip(1)]);
    lab.registry.pods(PodReport::Applied(pod.clone()));
    assert_eq!(lab.name(1), Err(WhyNot::Finished));
    pod.is_deleted = false;
    lab.registry.pods(PodReport::Applied(pod.clone()));
    assert_eq!(lab.name(1), ok("a"));
    pod.is_deleted = true;
    lab.registry.pods(PodReport::Applied(pod));
    assert_eq!(lab.name(1), ok("a"));
}

#[test]
fn an_index_or_a_name_that_is_used_again_inherits_nothing() {
    let mut lab = Lab::new(CNI);
    let a = result(key("foo", "a", "1"), "veth7", 10, &[ip(1)]);
    lab.veth(7, "veth7", 10, &[ip(1)]);
    lab.registry.cni("a", Some(a));
    assert_eq!(lab.name(7), ok("a"));
    let old = lab.registry.ticket(7).unwrap();
    // The file is left behind.
    lab.registry.vanished(7);
    lab.registry.appeared(7, "veth7");
    assert_eq!(lab.name(7), Err(WhyNot::Unread));
    // What was read of the old one comes late.
    let late = look("veth7", 10, &[ip(1)]);
    assert!(!lab.registry.looked(old, Some(late)));
    assert_eq!(lab.name(7), Err(WhyNot::Unread));
    lab.read(7, "veth7", 30, &[ip(1)]);
    assert_eq!(lab.name(7), Err(WhyNot::Disagrees));
    // Its messages were lost: it is seen to be another one.
    lab.read(7, "veth7", 10, &[ip(1)]);
    assert_eq!(lab.name(7), ok("a"));
    lab.read(7, "veth7", 30, &[ip(1)]);
    assert_eq!(lab.name(7), Err(WhyNot::Disagrees));
}

#[test]
fn routes_that_were_read_before_an_interface_came_say_nothing_of_it() {
    let mut lab = Lab::new(CNI);
    let early = lab.registry.moment();
    for (index, name) in [(1, "a"), (2, "b")] {
        let number = index * 10;
        lab.veth(index, name, number, &[ip(1)]);
        let result = result(key("foo", name, name), name, number, &[ip(1)]);
        lab.registry.cni(name, Some(result));
    }
    let routes = HashMap::from([(ip(1), 2)]);
    lab.registry.routed(early, routes.clone());
    assert_eq!(lab.name(2), Err(WhyNot::Ambiguous));
    let late = lab.registry.moment();
    lab.registry.routed(late, routes);
    assert_eq!(lab.name(2), ok("b"));
}

#[test]
fn an_interface_is_one_pods_for_as_long_as_it_exists() {
    let mut lab = Lab::new(CNI);
    lab.veth(1, "veth1", 10, &[ip(1)]);
    let a = result(key("foo", "a", "1"), "veth1", 10, &[ip(1)]);
    lab.registry.cni("a", Some(a));
    assert_eq!(lab.name(1), ok("a"));
    lab.registry.cni("a", None);
    assert_eq!(lab.name(1), Err(WhyNot::Unknown));
    let b = result(key("bar", "b", "2"), "veth1", 10, &[ip(1)]);
    lab.registry.cni("b", Some(b));
    assert_eq!(lab.name(1), Err(WhyNot::Changed));
    // A source that is trusted more has the last word.
    let mut lab = Lab::new(BOTH);
    lab.veth(1, "veth1", 10, &[ip(1)]);
    let stale = pod(key("foo", "a", "1"), &[ip(1)]);
    lab.registry.pods(PodReport::Applied(stale));
    assert_eq!(lab.name(1), ok("a"));
    let b = result(key("bar", "b", "2"), "veth1", 10, &[ip(1)]);
    lab.registry.cni("b", Some(b));
    assert_eq!(lab.name(1), ok("b"));
}

#[test]
fn results_for_one_interface() {
    let mut lab = Lab::new(CNI);
    lab.veth(1, "veth1", 10, &[ip(1), ip(2)]);
    let one = result(key("foo", "a", "1"), "veth1", 10, &[ip(1)]);
    let mut other = result(key("bar", "b", "2"), "veth1", 10, &[ip(2)]);
    other.written = at(9);
    lab.registry.cni("1", Some(one));
    lab.registry.cni("2", Some(other.clone()));
    assert_eq!(lab.name(1), Err(WhyNot::Ambiguous));
    // The pod that took the place of one of its name.
    other.pod = key("foo", "a", "2");
    lab.registry.cni("2", Some(other));
    assert_eq!(lab.who(1).unwrap().uid, "2");
}

#[test]
fn a_bridge_that_all_results_name_is_nobody() {
    let mut lab = Lab::new(CNI);
    for (file, number) in [("a", 10), ("b", 20)] {
        let result = result(key("foo", file, file), file, number, &[ip(1)]);
        lab.registry.cni(file, Some(result));
    }
    lab.registry.appeared(1, "cni0");
    let ticket = lab.registry.ticket(1).unwrap();
    let bridge = Look {
        name: "cni0".to_owned(),
        mac: Some(mac(1)),
        peer: Peer::None,
    };
    lab.registry.looked(ticket, Some(bridge));
    assert_eq!(lab.name(1), Err(WhyNot::NotPodVeth));
}

#[test]
fn what_cannot_be_read_identifies_nobody_until_it_can() {
    let mut lab = Lab::new(CNI);
    lab.veth(1, "veth1", 10, &[ip(1)]);
    let a = result(key("foo", "a", "1"), "veth1", 10, &[ip(1)]);
    lab.registry.cni("a", Some(a));
    assert_eq!(lab.name(1), ok("a"));
    let ticket = lab.registry.ticket(1).unwrap();
    let unreadable = Look {
        peer: Peer::Unreadable,
        ..look("veth1", 10, &[])
    };
    lab.registry.looked(ticket, Some(unreadable));
    assert_eq!(lab.name(1), Err(WhyNot::Unreadable));
    lab.read(1, "veth1", 10, &[ip(1)]);
    assert_eq!(lab.name(1), ok("a"));
}

#[test]
fn namespaces_are_labels_and_addresses_are_needed() {
    for namespace in ["", "a.b", "A", "-a", &"a".repeat(64)] {
        let mut lab = Lab::new(CNI);
        lab.veth(1, "veth1", 10, &[ip(1)]);
        let result = result(key(namespace, "a", "1"), "veth1", 10, &[ip(1)]);
        lab.registry.cni("a", Some(result));
        assert_eq!(lab.name(1), Err(WhyNot::NotALabel), "{namespace}");
    }
    let mut lab = Lab::new(CNI);
    lab.veth(1, "veth1", 10, &[ip(1)]);
    let result = result(key("foo", "a", "1"), "veth1", 10, &[]);
    lab.registry.cni("a", Some(result));
    assert_eq!(lab.name(1), Err(WhyNot::NoAddress));
}

#[test]
fn a_static_file_names_interfaces_or_addresses() {
    let entry = |pod: &str, interface: Option<&str>, addresses: &[IpAddr]| Entry {
        key: key("foo", pod, ""),
        labels: BTreeMap::from([("a".to_owned(), "b".to_owned())]),
        interface: interface.map(str::to_owned),
        addresses: addresses.to_vec(),
    };
    let mut lab = Lab::new(FILE);
    lab.registry.entries(vec![
        entry("a", Some("veth1"), &[]),
        entry("b", Some("veth2"), &[ip(9)]),
        entry("c", None, &[ip(3)]),
    ]);
    lab.veth(1, "veth1", 10, &[ip(1), "127.0.0.1".parse().unwrap()]);
    lab.veth(2, "veth2", 20, &[ip(2)]);
    lab.veth(3, "veth3", 30, &[ip(3)]);
    let found = lab.who(1).unwrap();
    assert_eq!((&*found.pod, &found.addresses[..]), ("a", &[ip(1)][..]));
    assert_eq!(found.labels.as_ref().unwrap()["a"], "b");
    assert_eq!(lab.who(2).unwrap().addresses, [ip(9)]);
    assert_eq!(lab.who(3).unwrap().addresses, [ip(3)]);
    // Another's address.
    lab.read(1, "veth1", 10, &[ip(1), ip(3)]);
    assert_eq!(lab.name(1), Err(WhyNot::ForeignAddress));
    assert_eq!(lab.name(3), ok("c"));
    lab.read(1, "veth1", 10, &[ip(1)]);
    // The file has the last word.
    lab.registry.entries(vec![
        entry("z", Some("veth1"), &[]),
        entry("c", None, &[ip(3)]),
    ]);
    assert_eq!(lab.name(1), ok("z"));
    assert_eq!(lab.name(2), Err(WhyNot::Unknown));
    assert_eq!(lab.name(3), ok("c"));
}

#[test]
fn only_so_many_addresses_of_the_past_are_remembered() {
    let mut lab = Lab::new(API);
    for number in 0..3 * MAX_HELD as u32 {
        let address = IpAddr::from((number | 0x0a00_0000).to_be_bytes());
        lab.veth(1, "veth1", 10, &[address]);
    }
    assert!(lab.registry.held.len() <= MAX_HELD);
    assert!(lab.registry.held.len() >= MAX_HELD / 2);
}
