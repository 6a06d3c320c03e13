//! From the languages of all rules to one table in the layout of [`dns_common::dfa`].
//!
//! A language is given over names in the form `label FF label FF` (each label and the dot behind it). The walk reads
//! `FF label FF label` from its end, so it starts in the state of the reversed language's automaton after one separator, and
//! the rule that accepts a name is determined one separator early: a state of the table is a state of the automaton, whether a
//! separator was just read, and which rules the name up to there matches.

use std::collections::HashMap;
use std::collections::hash_map::Entry;

use dns_common::{
    dfa::{
        self, ANY_LABELS, AT_END, FIRST_CLASS, HEAD_WORDS, HEADS, Head, MAX_RULES, TABLE_LEN, TAIL,
        TAIL_WORDS, Tail,
    },
    name::{LiteralWord, SEPARATOR},
};
use regex_automata::hybrid::{
    LazyStateID,
    dfa::{Cache, DFA},
};
use regex_automata::nfa::thompson::{self, WhichCaptures};
use regex_automata::util::start;
use regex_automata::{Anchored, MatchKind};
use regex_syntax::hir::Hir;

use super::budget::{Budget, Spent};
use super::choices::Choices;
use super::language::{class, repeat};
use super::pattern::{Pattern, PatternLabel};

/// No state.
const DEAD: Index = 0;
/// Above every state: one transition never leaves the table.
const MAX_STATE: usize = TABLE_LEN - 256;
/// With more steps between states than these, they do not fit into the table: dead ends, cases of letters and ends of names
/// that are compared as a whole save some, but not so many.
const MOST_STEPS: usize = 8 * TABLE_LEN;
/// States between two looks at the time.
const STATES_A_LOOK: usize = 256;
/// Most memory for the automaton of one rule by itself.
const RULE_BYTES: usize = 4 << 20;
/// Most memory for one rule's part of the NFA: enough for the names of some thousand namespaces.
const RULE_NFA_BYTES: usize = 4 << 20;
/// Longest head.
const MAX_HEAD: usize = 8 * HEAD_WORDS;

/// The matcher of all rules together, in the form that the kernel walks.
#[derive(Debug)]
pub struct Table {
    pub header: dfa::Header,
    pub entries: Box<dfa::Table>,
    pub tails: Vec<Tail>,
}

impl Table {
    /// A table that matches nothing.
    pub fn empty() -> Self {
        Self {
            header: dfa::Header::EMPTY,
            entries: entries(),
            tails: Vec::new(),
        }
    }

    /// Bytes that the entries in use and the tails take; the kernel's map has [`TABLE_LEN`] entries in any case.
    pub fn bytes(&self) -> usize {
        self.header.entries as usize * size_of::<u32>() + self.tails.len() * size_of::<Tail>()
    }
}

/// A table's worth of entries that belong to no state.
fn entries() -> Box<dfa::Table> {
    match vec![0u32; TABLE_LEN].into_boxed_slice().try_into() {
        Ok(entries) => entries,
        Err(_) => unreachable!("a slice of TABLE_LEN entries is a table"),
    }
}

/// The names that a pattern matches, in the form of this module.
pub fn language(pattern: &Pattern) -> Hir {
    let separator = || class(|byte| byte == SEPARATOR);
    let mut parts = Vec::new();
    if pattern.any_labels {
        let plain = class(|byte| byte != b'.' && byte != SEPARATOR);
        let label = Hir::concat(vec![Hir::repetition(repeat(1, None, plain)), separator()]);
        parts.push(Hir::repetition(repeat(1, None, label)));
    }
    for label in &pattern.labels {
        match label {
            PatternLabel::Literal(text) => {
                parts.extend(
                    text.bytes()
                        .map(|expected| class(|byte| byte.to_ascii_lowercase() == expected)),
                );
            }
            PatternLabel::Capture(name) if let Some(only) = pattern.namespaces_of(name) => {
                parts.push(only.language());
            }
            PatternLabel::Capture(_) => {
                let inner = || class(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
                let end = || class(|byte| byte.is_ascii_alphanumeric());
                let rest = Hir::concat(vec![Hir::repetition(repeat(0, None, inner())), end()]);
                parts.push(end());
                parts.push(Hir::repetition(repeat(0, Some(1), rest)));
            }
        }
        parts.push(separator());
    }
    Hir::concat(parts)
}

/// Whether one rule by itself stays within its share of memory.
pub fn check_size(language: &Hir, budget: &Budget) -> Result<(), Spent> {
    let bytes = RULE_BYTES.min(budget.bytes());
    let language = std::slice::from_ref(language);
    States::enumerate(language, &mut Choices::one(), bytes, budget).map(|_| ())
}

/// The table of all languages together; where several match, the choices say what that means.
pub fn build(languages: &[Hir], choices: &mut Choices, budget: &Budget) -> Result<Table, Spent> {
    if languages.is_empty() {
        return Ok(Table::empty());
    }
    if languages.len() > MAX_RULES {
        return Err(Spent::Table);
    }
    let mut states = States::enumerate(languages, choices, budget.bytes(), budget)?;
    states.cut_dead_ends();
    states.merge_classes();
    states.lay_out(budget)
}

/// How much a language adds to a table: by how many states it multiplies those of others, at worst, and how many it has
/// by itself. What has only names with a certain end multiplies nothing.
pub fn cost(language: &Hir, budget: &Budget) -> (usize, usize) {
    let bytes = RULE_BYTES.min(budget.bytes());
    let language = std::slice::from_ref(language);
    match States::enumerate(language, &mut Choices::one(), bytes, budget) {
        Ok(mut states) => {
            states.cut_dead_ends();
            (states.behind_any_text(), states.len())
        }
        Err(_) => (usize::MAX, usize::MAX),
    }
}

/// The automaton of the reversed languages, whose states are made as they are asked for, within `bytes` of memory.
fn automaton(languages: &[Hir], bytes: usize) -> Result<(DFA, Cache), Spent> {
    let nfa = thompson::Compiler::new()
        .configure(
            thompson::Config::new()
                .reverse(true)
                .utf8(false)
                .which_captures(WhichCaptures::None)
                .nfa_size_limit(Some(
                    RULE_NFA_BYTES.saturating_mul(languages.len()).min(bytes),
                )),
        )
        .build_many_from_hir(languages)
        .map_err(|_| Spent::Memory)?;
    let automaton = DFA::builder()
        .configure(
            DFA::config()
                .match_kind(MatchKind::All)
                .cache_capacity(bytes)
                .skip_cache_capacity_check(true)
                // States must stay: rather none than others in their place.
                .minimum_cache_clear_count(Some(0)),
        )
        .build_from_nfa(nfa)
        .map_err(|_| Spent::Memory)?;
    let cache = automaton.create_cache();
    Ok((automaton, cache))
}

/// Index of a state before it has a place in the table; 0 is the dead one.
type Index = u32;

/// The states of the table-to-be, with transitions over classes of bytes.
struct States {
    /// Class of each byte, from 0.
    classes: [u8; 256],
    class_count: usize,
    /// `class_count` successors for each state.
    next: Vec<Index>,
    /// Whether a separator was just read.
    after_separator: Vec<bool>,
    /// Choice for the name if it ends here, plus one.
    at_end: Vec<u16>,
}

const START: Index = 1;

impl States {
    /// All states that the languages need together.
    fn enumerate(
        languages: &[Hir],
        choices: &mut Choices,
        bytes: usize,
        budget: &Budget,
    ) -> Result<Self, Spent> {
        budget.check_time()?;
        let (automaton, mut cache) = automaton(languages, bytes)?;
        let mut classes = [0u8; 256];
        let mut representatives: Vec<u8> = Vec::new();
        for unit in automaton.byte_classes().representatives(0..=255) {
            representatives.extend(unit.as_u8());
        }
        for byte in 0..=255u8 {
            let own = automaton.byte_classes().get(byte);
            let class = representatives
                .iter()
                .position(|&other| automaton.byte_classes().get(other) == own);
            classes[usize::from(byte)] = class.unwrap_or(0) as u8;
        }
        let class_count = representatives.len();
        let separator_class = usize::from(classes[usize::from(SEPARATOR)]);

        let mut states = Self {
            classes,
            class_count,
            next: vec![DEAD; class_count],
            after_separator: vec![false],
            at_end: vec![0],
        };
        let mut indices: HashMap<(LazyStateID, bool, u16), Index> = HashMap::new();
        let mut pending: Vec<(LazyStateID, Index)> = Vec::new();
        let config = start::Config::new().anchored(Anchored::Yes);
        let before = automaton
            .start_state(&mut cache, &config)
            .map_err(|_| Spent::Memory)?;
        let mut add = |states: &mut Self,
                       pending: &mut Vec<(LazyStateID, Index)>,
                       key: (LazyStateID, bool, u16)|
         -> Index {
            if key.0.is_dead() && key.2 == 0 {
                return DEAD;
            }
            match indices.entry(key) {
                Entry::Occupied(entry) => *entry.get(),
                Entry::Vacant(entry) => {
                    let index = states.after_separator.len() as Index;
                    entry.insert(index);
                    states.after_separator.push(key.1);
                    states.at_end.push(key.2);
                    states.next.resize(states.next.len() + class_count, DEAD);
                    pending.push((key.0, index));
                    index
                }
            }
        };
        // The final dot of the presentation form has no separator of its own.
        let first = next_state(&automaton, &mut cache, before, SEPARATOR)?;
        add(&mut states, &mut pending, (first, true, 0));
        let fixed = automaton.memory_usage();
        let mut looked_at = 0;
        let mut steps = 0;
        while let Some((state, index)) = pending.pop() {
            looked_at += 1;
            if looked_at % STATES_A_LOOK == 0 {
                budget.check_time()?;
            }
            // A state costs its row here, and its place in `indices`.
            let own = states.next.len() * size_of::<Index>()
                + states.len() * 2 * size_of::<((LazyStateID, bool, u16), Index)>();
            if fixed + cache.memory_usage() + own > bytes {
                return Err(Spent::Memory);
            }
            if steps > MOST_STEPS {
                return Err(Spent::Table);
            }
            for (class, &byte) in representatives.iter().enumerate() {
                let target = if class != separator_class {
                    let next = next_state(&automaton, &mut cache, state, byte)?;
                    add(&mut states, &mut pending, (next, false, 0))
                } else if states.after_separator[index as usize] {
                    // No label is empty, so no separator follows another.
                    DEAD
                } else {
                    let next = next_state(&automaton, &mut cache, state, byte)?;
                    let accepted = accepted(&automaton, &mut cache, choices, state)?;
                    add(&mut states, &mut pending, (next, true, accepted))
                };
                states.next[index as usize * class_count + class] = target;
                steps += usize::from(target != DEAD);
            }
        }
        Ok(states)
    }

    /// How many states can follow text of which no rule has any, in the first label that is read.
    fn behind_any_text(&self) -> usize {
        // No label ends with this byte that a rule has at its end.
        let foreign = self.class_of(b'~');
        let start = self.row(START)[foreign];
        let mut seen = vec![false; self.len()];
        let mut pending = vec![start];
        let mut count = 0;
        while let Some(state) = pending.pop() {
            if state == DEAD || std::mem::replace(&mut seen[state as usize], true) {
                continue;
            }
            count += 1;
            pending.extend(self.row(state));
        }
        count
    }

    fn len(&self) -> usize {
        self.after_separator.len()
    }

    fn row(&self, state: Index) -> &[Index] {
        &self.next[state as usize * self.class_count..][..self.class_count]
    }

    fn class_of(&self, byte: u8) -> usize {
        usize::from(self.classes[usize::from(byte)])
    }

    /// Makes a state from which no rule is reached the dead one: above all the one behind each match, which the automaton needs
    /// because it reports a match one byte late.
    fn cut_dead_ends(&mut self) {
        let mut leads_on: Vec<bool> = self.at_end.iter().map(|&rule| rule != 0).collect();
        // Successors are mostly made after their state, so that few rounds from the back suffice.
        loop {
            let mut changed = false;
            for state in (1..self.len()).rev() {
                if !leads_on[state]
                    && self
                        .row(state as Index)
                        .iter()
                        .any(|&next| leads_on[next as usize])
                {
                    leads_on[state] = true;
                    changed = true;
                }
            }
            if !changed {
                break;
            }
        }
        for next in &mut self.next {
            if !leads_on[*next as usize] {
                *next = DEAD;
            }
        }
    }

    /// Gives bytes that lead to the same state everywhere one class: above all the two cases of a letter.
    fn merge_classes(&mut self) {
        let mut hashes = vec![0u64; self.class_count];
        for row in self.next.chunks_exact(self.class_count) {
            for (hash, &next) in hashes.iter_mut().zip(row) {
                *hash = (hash.rotate_left(5) ^ u64::from(next)).wrapping_mul(0x517c_c1b7_2722_0a95);
            }
        }
        let separator = self.class_of(SEPARATOR);
        // The first class of each group, and the group of each class.
        let mut kept: Vec<usize> = Vec::new();
        let mut group = vec![0usize; self.class_count];
        for class in 0..self.class_count {
            let same = kept.iter().position(|&other| {
                other != separator
                    && class != separator
                    && hashes[other] == hashes[class]
                    && self
                        .next
                        .chunks_exact(self.class_count)
                        .all(|row| row[other] == row[class])
            });
            group[class] = same.unwrap_or_else(|| {
                kept.push(class);
                kept.len() - 1
            });
        }
        self.next = self
            .next
            .chunks_exact(self.class_count)
            .flat_map(|row| kept.iter().map(|&class| row[class]))
            .collect();
        for class in &mut self.classes {
            *class = group[usize::from(*class)] as u8;
        }
        self.class_count = kept.len();
    }

    /// For each state the rule, plus one, that is reached by every further sequence of labels, 0 where there is none:
    /// for a state in front of a separator, the sequence goes on with the label that was begun.
    fn any_labels(&self) -> Vec<u16> {
        let separator = self.class_of(SEPARATOR);
        let mut in_labels = vec![false; self.class_count];
        for byte in (0..SEPARATOR).filter(|&byte| byte != b'.') {
            in_labels[self.class_of(byte)] = true;
        }
        let byte_successors = |state: usize| {
            self.row(state as Index)
                .iter()
                .zip(&in_labels)
                .filter(|(_, in_labels)| **in_labels)
                .map(|(next, _)| *next as usize)
        };
        let after_label = |state: usize| self.row(state as Index)[separator] as usize;

        let mut rule = vec![0u16; self.len()];
        let mut candidates = Vec::new();
        for state in (1..self.len()).filter(|&state| !self.after_separator[state]) {
            if byte_successors(state).all(|next| next != DEAD as usize) {
                rule[state] = self.at_end[after_label(state)];
                candidates.push(state);
            }
        }
        for state in (1..self.len()).filter(|&state| self.after_separator[state]) {
            if byte_successors(state).all(|next| next != DEAD as usize)
                && let Some(next) = byte_successors(state).next()
            {
                rule[state] = rule[next];
                candidates.push(state);
            }
        }
        // The largest set that is closed under valid input: take out what leads elsewhere until nothing does.
        loop {
            let before = candidates.len();
            candidates.retain(|&state| {
                let own = rule[state];
                let closed = own != 0
                    && byte_successors(state).all(|next| rule[next] == own)
                    && (self.after_separator[state]
                        || (self.at_end[after_label(state)] == own
                            && rule[after_label(state)] == own));
                if !closed {
                    rule[state] = 0;
                }
                closed
            });
            if candidates.len() == before {
                return rule;
            }
        }
    }

    /// For each class the byte that it is, in lower case; nothing for a class of several bytes.
    fn literals(&self) -> Vec<Option<u8>> {
        let mut bytes_of = vec![Vec::new(); self.class_count];
        for byte in 0..=255u8 {
            bytes_of[self.class_of(byte)].push(byte);
        }
        bytes_of
            .iter()
            .map(|bytes| match bytes[..] {
                [byte] => Some(byte),
                [upper, lower] if upper.is_ascii_uppercase() && lower == upper | 0x20 => {
                    Some(lower)
                }
                _ => None,
            })
            .collect()
    }

    /// The one byte that leads on from a state, and where to; nothing when there are several or none.
    fn only_step(&self, state: Index, literals: &[Option<u8>]) -> Option<(u8, Index)> {
        let mut live = (0..self.class_count).filter(|&class| self.row(state)[class] != DEAD);
        let (Some(class), None) = (live.next(), live.next()) else {
            return None;
        };
        Some((literals[class]?, self.row(state)[class]))
    }

    /// The literal labels that are all that is left behind a separator, if that is so.
    fn tail(&self, state: Index, any_labels: &[u16], literals: &[Option<u8>]) -> Option<Tail> {
        let mut bytes = Vec::new();
        let mut current = state;
        loop {
            let (byte, next) = self.only_step(current, literals)?;
            bytes.push(byte);
            current = next;
            if bytes.len() > 8 * TAIL_WORDS {
                return None;
            }
            let at_end = self.at_end[current as usize];
            let any_labels = any_labels[current as usize];
            let over = self.row(current).iter().all(|&next| next == DEAD);
            if any_labels != 0 || over {
                let mut tail = Tail {
                    word_count: bytes.len().div_ceil(8) as u32,
                    len: bytes.len() as u32,
                    at_end: at_end.into(),
                    any_labels: any_labels.into(),
                    ..Tail::default()
                };
                for (word, bytes) in tail.words.iter_mut().zip(bytes.chunks(8)) {
                    *word = literal_word(bytes);
                }
                return Some(tail);
            }
            if at_end != 0 {
                return None;
            }
        }
    }

    /// The literal ends of which every accepted name has one, last byte first, each with the state in front of it.
    fn heads(&self, any_labels: &[u16], literals: &[Option<u8>]) -> Vec<(Vec<u8>, Index)> {
        let mut heads = Vec::new();
        let mut pending = std::collections::VecDeque::from([(Vec::new(), START)]);
        while let Some((mut bytes, mut state)) = pending.pop_front() {
            let mut behind = state;
            while bytes.len() < MAX_HEAD && self.at_end[state as usize] == 0 {
                let Some((byte, next)) = self.only_step(state, literals) else {
                    break;
                };
                behind = state;
                bytes.push(byte);
                state = next;
            }
            // The walk looks at what a state accepts when it has read a separator, so leave it one to read.
            if bytes.last() == Some(&SEPARATOR) && any_labels[state as usize] != 0 {
                bytes.pop();
                heads.push((bytes, behind));
                continue;
            }
            let live: Vec<usize> = (0..self.class_count)
                .filter(|&class| self.row(state)[class] != DEAD)
                .collect();
            // Heads are distinguished by their last word.
            let branches = bytes.len() < 8
                && self.at_end[state as usize] == 0
                && live.iter().all(|&class| literals[class].is_some())
                && heads.len() + pending.len() + live.len() <= HEADS;
            if !branches || live.is_empty() {
                heads.push((bytes, state));
                continue;
            }
            for class in live {
                let mut longer = bytes.clone();
                longer.extend(literals[class]);
                pending.push_back((longer, self.row(state)[class]));
            }
        }
        heads
    }

    fn lay_out(&self, budget: &Budget) -> Result<Table, Spent> {
        if self.len() <= START as usize {
            return Ok(Table::empty());
        }
        let mut any_labels = self.any_labels();
        for (rule, &after_separator) in any_labels.iter_mut().zip(&self.after_separator) {
            // The walk looks only behind separators.
            if !after_separator {
                *rule = 0;
            }
        }
        let literals = self.literals();
        let heads = self.heads(&any_labels, &literals);
        let starts: Vec<Index> = heads.iter().map(|&(_, start)| start).collect();
        let mut tails = Vec::new();
        let order = self.depth_first(&starts, &any_labels, &literals, &mut tails);
        // States that end the walk are behind all others.
        let (mut order, last): (Vec<Placed>, Vec<Placed>) =
            order.into_iter().partition(|placed| !placed.ends_walk);
        let walked = order.len();
        order.extend(last);

        let mut places = Places::new();
        let mut place = vec![0u32; self.len()];
        let mut last_from = u32::MAX;
        let mut columns: Vec<(u8, Index)> = Vec::new();
        for (number, placed) in order.iter().enumerate() {
            if number % STATES_A_LOOK == 0 {
                budget.check_time()?;
            }
            if number == walked {
                last_from = places.skip_to_end()?;
            }
            self.columns(placed, &any_labels, &mut columns);
            place[placed.state as usize] = places.take(&columns)?;
        }

        let mut entries = entries();
        for placed in &order {
            self.columns(placed, &any_labels, &mut columns);
            let at = place[placed.state as usize] as usize;
            for &(class, value) in &columns {
                let value = if class < FIRST_CLASS {
                    value
                } else {
                    place[value as usize]
                };
                entries[at + usize::from(class)] = dfa::entry(class, value);
            }
        }

        let mut header = dfa::Header {
            head_count: heads.len() as u32,
            last_from,
            entries: places.end as u32,
            ..dfa::Header::EMPTY
        };
        for (class, own) in header.classes.iter_mut().zip(self.classes) {
            *class = own + FIRST_CLASS;
        }
        for (head, (bytes, start)) in header.heads.iter_mut().zip(&heads) {
            *head = Head {
                wire: wire_end(bytes),
                word_count: bytes.len().div_ceil(8) as u32,
                len: bytes.len() as u32,
                start: place[*start as usize],
                ..Head::NONE
            };
            for (word, bytes) in head.words.iter_mut().zip(bytes.chunks(8)) {
                *word = literal_word(bytes);
            }
        }
        Ok(Table {
            header,
            entries,
            tails,
        })
    }

    /// The entries of a state: what it accepts, and classes with the successor.
    fn columns(&self, placed: &Placed, any_labels: &[u16], columns: &mut Vec<(u8, Index)>) {
        columns.clear();
        let accepted = [
            (TAIL, placed.tail),
            (AT_END, self.at_end[placed.state as usize].into()),
            (ANY_LABELS, any_labels[placed.state as usize].into()),
        ];
        columns.extend(accepted.into_iter().filter(|&(_, value)| value != 0));
        if !placed.ends_walk {
            for (class, &next) in self.row(placed.state).iter().enumerate() {
                if next != DEAD {
                    columns.push((class as u8 + FIRST_CLASS, next));
                }
            }
        }
    }

    /// Every state that a walk can be in, so ordered that a chain of states is contiguous. Where only literals are left the
    /// walk ends, and `tails` gets them.
    fn depth_first(
        &self,
        starts: &[Index],
        any_labels: &[u16],
        literals: &[Option<u8>],
        tails: &mut Vec<Tail>,
    ) -> Vec<Placed> {
        let mut seen = vec![false; self.len()];
        let mut order = Vec::new();
        let mut pending = starts.to_vec();
        while let Some(state) = pending.pop() {
            if state == DEAD || seen[state as usize] {
                continue;
            }
            seen[state as usize] = true;
            let mut placed = Placed {
                state,
                ends_walk: any_labels[state as usize] != 0,
                tail: 0,
            };
            // The walk looks at a state only after a step.
            if !starts.contains(&state)
                && !placed.ends_walk
                && self.after_separator[state as usize]
                && let Some(tail) = self.tail(state, any_labels, literals)
            {
                tails.push(tail);
                placed.tail = tails.len() as u32;
                placed.ends_walk = true;
            }
            if !placed.ends_walk {
                pending.extend(self.row(state).iter().rev());
            }
            order.push(placed);
        }
        order
    }
}

/// A state as it is laid out.
struct Placed {
    state: Index,
    /// Nothing is read in this state: the rest is a tail or any labels.
    ends_walk: bool,
    /// Index of its tail, plus one.
    tail: u32,
}

/// Finds each state a place where its entries are free.
struct Places {
    entry_taken: Vec<bool>,
    /// Two states at one place would read each other's entries.
    state_taken: Vec<bool>,
    /// Below this all entries are taken.
    first_free: usize,
    /// Where the search for a wide state starts: it would look at the same holes every time.
    wide_from: usize,
    /// After the last entry taken.
    end: usize,
}

/// States with more entries than this do not fit into holes.
const WIDE: usize = 4;
/// How many holes a narrow state tries before it goes to the end.
const TRIES: usize = 256;

impl Places {
    fn new() -> Self {
        Self {
            entry_taken: vec![false; TABLE_LEN],
            state_taken: vec![false; TABLE_LEN],
            first_free: 0,
            wide_from: 0,
            end: 0,
        }
    }

    /// From now on only places behind all entries so far; returns the first.
    fn skip_to_end(&mut self) -> Result<u32, Spent> {
        let from = self.end;
        if from > MAX_STATE {
            return Err(Spent::Table);
        }
        self.entry_taken[..from].fill(true);
        self.state_taken[..from].fill(true);
        Ok(from as u32)
    }

    fn take(&mut self, columns: &[(u8, Index)]) -> Result<u32, Spent> {
        while self.entry_taken.get(self.first_free) == Some(&true) {
            self.first_free += 1;
        }
        let lowest = columns.first().map_or(0, |&(class, _)| usize::from(class));
        let wide = columns.len() > WIDE;
        let from = if wide {
            self.wide_from.max(self.first_free)
        } else {
            self.first_free
        };
        let mut state = from.saturating_sub(lowest).max(1);
        let mut tries = 0;
        loop {
            if state > MAX_STATE {
                return Err(Spent::Table);
            }
            let free = !self.state_taken[state]
                && columns
                    .iter()
                    .all(|&(class, _)| !self.entry_taken[state + usize::from(class)]);
            if free {
                break;
            }
            tries += 1;
            state = if tries == TRIES {
                state.max(self.end)
            } else {
                state + 1
            };
        }
        self.state_taken[state] = true;
        for &(class, _) in columns {
            let entry = state + usize::from(class);
            self.entry_taken[entry] = true;
            self.end = self.end.max(entry + 1);
        }
        self.end = self.end.max(state + 1);
        if wide {
            self.wide_from = state;
        } else if tries >= TRIES {
            self.first_free = (self.first_free + TRIES).min(self.end);
        }
        Ok(state as u32)
    }
}

/// The end of a name, last byte first, as it is on the wire: the root label, and in the place of each separator the length of
/// the label behind it.
fn wire_end(reversed: &[u8]) -> LiteralWord {
    let mut length = 0;
    let labels = reversed.iter().map(|&byte| {
        if byte == SEPARATOR {
            std::mem::take(&mut length)
        } else {
            length += 1;
            byte
        }
    });
    let bytes: Vec<u8> = std::iter::once(0).chain(labels).take(8).collect();
    literal_word(&bytes)
}

/// Up to eight literal bytes, last byte first, as a word of the name is loaded: the last byte is the highest.
fn literal_word(reversed: &[u8]) -> LiteralWord {
    let mut word = LiteralWord::NONE;
    for (index, &byte) in reversed.iter().enumerate() {
        let shift = 56 - 8 * index;
        word.care |= 0xff << shift;
        word.value |= u64::from(byte) << shift;
        if byte.is_ascii_lowercase() {
            word.fold |= 0x20 << shift;
        }
    }
    word
}

fn next_state(
    automaton: &DFA,
    cache: &mut Cache,
    state: LazyStateID,
    byte: u8,
) -> Result<LazyStateID, Spent> {
    automaton
        .next_state(cache, state, byte)
        .map_err(|_| Spent::Memory)
}

/// The choice, plus one, of the rules that accept when the input ends in this state; 0 for none.
fn accepted(
    automaton: &DFA,
    cache: &mut Cache,
    choices: &mut Choices,
    state: LazyStateID,
) -> Result<u16, Spent> {
    let end = automaton
        .next_eoi_state(cache, state)
        .map_err(|_| Spent::Memory)?;
    if !end.is_match() {
        return Ok(0);
    }
    let mut rules: Vec<usize> = (0..automaton.match_len(cache, end))
        .map(|index| automaton.match_pattern(cache, end, index).as_usize())
        .collect();
    rules.sort_unstable();
    let choice = choices.number(rules.into_iter()).ok_or(Spent::Table)?;
    Ok(choice as u16 + 1)
}
