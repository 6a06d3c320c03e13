//! How much memory the kernel will charge for the maps of an object, and which kinds of maps it has, before any is created.

use aya::maps::MapType;
use aya_obj::{
    Map, Object,
    generated::{BPF_F_NO_PREALLOC, bpf_map_type},
};

use super::shared::SHARED;

/// What a hash map keeps beside key and value of an element, and per bucket.
const HASH_ELEMENT: u64 = 48;
const HASH_BUCKET: u64 = 16;
/// `struct lpm_trie_node`, and the intermediate nodes: at most as many as elements.
const TRIE_NODE: u64 = 2 * 40;
/// The kernel gives whole pages; on machines with larger ones this is a little low.
const PAGE: u64 = 4096;
/// Pages before the data of a ring buffer.
const RING_PAGES: u64 = 3;

/// What the maps of an object are.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Footprint {
    /// To within a few per cent.
    pub bytes: u64,
    /// The part of it that a reload allocates again.
    pub of_reload: u64,
    /// The part of it that each possible processor has.
    pub per_processor: u64,
    /// Name and kind of each map.
    maps: Vec<(String, u32)>,
}

impl Footprint {
    /// Of an object, with the sizes that the loader gives its maps. Zero for an object that cannot be read: loading it says
    /// why.
    pub(super) fn of(object: &[u8], sizes: &[(&'static str, u32)], processors: usize) -> Self {
        let Ok(object) = Object::parse(object) else {
            return Self::default();
        };
        let mut footprint = Self::default();
        for (name, map) in &object.maps {
            let elements = sizes
                .iter()
                .find(|(sized, _)| sized == name)
                .map_or(map.max_entries(), |(_, elements)| *elements);
            let bytes = bytes(map, elements, processors);
            footprint.bytes += bytes;
            if !SHARED.contains(&name.as_str()) {
                footprint.of_reload += bytes;
            }
            if map.map_type() == bpf_map_type::BPF_MAP_TYPE_PERCPU_ARRAY as u32 {
                footprint.per_processor +=
                    u64::from(elements) * u64::from(map.value_size()).next_multiple_of(8);
            }
            footprint.maps.push((name.clone(), map.map_type()));
        }
        footprint
    }

    /// Kinds of maps that this kernel does not have, each with a map of it. A kernel that does not say has them.
    pub(super) fn unsupported(&self) -> Vec<String> {
        let mut missing = Vec::new();
        for (name, kind) in &self.maps {
            let Some(kind) = bpf_map_type::try_from(*kind)
                .ok()
                .and_then(|kind| MapType::try_from(kind).ok())
            else {
                continue;
            };
            if aya::sys::is_map_supported(kind).is_ok_and(|supported| !supported) {
                missing.push(format!("{kind:?} ({name})"));
            }
        }
        missing
    }
}

fn bytes(map: &Map, elements: u32, processors: usize) -> u64 {
    let elements = u64::from(elements);
    let key = u64::from(map.key_size()).next_multiple_of(8);
    let value = u64::from(map.value_size()).next_multiple_of(8);
    let Ok(kind) = bpf_map_type::try_from(map.map_type()) else {
        return 0;
    };
    let is_preallocated = map.map_flags() & BPF_F_NO_PREALLOC == 0;
    let bytes = match kind {
        bpf_map_type::BPF_MAP_TYPE_PERCPU_ARRAY => elements * value * processors as u64,
        bpf_map_type::BPF_MAP_TYPE_HASH | bpf_map_type::BPF_MAP_TYPE_LRU_HASH => {
            let all = if is_preallocated { elements } else { 0 };
            all * (HASH_ELEMENT + key + value) + elements.next_power_of_two() * HASH_BUCKET
        }
        bpf_map_type::BPF_MAP_TYPE_LPM_TRIE => elements * (TRIE_NODE + key + value),
        bpf_map_type::BPF_MAP_TYPE_RINGBUF => elements + RING_PAGES * PAGE,
        _ => elements * value,
    };
    bytes.next_multiple_of(PAGE)
}

#[cfg(test)]
mod tests {
    use super::super::options;

    #[test]
    fn answers_are_most_of_it() {
        let of = |answers, processors| options::tests::footprint(answers, processors).bytes;
        let small = of(0, 2);
        let large = of(100_000, 2);
        // An answer takes more than a kilobyte.
        assert!(large > small + 100_000_000, "{small} {large}");
        assert!(large < small + 250_000_000, "{small} {large}");
        assert!(of(100_000, 64) > large);
    }

    /// The matcher's table of 4 MiB, and little else.
    #[test]
    fn a_reload_allocates_the_matcher_again() {
        const MIB: u64 = 1 << 20;
        let of = |answers| options::tests::footprint(answers, 2).of_reload;
        assert!((4 * MIB..6 * MIB).contains(&of(8192)), "{}", of(8192));
        // Its index by the ends of names.
        assert!(of(100_000) < 10 * MIB, "{}", of(100_000));
    }

    /// What the documents say. Machines with few processors that might have many are common: hypervisors allow for more.
    #[test]
    fn defaults_and_processors_stay_within_what_is_documented() {
        const MIB: u64 = 1 << 20;
        let answers = crate::config::Limits::default().answers;
        let of = |answers, processors| options::tests::footprint(answers, processors).bytes;
        assert!(of(answers, 2) < 20 * MIB, "{}", of(answers, 2));
        assert!(of(100_000, 2) < 162 * MIB, "{}", of(100_000, 2));
        for answers in [answers, 100_000] {
            let more = of(answers, 256) - of(answers, 2);
            let hits = 14 * 8 * answers as u64;
            assert!(more < hits + 2 * MIB, "{more}");
        }
        assert!(options::tests::footprint(answers, 256).per_processor < 5 << 10);
    }
}
