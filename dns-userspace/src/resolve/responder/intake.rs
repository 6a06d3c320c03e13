//! From an intercepted frame to its query and the target that the rules give it.

use std::{
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use hickory_proto::rr::Name;

use crate::{
    inject::{Datagram, QueryFrame},
    resolve::query::Query,
    rules::RuleSet,
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
    /// Id of the rule and captures, where the program may keep its answers.
    pub(super) published_by: Option<(u64, Vec<String>)>,
}

/// Applies a rule, and the rules that its target leads to, to a name; `None` when it does not match after all.
pub(super) fn plan(rules: &RuleSet, index: usize, qname: &[u8]) -> Option<Plan> {
    let chain = rules.follow(index, qname)?;
    let ttl_seconds = chain
        .iter()
        .map(|(rule, _)| rule.ttl_seconds())
        .fold(u32::MAX, u32::min);
    let namespace = chain
        .iter()
        .find_map(|(_, matched)| matched.namespace.clone());
    let mut targets = chain.into_iter();
    let (rule, first) = targets.next()?;
    let published_by = (!rule.is_regex()).then_some((rule.id(), first.captures));
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
