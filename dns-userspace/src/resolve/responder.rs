//! Answers intercepted queries: at once from what is known, else after one look-up that all who ask the same wait for.
//!
//! It knows rules only as "this name has this target", and sockets only as [`Inject`] and [`TargetSource`].

use std::{
    collections::HashSet,
    net::{IpAddr, SocketAddr},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant, SystemTime},
};

use dns_common::{answer, wire::qtype_is_kept};
use hickory_proto::rr::Name;
use tracing::{debug, warn};

use super::{
    chain::{Failure, Outcome},
    compose::{self, Carrier, ExtendedError, Section},
    flight::{Flights, Joined, MAX_CHASES},
    limiter::Limiter,
    query::Query,
    source::TargetSource,
    stats::{PassReason, Replied, Snapshot, Stats},
    store::{Found, Kept, Key, Known, Limits, NEGATIVE_LIFETIME, Store, Trouble},
    stream::{ReplyTo, Steer, StreamQuery, StreamReply},
};
use crate::{
    config::{Config, UpstreamServer},
    datapath::{Intercepted, Publish, Term},
    inject::{Datagram, Inject, QueryFrame},
    monitor::{Exchange, Hub, Record, Transport, Verdict},
    rules::RuleSet,
};

/// What a client is told of an answer that outlived its TTL (RFC 8767 §4).
const STALE_TTL: Duration = Duration::from_secs(30);
/// Queries of one interface for types that are not kept.
const UNKEPT_PER_SECOND: u32 = 20;
/// Interfaces that may fill their share of the kept answers before there is no room for others.
const FULL_SHARES: usize = 64;
/// Log lines about broken chains.
const WARNINGS_PER_SECOND: u32 = 1;

/// Whom to ask for targets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Upstream {
    /// The server that the pod asked.
    Same,
    Addr(SocketAddr),
}

/// How long a program goes on telling an answer whose time is over, while it is asked for again: longer than an upstream
/// has to answer, unless it is configured to have more.
const GRACE: Duration = Duration::from_secs(3);
/// Refreshes begin within this time, so that answers that came together do not go together for ever.
const SPREAD: Duration = Duration::from_millis(1000);
/// Refreshes that have not begun. What is refused runs out, and is looked up when it is asked for.
const PENDING_REFRESHES: usize = 4096;

/// See the configuration keys of the same names.
#[derive(Clone, Copy, Debug)]
pub struct ResponderOptions {
    pub upstream: Upstream,
    /// Most that clients are told.
    pub max_ttl: Duration,
    /// How long an answer may outlive its TTL while the upstream fails.
    pub serve_stale: Duration,
    /// Look-ups that one interface may have in flight.
    pub chases_per_interface: usize,
    /// Answers kept in all.
    pub max_answers: usize,
    /// Answers kept on the account of one interface.
    pub answers_per_interface: usize,
}

impl Default for ResponderOptions {
    fn default() -> Self {
        ResponderOptions {
            upstream: Upstream::Same,
            max_ttl: Duration::from_secs(30),
            serve_stale: Duration::from_secs(3600),
            chases_per_interface: 64,
            max_answers: 16_384,
            answers_per_interface: 16_384 / FULL_SHARES,
        }
    }
}

impl From<&Config> for ResponderOptions {
    fn from(config: &Config) -> Self {
        ResponderOptions {
            upstream: match config.upstream.server {
                UpstreamServer::Same => Upstream::Same,
                UpstreamServer::Address(address) => Upstream::Addr(address),
            },
            max_ttl: config.answer.max_ttl,
            serve_stale: config.answer.serve_stale,
            chases_per_interface: config.limits.chases_per_interface,
            max_answers: config.limits.answers,
            answers_per_interface: (config.limits.answers / FULL_SHARES).max(1),
        }
    }
}

/// See the module.
pub struct Responder<S, I> {
    options: ResponderOptions,
    source: S,
    injector: I,
    store: Store,
    flights: Flights<Waiting>,
    unkept: Mutex<Limiter>,
    warnings: Mutex<Limiter>,
    stats: Stats,
    steer: Option<Arc<dyn Steer>>,
    pending_refreshes: AtomicUsize,
    monitor: Arc<Hub>,
    clock: fn() -> Instant,
}

/// A query with everything that its reply needs.
struct Waiting {
    origin: Origin,
    query: Query,
    namespace: Option<String>,
    /// Most that this client is told: the rule's TTL and `max_ttl`.
    ttl_cap: Duration,
    /// The program has answered it already: what is found out goes to the program only.
    is_answered: bool,
    /// Where the program keeps what is known of the name. Types that it does not keep have a key too: what they show of
    /// the name itself holds for all of them.
    publish: Option<(Arc<dyn Publish>, answer::Key)>,
}

impl Waiting {
    /// Where the program keeps the answer to this query, if it keeps answers of this type.
    fn entry(&self) -> Option<&(Arc<dyn Publish>, answer::Key)> {
        self.publish
            .as_ref()
            .filter(|_| qtype_is_kept(self.query.qtype))
    }
}

/// The program that took a query.
struct Program {
    answers: Arc<dyn Publish>,
    is_answered: bool,
}

/// How a query came, and so how it is answered or passed on, and who wants to know.
struct Origin {
    way: Way,
    /// Somebody watches.
    watched: Option<Box<Watched>>,
}

#[derive(Debug)]
enum Way {
    Frame(QueryFrame),
    Stream { ifindex: u32, reply: ReplyTo },
}

/// A query as whoever watches is to be told of it.
struct Watched {
    since: Instant,
    /// All but what becomes of it.
    record: Record,
}

impl Origin {
    fn ifindex(&self) -> u32 {
        match &self.way {
            Way::Frame(frame) => frame.ifindex,
            Way::Stream { ifindex, .. } => *ifindex,
        }
    }

    fn carrier(&self) -> Carrier {
        match &self.way {
            Way::Frame(_) => Carrier::Datagram,
            Way::Stream { .. } => Carrier::Stream,
        }
    }
}

/// What a rule makes of a query.
#[derive(Clone, Debug)]
struct Plan {
    target: Name,
    namespace: Option<String>,
    rule_ttl: Duration,
    /// Rule and captures, where its answers may be kept by the program.
    kept_by: Option<(usize, Vec<String>)>,
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
            unkept: limiter(UNKEPT_PER_SECOND),
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

    /// The same for a query from a TCP connection. Every one gets exactly one [`StreamReply`].
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
        self.handle_query(origin, None, query, server, plan);
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
        self.handle_query(origin, program, query, server, plan);
    }

    fn handle_query(
        self: &Arc<Self>,
        mut origin: Origin,
        program: Option<Program>,
        query: Query,
        server: SocketAddr,
        plan: Option<Plan>,
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
            target: plan.target,
            qtype: query.qtype.into(),
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
            is_answered,
            publish,
        };
        let now = (self.clock)();
        if !qtype_is_kept(waiting.query.qtype) {
            let mut limiter = self.unkept.lock().unwrap_or_else(PoisonError::into_inner);
            if !limiter.admit(waiting.origin.ifindex(), now) {
                drop(limiter);
                return self.without_look_up(&waiting, &key, PassReason::RateLimited, now);
            }
        }
        match self.store.find(&key, waiting.ttl_cap, now) {
            Found::Fresh(kept, left) => self.answer(&waiting, &kept, left, Replied::Answer),
            Found::NoTarget(left) => self.no_target(&waiting, left),
            Found::Trouble(trouble) => self.without_answer(&waiting, &key, trouble, now),
            Found::Nothing => self.wait(key, waiting, now),
        }
    }

    /// Lets a query wait for the look-up of its key, and starts that if nobody has.
    fn wait(self: &Arc<Self>, key: Key, waiting: Waiting, now: Instant) {
        let ifindex = waiting.origin.ifindex();
        match self.flights.join(ifindex, &key, waiting) {
            Joined::Waits => {}
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
        let kept = if qtype_is_kept(key.qtype.into()) || outcome == Outcome::NoTarget {
            self.store.keep(ifindex, key, &outcome, now)
        } else {
            unkept(&outcome, now)
        };
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

    fn count(&self, key: &Key, outcome: &Outcome, first: Option<&Waiting>, now: Instant) {
        match outcome {
            Outcome::Failed(failure) => {
                self.stats.failed(*failure);
                debug!(target = %key.target, qtype = %key.qtype, failure = failure.label(), "look-up failed");
            }
            Outcome::BrokenChain => {
                self.stats.broken_chains.add();
                debug!(target = %key.target, "the end of the target's chain does not exist");
                let mut warnings = self.warnings.lock().unwrap_or_else(PoisonError::into_inner);
                if warnings.admit(0, now) {
                    let namespace = first.and_then(|waiting| waiting.namespace.as_deref());
                    warn!(
                        namespace = namespace.unwrap_or("none"),
                        qtype = %key.qtype,
                        "a tenant's target exists, but the name at the end of its CNAME chain does not"
                    );
                }
            }
            Outcome::Answer(_) | Outcome::NoTarget => {}
        }
    }

    fn answer(&self, waiting: &Waiting, kept: &Kept, ttl: Duration, replied: Replied) {
        // Rounded up: what is left of a second counts as one.
        let ttl_seconds = (ttl.as_millis().div_ceil(1000) as u32).max(1);
        if let Some((answers, key)) = waiting.entry() {
            match &kept.body {
                Some(body) => {
                    let term = match replied {
                        Replied::Stale => {
                            let left = kept.stale_for(self.options.serve_stale, (self.clock)());
                            let fresh = left.min(NEGATIVE_LIFETIME);
                            Term {
                                fresh,
                                grace: GRACE.min(left - fresh),
                                fixed_ttl: Some(ttl_seconds),
                            }
                        }
                        _ => Term {
                            fresh: ttl,
                            grace: GRACE,
                            fixed_ttl: None,
                        },
                    };
                    answers.answer(waiting.origin.ifindex(), key, body, &term);
                }
                None => answers.nothing(key),
            }
        }
        if waiting.is_answered {
            return;
        }
        let reply = compose::answer(
            &waiting.query,
            &kept.section,
            ttl_seconds,
            kept.next_rotation(),
            waiting.origin.carrier(),
        );
        let reply = match reply {
            Some(reply) if reply.left_out == 0 => reply.message,
            incomplete => {
                let sent_to_tcp = self.sends_to_tcp(&waiting.origin);
                let message = match incomplete {
                    Some(reply) => Some(reply.message),
                    None => sent_to_tcp.then(|| compose::empty(&waiting.query)),
                };
                if waiting.origin.carrier() == Carrier::Stream {
                    self.warn_cut(waiting);
                }
                let Some(mut message) = message else {
                    return self.servfail(waiting, TOO_LONG);
                };
                if sent_to_tcp {
                    self.stats.truncated.add();
                    compose::truncate(&mut message);
                }
                message
            }
        };
        self.stats.noerror.add();
        self.stats.replied(waiting.namespace.as_deref(), replied);
        self.send(&waiting.origin, &reply);
        self.tell_answer(&waiting.origin, "NOERROR", replied);
    }

    /// Not even a stream has room for the whole RRset.
    fn warn_cut(&self, waiting: &Waiting) {
        let mut warnings = self.warnings.lock().unwrap_or_else(PoisonError::into_inner);
        if warnings.admit(0, (self.clock)()) {
            warn!(
                namespace = waiting.namespace.as_deref().unwrap_or("none"),
                qtype = waiting.query.qtype,
                "a tenant's target has more records than a DNS message holds; the answer lacks some"
            );
        }
    }

    /// The existing cache answers, now and for as long as this is known.
    fn no_target(&self, waiting: &Waiting, left: Duration) {
        if let Some((answers, key)) = &waiting.publish {
            answers.no_target(waiting.origin.ifindex(), key, left);
        }
        self.drop_or_pass_on(&waiting.origin, waiting.is_answered, PassReason::NoTarget);
    }

    /// The upstream failed or contradicts itself: the last good answer, else SERVFAIL.
    fn without_answer(&self, waiting: &Waiting, key: &Key, trouble: Trouble, now: Instant) {
        let stale = match trouble {
            Trouble::Failed(_) => self.store.stale(key, self.options.serve_stale, now),
            Trouble::BrokenChain => None,
        };
        match stale {
            Some(kept) => self.stale(waiting, &kept),
            None => {
                if let Some((answers, key)) = waiting.entry() {
                    answers.nothing(key);
                }
                if !waiting.is_answered {
                    self.servfail(waiting, extended_error(trouble));
                }
            }
        }
    }

    fn stale(&self, waiting: &Waiting, kept: &Kept) {
        let ttl = STALE_TTL.min(waiting.ttl_cap);
        self.stats.stale.add();
        self.answer(waiting, kept, ttl, Replied::Stale);
    }

    /// This node did not look the name up, which says nothing about the name (SEMANTICS rule 13): the last good answer; the
    /// existing cache if nothing is known; and no reply if the name exists, since the cache would deny it.
    fn without_look_up(&self, waiting: &Waiting, key: &Key, reason: PassReason, now: Instant) {
        match self.store.known(key, self.options.serve_stale, now) {
            Known::Answer(kept) => self.stale(waiting, &kept),
            Known::Exists if waiting.is_answered => {}
            Known::Exists => self.leave_unanswered(&waiting.origin, reason),
            Known::Nothing => self.drop_or_pass_on(&waiting.origin, waiting.is_answered, reason),
        }
    }

    /// The client asks again, and finds what failed here over or its next server.
    fn leave_unanswered(&self, origin: &Origin, reason: PassReason) {
        self.stats.unanswered.add();
        if let Way::Stream { reply, .. } = &origin.way
            && let Err(error) = reply.send(StreamReply::Nothing)
        {
            debug!(ifindex = origin.ifindex(), %error, "the connection is gone");
        }
        self.tell(origin, |record, _| {
            record.verdict = Verdict::Unanswered;
            record.reason = Some(reason.label().to_owned());
        });
    }

    fn servfail(&self, waiting: &Waiting, error: ExtendedError) {
        self.stats.servfail.add();
        self.stats
            .replied(waiting.namespace.as_deref(), Replied::Servfail);
        self.send(&waiting.origin, &compose::servfail(&waiting.query, error));
        self.tell_answer(&waiting.origin, "SERVFAIL", Replied::Servfail);
    }

    /// Whether a client that does not get its whole answer now gets it over TCP.
    fn sends_to_tcp(&self, origin: &Origin) -> bool {
        let (Some(steer), Way::Frame(frame)) = (&self.steer, &origin.way) else {
            return false;
        };
        Datagram::parse(&frame.frame, frame.l3_offset)
            .is_some_and(|datagram| steer.tell(datagram.destination.ip(), datagram.source.ip()))
    }

    fn send(&self, origin: &Origin, reply: &[u8]) {
        let sent = match &origin.way {
            Way::Frame(frame) => self.injector.reply(frame, reply),
            Way::Stream { reply: to, .. } => to.send(StreamReply::Answer(reply.to_vec())),
        };
        if let Err(error) = sent {
            self.stats.send_errors.add();
            debug!(ifindex = origin.ifindex(), %error, "reply not sent");
        }
    }

    /// Nobody waits for what the program has answered.
    fn drop_or_pass_on(&self, origin: &Origin, is_answered: bool, reason: PassReason) {
        if !is_answered {
            self.pass_on(origin, reason);
        }
    }

    fn pass_on(&self, origin: &Origin, reason: PassReason) {
        self.stats.passed(reason);
        let sent = match &origin.way {
            Way::Frame(frame) => self.injector.pass_on(frame),
            Way::Stream { reply, .. } => reply.send(StreamReply::PassOn),
        };
        if let Err(error) = sent {
            self.stats.send_errors.add();
            debug!(ifindex = origin.ifindex(), %error, "query not passed on");
        }
        self.tell(origin, |record, _| {
            record.verdict = Verdict::PassedOn;
            record.reason = Some(reason.label().to_owned());
        });
    }

    /// Begins the record of a query; costs nothing while nobody watches.
    fn watch(
        &self,
        rules: &RuleSet,
        rule: usize,
        exchange: impl FnOnce() -> Option<(Exchange, Transport, u32)>,
    ) -> Option<Box<Watched>> {
        if !self.monitor.is_watched() {
            return None;
        }
        let (exchange, transport, ifindex) = exchange()?;
        let mut record = Record::new(&exchange, SystemTime::now(), ifindex);
        record.transport = transport;
        record.rule = rules.rules().get(rule).map(|rule| rule.name().to_owned());
        Some(Box::new(Watched {
            since: (self.clock)(),
            record,
        }))
    }

    fn tell_answer(&self, origin: &Origin, rcode: &str, replied: Replied) {
        self.tell(origin, |record, since| {
            record.rcode = Some(rcode.to_owned());
            record.stale = replied == Replied::Stale;
            record.latency = Some((self.clock)().saturating_duration_since(since));
        });
    }

    /// Tells whoever watches what became of a query.
    fn tell(&self, origin: &Origin, outcome: impl FnOnce(&mut Record, Instant)) {
        if let Some(watched) = &origin.watched {
            let mut record = watched.record.clone();
            record.time = SystemTime::now();
            outcome(&mut record, watched.since);
            self.monitor.tell(record);
        }
    }

    /// Forgets what is kept for an interface that is gone.
    pub fn release_interface(&self, ifindex: u32) {
        self.store.release(ifindex);
        self.unkept
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

/// A look-up in flight; whatever happens to its task, nobody waits for ever.
struct Landing<S: TargetSource, I: Inject> {
    responder: Arc<Responder<S, I>>,
    key: Key,
    ifindex: u32,
    outcome: Option<Outcome>,
}

impl<S: TargetSource, I: Inject> Landing<S, I> {
    async fn fly(mut self) {
        let key = &self.key;
        let source = &self.responder.source;
        let outcome = source.look_up(&key.target, key.qtype, key.upstream).await;
        self.outcome = Some(outcome);
    }
}

impl<S: TargetSource, I: Inject> Drop for Landing<S, I> {
    fn drop(&mut self) {
        self.responder
            .land(self.ifindex, &self.key, self.outcome.take());
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

/// What a rule makes of a name; `None` when it does not match after all.
fn plan(rules: &RuleSet, index: usize, qname: &[u8]) -> Option<Plan> {
    let rule = rules.rules().get(index)?;
    let matched = rule.apply(qname)?;
    Some(Plan {
        target: matched.target,
        namespace: matched.namespace,
        rule_ttl: Duration::from_secs(rule.ttl_seconds().into()),
        kept_by: (!rule.is_regex()).then_some((index, matched.captures)),
    })
}

/// The query of a frame, and the server that it asks.
fn parse(frame: &QueryFrame) -> Option<(Query, SocketAddr)> {
    let datagram = Datagram::parse(&frame.frame, frame.l3_offset)?;
    let query = Query::parse(frame.frame.get(datagram.message)?)?;
    let mut server = datagram.destination;
    // A link-local server is only reached by way of its link.
    if let (SocketAddr::V6(server), IpAddr::V6(address)) = (&mut server, datagram.destination.ip())
        && address.is_unicast_link_local()
    {
        server.set_scope_id(frame.ifindex);
    }
    Some((query, server))
}

fn unkept(outcome: &Outcome, now: Instant) -> Option<Arc<Kept>> {
    match outcome {
        Outcome::Answer(answer) => {
            let section = Section::new(answer)?;
            Some(Arc::new(Kept::new(section, answer.ttl_seconds, now)))
        }
        _ => None,
    }
}

const TOO_LONG: ExtendedError = ExtendedError {
    code: 0,
    text: "answer does not fit",
};

/// RFC 8914 §4 and the codes registered there.
fn extended_error(trouble: Trouble) -> ExtendedError {
    let (code, text) = match trouble {
        Trouble::BrokenChain => (0, "the end of the target's CNAME chain does not exist"),
        Trouble::Failed(Failure::Timeout) => (22, "no reply for the target"),
        Trouble::Failed(Failure::Network) => (23, "upstream unreachable"),
        Trouble::Failed(Failure::Tcp) => (
            23,
            "the reply for the target needs TCP, which the upstream does not answer",
        ),
        Trouble::Failed(Failure::Rcode) => (0, "upstream failed for the target"),
        Trouble::Failed(Failure::Loop) => (0, "the target's CNAME chain is a loop"),
        Trouble::Failed(Failure::TooLong) => (0, "the target's CNAME chain is too long"),
        Trouble::Failed(Failure::Unusable) => (0, "no usable reply"),
        Trouble::Failed(Failure::Local) => (0, "not looked up"),
    };
    ExtendedError { code, text }
}

#[cfg(test)]
mod tests;
