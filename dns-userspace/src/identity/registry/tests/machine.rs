//! Pods come, go and change under a registry that is told late and in any order: no interface is ever somebody else's.
//!
//! Indexes, names and addresses are few, so that each is used again all the time. What is read of an interface, the routes, the
//! files of the CNI and what the API reports arrive late; pods take addresses of others, and give up their own.

use std::collections::VecDeque;

use proptest::prelude::*;
use rand::{SeedableRng as _, rngs::SmallRng};

use super::*;

const INDEXES: u32 = 5;
const NAMES: usize = 4;
const ADDRESSES: u8 = 7;

/// What is wrong on purpose.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Fault {
    None,
    /// What was read counts for whatever has the index by now.
    LooksWithoutGeneration,
}

/// A pod and its veth.
#[derive(Clone, Debug)]
struct Instance {
    number: u32,
    key: PodKey,
    index: u32,
    name: String,
    /// Its own.
    address: IpAddr,
    /// What is behind the veth.
    inside: BTreeSet<IpAddr>,
    lives: bool,
    /// What it came with was seen: its containers run.
    runs: bool,
    /// Whether the plugin says MAC addresses.
    says_macs: bool,
    /// The API has it, with its address.
    is_reported: bool,
    /// The API does not have it any more.
    is_forgotten: bool,
}

enum LinkEvent {
    Appeared(usize),
    Vanished(usize),
}

enum ApiEvent {
    Applied(usize),
    Finished(usize),
    Deleted(usize),
}

struct Read {
    ticket: Ticket,
    /// What was there.
    look: Option<(usize, Look)>,
}

struct World {
    random: SmallRng,
    fault: Fault,
    order: Vec<IdentitySource>,
    /// The CNI sets a route to each pod.
    is_routed: bool,
    registry: Registry,
    instances: Vec<Instance>,
    links: VecDeque<LinkEvent>,
    api: VecDeque<ApiEvent>,
    files: Vec<(usize, bool)>,
    reads: Vec<Read>,
    routes: Option<(u64, HashMap<IpAddr, u32>)>,
    /// The instance that each index is, as far as the registry was told.
    believed: BTreeMap<u32, usize>,
    published: BTreeMap<u32, Who>,
    identified: u64,
    /// What happened last.
    log: VecDeque<String>,
}

impl World {
    fn new(seed: u64, order: &[IdentitySource], is_routed: bool, fault: Fault) -> World {
        World {
            random: SmallRng::seed_from_u64(seed),
            fault,
            order: order.to_vec(),
            is_routed,
            registry: Registry::new(order.to_vec()),
            instances: Vec::new(),
            links: VecDeque::new(),
            api: VecDeque::new(),
            files: Vec::new(),
            reads: Vec::new(),
            routes: None,
            believed: BTreeMap::new(),
            published: BTreeMap::new(),
            identified: 0,
            log: VecDeque::new(),
        }
    }

    fn log(&mut self, what: impl FnOnce() -> String) {
        if self.log.len() == 60 {
            self.log.pop_front();
        }
        self.log.push_back(what());
    }

    fn pick<T: Copy>(&mut self, of: &[T]) -> Option<T> {
        if of.is_empty() {
            return None;
        }
        Some(of[self.random.random_range(0..of.len())])
    }

    fn living(&self) -> Vec<usize> {
        (0..self.instances.len())
            .filter(|at| self.instances[*at].lives)
            .collect()
    }

    fn knows_api(&self) -> bool {
        self.order.contains(&IdentitySource::Kubernetes)
    }

    /// Frees what was used for instances that nothing refers to any more.
    fn forget_the_past(&mut self) {
        if self.instances.len() < 4000 {
            return;
        }
        self.drain();
        for at in 0..self.instances.len() {
            if self.instances[at].lives {
                self.end(at);
            }
        }
        self.drain();
        let files: Vec<String> = self.registry.cni_files().map(str::to_owned).collect();
        for file in files {
            self.registry.cni(&file, None);
        }
        let order = self.order.clone();
        self.registry = Registry::new(order);
        self.instances.clear();
        self.believed.clear();
        self.published.clear();
        self.reads.clear();
        self.routes = None;
        assert!(self.links.is_empty() && self.api.is_empty() && self.files.is_empty());
    }

    fn begin(&mut self) {
        let living = self.living();
        let free: Vec<u32> = (1..=INDEXES)
            .filter(|index| living.iter().all(|at| self.instances[*at].index != *index))
            .collect();
        let knows_api = self.knows_api();
        let addresses: Vec<u8> = (1..=ADDRESSES)
            .filter(|last| {
                let address = ip(*last);
                // At once now and then: an IPAM that is wrong, or a sandbox that is not gone yet.
                let is_taken = living
                    .iter()
                    .any(|at| self.instances[*at].address == address);
                // The API alone cannot tell who an address is before it has its pod, and what it has too late is worse.
                let is_late = self
                    .instances
                    .iter()
                    .any(|one| one.address == address && !one.is_reported && knows_api);
                !is_late && (!is_taken || !knows_api)
            })
            .collect();
        let taken: Vec<String> = living
            .iter()
            .map(|at| self.instances[*at].name.clone())
            .collect();
        let says_macs = self.random.random_bool(0.7);
        let pod = self.random.random_range(0..NAMES);
        let number = self.instances.len() as u32;
        // Plugins that say no MAC address name interfaces after pods.
        let (name, key) = if says_macs {
            let name = format!("veth{}", self.random.random_range(0..NAMES));
            (
                name,
                key("tenant", &format!("p{number}"), &format!("u{number}")),
            )
        } else {
            let name = format!("cali{pod}");
            (
                name,
                key("tenant", &format!("s{pod}"), &format!("u{number}")),
            )
        };
        if taken.contains(&name) {
            return;
        }
        let (Some(index), Some(last)) = (self.pick(&free), self.pick(&addresses)) else {
            return;
        };
        let at = self.instances.len();
        self.instances.push(Instance {
            number,
            key,
            index,
            name,
            address: ip(last),
            inside: BTreeSet::from([ip(last)]),
            lives: true,
            runs: false,
            says_macs,
            is_reported: false,
            is_forgotten: false,
        });
        let one = self.instances[at].clone();
        self.log(|| format!("begin {at} {one:?}"));
        self.links.push_back(LinkEvent::Appeared(at));
        self.files.push((at, true));
        self.api.push_back(ApiEvent::Applied(at));
    }

    fn end(&mut self, at: usize) {
        self.instances[at].lives = false;
        self.log(|| format!("end {at}"));
        self.links.push_back(LinkEvent::Vanished(at));
        // After a crash the file stays.
        if self.random.random_bool(0.7) {
            self.files.push((at, false));
        }
        if self.random.random_bool(0.5) {
            self.api.push_back(ApiEvent::Finished(at));
        }
        self.api.push_back(ApiEvent::Deleted(at));
    }

    fn look_of(&self, instance: &Instance) -> Look {
        let inside: Vec<IpAddr> = instance.inside.iter().copied().collect();
        look(&instance.name, instance.number * 2 + 100, &inside)
    }

    fn deliver_link(&mut self) {
        match self.links.pop_front() {
            None => {}
            Some(LinkEvent::Appeared(at)) => {
                self.log(|| format!("link {at}"));
                let (index, name) = (self.instances[at].index, self.instances[at].name.clone());
                self.registry.appeared(index, &name);
                self.believed.insert(index, at);
                self.published.remove(&index);
                self.begin_read(index);
            }
            Some(LinkEvent::Vanished(at)) => {
                self.log(|| format!("link {at} gone"));
                let index = self.instances[at].index;
                self.registry.vanished(index);
                self.believed.remove(&index);
                self.published.remove(&index);
            }
        }
    }

    fn deliver_api(&mut self) {
        let Some(event) = self.api.pop_front() else {
            return;
        };
        let (at, report) = match event {
            ApiEvent::Applied(at) => {
                let one = &mut self.instances[at];
                one.is_reported = true;
                (at, PodReport::Applied(pod(one.key.clone(), &[one.address])))
            }
            ApiEvent::Finished(at) => {
                let one = &self.instances[at];
                let mut pod = pod(one.key.clone(), &[one.address]);
                pod.is_finished = true;
                (at, PodReport::Applied(pod))
            }
            ApiEvent::Deleted(at) => {
                let one = &mut self.instances[at];
                one.is_forgotten = true;
                (at, PodReport::Deleted(one.key.clone()))
            }
        };
        self.log(|| format!("api {at} {report:?}"));
        if self.knows_api() {
            self.registry.pods(report);
        }
    }

    fn deliver_file(&mut self, number: usize) {
        let (at, is_there) = self.files[number];
        // Written before it is removed.
        let first = self.files.iter().position(|(other, _)| *other == at);
        if first != Some(number) {
            return;
        }
        self.files.remove(number);
        let one = &self.instances[at];
        let file = format!("{at}");
        if !self.order.contains(&IdentitySource::Cni) {
            return;
        }
        let number = one.number * 2 + 100;
        let mut result = result(one.key.clone(), &one.name, number, &[one.address]);
        result.written = at_second(at);
        if !one.says_macs {
            result.host = vec![(one.name.clone(), None)];
            result.inside = None;
        }
        self.log(|| format!("file {at} {is_there}"));
        self.registry.cni(&file, is_there.then_some(result));
    }

    fn begin_read(&mut self, index: u32) {
        let Some(ticket) = self.registry.ticket(index) else {
            return;
        };
        let there = self.living();
        let there = there
            .into_iter()
            .find(|at| self.instances[*at].index == index);
        let look = there.map(|at| (at, self.look_of(&self.instances[at])));
        self.reads.push(Read { ticket, look });
    }

    fn finish_read(&mut self, number: usize) {
        let read = self.reads.remove(number);
        let mut ticket = read.ticket;
        if self.fault == Fault::LooksWithoutGeneration {
            match self.registry.ticket(ticket.index) {
                Some(current) => ticket.generation = current.generation,
                None => return,
            }
        }
        let at = read.look.as_ref().map(|(at, _)| *at);
        let look = read.look.map(|(_, look)| look);
        let text = format!("read {} {at:?} {look:?}", ticket.index);
        let is_taken = self.registry.looked(ticket, look);
        self.log(|| format!("{text} {is_taken}"));
        if let Some(at) = at.filter(|_| is_taken && self.believed.get(&ticket.index) == at.as_ref())
        {
            self.instances[at].runs = true;
        }
    }

    fn read_routes(&mut self) {
        if !self.is_routed {
            return;
        }
        let moment = self.registry.moment();
        let mut routes = HashMap::new();
        for at in self.living() {
            let one = &self.instances[at];
            routes.insert(one.address, one.index);
        }
        self.routes = Some((moment, routes));
    }

    fn take_routes(&mut self) {
        if let Some((moment, routes)) = self.routes.take() {
            self.registry.routed(moment, routes);
        }
    }

    /// A pod takes the address of another one that is there, or was, and may give up its own.
    fn attack(&mut self) {
        let running: Vec<usize> = self
            .living()
            .into_iter()
            .filter(|at| self.instances[*at].runs)
            .collect();
        let Some(at) = self.pick(&running) else {
            return;
        };
        let last = self.random.random_range(1..=ADDRESSES);
        let own = self.instances[at].address;
        self.log(|| format!("attack {at} {last}"));
        match self.random.random_range(0..4) {
            0 => {
                self.instances[at].inside.insert(ip(last));
            }
            1 => self.instances[at].inside = BTreeSet::from([ip(last)]),
            2 => self.instances[at].inside = BTreeSet::new(),
            _ => self.instances[at].inside = BTreeSet::from([own]),
        }
    }

    fn step(&mut self) {
        match self.random.random_range(0..100) {
            0..6 => self.begin(),
            6..11 => {
                let living = self.living();
                if let Some(at) = self.pick(&living) {
                    self.end(at);
                }
            }
            11..27 => self.deliver_link(),
            27..45 => self.deliver_api(),
            45..57 => {
                if !self.files.is_empty() {
                    let number = self.random.random_range(0..self.files.len());
                    self.deliver_file(number);
                }
            }
            57..67 => {
                let index = self.random.random_range(1..=INDEXES);
                self.begin_read(index);
            }
            67..85 => {
                if !self.reads.is_empty() {
                    let number = self.random.random_range(0..self.reads.len());
                    self.finish_read(number);
                }
            }
            85..90 => self.attack(),
            90..95 => self.read_routes(),
            _ => self.take_routes(),
        }
        self.verify();
        self.forget_the_past();
    }

    /// Everything arrives, and is read again.
    fn drain(&mut self) {
        while !self.links.is_empty() {
            self.deliver_link();
        }
        while !self.api.is_empty() {
            self.deliver_api();
        }
        while !self.files.is_empty() {
            self.deliver_file(0);
        }
        while !self.reads.is_empty() {
            self.finish_read(0);
        }
        for index in 1..=INDEXES {
            self.begin_read(index);
            while !self.reads.is_empty() {
                self.finish_read(0);
            }
        }
        self.read_routes();
        self.take_routes();
        self.verify();
        self.everybody_is_known();
    }

    /// Where all is said, the CNI's results leave nobody out but those that take addresses and those whose address is
    /// another's too.
    fn everybody_is_known(&self) {
        if !self.order.contains(&IdentitySource::Cni) {
            return;
        }
        let living = self.living();
        for at in &living {
            let one = &self.instances[*at];
            let is_shared = living.iter().any(|other| {
                let other_one = &self.instances[*other];
                other != at && other_one.address == one.address
            });
            if one.inside == BTreeSet::from([one.address]) && !is_shared {
                let who = &self.published[&one.index];
                assert!(
                    who.as_ref().is_ok_and(|who| who.uid == one.key.uid),
                    "{one:?} is {who:?}\n{:#?}",
                    self.log
                );
            }
        }
    }

    fn verify(&mut self) {
        for (index, who) in self.registry.settle(at(1)) {
            self.published.insert(index, who);
        }
        for (index, who) in &self.published {
            let Ok(identity) = who else { continue };
            self.identified += 1;
            let believed = self.believed[index];
            // The index may be a newer one's already, of whose coming the registry is not told yet.
            let ones: Vec<&Instance> = self.instances[believed..]
                .iter()
                .filter(|one| one.index == *index)
                .collect();
            let is_right = ones.iter().any(|one| {
                let uid = if one.says_macs {
                    one.key.uid == identity.uid
                } else {
                    // A result without MAC addresses may be of an earlier pod of this name.
                    one.key.pod == identity.pod
                };
                uid && identity.addresses == [one.address]
            });
            assert!(
                is_right,
                "{index} is {identity:?}, and may be {ones:#?}\n{:#?}\n{:#?}",
                self.registry.links, self.log
            );
        }
    }

    fn run(&mut self, steps: usize) {
        for step in 0..steps {
            self.step();
            if step % 500 == 499 {
                self.drain();
            }
        }
    }
}

fn at_second(number: usize) -> SystemTime {
    at(number as u64)
}

const ORDERS: [&[IdentitySource]; 3] = [CNI, API, BOTH];

/// How often somebody was known in each kind of world.
fn churn(seed: u64, steps: usize, fault: Fault) -> [u64; 6] {
    let mut identified = [0; 6];
    for (kind, count) in identified.iter_mut().enumerate() {
        let mut world = World::new(seed, ORDERS[kind / 2], kind % 2 == 1, fault);
        world.run(steps);
        *count = world.identified;
    }
    identified
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]

    #[test]
    fn no_interface_is_ever_somebody_elses(seed: u64) {
        churn(seed, 1500, Fault::None);
    }
}

/// The long form: a million steps of each order, with and without routes.
#[test]
#[ignore = "takes minutes"]
fn no_interface_is_ever_somebody_elses_in_a_million_steps() {
    let mut steps = 0;
    for seed in 0..100 {
        churn(seed, 10_000, Fault::None);
        steps += 10_000;
    }
    assert_eq!(steps, 1_000_000);
}

#[test]
fn somebody_is_known_in_each_world() {
    let mut sums = [0; 6];
    for seed in 0..4 {
        for (sum, count) in sums.iter_mut().zip(churn(seed, 1500, Fault::None)) {
            *sum += count;
        }
    }
    // Of 6,000 steps, with up to five interfaces each.
    assert!(sums.iter().all(|sum| *sum > 1000), "{sums:?}");
}

#[test]
fn a_generation_that_is_not_compared_is_found() {
    let finds = |seed| {
        let result = std::panic::catch_unwind(|| churn(seed, 2000, Fault::LooksWithoutGeneration));
        let Err(panic) = result else { return false };
        // Somebody is taken for somebody else, not only for nobody.
        let text = panic.downcast_ref::<String>();
        text.is_some_and(|text| text.contains("and may be"))
    };
    assert!((0..200).any(finds));
}
