//! The one thread that owns the programs: it attaches, replaces and detaches. A tcx attach waits for a grace period of the
//! kernel, so only those who request something wait for this thread; its state is published on a [`Board`].

use std::{
    collections::{BTreeMap, VecDeque},
    io,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread,
};

use tokio::sync::{
    mpsc::{self, error::TryRecvError},
    oneshot,
};

use super::{attachments::Attachments, follow};
use crate::{
    datapath::{Datapath, DatapathError, Given, Interface, Shared, Steered, one_line},
    discover::{Event, Selection},
    observe::{AnswersStatus, InterfaceStatus, KernelStatus, ProgramStatus},
    privileges::{Role, restrict_thread},
    resolve::OTHER_NAMESPACES,
};

/// Sends requests to the thread.
pub struct Kernel {
    requests: mpsc::UnboundedSender<Request>,
    board: Arc<Board>,
    thread: Option<thread::JoinHandle<()>>,
}

enum Request {
    /// Interfaces that were added and removed; the first time, all that are present.
    Links(Vec<Event>),
    /// Attaches again what another process detached or what failed.
    Retry,
    /// Pins everything again.
    Pin,
    /// Filters have changed: the same for clsact, for what need not wait for a retry.
    Filters,
    Replace(Box<Datapath>, Selection, oneshot::Sender<Replaced>),
    /// Leaves the hooks, or leaves them to a successor.
    End(End, oneshot::Sender<()>),
}

/// Whether the programs are detached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// They are detached from every interface, and nothing stays pinned.
    Detach,
    /// They stay where they are, for a successor.
    Leave,
}

/// Whether TCP is steered, and for which clients.
pub type Steers = (Result<(), DatapathError>, Option<Steered>);
/// The result of a replacement. An error means that the previous program stays everywhere.
pub type Replaced = Result<Steers, DatapathError>;

impl Kernel {
    /// Starts the thread, in the network namespace of this one. It first takes over what a process has left, and steers TCP.
    ///
    /// # Errors
    /// When the thread cannot be started.
    pub fn start(datapath: Datapath) -> io::Result<(Self, oneshot::Receiver<Steers>)> {
        let board = Arc::new(Board::new(&datapath));
        let (requests, inbox) = mpsc::unbounded_channel();
        let (started, start) = oneshot::channel();
        let owner = Owner {
            datapath,
            attachments: Attachments::default(),
            queue: VecDeque::new(),
            is_first: true,
            board: board.clone(),
        };
        let thread = thread::Builder::new()
            .name("kernel".to_owned())
            .spawn(move || {
                restrict_thread(Role::Kernel);
                owner.run(inbox, started);
            })?;
        let kernel = Self {
            requests,
            board,
            thread: Some(thread),
        };
        Ok((kernel, start))
    }

    pub fn board(&self) -> &Arc<Board> {
        &self.board
    }

    /// Attaches to new interfaces, detaches from removed ones.
    pub fn links(&self, events: Vec<Event>) {
        self.send(Request::Links(events));
    }

    /// Attaches again what another process detached or what failed.
    pub fn retry(&self) {
        self.send(Request::Retry);
    }

    /// Pins everything again: what was pinned is gone.
    pub fn pin(&self) {
        self.send(Request::Pin);
    }

    /// Filters of interfaces have changed.
    pub fn filters(&self) {
        self.send(Request::Filters);
    }

    /// Puts another program in force, on each interface in one step.
    pub async fn replace(&self, next: Datapath, selection: Selection) -> Replaced {
        let (reply, replaced) = oneshot::channel();
        self.send(Request::Replace(Box::new(next), selection, reply));
        replaced.await.unwrap_or(Err(DatapathError::Thread))
    }

    /// Ends the thread.
    pub async fn end(&mut self, end: End) {
        let (reply, done) = oneshot::channel();
        self.send(Request::End(end, reply));
        // An error means that it has ended already.
        let _ = done.await;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }

    fn send(&self, request: Request) {
        // Fails when the thread panicked, which is counted and logged where it happens.
        let _ = self.requests.send(request);
    }
}

/// What the thread owns.
struct Owner {
    datapath: Datapath,
    attachments: Attachments,
    /// Events that were not looked at yet.
    queue: VecDeque<Event>,
    /// The first list of interfaces has not been processed.
    is_first: bool,
    board: Arc<Board>,
}

impl Owner {
    fn run(
        mut self,
        mut inbox: mpsc::UnboundedReceiver<Request>,
        started: oneshot::Sender<Steers>,
    ) {
        tracing::debug!("taking over what is pinned");
        self.datapath.adopt_pinned();
        let steers = self.datapath.attach_steering(None);
        let _ = started.send((steers, self.datapath.steered()));
        self.board.program(&mut self.datapath);
        self.board.update(&self.attachments, &self.datapath);
        let mut listed = false;
        loop {
            // Requests first: a reload does not wait for three hundred interfaces.
            let request = if self.queue.is_empty() {
                if listed && self.is_first {
                    self.first_list_is_done();
                }
                inbox.blocking_recv()
            } else {
                match inbox.try_recv() {
                    Ok(request) => Some(request),
                    Err(TryRecvError::Disconnected) => None,
                    Err(TryRecvError::Empty) => {
                        self.next_event();
                        continue;
                    }
                }
            };
            match request {
                Some(Request::Links(events)) => {
                    listed = true;
                    self.queue.extend(events);
                }
                Some(Request::Retry) => {
                    self.put_back();
                    self.attachments.retry(&mut self.datapath);
                    self.look_in_front();
                    self.datapath.find_reply_paths();
                }
                Some(Request::Pin) => match self.datapath.pin_again() {
                    Ok(()) => tracing::info!("everything is pinned again"),
                    Err(error) => tracing::error!(
                        error = one_line(&error),
                        "cannot pin again: nothing outlives this process"
                    ),
                },
                Some(Request::Filters) if self.datapath.is_on_clsact() => {
                    self.put_back();
                    self.attachments.attach_due(&mut self.datapath);
                    self.look_in_front();
                }
                Some(Request::Filters) => {}
                Some(Request::Replace(next, selection, reply)) => {
                    let replaced = self.replace(*next, &selection);
                    let _ = reply.send(replaced);
                }
                Some(Request::End(end, reply)) => {
                    match end {
                        End::Detach => self.datapath.remove(),
                        End::Leave => self.datapath.leave(),
                    }
                    self.board.update(&self.attachments, &self.datapath);
                    let _ = reply.send(());
                    return;
                }
                None => return,
            }
            self.board.update(&self.attachments, &self.datapath);
        }
    }

    /// A program that another process detached is attached at the retry that follows.
    fn put_back(&mut self) {
        for interface in self.datapath.forget_removed() {
            self.attachments.removed(&interface);
        }
        match self.datapath.put_back_steering() {
            Ok(false) => {}
            Ok(true) => {
                tracing::warn!("another process detached the link for TCP; it is attached again")
            }
            Err(error) => tracing::warn!(
                error = one_line(&error),
                "another process detached the link for TCP; TCP goes to the existing cache"
            ),
        }
    }

    /// Notices programs that get the frames of an interface first, and moves in front of those that are there by chance.
    fn look_in_front(&mut self) {
        for (interface, found) in self.datapath.in_front() {
            if !self.attachments.update_in_front(&interface, found) {
                continue;
            }
            match self.datapath.move_in_front(interface.index) {
                Ok(()) => self.attachments.moved(&interface),
                Err(error) => {
                    let error = one_line(&error);
                    tracing::warn!(
                        interface = interface.name,
                        error,
                        "lost the program while it was moved in front; will try again"
                    );
                    self.attachments.lost(&interface, error);
                }
            }
        }
    }

    fn next_event(&mut self) {
        if let Some(event) = self.queue.pop_front() {
            self.attachments.apply(&mut self.datapath, event);
            self.board.update(&self.attachments, &self.datapath);
        }
    }

    /// Detaches what a previous process has left on other interfaces: earlier, their pods would have been without a program.
    fn first_list_is_done(&mut self) {
        self.is_first = false;
        let attachments = &self.attachments;
        self.datapath
            .remove_leftovers(|index| attachments.wants(index));
        self.board.update(&self.attachments, &self.datapath);
        lock(&self.board.view).listed = true;
    }

    fn replace(&mut self, mut next: Datapath, selection: &Selection) -> Replaced {
        let is_wanted = |interface: &Interface| selection.may_want(&interface.name);
        for (interface, error) in next.adopt(&mut self.datapath, is_wanted)? {
            let error = one_line(&error);
            tracing::warn!(
                interface = interface.name,
                error,
                "lost the program on reload; will try again"
            );
            self.attachments.lost(&interface, error);
        }
        let steers = next.attach_steering(Some(&mut self.datapath));
        self.datapath = next;
        self.board.program(&mut self.datapath);
        Ok((steers, self.datapath.steered()))
    }
}

/// The published state of the programs, readable without their thread.
pub struct Board {
    view: Mutex<View>,
    maps: Arc<Shared>,
}

#[derive(Default)]
struct View {
    interfaces: Vec<InterfaceStatus>,
    complete: bool,
    /// Programs that another process detached.
    removed: u64,
    /// Programs that were moved in front of others.
    moved: u64,
    /// The first list of interfaces was processed.
    listed: bool,
    program: Option<ProgramStatus>,
}

impl Board {
    fn new(datapath: &Datapath) -> Self {
        Self {
            view: Mutex::default(),
            maps: datapath.shared().clone(),
        }
    }

    fn update(&self, attachments: &Attachments, datapath: &Datapath) {
        let mut interfaces = attachments.status();
        for interface in &mut interfaces {
            let mode = datapath.mode(interface.index);
            interface.mode = mode.map(|mode| mode.name().to_owned());
        }
        let complete = attachments.complete();
        let mut view = lock(&self.view);
        (view.interfaces, view.complete) = (interfaces, complete);
        (view.removed, view.moved) = (attachments.removals(), attachments.moves());
    }

    fn program(&self, datapath: &mut Datapath) {
        lock(&self.view).program = program(datapath);
    }

    /// Whether every interface that was present at the start was tried, and every one that is wanted is attached.
    pub fn is_attached(&self) -> bool {
        let view = lock(&self.view);
        view.listed && view.complete
    }

    /// The wanted interfaces, for `gregor status`.
    pub fn interfaces(&self) -> Vec<InterfaceStatus> {
        lock(&self.view).interfaces.clone()
    }

    /// A monitor is connected: the programs report their decisions.
    pub fn listen(&self) {
        self.maps.switch().listen_for(follow::VALID);
    }

    pub fn status(&self) -> KernelStatus {
        let verdicts = self.maps.counters().unwrap_or_else(|error| {
            tracing::warn!(error = one_line(&error), "cannot read the counters");
            Vec::new()
        });
        let sizes = self.maps.answers().sizes();
        let Given {
            rules,
            mut namespaces,
            other_namespaces,
        } = self.maps.answers().given();
        if other_namespaces > 0 {
            *namespaces.entry(OTHER_NAMESPACES.to_owned()).or_default() += other_namespaces;
        }
        let (removed, moved, program) = {
            let view = lock(&self.view);
            (view.removed, view.moved, view.program.clone())
        };
        KernelStatus {
            requests: KernelStatus::requests(&verdicts),
            observed: self.maps.observed(),
            answers: AnswersStatus {
                entries: sizes.answers as u64,
                no_target: sizes.absent as u64,
                unplaced: sizes.unplaced,
                refreshes: KernelStatus::refreshes(&verdicts),
                expired: KernelStatus::expired(&verdicts),
                rules,
                namespaces,
            },
            other_servers: self
                .maps
                .other_servers()
                .into_iter()
                .map(|(server, count)| (server.to_string(), count))
                .collect::<BTreeMap<_, _>>(),
            removed,
            moved,
            program,
        }
    }
}

fn program(datapath: &mut Datapath) -> Option<ProgramStatus> {
    match datapath.summary() {
        Ok(summary) => Some(ProgramStatus {
            id: summary.id,
            verified_instructions: summary.verified_instructions.into(),
            load_seconds: summary.load_time.as_secs_f64(),
            jited_bytes: summary.jited_bytes.into(),
            table_bytes: summary.table_bytes as u64,
        }),
        Err(error) => {
            tracing::debug!(error = one_line(&error), "no information about the program");
            None
        }
    }
}

/// A panic while a lock was held leaves plain data behind, which is still consistent.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
