//! The order in which CoreDNS asks: the block with the longest zone, in it `rewrite` before `template`, of these each in
//! its turn. Decides which directives become rules, and which names something else takes first.

mod claims;
mod names;

use crate::answer::Answer;
use crate::expression::{self, Scope};
use crate::language::{Languages, Set, Zone, matched};
use crate::parser::{Block, Directive, Parsed, Place};
use crate::rewrite::{self, Kind, Rewrite};
use crate::server::{self, DNS_PORT, Key, Port};
use crate::source::Document;
use crate::template::{self, Template};
use crate::{Import, Matches, Names, Rule};

pub use claims::{Claim, Taken};

use claims::Claims;

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
    /// Where its `view` stands, if it has one.
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
    /// The names that have a rule, and where it comes from.
    ruled: Vec<(Place, Set)>,
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
                    "the block has a `view`: a rule does not know who asks",
                )),
                (None, Some((_, twin))) => Some((
                    twin.place,
                    "another block is for the same zone: a rule does not know which address was asked",
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

    /// Reads a block's directives, and reports those that have others inside which are not read.
    fn content(&mut self, block: &Block) -> Content {
        let mut content = Content::default();
        let mut answers_itself: Vec<(Place, &str)> = Vec::new();
        for directive in &block.directives {
            match directive.word(0) {
                "template" => match template::read(directive) {
                    Ok(mut template) => {
                        self.unescape(&mut template);
                        content.templates.push(template);
                    }
                    Err((place, reason)) => self.leave_out(place, reason),
                },
                "rewrite" => content.rewrites.push(rewrite::read(directive)),
                "view" => content.view = Some(directive.place),
                "acl" => answers_itself.push((
                    directive.place,
                    "`acl` keeps clients from answers that the rules give to all",
                )),
                "dns64" => answers_itself.push((
                    directive.place,
                    "`dns64` makes addresses of answers, also of those that the rules give without",
                )),
                other => {
                    let inner = directive
                        .block
                        .iter()
                        .flatten()
                        .filter(|inner| is_ours(inner));
                    for inner in inner {
                        self.leave_out(
                            inner.place,
                            format!(
                                "`{}` inside of `{other}`: a rule has no conditions",
                                inner.word(0)
                            ),
                        );
                    }
                }
            }
        }
        if !content.is_empty() {
            for (place, text) in answers_itself {
                self.warn(place, text);
            }
        }
        content
    }

    /// Takes off the backslashes that Helm's escaping doubles; elsewhere such an expression is left out.
    fn unescape(&mut self, template: &mut Template) {
        let Some(matches) = template.matches.take() else {
            return;
        };
        let mut kept = Vec::new();
        for (place, text) in matches {
            if !text.contains(r"\\") {
                kept.push((place, text));
            } else if self
                .documents
                .get(place.document)
                .is_some_and(|own| own.helm)
            {
                self.warn(place, r"`\\` is read as `\`, as Helm's escaping means it");
                kept.push((place, text.replace(r"\\", r"\")));
            } else {
                self.leave_out(
                    place,
                    r"`\\` is a literal backslash to CoreDNS, which no name shows before a dot; write `\.` for a dot",
                );
            }
        }
        template.matches = Some(kept);
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

    fn rewrites(&mut self, server: &Server<'_>) {
        let rewrites = &server.content.rewrites;
        for rewrite in rewrites {
            match &rewrite.kind {
                Kind::Exact { from, .. } if server.zones.iter().any(|zone| zone.contains(from)) => {
                    if server.zone.contains(from) {
                        self.exact(server, rewrite, from);
                    }
                }
                Kind::Exact { from, .. } => {
                    let zones = list(server.zones);
                    self.warn(
                        rewrite.place,
                        format!("never used: `{from}` is not in the block's zone {zones}"),
                    );
                }
                Kind::Names(set, reason) => {
                    self.leave_out(rewrite.place, reason);
                    self.claims.add(Claim {
                        zone: server.zone.clone(),
                        set: self.languages.zone(&server.zone).and(set.clone()),
                        place: rewrite.place,
                        taken: Taken::ByDirective,
                    });
                }
                Kind::Other(reason) => self.leave_out(rewrite.place, reason),
            }
        }
    }

    /// The rule of a rewrite of one name: where the name ends up after all rewrites and templates of the block.
    fn exact(&mut self, server: &Server<'_>, rewrite: &Rewrite, from: &Zone) {
        let place = rewrite.place;
        let claimed = self.claims.of(from).next().cloned();
        if let Some(claim) = &claimed
            && self.is_apart(claim, place)
        {
            let line = self.line(claim.place);
            self.warn(place, elsewhere(line));
        } else if let Some(claim) = claimed {
            let (text, conditional) = claim.covers(self.line(claim.place));
            if conditional {
                self.leave_out(place, text);
            } else {
                self.warn(place, text);
            }
            return;
        }
        let end = names::follow(server.content, server.zones, from);
        let unsayable = |at: Place, plan: &Self| {
            let line = plan.line(at);
            format!("`{from}` goes on to line {line}, and what that makes of it is not a rule")
        };
        let (name, ttl, steps) = match end {
            names::End::Name { name, ttl, steps } => (name, ttl, steps),
            names::End::Unsayable(at) => {
                let text = unsayable(at, self);
                self.leave_out(place, text);
                self.claims.add(Claim {
                    zone: server.zone.clone(),
                    set: only(from).unwrap_or(Set::All),
                    place,
                    taken: Taken::ByDirective,
                });
                return;
            }
        };
        if steps.first() != Some(&place) {
            let line = steps.first().map_or(0, |&first| self.line(first));
            self.warn(
                place,
                format!("never used: line {line} takes `{from}` first"),
            );
            return;
        }
        self.warn(
            place,
            "`rewrite` answers under the name that was asked; the rule answers with a CNAME to the other name",
        );
        if let Some(last) = steps[1..].last() {
            let line = self.line(*last);
            self.warn(
                place,
                format!("the name goes on to line {line}: the rule leads to `{name}` at once"),
            );
        }
        let set = only(from).unwrap_or(Set::All);
        self.ruled.push((place, set.clone()));
        self.claims.add(Claim {
            zone: from.clone(),
            set: set.clone(),
            place,
            taken: Taken::ByRule,
        });
        self.ends.push((place, name.clone()));
        self.push(
            place,
            from,
            "rewrite",
            Matches::Pattern(from.0.clone()),
            (name, ttl.unwrap_or(DEFAULT_TTL)),
            Names {
                group: self.import.rules.len(),
                set,
            },
        );
    }

    fn template(&mut self, server: &Server<'_>, template: &Template) {
        let zones: Vec<Zone> = effective(server, template);
        if zones.is_empty() {
            // It is said once, of the block's zones that it is in none of.
            let own = template.zones.as_deref().unwrap_or_default();
            let meets = |zone: &Zone| {
                own.iter()
                    .any(|own| own.contains(zone) || zone.contains(own))
            };
            if !server.zones.iter().any(meets) {
                let (own, zones) = (list(own), list(server.zones));
                self.warn(
                    template.place,
                    format!("never used: the zone {own} is not in the block's zone {zones}"),
                );
            }
            return;
        }
        if let Err((place, reason)) = &template.answer {
            self.leave_out(*place, reason);
        }
        let before = self.import.rules.len();
        for zone in &zones {
            self.template_in(server, template, zone);
        }
        if self.import.rules.len() > before {
            for (place, text) in &template.warnings {
                self.warn(*place, text.clone());
            }
        }
    }

    /// A template within one zone.
    fn template_in(&mut self, server: &Server<'_>, template: &Template, zone: &Zone) {
        let Some(template_zone) = template.zone_for(server.zones, zone) else {
            return;
        };
        let scope = Scope {
            languages: self.languages,
            zone,
            template_zone,
        };
        let everything = [(template.place, String::from(".*"))];
        let matches = template.matches.as_deref().unwrap_or(&everything);
        let mut taken: Vec<Set> = Vec::new();
        let mut rules = 0;
        for (place, text) in matches {
            let names = match expression::names(text, &scope) {
                Ok(names) => names,
                Err(reason) => {
                    self.leave_out(*place, reason);
                    continue;
                }
            };
            if self.languages.is_empty(names.clone()) {
                let several = template.zones.as_ref().is_some_and(|zones| zones.len() > 1)
                    || server.zones.len() > 1;
                if !several {
                    self.warn(
                        *place,
                        format!("never used: `{text}` matches no name of the zone {zone}, all of which are in lower case"),
                    );
                }
                continue;
            }
            match &template.answer {
                Ok((_, answer)) => {
                    rules += self.matched(template, (*place, text), &names, &scope, answer);
                }
                Err((place, _)) => self.claims.add(Claim {
                    zone: zone.clone(),
                    set: names.clone(),
                    place: *place,
                    taken: match &template.qtype {
                        Some(qtype) => Taken::ForType(qtype.clone()),
                        None => Taken::ByDirective,
                    },
                }),
            }
            taken.push(names);
        }
        self.others(template, zone, Set::Or(taken), rules > 0);
    }

    /// What CoreDNS does with the names of a zone that a template does not match.
    fn others(&mut self, template: &Template, zone: &Zone, taken: Set, has_rules: bool) {
        let passed = template.falls_through.as_deref().unwrap_or_default();
        let refused = self
            .languages
            .zone(zone)
            .without(taken)
            .without(self.languages.zones(passed));
        if self.languages.is_empty(refused.clone()) {
            return;
        }
        if has_rules {
            self.warn(
                template.place,
                "without `fallthrough` CoreDNS refuses the zone's other names; gregor lets them pass",
            );
        }
        self.claims.add(Claim {
            zone: zone.clone(),
            set: refused,
            place: template.place,
            taken: match &template.qtype {
                Some(qtype) => Taken::ForType(qtype.clone()),
                None => Taken::Refused,
            },
        });
    }

    /// The rules of one expression of a template; how many there are.
    fn matched(
        &mut self,
        template: &Template,
        (place, text): (Place, &str),
        names: &Set,
        scope: &Scope<'_>,
        answer: &Answer,
    ) -> usize {
        // What something else takes before this template is asked.
        let ttl = answer.ttl.clamp(1, MAX_TTL);
        let converted = expression::convert(text, names, scope, answer);
        let mut notes: Vec<String> = Vec::new();
        let claims = self.claims.near(scope.zone);
        // What takes all together what is not taken by one, for short.
        let mut all: Vec<Set> = Vec::new();
        let mut first: Option<String> = None;
        for claim in claims {
            let line = self.line(claim.place);
            let takes_all = claim.takes_all(self.languages, names);
            if takes_all && self.is_apart(&claim, place) {
                notes.push(elsewhere(line));
                continue;
            }
            if takes_all {
                let (text, conditional) = claim.covers(line);
                let is_there = converted
                    .as_ref()
                    .is_ok_and(|converted| converted.rules.iter().all(|rule| self.has(rule, ttl)));
                if conditional {
                    self.leave_out(place, text);
                } else if !is_there {
                    self.warn(template.place, text);
                }
                return 0;
            }
            if claim.takes_surely() {
                all.push(claim.set.clone());
            }
            if let Some(note) = claim.takes_some(self.languages, names, line) {
                first.get_or_insert(claim.covers(line).0);
                notes.push(note);
            }
        }
        if let Some(text) = first
            && self.languages.is_within(names, &Set::Or(all))
        {
            self.warn(template.place, text);
            return 0;
        }
        let converted = match converted {
            Ok(converted) => converted,
            Err(reason) => {
                self.leave_out(place, reason);
                self.claims.add(Claim {
                    zone: scope.zone.clone(),
                    set: names.clone(),
                    place,
                    taken: Taken::ByDirective,
                });
                return 0;
            }
        };
        for warning in converted.warnings {
            self.warn(place, warning);
        }
        for note in notes {
            self.warn(template.place, note);
        }
        if ttl != answer.ttl
            && let Ok((at, _)) = &template.answer
        {
            self.warn(*at, format!("a TTL of {} becomes {ttl}", answer.ttl));
        }
        if let Some(left) = converted.left {
            self.claims.add(Claim {
                zone: scope.zone.clone(),
                set: left,
                place: template.place,
                taken: Taken::ByDirective,
            });
        }
        let count = converted.rules.len();
        let own = Names {
            group: self.import.rules.len(),
            set: names.clone(),
        };
        for (matches, cname) in converted.rules {
            self.push(
                template.place,
                scope.zone,
                "template",
                matches,
                (cname, ttl),
                own.clone(),
            );
        }
        self.ruled.push((template.place, names.clone()));
        self.claims.add(Claim {
            zone: scope.zone.clone(),
            set: names.clone(),
            place: template.place,
            taken: Taken::ByRule,
        });
        count
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
        });
    }

    /// Says where a rewrite's rule leads to a name that has a rule too: CoreDNS ends there.
    fn ends(&mut self) {
        for (place, name) in std::mem::take(&mut self.ends) {
            let next = self
                .ruled
                .iter()
                .find(|(other, set)| *other != place && set.has(&name));
            if let Some(&(next, _)) = next {
                let line = self.line(next);
                self.warn(
                    place,
                    format!("it ends at `{name}`: CoreDNS does not go on with line {line}, which is for that name"),
                );
            }
        }
    }
}

/// The zones within a server's zone that a template is for, the longest first.
fn effective(server: &Server<'_>, template: &Template) -> Vec<Zone> {
    let mut zones: Vec<Zone> = template
        .zones
        .as_deref()
        .unwrap_or(server.zones)
        .iter()
        .filter_map(|own| {
            if own.contains(&server.zone) {
                Some(server.zone.clone())
            } else if server.zone.contains(own) {
                Some(own.clone())
            } else {
                None
            }
        })
        .collect();
    zones.sort_by_key(|zone| std::cmp::Reverse(zone.labels()));
    zones.dedup();
    zones
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

fn is_ours(directive: &Directive) -> bool {
    matches!(directive.word(0), "template" | "rewrite")
        || directive.block.iter().flatten().any(is_ours)
}

fn list(zones: &[Zone]) -> String {
    let zones: Vec<String> = zones.iter().map(Zone::to_string).collect();
    format!("`{}`", zones.join(" "))
}
