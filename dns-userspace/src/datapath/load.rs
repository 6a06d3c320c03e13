//! Loads the program with its tables and keeps its maps and links.

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv6Addr},
    sync::Arc,
    time::{Duration, Instant},
};

use aya::{
    Ebpf, EbpfLoader, TestRun, TestRunOptions, VerifierLogLevel,
    maps::{
        Array, HashMap as BpfHashMap, MapData, MapError, PerCpuArray, RingBuf,
        lpm_trie::{Key as Prefix, LpmTrie},
    },
    programs::{Program, ProgramError},
    util::nr_cpus,
};
use dns_common::{
    abi::{Bucket, MAX_SOURCES, Servers, maps},
    answer::{Captures, Settings},
    dfa,
    verdict::COUNTERS,
};

use super::{
    AnswerOptions, Answers, DatapathError, Decisions, Heartbeat, Hook, Interface, Order,
    ProgramLog, Refused, Ring, Switch, Wanted, XdpMode, answers,
    attach::{self, Link},
    egress::PeersElsewhere,
    error::one_line,
    footprint::Footprint,
    interfaces::Interfaces,
    mapping::Mapping,
    pod::Plain,
    probe,
    steer::{self, Listeners, SteerMode, Steered, Steering, SteeringSummary},
};
use ipnet::IpNet;

use crate::rules::RuleSet;

pub(super) static OBJECT: &[u8] =
    aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/gregor-ebpf"));
/// The same with a line about every decision.
pub(super) static LOGGING_OBJECT: &[u8] =
    aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/gregor-ebpf-log"));

/// Words that count how often an answer is given, at most: machines may have 256 processors, or say that they could.
pub const HIT_LANES: usize = 16;

/// aya-log's name for its ring buffer.
const LOG_MAP: &str = "AYA_LOGS";

/// What an interface may ask of the responder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limit {
    /// Matched queries per second and interface; 0 means no limit.
    pub queries_per_second: u32,
    /// How many may come at once.
    pub burst: u32,
}

/// Everything that a program is loaded with.
#[derive(Clone, Debug)]
pub struct LoadOptions {
    /// Addresses whose queries are looked at; at most 16 of each family.
    pub servers: Vec<IpAddr>,
    pub rules: Arc<RuleSet>,
    pub hook: Hook,
    pub order: Order,
    /// With [`Hook::Xdp`], the only addresses whose queries are looked at, at most 256 networks; unused elsewhere.
    pub sources: Vec<IpNet>,
    /// Size of the ring buffer: a power of two and a multiple of the page size.
    pub ring_bytes: u32,
    pub limit: Limit,
    pub answers: AnswerOptions,
    /// Most words that count how often an answer is given, a power of two: one for each processor, which share them where
    /// there are more. [`HIT_LANES`] unless a test has another.
    pub hit_lanes: usize,
}

/// What loading is busy with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    Maps,
    Program(&'static str),
    Tables,
}

impl Stage {
    pub fn program(self) -> Option<&'static str> {
        match self {
            Stage::Program(name) => Some(name),
            Stage::Maps | Stage::Tables => None,
        }
    }
}

impl std::fmt::Display for Stage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Stage::Maps => f.write_str("creating maps"),
            Stage::Program(name) => write!(f, "verifying program {name}"),
            Stage::Tables => f.write_str("filling tables"),
        }
    }
}

/// How a load is done.
pub(super) struct How<'a> {
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

/// What the kernel says of the loaded program.
#[derive(Clone, Copy, Debug)]
pub struct ProgramSummary {
    pub id: u32,
    pub name: &'static str,
    /// Instructions that the verifier walked; 0 where the kernel does not say, before Linux 5.16.
    pub verified_instructions: u32,
    /// Loading and verifying, maps included.
    pub load_time: Duration,
    /// Of the program alone.
    pub verify_time: Duration,
    /// Bytes of the matcher's entries and tails.
    pub table_bytes: usize,
    pub jited_bytes: u32,
}

/// What BPF_PROG_TEST_RUN says.
#[derive(Clone, Debug)]
pub struct TestOutcome {
    pub return_value: u32,
    /// The frame after the run.
    pub data: Vec<u8>,
    /// Mean of one run.
    pub duration: Duration,
}

/// One loaded program with one rule set, and the interfaces that it is attached to.
pub struct Datapath {
    // Links before the program, so that they go first.
    links: HashMap<u32, (Interface, Link)>,
    /// Missing in objects that hold nothing but a program for interfaces.
    steering: Option<Steering>,
    ebpf: Ebpf,
    /// Its name in the object.
    program: &'static str,
    options: LoadOptions,
    interfaces: Interfaces,
    counters: PerCpuArray<MapData, Plain<[u64; COUNTERS]>>,
    other_servers: BpfHashMap<MapData, [u64; 2], u64>,
    answers: Arc<Answers>,
    switch: Arc<Switch>,
    load_time: Duration,
    verify_time: Duration,
}

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
        let started = Instant::now();
        (how.stage)(Stage::Maps);
        let servers = servers(&options.servers)?.with_ids(options.answers.per_server);
        let table = options.rules.table();
        if options.hook == Hook::Xdp && !probe::has_xdp_load_bytes() {
            return Err(DatapathError::NoXdpLoadBytes);
        }
        let mut loader = EbpfLoader::new();
        loader.verifier_log_level(how.log);
        let processors = processors()?;
        for (name, elements) in sizes(options, processors) {
            loader.map_max_entries(name, elements);
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
        let entries = ebpf
            .take_map(maps::TABLE)
            .ok_or(DatapathError::Missing(maps::TABLE))?;
        Mapping::<dfa::Table>::new(entries)
            .map_err(|error| DatapathError::Mapping {
                name: maps::TABLE,
                error,
            })?
            .fill(&table.entries[..table.header.entries as usize]);
        let mut tails: Array<_, Plain<dfa::Tail>> = take(&mut ebpf, maps::TAILS)?;
        for (index, tail) in table.tails.iter().enumerate() {
            set(&mut tails, maps::TAILS, index as u32, &Plain(*tail))?;
        }
        let mut header: Array<_, Plain<dfa::Header>> = take(&mut ebpf, maps::DFA)?;
        set(&mut header, maps::DFA, 0, &Plain(table.header))?;

        let mut captures: Array<_, Plain<Captures>> = take(&mut ebpf, maps::CAPTURES)?;
        for (index, rule) in options.rules.rules().iter().enumerate() {
            let value = Plain(rule.kernel_captures());
            set(&mut captures, maps::CAPTURES, index as u32, &value)?;
        }
        let answers = Answers::open(
            &mut ebpf,
            &options.answers,
            &options.servers,
            &options.rules,
            processors > options.hit_lanes,
        )?;
        let mut settings: Array<_, Plain<Settings>> = take(&mut ebpf, maps::SETTINGS)?;
        set(&mut settings, maps::SETTINGS, 0, &Plain(answers.settings()))?;

        let interfaces = Interfaces::new(&mut ebpf)?;
        let steering = match steering {
            Some(loaded) => Some(Steering::new(&mut ebpf, loaded)?),
            None => None,
        };
        let counters = take(&mut ebpf, maps::COUNTERS)?;
        let other_servers = take(&mut ebpf, maps::OTHER_SERVERS)?;
        let switch = Arc::new(Switch::open(&mut ebpf)?);
        Ok(Self {
            links: HashMap::new(),
            steering,
            ebpf,
            program,
            options: options.clone(),
            interfaces,
            counters,
            other_servers,
            answers: Arc::new(answers),
            switch,
            load_time: started.elapsed(),
            verify_time,
        })
    }

    /// The rule set that this program was loaded with.
    pub fn rules(&self) -> &Arc<RuleSet> {
        &self.options.rules
    }

    /// Attaches to the ingress of an interface of the calling thread's network namespace.
    pub fn attach(&mut self, interface: &Interface) -> Result<(), DatapathError> {
        if self.links.contains_key(&interface.index) {
            return Ok(());
        }
        self.allow_interface(interface.index)?;
        let program = program_of(&mut self.ebpf, self.program)?;
        match attach::attach(program, interface, self.options.hook, self.options.order) {
            Ok(link) => {
                self.links
                    .insert(interface.index, (interface.clone(), link));
                let way = PeersElsewhere::of(interface.index).way_out(interface.index);
                self.interfaces.set_way_out(interface.index, way)
            }
            Err(error) => {
                self.interfaces.remove(interface.index);
                Err(DatapathError::Attach {
                    interface: interface.name.clone(),
                    error,
                })
            }
        }
    }

    /// Takes over every interface of an earlier program, each in one step. Returns those that could not be taken over; they
    /// are left without a program. Where the programs sit in different places and this one cannot sit on one of the
    /// interfaces that are wanted, that is an error, and the earlier program is on all of them as before.
    pub fn adopt(
        &mut self,
        previous: &mut Datapath,
        is_wanted: impl Fn(&Interface) -> bool,
    ) -> Result<Vec<(Interface, DatapathError)>, DatapathError> {
        let same_place = previous.options.hook == self.options.hook
            && previous.options.order == self.options.order;
        if same_place {
            return Ok(self.take_links(previous));
        }
        self.attach_beside(previous, is_wanted)?;
        // Nothing fails from here on.
        for (_, (_, link)) in previous.links.drain() {
            attach::detach(link);
        }
        Ok(Vec::new())
    }

    /// Puts the program in the place of an earlier one, link by link.
    fn take_links(&mut self, previous: &mut Datapath) -> Vec<(Interface, DatapathError)> {
        let mut failed = Vec::new();
        let peers = PeersElsewhere::of_all();
        for (index, (interface, link)) in previous.links.drain() {
            let replaced = self.allow_interface(index).and_then(|()| {
                let program = program_of(&mut self.ebpf, self.program)?;
                attach::replace(program, link).map_err(|error| DatapathError::Attach {
                    interface: interface.name.clone(),
                    error,
                })
            });
            match replaced {
                Ok(link) => {
                    self.links.insert(index, (interface, link));
                    // A failure leaves the usual way, until it is looked for again.
                    let _ = self.interfaces.set_way_out(index, peers.way_out(index));
                }
                Err(error) => {
                    self.interfaces.remove(index);
                    failed.push((interface, error));
                }
            }
        }
        failed
    }

    /// Attaches in another place to the wanted interfaces of an earlier program, which stays where it is: a query meets one of
    /// the two. On an error everything is as before.
    fn attach_beside(
        &mut self,
        previous: &mut Datapath,
        is_wanted: impl Fn(&Interface) -> bool,
    ) -> Result<(), DatapathError> {
        for interface in previous.attached().into_iter().filter(is_wanted) {
            match self.attach(&interface) {
                Ok(()) => {}
                // There is an event about it on its way.
                Err(DatapathError::Attach {
                    error: attach::AttachError::Gone,
                    ..
                }) => {}
                Err(error) => {
                    self.detach_all();
                    previous.restore_filters();
                    return Err(error);
                }
            }
        }
        Ok(())
    }

    /// Puts back the clsact filters that another program has replaced: there is room for one of gregor's on an interface.
    fn restore_filters(&mut self) {
        if self.options.hook != Hook::Clsact {
            return;
        }
        for interface in self.attached() {
            if let Some((_, link)) = self.links.remove(&interface.index) {
                attach::detach(link);
            }
            if let Err(error) = self.attach(&interface) {
                tracing::error!(error = one_line(&error), "the program cannot be put back");
            }
        }
    }

    /// Detaches from an interface; one that is gone already is no error.
    pub fn detach(&mut self, index: u32) {
        if let Some((_, link)) = self.links.remove(&index) {
            attach::detach(link);
        }
        self.interfaces.remove(index);
        self.answers.release_interface(index);
    }

    /// Says which TCP connections are to be steered and where; nothing is until [`Datapath::attach_steering`].
    pub fn configure_steering(
        &mut self,
        mode: SteerMode,
        listeners: Option<&Listeners>,
    ) -> Result<(), DatapathError> {
        match &mut self.steering {
            Some(steering) => steering.configure(mode, listeners),
            None => Err(DatapathError::Missing(steer::PROGRAM)),
        }
    }

    /// Begins to steer the TCP connections of the calling thread's network namespace, in one step with the end of what an
    /// earlier program does there.
    pub fn attach_steering(
        &mut self,
        previous: Option<&mut Datapath>,
    ) -> Result<(), DatapathError> {
        let previous = previous.and_then(|previous| previous.steering.as_mut());
        match &mut self.steering {
            Some(steering) => steering.attach(&mut self.ebpf, previous),
            None => Err(DatapathError::Missing(steer::PROGRAM)),
        }
    }

    /// Whether TCP connections are being steered.
    pub fn is_steering(&self) -> bool {
        self.steering.as_ref().is_some_and(Steering::is_attached)
    }

    /// The clients whose connections this program steers.
    pub fn steered(&self) -> Option<Steered> {
        self.steering.as_ref().map(Steering::steered)
    }

    /// What the kernel says of the program for TCP.
    pub fn steering_summary(&mut self) -> Result<SteeringSummary, DatapathError> {
        match &self.steering {
            Some(steering) => steering.summary(&mut self.ebpf),
            None => Err(DatapathError::Missing(steer::PROGRAM)),
        }
    }

    /// Looks again where the other ends of the interfaces are. Must run in the network namespace of the interfaces, and
    /// now and then: an end may be moved after its interface was found.
    pub fn find_ways_out(&mut self) {
        let peers = PeersElsewhere::of_all();
        for (index, (interface, _)) in &self.links {
            if let Err(error) = self.interfaces.set_way_out(*index, peers.way_out(*index)) {
                tracing::debug!(
                    interface = interface.name,
                    error = one_line(&error),
                    "way out not set"
                );
            }
        }
    }

    /// Detaches from every interface, and steers no more.
    pub fn detach_all(&mut self) {
        if let Some(steering) = &mut self.steering {
            steering.detach();
        }
        let indexes: Vec<u32> = self.links.keys().copied().collect();
        for index in indexes {
            self.detach(index);
        }
    }

    /// The interfaces that the program is attached to.
    pub fn attached(&self) -> Vec<Interface> {
        let mut attached: Vec<_> = self
            .links
            .values()
            .map(|(interface, _)| interface.clone())
            .collect();
        attached.sort_by_key(|interface| interface.index);
        attached
    }

    /// Who runs the program on an interface: `None` where it is not on XDP.
    pub fn mode(&self, index: u32) -> Option<XdpMode> {
        self.links.get(&index)?.1.mode()
    }

    /// Gives an interface its token bucket; without one its queries pass.
    #[doc(hidden)]
    pub fn allow_interface(&mut self, index: u32) -> Result<(), DatapathError> {
        let limit = self.options.limit;
        let bucket = Bucket::new(limit.queries_per_second, limit.burst);
        self.interfaces.insert(index, bucket)
    }

    /// The queries that this program hands over; may be taken once, within a tokio runtime.
    pub fn ring(&mut self) -> Result<Ring, DatapathError> {
        let buffer: RingBuf<MapData> = take(&mut self.ebpf, maps::RING)?;
        Ring::new(
            buffer,
            Arc::clone(&self.options.rules),
            Arc::clone(&self.answers),
        )
        .map_err(|error| DatapathError::Ring {
            name: maps::RING,
            error,
        })
    }

    /// Whether this program tells what it decides by itself.
    pub fn switch(&self) -> &Arc<Switch> {
        &self.switch
    }

    /// What this program decides by itself; may be taken once, within a tokio runtime.
    pub fn decisions(&mut self) -> Result<Decisions, DatapathError> {
        Decisions::open(
            &mut self.ebpf,
            Arc::clone(&self.options.rules),
            Arc::clone(&self.switch),
        )
    }

    /// The lines of a program that logs, `None` for any other; may be taken once, within a tokio runtime.
    pub fn log(&mut self) -> Result<Option<ProgramLog>, DatapathError> {
        if self.ebpf.map(LOG_MAP).is_none() {
            return Ok(None);
        }
        ProgramLog::open(&mut self.ebpf)
            .map(Some)
            .map_err(|error| DatapathError::Ring {
                name: LOG_MAP,
                error,
            })
    }

    /// What this program answers by itself.
    pub fn answers(&self) -> &Arc<Answers> {
        &self.answers
    }

    /// The deadline of this program; may be taken once.
    pub fn heartbeat(&mut self) -> Result<Heartbeat, DatapathError> {
        Ok(Heartbeat::new(take(&mut self.ebpf, maps::HEARTBEAT)?))
    }

    /// Verdicts since this program was loaded, over all processors, indexed by
    /// [`dns_common::verdict::Verdict::counter`].
    pub fn counters(&self) -> Result<Vec<u64>, DatapathError> {
        let per_cpu = self
            .counters
            .get(&0, 0)
            .map_err(|error| DatapathError::Map {
                name: maps::COUNTERS,
                error,
            })?;
        let mut sum = vec![0u64; COUNTERS];
        for counters in per_cpu.iter() {
            for (total, value) in sum.iter_mut().zip(counters.0) {
                *total += value;
            }
        }
        Ok(sum)
    }

    /// Addresses outside the configuration that were asked on port 53, with how often; at most 64.
    pub fn other_servers(&self) -> Vec<(IpAddr, u64)> {
        self.other_servers
            .iter()
            .filter_map(Result::ok)
            .map(|(key, count)| {
                let mut octets = [0; 16];
                octets[..8].copy_from_slice(&key[0].to_ne_bytes());
                octets[8..].copy_from_slice(&key[1].to_ne_bytes());
                (Ipv6Addr::from(octets).to_canonical(), count)
            })
            .collect()
    }

    /// What the kernel says of the program.
    pub fn summary(&mut self) -> Result<ProgramSummary, DatapathError> {
        let load_time = self.load_time;
        let table_bytes = self.options.rules.table().bytes();
        let info = program_of(&mut self.ebpf, self.program)?.info()?;
        Ok(ProgramSummary {
            id: info.id(),
            name: self.program,
            verify_time: self.verify_time,
            verified_instructions: info.verified_instruction_count().unwrap_or(0),
            load_time,
            table_bytes,
            jited_bytes: info.size_jitted(),
        })
    }

    /// Runs the program over a frame (BPF_PROG_TEST_RUN), as if it had come in on the loopback interface.
    #[doc(hidden)]
    pub fn test_run(&mut self, frame: &[u8], repeat: u32) -> Result<TestOutcome, DatapathError> {
        let mut data = vec![0; frame.len() + 2048];
        let options = TestRunOptions {
            data_in: Some(frame),
            data_out: Some(&mut data),
            repeat,
            ..TestRunOptions::new()
        };
        let result = match program_of(&mut self.ebpf, self.program)? {
            Program::Xdp(program) => program.test_run(options)?,
            Program::SchedClassifier(program) => program.test_run(options)?,
            _ => return Err(DatapathError::Missing("program")),
        };
        data.truncate(result.data_size_out as usize);
        Ok(TestOutcome {
            return_value: result.return_value,
            data,
            duration: result.duration,
        })
    }
}

impl Drop for Datapath {
    fn drop(&mut self) {
        self.detach_all();
    }
}

impl std::fmt::Debug for Datapath {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Datapath")
            .field("attached", &self.attached())
            .finish_non_exhaustive()
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

/// Interfaces whose slot in the array is taken by another one. Indexes are given out one after the other, so of a few hundred
/// interfaces a few collide, and only on a node that has seen thousands come and go.
const SHARED_SLOTS: u32 = 1024;

/// Maps that the loader sizes, with their elements.
fn sizes(options: &LoadOptions, processors: usize) -> Vec<(&'static str, u32)> {
    let mut sizes = vec![
        (maps::TAILS, options.rules.table().tails.len().max(1) as u32),
        (maps::RING, options.ring_bytes),
        (maps::MORE_INTERFACES, SHARED_SLOTS),
        (maps::CAPTURES, options.rules.rules().len().max(1) as u32),
    ];
    let lanes = processors.next_power_of_two().min(options.hit_lanes);
    sizes.extend(answers::sizes(&options.answers, lanes));
    sizes
}

fn processors() -> Result<usize, DatapathError> {
    nr_cpus().map_err(|(path, error)| DatapathError::Processors { path, error })
}

/// What the maps would take of this kernel.
pub fn wanted(options: &LoadOptions) -> Wanted {
    let processors = processors().unwrap_or(1);
    let footprint = Footprint::of(OBJECT, &sizes(options, processors), processors);
    Wanted {
        bytes: footprint.bytes,
        processors: processors as u64,
        per_processor: footprint.per_processor,
        unsupported: footprint.unsupported(),
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

/// An address as it stands in a packet.
fn halves(address: Ipv6Addr) -> [u64; 2] {
    let bits = address.to_bits();
    [(bits >> 64) as u64, bits as u64].map(u64::to_be)
}

fn servers(addresses: &[IpAddr]) -> Result<Servers, DatapathError> {
    let mut servers = Servers::default();
    for address in addresses {
        match address {
            IpAddr::V4(address) => {
                *servers
                    .v4
                    .get_mut(servers.v4_count as usize)
                    .ok_or(DatapathError::TooManyServers)? = u32::from_ne_bytes(address.octets());
                servers.v4_count += 1;
            }
            IpAddr::V6(address) => {
                *servers
                    .v6
                    .get_mut(servers.v6_count as usize)
                    .ok_or(DatapathError::TooManyServers)? = halves(*address);
                servers.v6_count += 1;
            }
        }
    }
    Ok(servers)
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// What the maps take with room for so many answers.
    pub(in super::super) fn footprint(answers: usize, processors: usize) -> Footprint {
        let options = LoadOptions {
            servers: Vec::new(),
            rules: Arc::new(RuleSet::compile(&[]).unwrap()),
            hook: Hook::Tcx,
            order: Order::First,
            sources: Vec::new(),
            ring_bytes: 1 << 20,
            limit: Limit {
                queries_per_second: 0,
                burst: 0,
            },
            answers: AnswerOptions {
                total: answers,
                per_interface: answers,
                per_server: true,
            },
            hit_lanes: HIT_LANES,
        };
        Footprint::of(OBJECT, &sizes(&options, processors), processors)
    }
}
