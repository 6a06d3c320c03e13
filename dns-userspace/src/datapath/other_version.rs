//! What a process of another ABI version has left: answers and queries are taken over where their layouts are this one's.
//!
//! Its programs stay attached until this version's are. Where their records can be read, they go on handing queries over
//! until then.

use std::path::{Path, PathBuf};

use aya::maps::{Array, Map, MapData, RingBuf};
use dns_common::{
    abi::{ANSWERS_LAYOUT, DEADLINE, RECORDS_LAYOUT, maps as names},
    answer::Slot,
    word::Word,
};

use super::{
    HEARTBEAT_VALID, Heartbeat,
    journal::{self, TAKEN},
    mapping::Mapping,
    meta::{LAYOUT, META, RECORDS, is_in_this_network},
    pins::State,
};

/// See the module.
#[derive(Default)]
pub(super) struct OtherVersions {
    pub answers: Option<Mapping<Slot>>,
    pub rings: Vec<OtherRing>,
}

/// The ring of another version whose records are like this one's.
pub(super) struct OtherRing {
    /// Its pin, which is removed with its programs.
    path: PathBuf,
    ring: RingBuf<MapData>,
    heartbeat: Option<Heartbeat>,
    /// What its process had taken and not answered.
    taken: Vec<Vec<u8>>,
    is_last_turn: bool,
}

impl OtherVersions {
    /// Looks at what is pinned; the caller has the lock.
    pub fn find(state: &State) -> Self {
        let mut found = Self::default();
        for version in state.other_versions() {
            let map = |name: &str| pinned(&version.join(name));
            let meta = map(META).and_then(|map| Array::<_, u64>::try_from(Map::Array(map)).ok());
            // Of versions with fewer words, those that are missing are unlike any.
            let word = |index| meta.as_ref()?.get(&index, 0).ok();
            let is_here = is_in_this_network(word);
            let (has_answers, has_records) = (
                is_here && word(LAYOUT) == Some(ANSWERS_LAYOUT),
                is_here && word(RECORDS) == Some(RECORDS_LAYOUT),
            );
            if has_answers
                && let Some(answers) =
                    map(names::ANSWERS).and_then(|map| Mapping::new(Map::Array(map)).ok())
            {
                tracing::info!(path = %version.display(), "taking over the answers of another version");
                found.answers = Some(answers);
            }
            let words = map(names::HEARTBEAT).and_then(|map| Mapping::new(Map::Array(map)).ok());
            let path = version.join(names::RING);
            let ring = pinned(&path).and_then(|map| RingBuf::try_from(Map::RingBuf(map)).ok());
            let Some(mut ring) = ring else { continue };
            if has_records {
                tracing::info!(path = %version.display(), "taking over the queries of another version");
                found.rings.push(OtherRing {
                    path,
                    ring,
                    heartbeat: words.map(Heartbeat::of_others),
                    taken: journal::take_of(&version.join(TAKEN)),
                    is_last_turn: false,
                });
            } else {
                stop(words.as_ref());
                let queries = std::iter::from_fn(|| ring.next().map(drop)).count();
                if queries > 0 {
                    tracing::warn!(path = %version.display(), queries, "the queries that waited for another version are lost: they cannot be read");
                }
            }
        }
        found
    }
}

impl OtherRing {
    /// Its programs hand over for as long as they are attached.
    pub fn renew(&self) {
        if let Some(heartbeat) = &self.heartbeat {
            heartbeat.renew(HEARTBEAT_VALID);
        }
    }

    /// Takes at most this many records. Returns `false` once there will be none.
    pub fn take(&mut self, most: usize, mut record: impl FnMut(&[u8])) -> bool {
        let is_attached = self.path.exists();
        let taken = self.taken.len().min(most);
        for taken in self.taken.drain(..taken) {
            record(&taken);
        }
        for _ in taken..most {
            let Some(next) = self.ring.next() else {
                // A program that began before it was detached is done within microseconds: one more turn is the end.
                let is_over = !is_attached && self.taken.is_empty();
                return !is_over || !std::mem::replace(&mut self.is_last_turn, true);
            };
            record(&next);
        }
        true
    }
}

/// Programs hand nothing over from now on.
fn stop(words: Option<&Mapping<Word>>) {
    if let Some(word) = words.and_then(|words| words.element(DEADLINE as usize)) {
        word.store(0);
    }
}

fn pinned(path: &Path) -> Option<MapData> {
    path.exists().then(|| MapData::from_pin(path).ok())?
}
