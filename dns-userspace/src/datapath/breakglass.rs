//! Break-glass: takes every program of gregor off every hook, also while a hung gregor holds the links.
//!
//! It walks all links of the kernel, looks at the program of each, and detaches those that are ours: that takes
//! CAP_SYS_ADMIN, which `gregor run` does without. Links are found in every network namespace; netlink filters (clsact) only
//! in this one.

use std::{
    collections::HashSet,
    fs, io,
    path::{Path, PathBuf},
};

use aya::programs::{ProgramError, loaded_programs};

use super::{
    PROGRAM, XDP_PROGRAM, attach,
    error::{one_line, os_error},
    link::{self, BpfLink, LINK_TYPE_NETNS},
    steer,
};

/// Where gregor pins what it pins.
const PIN_DIRECTORY: &str = "/sys/fs/bpf/gregor";

/// What was removed, and what could not be.
#[derive(Debug, Default)]
pub struct DetachReport {
    /// Links detached, as `link ID on interface INDEX` or `link ID on network namespace INODE`.
    pub links: Vec<String>,
    /// Interfaces whose clsact filter was removed.
    pub filters: Vec<String>,
    /// Pins removed.
    pub pins: Vec<PathBuf>,
    /// What failed, with what.
    pub failures: Vec<String>,
}

/// Removes every program and pin that any gregor made.
pub fn detach_all() -> anyhow::Result<DetachReport> {
    let mut report = DetachReport::default();
    // Filters and pins go whatever becomes of the links.
    match our_programs().map(|programs| detach_links(&programs, &mut report)) {
        Ok(Ok(())) => {}
        Ok(Err(error)) => report.failures.push(links_failure(&error)),
        Err(error) => report.failures.push(links_failure(&error)),
    }
    detach_filters(&mut report)?;
    remove_pins(Path::new(PIN_DIRECTORY), &mut report);
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
            Ok(program) if program.name_as_str().is_some_and(is_ours) => {
                ours.insert(program.id());
            }
            Ok(_) => {}
            // It may go while we walk.
            Err(error) if os_error(&error) == Some(libc::ENOENT) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(ours)
}

fn is_ours(name: &str) -> bool {
    [PROGRAM, XDP_PROGRAM, steer::PROGRAM].contains(&name)
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
        // A link that is off its hook but still held by somebody has no interface or namespace any more.
        if !programs.contains(&info.program_id) || info.ifindex == 0 {
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

fn detach_filters(report: &mut DetachReport) -> io::Result<()> {
    for interface in nix::net::if_::if_nameindex()?.iter() {
        let name = interface.name().to_string_lossy().into_owned();
        // An interface without clsact answers with an error of its own kind: there is nothing to remove then.
        if let Ok(true) = attach::remove_clsact_filter(&name) {
            report.filters.push(name);
        }
    }
    Ok(())
}

fn remove_pins(directory: &Path, report: &mut DetachReport) {
    let Ok(entries) = fs::read_dir(directory) else {
        return;
    };
    for path in entries.filter_map(Result::ok).map(|entry| entry.path()) {
        match fs::remove_file(&path) {
            Ok(()) => report.pins.push(path),
            Err(error) => report.failures.push(format!("{}: {error}", path.display())),
        }
    }
    let _ = fs::remove_dir(directory);
}
