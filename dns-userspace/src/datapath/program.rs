//! A loaded program: the interfaces that it is attached to, and what userspace reads and writes of it.

use std::{collections::HashMap, net::IpAddr, path::PathBuf, sync::Arc, time::Duration};

use aya::{Ebpf, TestRun as _, TestRunOptions, programs::Program};
use dns_common::abi::{Bucket, maps};

use super::{
    Answers, Base, DatapathError, Decisions, Heartbeat, Hook, InFront, Interface, Listeners,
    LoadOptions, Order, ProgramLog, Ring, State, SteerMode, Steered, SteeringSummary, Switch,
    XdpMode,
    answers::{Tables, View},
    attach::{self, Link},
    egress::PeersElsewhere,
    error::one_line,
    journal::{Journal, Opened, TAKEN},
    link::BpfLink,
    object::program_of,
    observed::Counters,
    pins::{pin_link, unpin},
    shared::Shared,
    steer::{self, Steering},
};
use crate::{model::Identity, rules::RuleSet};

/// aya-log's name for its ring buffer.
const LOG_MAP: &str = "AYA_LOGS";

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

/// A program on an interface.
pub(super) struct Attached {
    pub interface: Interface,
    pub link: Link,
    /// Where the link is pinned.
    pub pin: Option<PathBuf>,
}

impl Attached {
    pub fn detach(self) {
        attach::detach(self.link);
        if let Some(pin) = self.pin {
            unpin(&pin);
        }
    }
}

/// The view of a program on the answers, while another program's is in force.
pub(super) struct Pending {
    /// Its tables, where they have another size.
    pub tables: Option<Tables>,
    pub view: View,
    pub observed: Counters,
}

/// One loaded program with one rule set, and the interfaces that it is attached to.
pub struct Datapath {
    // Links before the program, so that they are dropped first.
    pub(super) links: HashMap<u32, Attached>,
    /// Links of a predecessor in another place than this program's: they are dropped once this one is on its interfaces.
    pub(super) leftovers: Vec<(PathBuf, BpfLink)>,
    /// Missing in objects that hold nothing but a program for interfaces.
    pub(super) steering: Option<Steering>,
    pub(super) ebpf: Ebpf,
    /// Its name in the object.
    pub(super) program: &'static str,
    pub(super) options: LoadOptions,
    pub(super) shared: Arc<Shared>,
    pub(super) state: Option<State>,
    pub(super) paths: Vec<(&'static str, PathBuf)>,
    pub(super) pending: Option<Pending>,
    pub(super) load_time: Duration,
    pub(super) verify_time: Duration,
}

impl Datapath {
    /// The maps of this program, for one that is to take its place; private ones where they are not pinned.
    pub fn base(&self) -> Base {
        Base::shared(self.state.as_ref(), &self.shared)
    }

    /// The maps that outlive this program.
    pub fn shared(&self) -> &Arc<Shared> {
        &self.shared
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
        if self.state.as_ref().is_some_and(State::is_dismissed) {
            return Err(DatapathError::Dismissed);
        }
        // Of another program with the same maps.
        let has_bucket = self.shared.interfaces().contains(interface.index);
        self.allow_interface(interface.index)?;
        let (hook, order) = (self.options.hook, self.options.order);
        let program = program_of(&mut self.ebpf, self.program)?;
        match attach::attach(program, interface, hook, order) {
            Ok(link) => {
                self.shared
                    .reinjections
                    .attached(interface.index, link.mode());
                let pin = self.pin(interface, &link);
                let attached = Attached {
                    interface: interface.clone(),
                    link,
                    pin,
                };
                self.links.insert(interface.index, attached);
                let path = PeersElsewhere::of(interface.index).reply_path(interface.index);
                self.shared
                    .interfaces()
                    .set_reply_path(interface.index, path)
            }
            Err(error) => {
                if !has_bucket {
                    self.shared.interfaces().remove(interface.index);
                }
                Err(DatapathError::Attach {
                    interface: interface.name.clone(),
                    error,
                })
            }
        }
    }

    /// Interfaces from which another process detached this program. They are to be attached again.
    pub fn forget_removed(&mut self) -> Vec<Interface> {
        let order = self.options.order;
        let removed: Vec<u32> = self
            .links
            .values()
            .filter(|held| attach::is_removed(&held.link, &held.interface, order))
            .map(|held| held.interface.index)
            .collect();
        removed
            .into_iter()
            .filter_map(|index| {
                let held = self.links.remove(&index)?;
                let interface = held.interface.clone();
                held.detach();
                Some(interface)
            })
            .collect()
    }

    /// Whether its place is a filter, whose changes the kernel [announces](super::FilterChanges).
    pub fn is_on_clsact(&self) -> bool {
        self.options.hook == Hook::Clsact
    }

    /// What gets the frames of each interface before this program. An interface is left out where the kernel does not say.
    pub fn in_front(&self) -> Vec<(Interface, Vec<InFront>)> {
        let order = self.options.order;
        self.links
            .values()
            .filter_map(|held| {
                let found = attach::in_front(&held.link, &held.interface, order).ok()?;
                Some((held.interface.clone(), found))
            })
            .collect()
    }

    /// Moves this program in front of those that are there [by chance](InFront::is_by_chance). On an error it is detached from
    /// the interface.
    pub fn move_in_front(&mut self, index: u32) -> Result<(), DatapathError> {
        let Some(mut held) = self.links.remove(&index) else {
            return Ok(());
        };
        let program = program_of(&mut self.ebpf, self.program)?;
        let order = self.options.order;
        match attach::move_in_front(program, held.link, &held.interface, order) {
            Ok(link) => {
                held.link = link;
                self.links.insert(index, held);
                Ok(())
            }
            Err(error) => Err(DatapathError::Attach {
                interface: held.interface.name,
                error,
            }),
        }
    }

    /// Pins a link. One that cannot be pinned lasts as long as this process.
    fn pin(&self, interface: &Interface, link: &Link) -> Option<PathBuf> {
        let (Some(state), Link::Bpf(link, _)) = (&self.state, link) else {
            return None;
        };
        let path = state.link(&self.place(interface.index));
        match pin_link(link, &path) {
            Ok(()) => Some(path),
            Err(error) => {
                tracing::warn!(interface = interface.name, %error, "the link cannot be pinned: it ends with this process");
                None
            }
        }
    }

    /// Pins everything again, after another bpffs was mounted or the directory was removed.
    ///
    /// # Errors
    /// When a map cannot be pinned. A link that cannot be pinned is logged.
    pub fn pin_again(&mut self) -> Result<(), DatapathError> {
        let Some(state) = self.state.clone() else {
            return Ok(());
        };
        self.shared.pin_again()?;
        for index in self.links.keys().copied().collect::<Vec<_>>() {
            let held = &self.links[&index];
            let pin = self.pin(&held.interface, &held.link);
            if let Some(held) = self.links.get_mut(&index) {
                held.pin = pin;
            }
        }
        if let Some(steering) = &mut self.steering {
            steering.pin_again(&state.link(steer::PIN));
        }
        Ok(())
    }

    /// What a link on an interface is pinned as: place on the hook and interface.
    pub(super) fn place(&self, index: u32) -> String {
        format!("{}{index}", self.place_prefix())
    }

    fn place_prefix(&self) -> &'static str {
        match (self.options.hook, self.options.order) {
            (Hook::Tcx, Order::First) => "tcx-first-",
            (Hook::Tcx, Order::Last) => "tcx-last-",
            (Hook::Xdp, _) => "xdp-",
            (Hook::Clsact, _) => "clsact-",
        }
    }

    /// Detaches from an interface; one that does not exist is not an error.
    pub fn detach(&mut self, index: u32) {
        if let Some(attached) = self.links.remove(&index) {
            attached.detach();
        }
        self.shared.identify(index, None);
        self.shared.reinjections.detached(index);
        self.shared.interfaces().remove(index);
        self.shared.answers.release_interface(index);
    }

    /// Sets which TCP connections are to be steered and where; nothing is until [`Datapath::attach_steering`].
    pub fn configure_steering(
        &mut self,
        mode: SteerMode,
        listeners: Option<&Listeners>,
    ) -> Result<(), DatapathError> {
        match &mut self.steering {
            Some(steering) => {
                steering.configure(mode, listeners);
                Ok(())
            }
            None => Err(DatapathError::Missing(steer::PROGRAM)),
        }
    }

    /// Begins to steer the TCP connections of the calling thread's network namespace, in the place of an earlier program in one
    /// step.
    pub fn attach_steering(
        &mut self,
        previous: Option<&mut Datapath>,
    ) -> Result<(), DatapathError> {
        let previous = previous.and_then(|previous| previous.steering.as_mut());
        match &mut self.steering {
            Some(steering) => {
                let pin = self.state.as_ref().map(|state| state.link(steer::PIN));
                steering.attach(&mut self.ebpf, previous, pin)
            }
            None => Err(DatapathError::Missing(steer::PROGRAM)),
        }
    }

    /// Steers TCP again where another process detached the link. Returns whether one did.
    pub fn put_back_steering(&mut self) -> Result<bool, DatapathError> {
        let is_removed = self.steering.as_mut().is_some_and(Steering::forget_removed);
        if !is_removed {
            return Ok(false);
        }
        if self.state.as_ref().is_some_and(State::is_dismissed) {
            return Err(DatapathError::Dismissed);
        }
        self.attach_steering(None).map(|()| true)
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
    pub fn find_reply_paths(&mut self) {
        let peers = PeersElsewhere::of_all();
        for (index, attached) in &self.links {
            let path = peers.reply_path(*index);
            if let Err(error) = self.shared.interfaces().set_reply_path(*index, path) {
                tracing::debug!(
                    interface = attached.interface.name,
                    error = one_line(&error),
                    "egress interface not set"
                );
            }
        }
    }

    /// Detaches from every interface, and stops steering.
    pub fn detach_all(&mut self) {
        if let Some(steering) = &mut self.steering {
            steering.detach();
        }
        let indexes: Vec<u32> = self.links.keys().copied().collect();
        for index in indexes {
            self.detach(index);
        }
    }

    /// The same, and nothing stays pinned.
    pub fn remove(&mut self) {
        self.detach_all();
        if let Some(state) = &self.state {
            state.remove();
        }
    }

    /// The interfaces that the program is attached to.
    pub fn attached(&self) -> Vec<Interface> {
        let mut attached: Vec<_> = self
            .links
            .values()
            .map(|attached| attached.interface.clone())
            .collect();
        attached.sort_by_key(|interface| interface.index);
        attached
    }

    /// Whether the driver or the kernel runs the program on an interface: `None` where it is not on XDP.
    pub fn mode(&self, index: u32) -> Option<XdpMode> {
        self.links.get(&index)?.link.mode()
    }

    /// Says who is behind an interface.
    #[doc(hidden)]
    pub fn identify(&self, index: u32, identity: Option<Arc<Identity>>) {
        self.shared.identify(index, identity);
    }

    /// The id of the client behind an interface.
    #[doc(hidden)]
    pub fn client(&self, index: u32) -> Option<u32> {
        self.shared.clients.behind(index).map(|(id, _)| id)
    }

    /// Gives an interface its token bucket; without one its queries pass.
    #[doc(hidden)]
    pub fn allow_interface(&mut self, index: u32) -> Result<(), DatapathError> {
        let limit = self.options.limit;
        let bucket = Bucket::new(limit.queries_per_second, limit.burst);
        self.shared.interfaces().insert(index, bucket)
    }

    /// The queries that this program hands over, and those with the same maps; may be taken once, within a tokio runtime.
    pub fn ring(&mut self) -> Result<Ring, DatapathError> {
        let buffer = self
            .shared
            .take_ring()
            .ok_or(DatapathError::Missing(maps::RING))?;
        let journal = self.journal()?;
        Ring::new(
            buffer,
            Arc::clone(&self.shared.rules),
            Arc::clone(&self.shared.clients),
            Arc::clone(&self.shared.answers),
            Arc::clone(&self.shared.reinjections),
            journal,
            self.shared.take_other_rings(),
        )
        .map_err(|error| DatapathError::Ring {
            name: maps::RING,
            error,
        })
    }

    fn journal(&self) -> Result<Opened, DatapathError> {
        let Some(state) = &self.state else {
            return Ok(Opened::default());
        };
        let opened = Journal::open(&state.map(TAKEN))
            .map_err(|error| DatapathError::Ring { name: TAKEN, error })?;
        if !opened.left.is_empty() {
            tracing::info!(
                queries = opened.left.len(),
                "answering what an earlier process had taken"
            );
        }
        if let Some(journal) = &opened.journal {
            self.shared.keep_journal(journal);
        }
        Ok(opened)
    }

    /// Whether programs report their own decisions.
    pub fn switch(&self) -> &Arc<Switch> {
        &self.shared.switch
    }

    /// The decisions of the programs themselves; may be taken once, within a tokio runtime.
    pub fn decisions(&mut self) -> Result<Decisions, DatapathError> {
        let buffer = self
            .shared
            .take_decisions()
            .ok_or(DatapathError::Missing(maps::MONITOR_RING))?;
        Decisions::open(
            buffer,
            Arc::clone(&self.shared.rules),
            Arc::clone(&self.shared.clients),
            Arc::clone(&self.shared.switch),
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

    /// The answers that this program serves by itself.
    pub fn answers(&self) -> &Arc<Answers> {
        &self.shared.answers
    }

    /// The deadline of this program, and of those with the same maps.
    pub fn heartbeat(&self) -> Arc<Heartbeat> {
        Arc::clone(&self.shared.heartbeat)
    }

    /// Verdicts since the maps were made, over all processors, indexed by
    /// [`dns_common::verdict::Verdict::counter`].
    pub fn counters(&self) -> Result<Vec<u64>, DatapathError> {
        self.shared.counters()
    }

    /// Addresses outside the configuration that were asked on port 53, with how often; at most 64.
    pub fn other_servers(&self) -> Vec<(IpAddr, u64)> {
        self.shared.other_servers()
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
