//! The sk_lookup program of a [`Datapath`](super::Datapath): its maps, its link to the network namespace, its successor.

use std::{
    collections::{HashMap, HashSet},
    fs::File,
    io,
    net::IpAddr,
    os::fd::AsFd as _,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use aya::{
    Ebpf,
    maps::{Array, HashMap as BpfHashMap, MapData, MapError, SockMap},
    programs::Program,
};
use dns_common::abi::{mapped, maps, own, steer};

use super::{
    DatapathError, Refused,
    heartbeat::monotonic_ns,
    link::{BpfLink, Place},
    object::{take, verify},
    pins::{pin_link, unpin},
    stage::Stage,
};
use crate::model::{Listeners, SteerMode, SteeredClients};

/// Name of the program in the kernel's listings.
pub(super) const PROGRAM: &str = "gregor_tcp";

/// The clients of one loaded program: those that have received TC=1, and those that are the node itself.
#[derive(Clone, Debug)]
pub struct Steered(Arc<Mutex<Clients>>);

#[derive(Debug)]
struct Clients {
    truncated: BpfHashMap<MapData, [u64; 2], u64>,
    own: BpfHashMap<MapData, [u64; 2], u8>,
}

impl Steered {
    /// From now on, and for this long, TCP connections of `client` are steered.
    pub fn insert(&self, client: IpAddr, valid: Duration) -> Result<(), MapError> {
        let until = monotonic_ns().saturating_add(valid.as_nanos() as u64);
        self.lock().truncated.insert(key(client), until, 0)
    }

    /// The addresses of the node, whose connections are never steered, and the servers of which all others' are.
    pub fn set_own(
        &self,
        addresses: &HashSet<IpAddr>,
        steered: &HashSet<IpAddr>,
    ) -> Result<(), MapError> {
        let of = |addresses: &HashSet<IpAddr>, value| -> Vec<_> {
            let keys = addresses.iter().copied().map(key);
            keys.map(|key| (key, value)).collect()
        };
        let mut wanted: HashMap<[u64; 2], u8> = HashMap::new();
        wanted.extend(of(addresses, own::ADDRESS));
        wanted.extend(of(steered, own::STEERED));
        let mut clients = self.lock();
        let present: HashMap<[u64; 2], u8> = clients.own.iter().filter_map(Result::ok).collect();
        for gone in present.keys().filter(|key| !wanted.contains_key(*key)) {
            clients.own.remove(gone)?;
        }
        for (key, value) in &wanted {
            if present.get(key) != Some(value) {
                clients.own.insert(key, value, 0)?;
            }
        }
        Ok(())
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Clients> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl SteeredClients for Steered {
    fn insert(&self, client: IpAddr, valid: Duration) -> io::Result<()> {
        Steered::insert(self, client, valid).map_err(io::Error::other)
    }

    fn set_own(&self, addresses: &HashSet<IpAddr>, steered: &HashSet<IpAddr>) -> io::Result<()> {
        Steered::set_own(self, addresses, steered).map_err(io::Error::other)
    }
}

/// What the kernel says of the sk_lookup program.
#[derive(Clone, Copy, Debug)]
pub struct SteeringSummary {
    pub id: u32,
    pub name: &'static str,
    /// Instructions that the verifier walked; 0 where the kernel does not say, before Linux 5.16.
    pub verified_instructions: u32,
    /// How long the kernel took to load it.
    pub verify_time: Duration,
}

/// The maps of sk_lookup programs, which outlive each of them.
pub(super) struct SteeringMaps {
    to: Mutex<To>,
    steered: Steered,
}

/// What is steered, and where.
struct To {
    mode: Array<MapData, u32>,
    listeners: SockMap<MapData>,
}

impl SteeringMaps {
    /// Takes the maps; `None` where the object has none.
    pub fn open(ebpf: &mut Ebpf) -> Result<Option<Self>, DatapathError> {
        if ebpf.map(maps::STEERING).is_none() {
            return Ok(None);
        }
        Ok(Some(Self {
            to: Mutex::new(To {
                mode: take(ebpf, maps::STEERING)?,
                listeners: take(ebpf, maps::LISTENERS)?,
            }),
            steered: Steered(Arc::new(Mutex::new(Clients {
                truncated: take(ebpf, maps::STEERED)?,
                own: take(ebpf, maps::OWN)?,
            }))),
        }))
    }

    fn set(&self, mode: SteerMode, listeners: Option<&Listeners>) -> Result<(), DatapathError> {
        let failed = |name| move |error| DatapathError::Map { name, error };
        let mut to = self.to.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(listeners) = listeners {
            to.listeners
                .set(steer::LISTENER_V4, &listeners.v4, 0)
                .map_err(failed(maps::LISTENERS))?;
            if let Some(v6) = &listeners.v6 {
                to.listeners
                    .set(steer::LISTENER_V6, v6, 0)
                    .map_err(failed(maps::LISTENERS))?;
            }
        }
        let value = match mode {
            SteerMode::Never => steer::NEVER,
            SteerMode::AfterTruncation => steer::AFTER_TRUNCATION,
            SteerMode::Always => steer::ALWAYS,
            SteerMode::Required => steer::REQUIRED,
        };
        to.mode.set(0, value, 0).map_err(failed(maps::STEERING))
    }
}

/// What the link is pinned as.
pub(super) const PIN: &str = "tcp";

/// A link, and where it is pinned.
struct Held {
    link: BpfLink,
    pin: Option<PathBuf>,
}

impl Held {
    fn detach(self) {
        // At once, and not only when the last copy of the descriptor is closed.
        let _ = self.link.detach();
        if let Some(pin) = self.pin {
            unpin(&pin);
        }
    }
}

pub(super) struct Steering {
    // Before everything else, so that it is dropped first.
    link: Option<Held>,
    /// How long the kernel took for the program, or why it refuses it.
    program: Result<Duration, Refused>,
    wanted: SteerMode,
    listeners: Option<Listeners>,
    maps: Arc<SteeringMaps>,
    /// The link runs this program.
    is_attached: bool,
}

/// Loads the program; it must happen before any map is taken, see [`super::Datapath::load`]. `None` when the object has none.
/// A gregor whose program the kernel refuses does without: TCP then reaches the existing cache.
pub(super) fn load_program(
    ebpf: &mut Ebpf,
    stage: &dyn Fn(Stage),
) -> Result<Option<Result<Duration, Refused>>, DatapathError> {
    let Some(program) = ebpf.program_mut(PROGRAM) else {
        return Ok(None);
    };
    stage(Stage::Program(PROGRAM));
    match verify(PROGRAM, program) {
        Ok(took) => Ok(Some(Ok(took))),
        Err(DatapathError::Refused(refused)) => Ok(Some(Err(refused))),
        Err(error) => Err(error),
    }
}

impl Steering {
    pub fn new(maps: Arc<SteeringMaps>, program: Result<Duration, Refused>) -> Self {
        Self {
            link: None,
            program,
            wanted: SteerMode::Never,
            listeners: None,
            maps,
            is_attached: false,
        }
    }

    pub fn steered(&self) -> Steered {
        self.maps.steered.clone()
    }

    /// What is to be steered where, once the program is attached.
    pub fn configure(&mut self, mode: SteerMode, listeners: Option<&Listeners>) {
        self.wanted = mode;
        self.listeners = listeners.cloned();
    }

    /// Takes the link that a process has left, whose program is replaced by [`Steering::attach`].
    pub fn adopt(&mut self, link: BpfLink, pin: PathBuf) {
        self.link = Some(Held {
            link,
            pin: Some(pin),
        });
    }

    /// Attaches to the calling thread's network namespace, or takes the place of an earlier program there in one step,
    /// with that one's clients. The link is pinned where that is wanted.
    pub fn attach(
        &mut self,
        ebpf: &mut Ebpf,
        previous: Option<&mut Steering>,
        pin: Option<PathBuf>,
    ) -> Result<(), DatapathError> {
        if let Some(previous) = previous {
            if !Arc::ptr_eq(&self.maps, &previous.maps) {
                self.maps.steered.take_over(&previous.maps.steered);
            }
            previous.is_attached = false;
            self.link = previous.link.take();
        }
        if self.wanted == SteerMode::Never {
            self.detach();
            return self.maps.set(SteerMode::Never, None);
        }
        let attached = self.attach_wanted(ebpf, pin);
        if attached.is_err() {
            self.detach();
        }
        attached
    }

    fn attach_wanted(
        &mut self,
        ebpf: &mut Ebpf,
        pin: Option<PathBuf>,
    ) -> Result<(), DatapathError> {
        self.program.clone()?;
        let program = program_of(ebpf)?.fd()?.as_fd();
        // Before a program looks: a socket of an earlier process may be in the map still.
        self.maps.set(self.wanted, self.listeners.as_ref())?;
        match &self.link {
            Some(held) => held.link.update(program).map_err(DatapathError::Link)?,
            None => {
                let netns = File::open("/proc/thread-self/ns/net").map_err(DatapathError::Link)?;
                let link = BpfLink::create(program, Place::SocketLookup(netns.as_fd()))
                    .map_err(DatapathError::Link)?;
                let pin = pin.and_then(|path| pinned(&link, &path));
                self.link = Some(Held { link, pin });
            }
        }
        self.is_attached = true;
        Ok(())
    }

    /// Pins the link again.
    pub fn pin_again(&mut self, path: &Path) {
        if let Some(held) = &mut self.link {
            held.pin = pinned(&held.link, path);
        }
    }

    /// Whether connections are being steered.
    pub fn is_attached(&self) -> bool {
        self.is_attached
    }

    /// Whether another process detached the link. It is dropped then, to be attached again.
    pub fn forget_removed(&mut self) -> bool {
        let is_removed = self
            .link
            .as_ref()
            .is_some_and(|held| !held.link.is_attached());
        if is_removed {
            self.detach();
        }
        is_removed
    }

    pub fn detach(&mut self) {
        self.is_attached = false;
        if let Some(held) = self.link.take() {
            held.detach();
        }
    }

    /// Leaves a link that is pinned where it is.
    pub fn leave(&mut self) {
        self.is_attached = false;
        self.link = None;
    }

    pub fn summary(&self, ebpf: &mut Ebpf) -> Result<SteeringSummary, DatapathError> {
        let verify_time = self.program.clone()?;
        let info = program_of(ebpf)?.info()?;
        Ok(SteeringSummary {
            id: info.id(),
            name: PROGRAM,
            verify_time,
            verified_instructions: info.verified_instruction_count().unwrap_or(0),
        })
    }
}

/// Where a link is pinned; one that cannot be pinned lasts as long as this process.
fn pinned(link: &BpfLink, path: &Path) -> Option<PathBuf> {
    match pin_link(link, path) {
        Ok(()) => Some(path.to_owned()),
        Err(error) => {
            tracing::warn!(%error, "the link for TCP cannot be pinned: it ends with this process");
            None
        }
    }
}

impl Steered {
    /// Copies the clients of another program, without replacing those that this one gets meanwhile.
    fn take_over(&self, previous: &Steered) {
        const NO_EXIST: u64 = 1;
        let truncated: Vec<_> = previous
            .lock()
            .truncated
            .iter()
            .filter_map(Result::ok)
            .collect();
        let mut clients = self.lock();
        for (client, until) in truncated {
            // One that is there already is newer.
            let _ = clients.truncated.insert(client, until, NO_EXIST);
        }
    }
}

fn program_of(ebpf: &mut Ebpf) -> Result<&mut Program, DatapathError> {
    ebpf.program_mut(PROGRAM)
        .ok_or(DatapathError::Missing(PROGRAM))
}

fn key(client: IpAddr) -> [u64; 2] {
    match client {
        IpAddr::V4(address) => mapped(u32::from_ne_bytes(address.octets())),
        IpAddr::V6(address) => {
            let [a, b, c, d, e, f, g, h, rest @ ..] = address.octets();
            [
                u64::from_ne_bytes([a, b, c, d, e, f, g, h]),
                u64::from_ne_bytes(rest),
            ]
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clients_are_in_the_byte_order_of_packets() {
        let four = key("10.1.2.3".parse().unwrap());
        let mapped = key("::ffff:10.1.2.3".parse().unwrap());
        assert_eq!(four, mapped);
        let six = key("fd00::1:2".parse().unwrap());
        assert_eq!(six[0].to_ne_bytes(), [0xfd, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(six[1].to_ne_bytes(), [0, 0, 0, 0, 0, 1, 0, 2]);
    }
}
