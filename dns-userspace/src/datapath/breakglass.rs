//! Break-glass: takes every program of gregor off every hook, also while a hung gregor holds the links.
//!
//! It walks all links of the kernel, looks at the program of each, and detaches those that are ours: that takes
//! CAP_SYS_ADMIN, which `gregor run` does without. Links are found in every network namespace; netlink filters (clsact) only
//! in this one.
//!
//! A program is ours when it has one of our names *and* uses our maps: any program may be called `gregor`. The maps that
//! identify it are ones that every version has: with other names, programs of older versions would not be found.

use std::{
    collections::HashSet,
    io,
    ops::RangeInclusive,
    path::{Path, PathBuf},
};

use aya::{
    maps::MapInfo,
    programs::{ProgramError, ProgramInfo, loaded_programs},
};
use dns_common::abi::maps;

use super::{
    PROGRAM, RETURN_DEVICES, XDP_PROGRAM, attach, clsact,
    error::{one_line, os_error},
    link::{self, BpfLink, LINK_TYPE_NETNS},
    pins::{clear, dismiss},
    return_path, steer,
};

/// What was removed, and what could not be.
#[derive(Debug, Default)]
pub struct DetachReport {
    /// Links detached, as `link ID on interface INDEX` or `link ID on network namespace INODE`.
    pub links: Vec<String>,
    /// Interfaces whose clsact filter was removed.
    pub filters: Vec<String>,
    /// Interfaces of gregor's own that were removed.
    pub devices: Vec<String>,
    /// Pins removed.
    pub pins: Vec<PathBuf>,
    /// What failed, with what.
    pub failures: Vec<String>,
}

/// Removes every program that any gregor made, and what is pinned in a directory.
pub fn detach_all(state: &Path) -> anyhow::Result<DetachReport> {
    let mut report = DetachReport::default();
    // First: a running process attaches again what it finds missing.
    if let Err(error) = dismiss(state) {
        report
            .failures
            .push(format!("{}: {error}", state.display()));
    }
    // Filters and pins are removed even if links cannot be.
    let programs = our_programs();
    match &programs {
        Ok(programs) => {
            if let Err(error) = detach_links(programs, &mut report) {
                report.failures.push(links_failure(&error));
            }
        }
        Err(error) => report.failures.push(links_failure(error)),
    }
    detach_filters(programs.as_ref().ok(), &mut report)?;
    match return_path::remove() {
        Ok(true) => report.devices.push(RETURN_DEVICES[0].to_owned()),
        Ok(false) => {}
        Err(error) => {
            let failure = format!("interface {}: {error}", RETURN_DEVICES[0]);
            report.failures.push(failure);
        }
    }
    // Links among them that are not off their hooks yet are detached without CAP_SYS_ADMIN.
    remove_pins(state, &mut report);
    Ok(report)
}

fn links_failure(error: &(dyn std::error::Error + 'static)) -> String {
    let remedy = match os_error(error) {
        Some(libc::EPERM) => {
            "; run it as root with CAP_SYS_ADMIN: links of other processes are opened by id"
        }
        _ => "",
    };
    format!("links (tcx, XDP, TCP): {}{remedy}", one_line(error))
}

/// Ids of the loaded programs that are gregor's.
fn our_programs() -> Result<HashSet<u32>, ProgramError> {
    let mut ours = HashSet::new();
    for program in loaded_programs() {
        match program {
            Ok(program) => {
                if is_ours(&program)? {
                    ours.insert(program.id());
                }
            }
            // It may go while we walk.
            Err(error) if os_error(&error) == Some(libc::ENOENT) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(ours)
}

fn is_ours(program: &ProgramInfo) -> Result<bool, ProgramError> {
    let has_our_name = program
        .name_as_str()
        .is_some_and(|name| [PROGRAM, XDP_PROGRAM, steer::PROGRAM].contains(&name));
    if !has_our_name {
        return Ok(false);
    }
    let maps = program.map_ids()?.unwrap_or_default();
    // A map goes only with its program, and that may go while we walk.
    let maps: Vec<Map> = maps
        .into_iter()
        .filter_map(|id| MapInfo::from_id(id).ok())
        .filter_map(|info| {
            Some(Map {
                name: info.name_as_str()?.to_owned(),
                value_bytes: info.value_size(),
                elements: info.max_entries(),
            })
        })
        .collect();
    Ok(are_ours(&maps))
}

/// What marks a map.
struct Map {
    name: String,
    value_bytes: u32,
    elements: u32,
}

/// Whether the maps of a program are those of gregor: the deadline and the servers, which each of its programs uses.
fn are_ours(used: &[Map]) -> bool {
    let has = |name: &str, elements: RangeInclusive<u32>, value: &dyn Fn(u32) -> bool| {
        used.iter().any(|map| {
            map.name == name && elements.contains(&map.elements) && value(map.value_bytes)
        })
    };
    // Up to version 3 of the ABI the deadline was alone.
    has(maps::HEARTBEAT, 1..=2, &|bytes| {
        bytes == size_of::<u64>() as u32
    }) && has(maps::SERVERS, 1..=1, &|bytes| bytes > 0)
}

fn detach_links(programs: &HashSet<u32>, report: &mut DetachReport) -> io::Result<()> {
    let mut id = 0;
    while let Some(next) = link::next_link(id)? {
        id = next;
        let link = match BpfLink::open(id) {
            Ok(link) => link,
            // It may go while we walk.
            Err(error) if error.raw_os_error() == Some(libc::EPERM) => return Err(error),
            Err(_) => continue,
        };
        let Ok(info) = link.info() else { continue };
        if !programs.contains(&info.program_id) || !info.is_attached() {
            continue;
        }
        let place = match info.link_type {
            LINK_TYPE_NETNS => format!("network namespace {}", info.ifindex),
            _ => format!("interface {}", info.ifindex),
        };
        match link.detach() {
            Ok(()) => report.links.push(format!("link {id} on {place}")),
            Err(error) => report.failures.push(format!("link {id}: {error}")),
        }
    }
    Ok(())
}

/// `programs` are ours where they are known; else filters in our place are taken for ours.
fn detach_filters(programs: Option<&HashSet<u32>>, report: &mut DetachReport) -> io::Result<()> {
    for interface in nix::net::if_::if_nameindex()?.iter() {
        let name = interface.name().to_string_lossy().into_owned();
        let filters = match clsact::filters(interface.index()) {
            Ok(filters) => filters,
            Err(error) => {
                let failure = format!("clsact filters of {name}: {error}");
                report.failures.push(failure);
                continue;
            }
        };
        for filter in filters {
            let is_ours = match programs {
                Some(programs) => programs.contains(&filter.program_id),
                None => attach::has_our_place(&filter),
            };
            if !is_ours {
                continue;
            }
            match clsact::remove(&filter) {
                Ok(()) => report.filters.push(name.clone()),
                Err(error) => {
                    let failure = format!("clsact filter of {name}: {error}");
                    report.failures.push(failure);
                }
            }
        }
    }
    Ok(())
}

fn remove_pins(directory: &Path, report: &mut DetachReport) {
    let mut removed = Vec::new();
    let failures = clear(directory, &mut |path| removed.push(path.to_owned()));
    report.pins.extend(removed);
    report.failures.extend(failures);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_is_identified_by_its_maps() {
        let map = |name: &str, value_bytes, elements| Map {
            name: name.to_owned(),
            value_bytes,
            elements,
        };
        let ours = || {
            vec![
                map("HEARTBEAT", 8, 2),
                map("TAKEN", 8, 1),
                map("SERVERS", 340, 1),
            ]
        };
        assert!(are_ours(&ours()));
        assert!(!are_ours(&[]));
        for index in [0, 2] {
            let mut other = ours();
            other.remove(index);
            assert!(!are_ours(&other), "without the map at {index}");
            let mut other = ours();
            other[index].elements = 3;
            assert!(!are_ours(&other), "with a larger map at {index}");
        }
        let mut earlier = ours();
        earlier[0].elements = 1;
        assert!(are_ours(&earlier), "of an earlier version");
        let mut other = ours();
        other[0].value_bytes = 4;
        assert!(!are_ours(&other));
    }
}
