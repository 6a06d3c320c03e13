//! Loads a program with its tables.

use std::{
    collections::{HashMap, HashSet},
    net::{IpAddr, Ipv6Addr},
    sync::Arc,
    time::{Duration, Instant},
};

use aya::{
    Ebpf, EbpfLoader, VerifierLogLevel,
    maps::{
        Array, MapData, MapError,
        lpm_trie::{Key as Prefix, LpmTrie},
    },
    programs::{Program, ProgramError},
};
use dns_common::{
    abi::{self, MAX_SERVERS, MAX_SOURCES, Servers, maps},
    answer::{RuleEntry, Settings},
    dfa,
};
use ipnet::IpNet;

use super::{
    Datapath, DatapathError, Hook, LoadOptions, Refused, Stage, State,
    answers::{Tables, View},
    mapping::Mapping,
    options::{processors, sizes},
    pins::unpin,
    pod::Plain,
    probe,
    program::Pending,
    shared::{Pinned, Shared},
    steer::{self, Steering},
};

pub(super) static OBJECT: &[u8] =
    aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/gregor-ebpf"));
/// The same with a line about every decision.
pub(super) static LOGGING_OBJECT: &[u8] =
    aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/gregor-ebpf-log"));

/// Where the maps come from that a program shares with others.
#[derive(Clone, Default)]
pub struct Base(Origin);

#[derive(Clone, Default)]
enum Origin {
    /// They are made for this program, and go with it.
    #[default]
    Private,
    /// They are pinned there, or are made and pinned.
    Pinned(State),
    /// They are those of a program of this process, which are pinned there.
    Shared(State, Arc<Shared>),
}

impl Base {
    /// Maps that outlive the process. The caller has the lock on the directory.
    pub fn pinned(state: &State) -> Self {
        Self(Origin::Pinned(state.clone()))
    }

    /// Maps of this process; private ones where they are not pinned.
    pub(super) fn shared(state: Option<&State>, maps: &Arc<Shared>) -> Self {
        Self(match state {
            Some(state) => Origin::Shared(state.clone(), Arc::clone(maps)),
            None => Origin::Private,
        })
    }

    fn state(&self) -> Option<&State> {
        match &self.0 {
            Origin::Private => None,
            Origin::Pinned(state) | Origin::Shared(state, _) => Some(state),
        }
    }
}

impl std::fmt::Debug for Base {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Base").field(&self.state()).finish()
    }
}

/// How a load is done.
pub(super) struct How<'a> {
    pub base: Base,
    /// What the verifier writes when it refuses a program.
    pub log: VerifierLogLevel,
    /// Called as each stage begins.
    pub stage: &'a dyn Fn(Stage),
}

/// Its reason and its statistics: a trace of the instructions makes a log that is larger than the kernel may write, and aya
/// then loads the program up to ten times more.
pub(super) const REASON: VerifierLogLevel = VerifierLogLevel::STATS;
/// Every instruction that it walked as well.
pub(super) const TRACE: VerifierLogLevel = VerifierLogLevel::DEBUG.union(VerifierLogLevel::STATS);

impl Datapath {
    /// Loads the program and fills its tables; nothing is attached yet, and until the first heartbeat every matched
    /// query passes.
    pub fn load(options: &LoadOptions) -> Result<Self, DatapathError> {
        Self::load_object(options, OBJECT, options.hook.program())
    }

    /// The same with a program that logs what it decides: see [`Datapath::log`].
    pub fn load_logging(options: &LoadOptions) -> Result<Self, DatapathError> {
        Self::load_object(options, LOGGING_OBJECT, options.hook.program())
    }

    /// Loads a program of another object with the same maps, for measurements.
    #[doc(hidden)]
    pub fn load_object(
        options: &LoadOptions,
        object: &[u8],
        program: &'static str,
    ) -> Result<Self, DatapathError> {
        let how = How {
            base: Base::default(),
            log: REASON,
            stage: &|_| {},
        };
        Self::load_as(options, object, program, &how)
    }

    pub(super) fn load_as(
        options: &LoadOptions,
        object: &[u8],
        program: &'static str,
        how: &How<'_>,
    ) -> Result<Self, DatapathError> {
        let state = how.base.state();
        if let Origin::Shared(_, shared) = &how.base.0 {
            shared.pin_again()?;
        }
        let processors = processors()?;
        let sizes = sizes(options, processors);
        let pinned = match state {
            Some(state) => Some(Pinned::prepare(state, object, &sizes)?),
            None => None,
        };
        let new = pinned
            .as_ref()
            .map_or_else(Vec::new, |pinned| pinned.new.clone());
        let loaded = Self::load_with(options, object, program, how, pinned, &sizes, processors);
        if loaded.is_err() {
            // As it was before.
            for path in new {
                unpin(&path);
            }
            if let Origin::Shared(_, shared) = &how.base.0 {
                shared.pin_again()?;
            }
        }
        loaded
    }

    fn load_with(
        options: &LoadOptions,
        object: &[u8],
        program: &'static str,
        how: &How<'_>,
        pinned: Option<Pinned>,
        sizes: &[(&'static str, u32)],
        processors: usize,
    ) -> Result<Self, DatapathError> {
        let started = Instant::now();
        (how.stage)(Stage::Maps);
        let servers = servers(&options.servers, options.answers.per_server)?;
        let table = options.rules.table();
        if options.hook == Hook::Xdp && !probe::has_xdp_load_bytes() {
            return Err(DatapathError::NoXdpLoadBytes);
        }
        let mut loader = EbpfLoader::new();
        loader.verifier_log_level(how.log);
        for (name, elements) in sizes {
            loader.map_max_entries(name, *elements);
        }
        for (name, path) in pinned.iter().flat_map(|pinned| &pinned.paths) {
            loader.map_pin_path(name, path);
        }
        let mut ebpf = loader.load(object)?;
        // First of all: the instructions name the maps by descriptors, which are closed with the maps taken below.
        (how.stage)(Stage::Program(program));
        let verify_time = verify(program, program_of(&mut ebpf, program)?)?;
        let steering = steer::load_program(&mut ebpf, how)?;
        (how.stage)(Stage::Tables);

        let mut map: Array<_, Plain<Servers>> = take(&mut ebpf, maps::SERVERS)?;
        set(&mut map, maps::SERVERS, 0, &Plain(servers))?;
        let mut sources: LpmTrie<_, [u64; 2], u8> = take(&mut ebpf, maps::SOURCES)?;
        fill_sources(&mut sources, &options.sources)?;
        let mut entries: Mapping<dfa::Table> = mapping(&mut ebpf, maps::TABLE)?;
        entries.fill(&table.entries[..table.header.entries as usize]);
        let mut tails: Array<_, Plain<dfa::Tail>> = take(&mut ebpf, maps::TAILS)?;
        for (index, tail) in table.tails.iter().enumerate() {
            set(&mut tails, maps::TAILS, index as u32, &Plain(*tail))?;
        }
        let mut header: Array<_, Plain<dfa::Header>> = take(&mut ebpf, maps::DFA)?;
        set(&mut header, maps::DFA, 0, &Plain(table.header))?;
        let mut rules: Array<_, Plain<RuleEntry>> = take(&mut ebpf, maps::RULES)?;
        for (index, rule) in options.rules.rules().iter().enumerate() {
            set(&mut rules, maps::RULES, index as u32, &Plain(rule.entry()))?;
        }

        let shares_lanes = processors > options.hit_lanes;
        let view = View::open(
            &mut ebpf,
            &options.answers,
            &options.servers,
            &options.rules,
        )?;
        let (shared, pending, settings) = match &how.base.0 {
            Origin::Shared(_, shared) => {
                let tables = match &pinned {
                    Some(pinned) if pinned.new_tables => Some(Tables::open(
                        &mut ebpf,
                        &options.answers,
                        pinned.seed,
                        shares_lanes,
                    )?),
                    _ => None,
                };
                let settings = shared
                    .answers
                    .settings(tables.as_ref(), &view)
                    .ok_or(DatapathError::LetGo)?;
                (Arc::clone(shared), Some(Pending { tables, view }), settings)
            }
            Origin::Private | Origin::Pinned(_) => {
                let seed = pinned
                    .as_ref()
                    .map_or_else(rand::random, |pinned| pinned.seed);
                let mut tables = Tables::open(&mut ebpf, &options.answers, seed, shares_lanes)?;
                if let Some(other) = pinned.as_ref().and_then(|pinned| pinned.import.as_ref()) {
                    tables.import(other);
                }
                let settings = tables.settings(&view);
                let shared = Shared::open(&mut ebpf, tables, view, &options.rules)?;
                (Arc::new(shared), None, settings)
            }
        };
        let mut map: Array<_, Plain<Settings>> = take(&mut ebpf, maps::SETTINGS)?;
        set(&mut map, maps::SETTINGS, 0, &Plain(settings))?;

        let paths = pinned.map_or_else(Vec::new, |pinned| pinned.paths);
        if pending.is_none() {
            shared.keep(&paths)?;
        }
        let steering = match (steering, &shared.steering) {
            (Some(loaded), Some(maps)) => Some(Steering::new(Arc::clone(maps), loaded)),
            _ => None,
        };
        Ok(Self {
            links: HashMap::new(),
            leftovers: Vec::new(),
            steering,
            ebpf,
            program,
            options: options.clone(),
            shared,
            state: how.base.state().cloned(),
            paths,
            pending,
            load_time: started.elapsed(),
            verify_time,
        })
    }
}

/// Loads one program; how long the kernel took for it.
pub(super) fn verify(name: &'static str, program: &mut Program) -> Result<Duration, DatapathError> {
    let started = Instant::now();
    let result = match program {
        Program::Xdp(program) => program.load(),
        Program::SchedClassifier(program) => program.load(),
        Program::SkLookup(program) => program.load(),
        _ => return Err(DatapathError::Missing(name)),
    };
    match result {
        Ok(()) => Ok(started.elapsed()),
        Err(ProgramError::LoadError {
            io_error,
            verifier_log,
        }) => Err(Refused {
            program: name,
            errno: io_error.raw_os_error().unwrap_or(0),
            log: verifier_log.to_string(),
            took: started.elapsed(),
        }
        .into()),
        Err(error) => Err(error.into()),
    }
}

pub(super) fn program_of<'e>(
    ebpf: &'e mut Ebpf,
    name: &str,
) -> Result<&'e mut Program, DatapathError> {
    ebpf.program_mut(name)
        .ok_or(DatapathError::Missing("program"))
}

pub(super) fn take<M>(ebpf: &mut Ebpf, name: &'static str) -> Result<M, DatapathError>
where
    M: TryFrom<aya::maps::Map, Error = MapError>,
{
    M::try_from(ebpf.take_map(name).ok_or(DatapathError::Missing(name))?)
        .map_err(|error| DatapathError::Map { name, error })
}

/// Maps an array that both sides write.
pub(super) fn mapping<T>(ebpf: &mut Ebpf, name: &'static str) -> Result<Mapping<T>, DatapathError> {
    let map = ebpf.take_map(name).ok_or(DatapathError::Missing(name))?;
    Mapping::new(map).map_err(|error| DatapathError::Mapping { name, error })
}

fn set<V: aya::Pod>(
    map: &mut Array<MapData, V>,
    name: &'static str,
    index: u32,
    value: &V,
) -> Result<(), DatapathError> {
    map.set(index, value, 0)
        .map_err(|error| DatapathError::Map { name, error })
}

/// IPv4 networks as IPv6 (RFC 4291 §2.5.5.2), as the programs look sources up.
fn fill_sources(
    map: &mut LpmTrie<MapData, [u64; 2], u8>,
    networks: &[IpNet],
) -> Result<(), DatapathError> {
    if networks.len() > MAX_SOURCES as usize {
        return Err(DatapathError::TooManySources);
    }
    for network in networks {
        let (address, len) = match network {
            IpNet::V4(network) => (
                network.network().to_ipv6_mapped(),
                u32::from(network.prefix_len()) + 96,
            ),
            IpNet::V6(network) => (network.network(), network.prefix_len().into()),
        };
        map.insert(&Prefix::new(len, halves(address)), 1, 0)
            .map_err(|error| DatapathError::Map {
                name: maps::SOURCES,
                error,
            })?;
    }
    Ok(())
}

/// What stands for a server in the keys of answers.
pub(super) fn server_id(address: IpAddr) -> u32 {
    let mapped = match address {
        IpAddr::V4(address) => address.to_ipv6_mapped(),
        IpAddr::V6(address) => address,
    };
    abi::server_id(halves(mapped))
}

/// An address as it stands in a packet.
fn halves(address: Ipv6Addr) -> [u64; 2] {
    let bits = address.to_bits();
    [(bits >> 64) as u64, bits as u64].map(u64::to_be)
}

/// With distinct ids for the servers where answers depend on them.
fn servers(addresses: &[IpAddr], per_server: bool) -> Result<Servers, DatapathError> {
    let mut servers = Servers::default();
    let mut ids = HashSet::new();
    for address in addresses {
        let id = if per_server { server_id(*address) } else { 0 };
        if per_server
            && !ids.insert(id)
            && addresses.iter().filter(|other| *other == address).count() == 1
        {
            return Err(DatapathError::SameServerId(*address));
        }
        match address {
            IpAddr::V4(address) => {
                let index = servers.v4_count as usize;
                *servers
                    .v4
                    .get_mut(index)
                    .ok_or(DatapathError::TooManyServers)? = u32::from_ne_bytes(address.octets());
                servers.ids[index] = id;
                servers.v4_count += 1;
            }
            IpAddr::V6(address) => {
                let index = servers.v6_count as usize;
                *servers
                    .v6
                    .get_mut(index)
                    .ok_or(DatapathError::TooManyServers)? = halves(*address);
                servers.ids[MAX_SERVERS + index] = id;
                servers.v6_count += 1;
            }
        }
    }
    Ok(servers)
}
