//! Loads a program with its tables.

use std::{
    collections::{HashMap, HashSet},
    net::IpAddr,
    sync::Arc,
    time::Instant,
};

use aya::{
    EbpfLoader, VerifierLogLevel,
    maps::{
        Array, MapData, PerCpuArray,
        lpm_trie::{Key as Prefix, LpmTrie},
    },
};
use dns_common::{
    abi::{MAX_SERVERS, MAX_SOURCES, PROTECTION, Servers, Trailer, maps},
    answer::{RuleEntry, Settings},
    dfa,
};
use ipnet::IpNet;

use super::{
    Base, Datapath, DatapathError, Hook, LoadOptions, Stage,
    answers::{Tables, View},
    base::Origin,
    clients::Clients,
    mapping::Mapping,
    meta::Secrets,
    object::{LOGGING_OBJECT, OBJECT, mapping, program_of, set, take, verify},
    observed::Counters,
    options::{processors, sizes},
    other_version::OtherVersions,
    pins::unpin,
    pod::Plain,
    probe,
    program::Pending,
    server_id::{halves, server_id},
    shared::{Pinned, Shared},
    steer::{self, Steering},
};

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
            Some(state) => {
                // Once for each process.
                let others = match how.base.0 {
                    Origin::Pinned(_) => OtherVersions::find(state),
                    _ => OtherVersions::default(),
                };
                Some(Pinned::prepare(state, object, &sizes, others)?)
            }
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
        mut pinned: Option<Pinned>,
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
        let protection = options.protection.bits();
        let mut loader = EbpfLoader::new();
        loader.verifier_log_level(how.log);
        for (name, elements) in sizes {
            loader.map_max_entries(name, *elements);
        }
        // Missing in objects of before, which measurements compare with.
        loader.override_global(PROTECTION, &protection, false);
        for (name, path) in pinned.iter().flat_map(|pinned| &pinned.paths) {
            loader.map_pin_path(name, path);
        }
        let mut ebpf = loader.load(object)?;
        // First of all: the instructions name the maps by descriptors, which are closed with the maps taken below.
        (how.stage)(Stage::Program(program));
        let verify_time = verify(program, program_of(&mut ebpf, program)?)?;
        let steering = steer::load_program(&mut ebpf, how.stage)?;
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
        let read = match options.protection.keeps_unread {
            true => table.header.reading_every_name(),
            false => table.header,
        };
        set(&mut header, maps::DFA, 0, &Plain(read))?;
        let mut rules: Array<_, Plain<RuleEntry>> = take(&mut ebpf, maps::RULES)?;
        for (index, entry) in options.rules.entries().into_iter().enumerate() {
            set(&mut rules, maps::RULES, index as u32, &Plain(entry))?;
        }
        // Missing in objects of before, which measurements compare with.
        let observed: Option<PerCpuArray<_, u64>> = match ebpf.map(maps::OBSERVED) {
            Some(_) => Some(take(&mut ebpf, maps::OBSERVED)?),
            None => None,
        };
        let observed = Counters::new(observed, &options.rules);

        let shares_lanes = processors > options.hit_lanes;
        let clients = match &how.base.0 {
            Origin::Shared(_, shared) => Arc::clone(&shared.clients),
            Origin::Private | Origin::Pinned(_) => {
                Arc::new(Clients::open(&mut ebpf, &options.rules)?)
            }
        };
        let view = View::open(
            &mut ebpf,
            &options.answers,
            &options.servers,
            &options.rules,
            clients,
        )?;
        let (shared, pending, settings) = match &how.base.0 {
            Origin::Shared(_, shared) => {
                let tables = match &pinned {
                    Some(pinned) if pinned.new_tables => Some(Tables::open(
                        &mut ebpf,
                        &options.answers,
                        pinned.secrets.seed,
                        shares_lanes,
                    )?),
                    _ => None,
                };
                let settings = shared
                    .answers
                    .settings(tables.as_ref(), &view)
                    .ok_or(DatapathError::LetGo)?;
                let pending = Pending {
                    tables,
                    view,
                    observed,
                };
                (Arc::clone(shared), Some(pending), settings)
            }
            Origin::Private | Origin::Pinned(_) => {
                let Secrets { seed, trailer } = pinned
                    .as_ref()
                    .map_or_else(Secrets::random, |pinned| pinned.secrets);
                let mut tables = Tables::open(&mut ebpf, &options.answers, seed, shares_lanes)?;
                if let Some(other) = pinned.as_ref().and_then(|pinned| pinned.import.as_ref()) {
                    tables.import(other);
                }
                let settings = tables.settings(&view);
                let shared = Shared::open(
                    &mut ebpf,
                    tables,
                    view,
                    observed,
                    &options.rules,
                    trailer,
                    options.hook,
                )?;
                if let Some(pinned) = &mut pinned {
                    shared.put_other_rings(std::mem::take(&mut pinned.other_rings));
                }
                (Arc::new(shared), None, settings)
            }
        };
        let mut map: Array<_, Plain<Settings>> = take(&mut ebpf, maps::SETTINGS)?;
        set(&mut map, maps::SETTINGS, 0, &Plain(settings))?;
        // Missing in objects of before, which measurements compare with.
        if ebpf.map(maps::TRAILER).is_some() {
            let mut map: Array<_, Plain<Trailer>> = take(&mut ebpf, maps::TRAILER)?;
            set(
                &mut map,
                maps::TRAILER,
                0,
                &Plain(shared.reinjections.trailer()),
            )?;
        }

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
