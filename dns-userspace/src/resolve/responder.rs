//! Runs the engine: takes queries in, feeds events with the time, and performs the actions that come back.
//!
//! It knows rules only as "this name has this target", and sockets only as [`Inject`] and [`TargetSource`].

mod client;
mod intake;
mod monitoring;
mod perform;
mod protect;
mod task;

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use tokio::sync::watch;

use self::{
    client::{Client, ReplyPath, Watched},
    intake::{Ruling, parse, rule_on},
};
use super::{
    cache::{CacheEntry, Key},
    engine::{Engine, Event, MatchedQuery, PublishKey, Published},
    limiter::Limiter,
    options::{ResponderOptions, Upstream},
    query::Query,
    source::TargetSource,
    stats::{PassReason, ResponderStatus, Stats},
    stream::{Steer, StreamQuery},
};
use crate::{
    inject::{Inject, QueryFrame},
    model::{Changes, Intercepted, LastGood, Outcomes, Publish, PublishedEntry, Transport},
    monitor::{Exchange, Hub},
};

/// Log lines about broken chains.
const WARNINGS_PER_SECOND: u32 = 1;

/// See the module.
pub struct Responder<S, I> {
    options: ResponderOptions,
    source: S,
    injector: I,
    engine: Mutex<Engine<Arc<Client>>>,
    /// Look-ups in flight, as of the last event whose actions are performed.
    in_flight: watch::Sender<usize>,
    /// See [`Engine::epoch`]: answers of an earlier one are not published.
    published: Mutex<u64>,
    warnings: Mutex<Limiter>,
    stats: Arc<Stats>,
    steer: Option<Arc<dyn Steer>>,
    monitor: Arc<Hub>,
    outcomes: Option<Arc<dyn Outcomes>>,
    clock: fn() -> Instant,
}

/// A query that can be read, and what the rules say of it.
struct Accepted<'a> {
    query: Query,
    server: SocketAddr,
    ruling: Ruling,
    may_look_up: bool,
    is_answered: bool,
    /// Where its last good answer may be.
    answers: Option<&'a Arc<dyn Publish>>,
}

/// The program that took a query.
struct Program {
    answers: Arc<dyn Publish>,
    is_answered: bool,
    /// Whether the answer depends on who asks.
    is_known: bool,
    /// Whether it took the query so that the name is refused.
    refuses: bool,
}

impl<S: TargetSource, I: Inject> Responder<S, I> {
    /// The counters go on from where the responder before has left them.
    pub fn new(
        options: ResponderOptions,
        source: S,
        injector: I,
        stats: Arc<Stats>,
    ) -> Responder<S, I> {
        Responder::with_clock(options, source, injector, stats, Instant::now)
    }

    fn with_clock(
        options: ResponderOptions,
        source: S,
        injector: I,
        stats: Arc<Stats>,
        clock: fn() -> Instant,
    ) -> Responder<S, I> {
        let engine = Engine::new(options, stats.clone(), rand::random(), clock());
        let warnings = Limiter::new(clock(), WARNINGS_PER_SECOND, WARNINGS_PER_SECOND);
        Responder {
            source,
            injector,
            engine: Mutex::new(engine),
            in_flight: watch::Sender::new(0),
            published: Mutex::new(0),
            warnings: Mutex::new(warnings),
            stats,
            steer: None,
            monitor: Arc::default(),
            outcomes: None,
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

    /// Reports the outcome of each query there, while a monitor is connected.
    pub fn with_monitor(self, monitor: Arc<Hub>) -> Responder<S, I> {
        Responder { monitor, ..self }
    }

    /// Reports what came of looking targets up there.
    pub fn with_outcomes(self, outcomes: Arc<dyn Outcomes>) -> Responder<S, I> {
        Responder {
            outcomes: Some(outcomes),
            ..self
        }
    }

    /// Answers a query, passes it on, or lets it wait for a look-up, in a task of its own. Never blocks.
    ///
    /// Must be called on a tokio runtime.
    pub fn handle(self: &Arc<Self>, intercepted: Intercepted) {
        let (rules, rule) = (intercepted.rules.clone(), intercepted.rule);
        let client = intercepted.client.clone();
        let program = Program {
            answers: intercepted.answers.clone(),
            is_answered: intercepted.is_answered,
            is_known: intercepted.client.is_some(),
            refuses: rules.refuses(rule),
        };
        let is_answered = program.is_answered;
        let watched = if is_answered {
            None
        } else {
            self.watch(&rules, rule, || {
                let exchange = Exchange::parse(&intercepted.frame)?;
                Some((exchange, Transport::Udp, intercepted.ifindex))
            })
        };
        let frame = QueryFrame::from(intercepted);
        let query = self.accept_frame(frame, Some(program), watched, |qname| {
            rule_on(&rules, rule, qname, client.as_ref())
        });
        if let Some(query) = query {
            self.apply(if is_answered {
                Event::Refresh(query)
            } else {
                Event::Query(query)
            });
        }
    }

    /// The same for a query from a TCP connection. Every one gets exactly one [`crate::resolve::StreamReply`]. What comes of it is
    /// not published at `answers`; what is there may be its last good answer.
    pub fn handle_stream(
        self: &Arc<Self>,
        stream: StreamQuery,
        answers: Option<&Arc<dyn Publish>>,
    ) {
        self.stats.lock().queries += 1;
        let StreamQuery { query, server, .. } = stream;
        let asked_by = stream.asked_by.as_ref();
        let ruling = rule_on(&stream.rules, stream.rule, query.qname(), asked_by);
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
        let client = Client {
            reply_path: ReplyPath::Stream {
                ifindex: stream.ifindex,
                reply: stream.reply,
            },
            watched,
            is_known: false,
            answers: None,
        };
        let accepted = Accepted {
            query,
            server,
            ruling,
            may_look_up: stream.is_within_rate,
            is_answered: false,
            answers,
        };
        let matched = self.accept(client, accepted);
        if let Some(query) = matched {
            self.apply(Event::Query(query));
        }
    }

    /// Reads an intercepted frame. A query that no rule matches, or that cannot be read, is passed on here.
    fn accept_frame(
        &self,
        frame: QueryFrame,
        program: Option<Program>,
        watched: Option<Box<Watched>>,
        rule_on: impl FnOnce(&[u8]) -> Ruling,
    ) -> Option<MatchedQuery<Arc<Client>>> {
        let is_answered = program.as_ref().is_some_and(|program| program.is_answered);
        if !is_answered {
            self.stats.lock().queries += 1;
        }
        let refuses = program.as_ref().is_some_and(|program| program.refuses);
        let parsed = parse(&frame);
        let client = Client {
            reply_path: ReplyPath::Frame(frame),
            watched,
            is_known: program.as_ref().is_some_and(|program| program.is_known),
            answers: program.map(|program| program.answers),
        };
        let Some((query, server)) = parsed else {
            // The existing cache may read what this cannot.
            match refuses {
                true => self.leave_unanswered(&client, PassReason::Query),
                false => self.reject(&client, is_answered, PassReason::Query),
            }
            return None;
        };
        let ruling = rule_on(query.qname());
        let answers = client.answers.clone();
        let accepted = Accepted {
            query,
            server,
            ruling,
            may_look_up: true,
            is_answered,
            answers: answers.as_ref(),
        };
        self.accept(client, accepted)
    }

    fn accept(
        &self,
        mut client: Client,
        accepted: Accepted<'_>,
    ) -> Option<MatchedQuery<Arc<Client>>> {
        let Accepted {
            query,
            server,
            ruling,
            may_look_up,
            is_answered,
            answers,
        } = accepted;
        let plan = match ruling {
            Ruling::Target(plan) => plan,
            Ruling::Protected(protected, id) => {
                self.protect(&client, &query, server.ip(), protected, id);
                return None;
            }
            Ruling::Nothing => {
                self.reject(&client, is_answered, PassReason::NoRule);
                return None;
            }
        };
        if let Some(watched) = &mut client.watched {
            watched.record.namespace.clone_from(&plan.namespace);
        }
        let place = answers.and_then(|answers| {
            let by = plan.published_by.as_ref()?;
            let (rule, client) = (by.rule, by.client);
            let key = answers.key(rule, query.qtype, server.ip(), &by.captures, client)?;
            let publish = PublishKey {
                table: Arc::as_ptr(answers).cast::<()>().addr(),
                key,
            };
            Some((publish, self.published_before(&**answers, &key)))
        });
        let (publish, published) = place.unzip();
        let key = Key {
            via: plan.via,
            target: plan.target,
            qtype: query.looked_up(),
            upstream: match self.options.upstream {
                Upstream::Same => server,
                Upstream::Addr(address) => address,
            },
        };
        let client_publishes = client.answers.is_some();
        Some(MatchedQuery {
            ifindex: client.ifindex(),
            client: Arc::new(client),
            query,
            key,
            namespace: plan.namespace,
            ttl_cap: plan.rule_ttl.min(self.options.max_ttl),
            may_look_up,
            is_answered,
            publish: publish.filter(|_| client_publishes),
            published: published.unwrap_or_default(),
        })
    }

    /// Passes a query on that the engine never gets, unless the program has answered it.
    fn reject(&self, client: &Client, is_answered: bool, reason: PassReason) {
        if !is_answered {
            self.pass_on(client, reason);
        }
    }

    /// Feeds an event to the engine, and performs the actions that come back.
    fn apply(self: &Arc<Self>, event: Event<Arc<Client>>) {
        let (actions, epoch) = {
            let mut engine = self.engine();
            (engine.handle(event, (self.clock)()), engine.epoch())
        };
        for action in actions {
            self.perform(action, epoch);
        }
        let engine = self.engine();
        self.in_flight.send_if_modified(|count| {
            let before = std::mem::replace(count, engine.in_flight());
            before != *count
        });
    }

    /// A panic elsewhere leaves the engine whole: each change to it is complete before anything that could panic.
    fn engine(&self) -> MutexGuard<'_, Engine<Arc<Client>>> {
        self.engine.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Forgets the limits of an interface that is gone, and lets any interface push out its cache entries.
    pub fn release_interface(self: &Arc<Self>, ifindex: u32) {
        self.apply(Event::InterfaceGone(ifindex));
    }

    /// Forgets what is no longer right now that targets have changed: here, and what is published at `answers`. Nothing that was
    /// looked up before is published afterwards.
    pub fn changed(self: &Arc<Self>, changes: &Changes, answers: &dyn Publish) {
        let epoch = {
            let mut engine = self.engine();
            engine.handle(Event::Changed(changes.clone()), (self.clock)());
            engine.epoch()
        };
        let mut published = self.published();
        *published = epoch;
        answers.withdraw_changed(changes, &|targets, entry| match entry {
            PublishedEntry::Answer(qtype, body) => {
                let entry = CacheEntry::of_program((*body).clone(), Duration::ZERO, (self.clock)());
                entry.is_none_or(|entry| entry.is_outdated(targets, (*qtype).into(), changes))
            }
            PublishedEntry::NoTarget => changes.contradict_denial(targets),
        });
    }

    /// The epoch of what may be published. Held while something is.
    fn published(&self) -> MutexGuard<'_, u64> {
        self.published
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// What is published of a query's name.
    fn published_before(&self, answers: &dyn Publish, key: &dns_common::answer::Key) -> Published {
        let LastGood { answer, exists } = answers.last_good(key);
        Published {
            answer: answer.and_then(|(body, left)| {
                CacheEntry::of_program(body, left, (self.clock)()).map(Arc::new)
            }),
            exists,
        }
    }

    /// Returns once no query waits for an answer: the last thing before exit, after the last [`Responder::handle`].
    pub async fn drained(&self) {
        // An error means that the sender is gone, and it is ours.
        let _ = self
            .in_flight
            .subscribe()
            .wait_for(|&count| count == 0)
            .await;
    }

    /// The counters, and what is held at this moment.
    pub fn status(&self) -> ResponderStatus {
        let engine = self.engine();
        self.stats.status(engine.in_flight(), engine.cached())
    }
}

#[cfg(test)]
mod tests;
