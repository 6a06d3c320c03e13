//! From an intercepted frame to its query and the target that the rules give it.

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use hickory_proto::rr::Name;

use crate::{
    inject::{Datagram, QueryFrame},
    model::Client,
    resolve::query::Query,
    rules::{Protected, RuleSet},
};

/// The target of a query, by the rules.
#[derive(Clone, Debug)]
pub(super) struct Plan {
    /// Targets of rules that are names of further rules, in chain order.
    pub(super) via: Vec<Name>,
    /// The target of the last rule.
    pub(super) target: Name,
    pub(super) namespace: Option<String>,
    /// The least of the rules that take part.
    pub(super) rule_ttl: Duration,
    /// Where the program may keep its answers.
    pub(super) published_by: Option<PublishedBy>,
}

/// What becomes of a query, by the rules.
#[derive(Clone, Debug)]
pub(super) enum Ruling {
    Target(Plan),
    /// It is for the name of a target, of the client with this id, 0 for nobody.
    Protected(Protected, u32),
    /// No rule matches.
    Nothing,
}

impl From<Option<Plan>> for Ruling {
    fn from(plan: Option<Plan>) -> Self {
        plan.map_or(Ruling::Nothing, Ruling::Target)
    }
}

/// What answers that the program keeps depend on, beside the question.
#[derive(Clone, Debug)]
pub(super) struct PublishedBy {
    /// Id of the rule.
    pub(super) rule: u64,
    pub(super) captures: Vec<String>,
    /// Id of the client, where the rule depends on it; else 0.
    pub(super) client: u32,
}

/// What the rules say of a client's question for a name, with the rule that the program has found.
pub(super) fn rule_on(
    rules: &RuleSet,
    index: usize,
    qname: &[u8],
    client: Option<&(u32, Arc<Client>)>,
) -> Ruling {
    match rules.protection_at(index, qname, client.map(|(_, client)| &**client)) {
        Some(protected) => Ruling::Protected(protected, client.map_or(0, |(id, _)| *id)),
        None => plan(rules, index, qname, client).into(),
    }
}

/// Applies a rule, and the rules that its target leads to, to a name; `None` when it does not match after all, or is not for
/// this client.
fn plan(
    rules: &RuleSet,
    index: usize,
    qname: &[u8],
    client: Option<&(u32, Arc<Client>)>,
) -> Option<Plan> {
    let chain = rules.follow(index, qname, client.map(|(_, client)| &**client))?;
    let ttl_seconds = chain
        .iter()
        .map(|(rule, _)| rule.ttl_seconds())
        .fold(u32::MAX, u32::min);
    let captured = chain
        .iter()
        .find_map(|(_, matched)| matched.namespace.clone());
    let of_client = || client.map(|(_, client)| client.namespace.clone());
    let namespace = captured.or_else(of_client);
    let mut targets = chain.into_iter();
    let (rule, first) = targets.next()?;
    let asked_by = client.filter(|_| rule.asks_who());
    let published_by = (!rule.is_regex()).then_some(PublishedBy {
        rule: rule.id(),
        captures: first.captures,
        client: asked_by.map_or(0, |(id, _)| *id),
    });
    let mut via = vec![first.target];
    via.extend(targets.map(|(_, matched)| matched.target));
    let target = via.pop()?;
    Some(Plan {
        via,
        target,
        namespace,
        rule_ttl: Duration::from_secs(ttl_seconds.into()),
        published_by,
    })
}

/// The query of a frame, and the server that it asks.
pub(super) fn parse(frame: &QueryFrame) -> Option<(Query, SocketAddr)> {
    let datagram = Datagram::parse(&frame.frame, frame.l3_offset)?;
    let query = Query::parse(frame.frame.get(datagram.message)?)?;
    let mut server = datagram.destination;
    // A link-local server is reached over its link only.
    if let (SocketAddr::V6(server), IpAddr::V6(address)) = (&mut server, datagram.destination.ip())
        && address.is_unicast_link_local()
    {
        server.set_scope_id(frame.ifindex);
    }
    Some((query, server))
}
