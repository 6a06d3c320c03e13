//! Answers intercepted queries: at once from what is known, else after one look-up that all who ask the same wait for.
//!
//! It knows rules only as "this name has this target", and sockets only as [`Inject`] and [`TargetSource`].

mod landing;
mod options;
mod plan;
mod reply;
mod waiting;
mod watch;

use std::{
    collections::HashSet,
    net::SocketAddr,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use dns_common::wire::qtype_is_kept;

pub use options::{ResponderOptions, Upstream};

use self::{
    landing::Landing,
    plan::{Plan, parse, plan},
    waiting::{Origin, Program, Waiting, Watched, Way},
};
use super::{
    chain::{Failure, Outcome},
    flight::{Flights, Joined, MAX_CHASES},
    limiter::Limiter,
    query::Query,
    source::TargetSource,
    stats::{PassReason, Replied, Snapshot, Stats},
    store::{Found, Key, Limits, NEGATIVE_LIFETIME, Store, Trouble},
    stream::{Steer, StreamQuery},
};
use crate::{
    inject::{Inject, QueryFrame},
    model::{Intercepted, Transport},
    monitor::{Exchange, Hub},
};

/// Look-ups of one interface for types that programs do not keep.
const OTHER_TYPES_PER_SECOND: u32 = 20;
/// Log lines about broken chains.
const WARNINGS_PER_SECOND: u32 = 1;

/// Refreshes begin within this time, so that answers that came together do not go together for ever.
const SPREAD: Duration = Duration::from_millis(1000);
/// Refreshes that have not begun. What is refused runs out, and is looked up when it is asked for.
const PENDING_REFRESHES: usize = 4096;

/// See the module.
pub struct Responder<S, I> {
    options: ResponderOptions,
    source: S,
    injector: I,
    store: Store,
    flights: Flights<Waiting>,
    other_types: Mutex<Limiter>,
    warnings: Mutex<Limiter>,
    stats: Stats,
    steer: Option<Arc<dyn Steer>>,
    pending_refreshes: AtomicUsize,
    monitor: Arc<Hub>,
    clock: fn() -> Instant,
}

impl<S: TargetSource, I: Inject> Responder<S, I> {
    pub fn new(options: ResponderOptions, source: S, injector: I) -> Responder<S, I> {
        Responder::with_clock(options, source, injector, Instant::now)
    }

    fn with_clock(
        options: ResponderOptions,
        source: S,
        injector: I,
        clock: fn() -> Instant,
    ) -> Responder<S, I> {
        let limiter = |per_second| Mutex::new(Limiter::new(clock(), per_second, per_second));
        Responder {
            source,
            injector,
            store: Store::new(Limits {
                total: options.max_answers,
                per_interface: options.answers_per_interface,
            }),
            flights: Flights::new(options.chases_per_interface, MAX_CHASES),
            other_types: limiter(OTHER_TYPES_PER_SECOND),
            warnings: limiter(WARNINGS_PER_SECOND),
            stats: Stats::default(),
            steer: None,
            pending_refreshes: AtomicUsize::new(0),
            monitor: Arc::default(),
            options,
            clock,
        }
    }

    /// Sends clients whose answer does not fit to TCP, where that helps them; without, they get what fits.
    pub fn with_steering(self, steer: Arc<dyn Steer>) -> Responder<S, I> {
        Responder {
            steer: Some(steer),
            ..self
        }
    }

    /// Tells here what becomes of queries, while somebody watches.
    pub fn told_to(self, monitor: Arc<Hub>) -> Responder<S, I> {
        Responder { monitor, ..self }
    }

    /// Answers a query, passes it on, or lets it wait for a look-up, in a task of its own. Never blocks.
    ///
    /// Must be called on a tokio runtime.
    pub fn handle(self: &Arc<Self>, intercepted: Intercepted) {
        if intercepted.is_answered {
            return self.refresh(intercepted);
        }
        self.take(intercepted);
    }

    /// Looks up again what the program has answered from, a little later.
    fn refresh(self: &Arc<Self>, intercepted: Intercepted) {
        if self.pending_refreshes.fetch_add(1, Ordering::Relaxed) >= PENDING_REFRESHES {
            self.pending_refreshes.fetch_sub(1, Ordering::Relaxed);
            self.stats.refreshes_refused.add();
            return;
        }
        self.stats.refreshes.add();
        let responder = self.clone();
        let pause = SPREAD.mul_f64(rand::random());
        tokio::spawn(async move {
            tokio::time::sleep(pause).await;
            responder.pending_refreshes.fetch_sub(1, Ordering::Relaxed);
            responder.take(intercepted);
        });
    }

    fn take(self: &Arc<Self>, intercepted: Intercepted) {
        let rules = intercepted.rules.clone();
        let index = intercepted.rule;
        let program = Program {
            answers: intercepted.answers.clone(),
            is_answered: intercepted.is_answered,
        };
        let watched = if intercepted.is_answered {
            None
        } else {
            self.watch(&rules, index, || {
                let exchange = Exchange::parse(&intercepted.frame)?;
                Some((exchange, Transport::Udp, intercepted.ifindex))
            })
        };
        self.handle_frame(intercepted.into(), Some(program), watched, |qname| {
            plan(&rules, index, qname)
        });
    }

    /// The same for a query from a TCP connection. Every one gets exactly one [`crate::resolve::StreamReply`].
    pub fn handle_stream(self: &Arc<Self>, stream: StreamQuery) {
        self.stats.queries.add();
        let StreamQuery { query, server, .. } = stream;
        let plan = plan(&stream.rules, stream.rule, query.qname());
        let watched = self.watch(&stream.rules, stream.rule, || {
            let exchange = Exchange {
                client: stream.client,
                server,
                qname: query.qname().to_vec(),
                qtype: query.qtype,
                rcode: None,
            };
            Some((exchange, Transport::Tcp, stream.ifindex))
        });
        let origin = Origin {
            way: Way::Stream {
                ifindex: stream.ifindex,
                reply: stream.reply,
            },
            watched,
        };
        self.handle_query(origin, None, query, server, plan, stream.is_within_rate);
    }

    fn handle_frame(
        self: &Arc<Self>,
        frame: QueryFrame,
        program: Option<Program>,
        watched: Option<Box<Watched>>,
        plan: impl FnOnce(&[u8]) -> Option<Plan>,
    ) {
        let is_answered = program.as_ref().is_some_and(|program| program.is_answered);
        if !is_answered {
            self.stats.queries.add();
        }
        let parsed = parse(&frame);
        let origin = Origin {
            way: Way::Frame(frame),
            watched,
        };
        let Some((query, server)) = parsed else {
            return self.drop_or_pass_on(&origin, is_answered, PassReason::Query);
        };
        let plan = plan(query.qname());
        self.handle_query(origin, program, query, server, plan, true);
    }

    fn handle_query(
        self: &Arc<Self>,
        mut origin: Origin,
        program: Option<Program>,
        query: Query,
        server: SocketAddr,
        plan: Option<Plan>,
        may_look_up: bool,
    ) {
        let is_answered = program.as_ref().is_some_and(|program| program.is_answered);
        let Some(plan) = plan else {
            return self.drop_or_pass_on(&origin, is_answered, PassReason::NoRule);
        };
        if let Some(watched) = &mut origin.watched {
            watched.record.namespace.clone_from(&plan.namespace);
        }
        let publish = program.and_then(|program| {
            let (rule, captures) = plan.kept_by.as_ref()?;
            let key = program
                .answers
                .key(*rule, query.qtype, server.ip(), captures)?;
            Some((program.answers, key))
        });
        let key = Key {
            via: plan.via,
            target: plan.target,
            qtype: query.looked_up(),
            upstream: match self.options.upstream {
                Upstream::Same => server,
                Upstream::Addr(address) => address,
            },
        };
        let waiting = Waiting {
            origin,
            query,
            namespace: plan.namespace,
            ttl_cap: plan.rule_ttl.min(self.options.max_ttl),
            may_look_up,
            is_answered,
            publish,
        };
        let now = (self.clock)();
        match self.store.find(&key, waiting.ttl_cap, now) {
            Found::Fresh(kept, left) => self.answer(&waiting, &kept, left, Replied::Answer),
            Found::NoTarget(left) => self.no_target(&waiting, left),
            Found::Trouble(trouble) => self.without_answer(&waiting, &key, trouble, now),
            Found::Nothing => self.wait(key, waiting, now),
        }
    }

    /// Lets a query wait for the look-up of its key, and starts that if there is none. Look-ups are limited, answers are not.
    fn wait(self: &Arc<Self>, key: Key, waiting: Waiting, now: Instant) {
        let ifindex = waiting.origin.ifindex();
        let may_look_up = waiting.may_look_up;
        let may_lead = || {
            let limiter = || self.other_types.lock();
            may_look_up
                && (qtype_is_kept(key.qtype.into())
                    || limiter()
                        .unwrap_or_else(PoisonError::into_inner)
                        .admit(ifindex, now))
        };
        match self.flights.join(ifindex, &key, waiting, may_lead) {
            Joined::Waits => {}
            Joined::Refused(waiting) => {
                self.without_look_up(&waiting, &key, PassReason::RateLimited, now);
            }
            Joined::Full(waiting) if waiting.is_answered => self.stats.refreshes_refused.add(),
            Joined::Full(waiting) => self.without_look_up(&waiting, &key, PassReason::Busy, now),
            Joined::Leads => {
                self.stats.chases.add();
                let flight = Landing {
                    responder: self.clone(),
                    key,
                    outcome: None,
                    ifindex,
                };
                tokio::spawn(flight.fly());
            }
        }
    }

    /// Tells everybody who waited what the look-up showed.
    fn land(&self, ifindex: u32, key: &Key, outcome: Option<Outcome>) {
        let now = (self.clock)();
        let Some(outcome) = outcome else {
            for waiting in self.flights.land(key) {
                self.without_look_up(&waiting, key, PassReason::Abandoned, now);
            }
            return;
        };
        let kept = self.store.keep(ifindex, key, &outcome, now);
        // Only now, so that whoever comes next finds it in the store.
        let mut waiting = self.flights.land(key);
        publish_once(&mut waiting);
        self.count(key, &outcome, waiting.first(), now);
        for waiting in waiting {
            match (&kept, &outcome) {
                (Some(kept), _) => {
                    let left = kept.fresh_for(waiting.ttl_cap, now).unwrap_or_default();
                    self.answer(&waiting, kept, left, Replied::Answer);
                }
                (None, Outcome::NoTarget) => self.no_target(&waiting, NEGATIVE_LIFETIME),
                (None, Outcome::BrokenChain) => {
                    self.without_answer(&waiting, key, Trouble::BrokenChain, now);
                }
                (None, Outcome::NoAddress(_)) => {
                    self.without_answer(&waiting, key, Trouble::NoAddress, now);
                }
                (None, Outcome::Failed(Failure::Local)) => {
                    self.without_look_up(&waiting, key, PassReason::LocalFailure, now);
                }
                (None, Outcome::Failed(failure)) => {
                    self.without_answer(&waiting, key, Trouble::Failed(*failure), now);
                }
                (None, Outcome::Answer(_)) => {
                    let trouble = Trouble::Failed(Failure::Unusable);
                    self.without_answer(&waiting, key, trouble, now);
                }
            }
        }
    }

    /// Forgets what is kept for an interface that is gone.
    pub fn release_interface(&self, ifindex: u32) {
        self.store.release(ifindex);
        self.other_types
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .release(ifindex);
    }

    /// Returns once no query waits for an answer: the last thing before exit, after the last [`Responder::handle`].
    pub async fn drained(&self) {
        self.flights.idle().await;
    }

    /// The numbers of this moment.
    pub fn snapshot(&self) -> Snapshot {
        self.stats.snapshot(self.flights.len(), self.store.sizes())
    }
}

/// Leaves each entry of a program to the first query that has it: all of them would write the same.
fn publish_once(waiting: &mut [Waiting]) {
    let mut entries = HashSet::new();
    for waiting in waiting {
        waiting.publish.take_if(|(answers, key)| {
            // The pointer tells the tables of one program from those of another.
            !entries.insert((Arc::as_ptr(answers).cast::<()>(), *key))
        });
    }
}

#[cfg(test)]
mod tests;
