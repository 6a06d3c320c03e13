//! The embedded eBPF objects, and how programs and maps are taken out of a loaded one.

use std::time::{Duration, Instant};

use aya::{
    Ebpf,
    maps::{Array, MapData, MapError},
    programs::{Program, ProgramError},
};

use super::{
    error::{DatapathError, Refused},
    mapping::Mapping,
};

pub(super) static OBJECT: &[u8] =
    aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/gregor-ebpf"));
/// The same, with a log line for every decision.
pub(super) static LOGGING_OBJECT: &[u8] =
    aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/gregor-ebpf-log"));

/// Loads one program; how long the kernel took for it.
pub(super) fn verify(name: &'static str, program: &mut Program) -> Result<Duration, DatapathError> {
    let started = Instant::now();
    let result = match program {
        Program::Xdp(program) => program.load(),
        Program::SchedClassifier(program) => program.load(),
        Program::SkLookup(program) => program.load(),
        _ => return Err(DatapathError::Missing(name)),
    };
    match result {
        Ok(()) => Ok(started.elapsed()),
        Err(ProgramError::LoadError {
            io_error,
            verifier_log,
        }) => Err(Refused {
            program: name,
            errno: io_error.raw_os_error().unwrap_or(0),
            log: verifier_log.to_string(),
            took: started.elapsed(),
        }
        .into()),
        Err(error) => Err(error.into()),
    }
}

pub(super) fn program_of<'e>(
    ebpf: &'e mut Ebpf,
    name: &str,
) -> Result<&'e mut Program, DatapathError> {
    ebpf.program_mut(name)
        .ok_or(DatapathError::Missing("program"))
}

pub(super) fn take<M>(ebpf: &mut Ebpf, name: &'static str) -> Result<M, DatapathError>
where
    M: TryFrom<aya::maps::Map, Error = MapError>,
{
    M::try_from(ebpf.take_map(name).ok_or(DatapathError::Missing(name))?)
        .map_err(|error| DatapathError::Map { name, error })
}

/// Maps an array that both sides write.
pub(super) fn mapping<T>(ebpf: &mut Ebpf, name: &'static str) -> Result<Mapping<T>, DatapathError> {
    let map = ebpf.take_map(name).ok_or(DatapathError::Missing(name))?;
    Mapping::new(map).map_err(|error| DatapathError::Mapping { name, error })
}

pub(super) fn set<V: aya::Pod>(
    map: &mut Array<MapData, V>,
    name: &'static str,
    index: u32,
    value: &V,
) -> Result<(), DatapathError> {
    map.set(index, value, 0)
        .map_err(|error| DatapathError::Map { name, error })
}
