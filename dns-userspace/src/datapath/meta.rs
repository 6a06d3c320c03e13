//! What is pinned beside the tables: their secrets, the versions of their layouts, and the network namespace that they belong to.

use aya::maps::{Array, MapData, MapError};
use dns_common::abi::{ANSWERS_LAYOUT, RECORDS_LAYOUT, Trailer};
use nix::sys::stat::stat;

use super::{
    DatapathError,
    pins::{Shape, State, StateError, unpin},
};

/// Name of the map. Programs do not know it.
pub(super) const META: &str = "META";
const META_WORDS: u32 = 7;
const SEED: u32 = 0;
const NETNS_DEVICE: u32 = 1;
const NETNS_INODE: u32 = 2;
/// And the word behind it.
const TRAILER: u32 = 3;
pub(super) const LAYOUT: u32 = 5;
pub(super) const RECORDS: u32 = 6;

/// What no pod may know.
#[derive(Clone, Copy)]
pub(super) struct Secrets {
    /// Of the tables' hashes.
    pub seed: u64,
    pub trailer: Trailer,
}

impl Secrets {
    pub fn random() -> Self {
        Self {
            seed: rand::random(),
            trailer: rand::random(),
        }
    }
}

/// Reads what is pinned beside the tables, or pins it.
pub(super) fn secrets(state: &State) -> Result<Secrets, DatapathError> {
    let failed = |error| DatapathError::Map { name: META, error };
    let path = state.map(META);
    let (device, inode) = network_namespace();
    let mut secrets = Secrets::random();
    if let Some(shape) = Shape::of_pin(&path) {
        let data = MapData::from_pin(&path).map_err(failed)?;
        let meta: Array<_, u64> = Array::try_from(aya::maps::Map::Array(data)).map_err(failed)?;
        let word = |index| meta.get(&index, 0).map_err(failed);
        if (word(NETNS_DEVICE)?, word(NETNS_INODE)?) != (device, inode) {
            return Err(StateError::OtherNetwork(state.root().to_owned()).into());
        }
        secrets.seed = word(SEED)?;
        if shape.elements == META_WORDS {
            secrets.trailer = [word(TRAILER)?, word(TRAILER + 1)?];
            return Ok(secrets);
        }
        // Made by a build of before, which had fewer words.
        unpin(&path);
    }
    let mut meta: Array<MapData, u64> =
        Array::create(META_WORDS, 0).map_err(|error| match error {
            MapError::CreateError { io_error, .. } => DatapathError::CreateMap {
                name: META.to_owned(),
                error: io_error,
            },
            error => failed(error),
        })?;
    for (index, word) in [
        (SEED, secrets.seed),
        (NETNS_DEVICE, device),
        (NETNS_INODE, inode),
        (TRAILER, secrets.trailer[0]),
        (TRAILER + 1, secrets.trailer[1]),
        (LAYOUT, ANSWERS_LAYOUT),
        (RECORDS, RECORDS_LAYOUT),
    ] {
        meta.set(index, word, 0).map_err(failed)?;
    }
    meta.pin(&path)
        .map_err(|error| DatapathError::Pin { path, error })?;
    Ok(secrets)
}

/// Whether these words say that the programs are attached in the network namespace of this thread.
pub(super) fn is_in_this_network(word: impl Fn(u32) -> Option<u64>) -> bool {
    let (device, inode) = network_namespace();
    word(NETNS_DEVICE) == Some(device) && word(NETNS_INODE) == Some(inode)
}

/// Device and inode of the network namespace of this thread.
fn network_namespace() -> (u64, u64) {
    stat("/proc/thread-self/ns/net").map_or((0, 0), |found| (found.st_dev, found.st_ino))
}
