//! The order in which CoreDNS asks: the block with the longest zone, in it `rewrite` before `template`, of these each in
//! its turn. Decides which directives become rules, and which names something else takes first.

mod claims;
mod content;
mod names;
mod rewrites;
mod templates;

use std::collections::HashMap;

use crate::language::{Languages, Set, Zone, matched};
use crate::parser::{Block, Parsed, Place};
use crate::rewrite::Rewrite;
use crate::server::{self, DNS_PORT, Key, Port};
use crate::source::Document;
use crate::template::Template;
use crate::{Import, Matches, Names, Rule};

pub use claims::{Claim, Taken};

use claims::Claims;
use content::is_ours;

/// What a rule's `ttl` is that has none in the Corefile, in seconds.
const DEFAULT_TTL: u32 = 60;
/// Largest `ttl` of a rule, in seconds.
const MAX_TTL: u32 = 86_400;

/// Adds the rules of a Corefile, and what there is to say about it.
///
/// `apart` says that they are parts of one that is not at hand.
pub fn rules(parsed: &Parsed, documents: &[Document], apart: bool, import: &mut Import) {
    let Some(languages) = Languages::new() else {
        return;
    };
    let mut plan = Plan {
        languages: &languages,
        documents,
        apart,
        import,
        claims: Claims::default(),
        ruled: Vec::new(),
        rewritten: HashMap::new(),
        ends: Vec::new(),
    };
    for missing in &parsed.missing {
        plan.leave_out(
            missing.place,
            format!(
                "`import {}` is not followed: import that file by itself",
                missing.what
            ),
        );
    }
    for snippet in &parsed.unused {
        let used = snippet.block.iter().flatten().find(|inner| is_ours(inner));
        if let Some(used) = used {
            let line = plan.line(used.place);
            plan.warn(
                snippet.place,
                format!(
                    "the snippet {} is imported nowhere, and so is line {line}",
                    snippet.word(0)
                ),
            );
        }
    }
    plan.blocks(&parsed.blocks);
    plan.ends();
}

/// A block's zone that pods' queries reach.
struct Server<'a> {
    place: Place,
    zone: Zone,
    /// All zones of its block.
    zones: &'a [Zone],
    content: &'a Content,
}

/// What a block does that matters here.
#[derive(Default)]
struct Content {
    rewrites: Vec<Rewrite>,
    templates: Vec<Template>,
    /// The position of its `view`, if it has one.
    view: Option<Place>,
}

impl Content {
    fn places(&self) -> impl Iterator<Item = Place> {
        let rewrites = self.rewrites.iter().map(|rewrite| rewrite.place);
        rewrites.chain(self.templates.iter().map(|template| template.place))
    }

    fn is_empty(&self) -> bool {
        self.places().next().is_none()
    }
}

struct Plan<'a> {
    languages: &'a Languages,
    documents: &'a [Document],
    apart: bool,
    import: &'a mut Import,
    claims: Claims,
    /// The names that have the rule of a template, and where it comes from.
    ruled: Vec<(Place, Set)>,
    /// The names that have the rule of a rewrite.
    rewritten: HashMap<String, Place>,
    /// The names that rewrites end at.
    ends: Vec<(Place, String)>,
}

impl Plan<'_> {
    fn line(&self, place: Place) -> usize {
        self.documents
            .get(place.document)
            .map_or(1, |document| document.source_line(place.line))
    }

    fn warn(&mut self, place: Place, text: impl Into<String>) {
        self.import.warn(self.line(place), text);
    }

    fn leave_out(&mut self, place: Place, text: impl Into<String>) {
        self.import.leave_out(self.line(place), text);
    }

    fn blocks(&mut self, blocks: &[Block]) {
        let read: Vec<(Vec<Key>, Content)> = blocks
            .iter()
            .map(|block| (server::keys(block), self.content(block)))
            .collect();
        let asked = port_asked(read.iter().flat_map(|(keys, _)| keys));
        // The zones of each block that pods' queries reach.
        let mut zones: Vec<Vec<Zone>> = Vec::new();
        for (keys, content) in &read {
            zones.push(self.reached(keys, content, asked));
        }
        let mut servers: Vec<Server<'_>> = Vec::new();
        for ((block, (_, content)), zones) in blocks.iter().zip(&read).zip(&zones) {
            servers.extend(zones.iter().map(|zone| Server {
                place: block.place,
                zone: zone.clone(),
                zones,
                content,
            }));
        }
        // The longest zone first; of one zone, those that are for some clients only.
        servers.sort_by_key(|server| {
            (
                std::cmp::Reverse(server.zone.labels()),
                server.zone.clone(),
                server.content.view.is_none(),
            )
        });
        for (index, server) in servers.iter().enumerate() {
            let twin = servers.iter().enumerate().find(|(other, twin)| {
                *other != index
                    && twin.zone == server.zone
                    && twin.content.view.is_none()
                    && server.content.view.is_none()
            });
            let condition = match (server.content.view, twin) {
                (Some(view), _) => Some((
                    view,
                    "the block has a `view`: a rule does not depend on the client",
                )),
                (None, Some((_, twin))) => Some((
                    twin.place,
                    "another block is for the same zone: a rule does not depend on the address that was asked",
                )),
                (None, None) => None,
            };
            match condition {
                Some((place, reason)) => self.conditional(server, place, reason),
                None => self.server(server),
            }
        }
        self.unknown_zones(blocks, &read);
    }

    /// Says of blocks whose zone is not known that they may be for names that have a rule.
    fn unknown_zones(&mut self, blocks: &[Block], read: &[(Vec<Key>, Content)]) {
        for (block, (keys, content)) in blocks.iter().zip(read) {
            let unknown = keys
                .iter()
                .filter(|key| key.is_plain())
                .find_map(|key| key.zones.as_ref().err());
            if let Some(reason) = unknown
                && content.is_empty()
                && !self.import.rules.is_empty()
            {
                self.warn(
                    block.place,
                    format!("which names the block takes away is not known: {reason}"),
                );
            }
        }
    }

    /// The zones of a block's keys that pods' queries reach; reports what is lost with the others.
    fn reached(&mut self, keys: &[Key], content: &Content, asked: u16) -> Vec<Zone> {
        let mut zones: Vec<Zone> = Vec::new();
        let mut lost: Option<String> = None;
        let mut elsewhere = false;
        for key in keys {
            if !key.is_plain() {
                lost.get_or_insert(format!(
                    "the block is for `{}`: pods ask plain DNS",
                    key.text
                ));
                continue;
            }
            if let Port::Number(port) = key.port
                && port != asked
            {
                lost.get_or_insert(format!(
                    "the block listens on port {port}, and pods ask port {DNS_PORT}: if they reach it after all, write `:{DNS_PORT}` into its key and import again"
                ));
                continue;
            }
            elsewhere |= key.port == Port::Number(asked) && asked != DNS_PORT;
            match &key.zones {
                Ok(own) => zones.extend(own.iter().cloned()),
                Err(reason) => {
                    lost.get_or_insert(reason.clone());
                }
            }
        }
        for place in content.places().collect::<Vec<_>>() {
            if zones.is_empty() {
                let reason = lost.as_deref().unwrap_or("the block has no zone");
                self.leave_out(place, reason);
            } else if elsewhere {
                self.warn(
                    place,
                    format!("the block listens on port {asked}: the rule is for what pods ask on port {DNS_PORT}"),
                );
            }
        }
        zones.dedup();
        zones
    }

    /// A block that is asked under a condition that no rule has.
    fn conditional(&mut self, server: &Server<'_>, place: Place, reason: &str) {
        for own in server.content.places().collect::<Vec<_>>() {
            let line = self.line(place);
            self.leave_out(own, format!("{reason} (line {line})"));
        }
        self.claims.add(Claim {
            zone: server.zone.clone(),
            set: self.languages.zone(&server.zone),
            place,
            taken: Taken::Conditionally,
        });
    }

    fn server(&mut self, server: &Server<'_>) {
        self.rewrites(server);
        for template in &server.content.templates {
            self.template(server, template);
        }
        self.claims.add(Claim {
            zone: server.zone.clone(),
            set: self.languages.zone(&server.zone),
            place: server.place,
            taken: Taken::ByBlock,
        });
    }

    /// Whether two directives are of files whose common Corefile is not at hand: then it is not known which block they are in.
    fn is_apart(&self, claim: &Claim, place: Place) -> bool {
        self.apart && claim.taken == Taken::ByBlock && claim.place.document != place.document
    }

    fn has(&self, (matches, cname): &(Matches, String), ttl: u32) -> bool {
        self.import
            .rules
            .iter()
            .any(|rule| rule.matches == *matches && rule.cname == *cname && rule.ttl_seconds == ttl)
    }

    /// Adds a rule, unless it is there already.
    fn push(
        &mut self,
        place: Place,
        zone: &Zone,
        plugin: &str,
        matches: Matches,
        (cname, ttl_seconds): (String, u32),
        names: Names,
    ) {
        let earlier = self
            .import
            .rules
            .iter()
            .find(|rule| rule.matches == matches);
        if let Some(earlier) = earlier {
            if earlier.cname != cname || earlier.ttl_seconds != ttl_seconds {
                let text = format!(
                    "never used: line {} takes the same names first",
                    earlier.line
                );
                self.warn(place, text);
            }
            return;
        }
        self.import.names.push(names);
        self.import.rules.push(Rule {
            line: self.line(place),
            name: names::rule_name(plugin, zone, &matches, &cname, ttl_seconds),
            matches,
            cname,
            ttl_seconds,
            follow: plugin != "rewrite",
        });
    }

    /// Says where a rewrite's rule leads to a name that has a rule too: CoreDNS ends there.
    fn ends(&mut self) {
        for (place, name) in std::mem::take(&mut self.ends) {
            let rewritten = self.rewritten.get(&name).copied();
            let templated = || self.ruled.iter().find(|(_, set)| set.has(&name));
            let next = rewritten.or_else(|| templated().map(|(place, _)| *place));
            if let Some(next) = next.filter(|next| *next != place) {
                let line = self.line(next);
                self.warn(
                    place,
                    format!("it ends at `{name}`: CoreDNS does not go on with line {line}, which is for that name"),
                );
            }
        }
    }
}

/// The port of plain DNS: 53, or the one that all blocks have in its place.
fn port_asked<'a>(keys: impl Iterator<Item = &'a Key>) -> u16 {
    let mut ports: Vec<u16> = Vec::new();
    for key in keys.filter(|key| key.is_plain()) {
        match key.port {
            Port::Number(port) => ports.push(port),
            Port::Unknown => return DNS_PORT,
        }
    }
    match ports.first() {
        Some(&first) if ports.iter().all(|&port| port == first) => first,
        _ => DNS_PORT,
    }
}

fn elsewhere(line: usize) -> String {
    format!(
        "the block on line {line} is for these names too: CoreDNS asks that one, unless it is this block that imports the directive"
    )
}

/// The set of one name.
fn only(name: &Zone) -> Option<Set> {
    matched(&format!(r"^{}\.$", regex_syntax::escape(&name.0)))
}

fn list(zones: &[Zone]) -> String {
    let zones: Vec<String> = zones.iter().map(Zone::to_string).collect();
    format!("`{}`", zones.join(" "))
}
