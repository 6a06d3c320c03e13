//! Tenant rules: from patterns to one reversed DFA, and from a matched name to its captures and its target.

use dns_common::dfa;
use hickory_proto::rr::Name;

/// Every rule of a configuration, compiled; immutable, shared by the programs' tables and the responder.
#[derive(Debug)]
pub struct RuleSet {
    rules: Vec<Rule>,
    table: Table,
}

/// The matcher of all rules together, in the form that the kernel walks.
#[derive(Debug)]
pub struct Table {
    pub header: dfa::Header,
    pub chunks: Vec<Box<dfa::Chunk>>,
}

/// One rule.
#[derive(Debug)]
pub struct Rule {
    name: String,
    ttl_seconds: u32,
}

/// What a rule makes of a name that it matches.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Match {
    /// The captured labels in the order of the pattern, lower-cased; for a `regex` rule its groups.
    pub captures: Vec<String>,
    /// The capture named `namespace`, if the rule has one.
    pub namespace: Option<String>,
    /// Where the CNAME points: absolute, lower case.
    pub target: Name,
}

impl RuleSet {
    /// The rules in the order of the configuration; the index is the one that the kernel reports.
    pub fn rules(&self) -> &[Rule] {
        &self.rules
    }

    pub fn table(&self) -> &Table {
        &self.table
    }

    /// The first rule that matches a name in wire format (uncompressed, root label included, any case).
    pub fn find(&self, _qname: &[u8]) -> Option<usize> {
        todo!()
    }
}

impl Rule {
    /// The rule's `name` key.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The rule's own cap on what clients are told.
    pub fn ttl_seconds(&self) -> u32 {
        self.ttl_seconds
    }

    /// The captures and the target for a name in wire format, or `None` when the rule does not match it after all.
    pub fn apply(&self, _qname: &[u8]) -> Option<Match> {
        todo!()
    }
}
