//! Decides what to ask an upstream about a target, and when the answer is complete: the chain, and behind a chain without the
//! record asked for, whether it has any address at all; no I/O.
//!
//! A CNAME without an address of either family stops glibc, so that such a target is as broken as one whose end does not
//! exist; one that only lacks the type asked for is a NODATA.

use std::net::{IpAddr, SocketAddr};

use hickory_proto::{
    op::Message,
    rr::{Name, RecordType},
};

use super::chain::{Failure, Outcome, Walk};
use crate::model::Known;

const FAMILIES: [RecordType; 2] = [RecordType::A, RecordType::AAAA];

/// A chase in progress.
#[derive(Debug)]
pub struct Chase {
    walk: Walk,
    /// An address of the other family is cached.
    has_address: bool,
    /// The NODATA that the walk ended in, while addresses are looked for.
    nodata: Option<Nodata>,
}

#[derive(Debug)]
struct Nodata {
    /// The outcome if there is an address.
    outcome: Outcome,
    /// The chain has a name besides the target's own.
    has_alias: bool,
    walk: Walk,
    qtype: RecordType,
    /// Families to look for after this one.
    left: Vec<RecordType>,
    /// The look-up for a family failed.
    failure: Option<Failure>,
}

impl Chase {
    pub fn new(target: Name, qtype: RecordType, has_address: bool) -> Chase {
        Chase {
            has_address,
            walk: Walk::new(target, qtype),
            nodata: None,
        }
    }

    /// The chase for a target of which something is known, or what is already the outcome.
    pub fn of_known(
        target: Name,
        known: Known,
        qtype: RecordType,
        has_address: bool,
    ) -> Result<Chase, Outcome> {
        let alias = match known {
            Known::Nothing => return Ok(Chase::new(target, qtype, has_address)),
            Known::Absent => return Err(Outcome::NoTarget),
            Known::Alias(alias) => alias,
        };
        if qtype == RecordType::CNAME {
            return Err(Outcome::exists(target));
        }
        if looks_like_address(&alias) {
            return Err(Outcome::NoAddress(alias));
        }
        let walk = Walk::over(target, alias, qtype).map_err(Outcome::Failed)?;
        Ok(Chase {
            has_address,
            walk,
            nodata: None,
        })
    }

    /// The next question.
    pub fn next_question(&self) -> (&Name, RecordType) {
        match &self.nodata {
            Some(nodata) => (nodata.walk.next_name(), nodata.qtype),
            None => (self.walk.next_name(), self.walk.qtype()),
        }
    }

    /// Takes the reply to [`Chase::next_question`]. `None` when there is another question.
    pub fn take(&mut self, reply: Result<&Message, Failure>) -> Option<Outcome> {
        let Some(nodata) = &mut self.nodata else {
            let outcome = match reply {
                Ok(reply) => self.walk.take(reply)?,
                Err(failure) => Outcome::Failed(failure),
            };
            return self.look_for_addresses(outcome.of_end(self.walk.next_name()));
        };
        let outcome = match reply {
            Ok(reply) => nodata.walk.take(reply)?,
            Err(failure) => Outcome::Failed(failure),
        };
        match outcome {
            Outcome::Answer(answer) if !answer.rdata.is_empty() => {
                return Some(nodata.outcome.clone());
            }
            Outcome::Answer(_) => {}
            // NXDOMAIN is about the name, whatever it said about the type before.
            Outcome::NoTarget if nodata.has_alias => {
                return Some(Outcome::BrokenChain.of_end(nodata.walk.next_name()));
            }
            Outcome::NoTarget => return Some(Outcome::NoTarget),
            Outcome::BrokenChain => {
                return Some(Outcome::BrokenChain.of_end(nodata.walk.next_name()));
            }
            // A chase does not end like this before it has looked for addresses.
            Outcome::NoAddress(_) => {}
            Outcome::Failed(failure) => nodata.failure = Some(failure),
        }
        if let Some(qtype) = nodata.left.pop() {
            nodata.qtype = qtype;
            nodata.walk = Walk::new(self.walk.next_name().clone(), qtype);
            return None;
        }
        Some(match nodata.failure {
            Some(failure) => Outcome::Failed(failure),
            None => Outcome::NoAddress(self.walk.next_name().clone()),
        })
    }

    fn look_for_addresses(&mut self, outcome: Outcome) -> Option<Outcome> {
        let own = self.walk.qtype();
        let Outcome::Answer(answer) = &outcome else {
            return Some(outcome);
        };
        // A query for the CNAME gets that, whatever is behind it; and a denial of another type is one.
        let is_enough = match own {
            RecordType::CNAME => true,
            RecordType::A | RecordType::AAAA => !answer.rdata.is_empty(),
            _ => !answer.rdata.is_empty() || answer.soa.is_some(),
        };
        if is_enough || self.has_address {
            return Some(outcome);
        }
        let has_alias = answer.names.len() > 1;
        let mut left: Vec<RecordType> = FAMILIES
            .into_iter()
            .rev()
            .filter(|family| *family != own)
            .collect();
        // Never empty: there are two families and one type.
        let qtype = left.pop()?;
        self.nodata = Some(Nodata {
            outcome,
            has_alias,
            walk: Walk::new(self.walk.next_name().clone(), qtype),
            qtype,
            left,
            failure: None,
        });
        None
    }
}

impl Outcome {
    /// A chain that ends at a name that spells an address has no address there, whether servers deny that name or not.
    fn of_end(self, end: &Name) -> Outcome {
        match self {
            Outcome::BrokenChain if looks_like_address(end) => Outcome::NoAddress(end.clone()),
            outcome => outcome,
        }
    }
}

/// Whether a name spells an address, with or without a port: what an `externalName` must not be.
pub fn looks_like_address(name: &Name) -> bool {
    let labels: Vec<_> = name.iter().map(String::from_utf8_lossy).collect();
    let text = labels.join(".");
    let bare = text.trim_start_matches('[').trim_end_matches(']');
    bare.parse::<IpAddr>().is_ok() || text.parse::<SocketAddr>().is_ok()
}

#[cfg(test)]
mod tests;
