//! Reads the results that libcni keeps on the node: one file for each interface of a pod, written when the CNI has set it up and
//! before any container of the pod starts.
//!
//! A file is named after the network, the container and the interface, has mode 0600, and is written in place, so it may be
//! seen half written. It is removed after the interface, and a crash leaves it behind.

use std::{
    fs::{File, OpenOptions},
    io::{self, Read as _},
    net::IpAddr,
    os::unix::fs::{MetadataExt as _, OpenOptionsExt as _},
    path::Path,
    time::SystemTime,
};

use serde::Deserialize;

use super::facts::{CniResult, Mac, PodKey};

/// Largest file that is read; common ones have a few kilobytes.
const MAX_FILE: u64 = 1 << 20;
/// What libcni writes into its files, since 0.7.
const KIND: &str = "cniCacheV1";

/// Why a file is no result of a pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Ignored {
    /// It is a link, a directory or a device.
    NotAFile,
    /// Somebody else than root may write it.
    NotRoots,
    TooLarge,
    Unreadable,
    /// It is no JSON, or none of libcni's.
    Malformed,
    /// It is of a container that is no pod's.
    NoPod,
    /// The plugin says no interface of the host.
    NoHostInterface,
}

impl Ignored {
    /// For people.
    pub const fn text(self) -> &'static str {
        match self {
            Ignored::NotAFile => "no regular file",
            Ignored::NotRoots => "not root's alone to write",
            Ignored::TooLarge => "larger than 1 MiB",
            Ignored::Unreadable => "cannot be read",
            Ignored::Malformed => "not what libcni writes",
            Ignored::NoPod => "of no pod",
            Ignored::NoHostInterface => "without an interface of the host",
        }
    }
}

#[derive(Deserialize)]
struct Cached {
    kind: String,
    #[serde(rename = "ifName")]
    interface: String,
    #[serde(rename = "cniArgs", default)]
    arguments: Vec<(String, String)>,
    #[serde(default)]
    result: Outcome,
}

#[derive(Default, Deserialize)]
struct Outcome {
    #[serde(default)]
    interfaces: Vec<Interface>,
    #[serde(default)]
    ips: Vec<Ip>,
}

#[derive(Deserialize)]
struct Interface {
    name: String,
    #[serde(default)]
    mac: String,
    /// Path of the pod's network namespace; empty for an interface of the host.
    #[serde(default)]
    sandbox: String,
}

#[derive(Deserialize)]
struct Ip {
    /// With the length of its prefix.
    address: String,
    /// Index of the interface that has it.
    #[serde(default)]
    interface: Option<usize>,
}

/// Reads a file; `None` where there is none.
pub fn read(path: &Path) -> Result<Option<CniResult>, Ignored> {
    let options = libc::O_NOFOLLOW | libc::O_NONBLOCK | libc::O_CLOEXEC;
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(options)
        .open(path);
    let file = match file {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) if error.raw_os_error() == Some(libc::ELOOP) => return Err(Ignored::NotAFile),
        Err(_) => return Err(Ignored::Unreadable),
    };
    let written = trusted(&file)?;
    let mut bytes = Vec::new();
    let taken = file.take(MAX_FILE + 1).read_to_end(&mut bytes);
    taken.map_err(|_| Ignored::Unreadable)?;
    if bytes.len() as u64 > MAX_FILE {
        return Err(Ignored::TooLarge);
    }
    parse(&bytes, written).map(Some)
}

/// When it was written, if nobody but root may have done so.
fn trusted(file: &File) -> Result<SystemTime, Ignored> {
    let metadata = file.metadata().map_err(|_| Ignored::Unreadable)?;
    if !metadata.is_file() {
        return Err(Ignored::NotAFile);
    }
    if !is_roots(&metadata) {
        return Err(Ignored::NotRoots);
    }
    if metadata.len() > MAX_FILE {
        return Err(Ignored::TooLarge);
    }
    metadata.modified().map_err(|_| Ignored::Unreadable)
}

/// Whether nobody but root, or the user that gregor runs as, may write something.
pub fn is_roots(metadata: &std::fs::Metadata) -> bool {
    let is_own = metadata.uid() == 0 || metadata.uid() == nix::unistd::geteuid().as_raw();
    is_own && metadata.mode() & 0o022 == 0
}

/// Takes the content of a file.
pub fn parse(bytes: &[u8], written: SystemTime) -> Result<CniResult, Ignored> {
    let cached: Cached = serde_json::from_slice(bytes).map_err(|_| Ignored::Malformed)?;
    if cached.kind != KIND {
        return Err(Ignored::Malformed);
    }
    let argument = |name: &str| {
        let mut arguments = cached.arguments.iter();
        arguments
            .find(|(key, _)| key == name)
            .map(|(_, value)| value.clone())
            .unwrap_or_default()
    };
    let pod = PodKey {
        namespace: argument("K8S_POD_NAMESPACE"),
        pod: argument("K8S_POD_NAME"),
        uid: argument("K8S_POD_UID"),
    };
    if pod.namespace.is_empty() || pod.pod.is_empty() {
        return Err(Ignored::NoPod);
    }
    let interfaces = &cached.result.interfaces;
    let host: Vec<(String, Option<Mac>)> = interfaces
        .iter()
        .filter(|interface| interface.sandbox.is_empty() && !interface.name.is_empty())
        .map(|interface| (interface.name.clone(), interface.mac.parse().ok()))
        .collect();
    if host.is_empty() {
        return Err(Ignored::NoHostInterface);
    }
    let is_inside = |one: &Interface| !one.sandbox.is_empty() && one.name == cached.interface;
    let inside = interfaces.iter().find(|interface| is_inside(interface));
    // Some plugins do not say which interface has an address, or name one of the host.
    let is_of_another = |index: usize| {
        let interface = interfaces.get(index);
        interface.is_some_and(|one| !one.sandbox.is_empty() && one.name != cached.interface)
    };
    let addresses = cached.result.ips.iter();
    let addresses = addresses
        .filter(|ip| !ip.interface.is_some_and(is_of_another))
        .filter_map(|ip| {
            let address = ip.address.split('/').next()?;
            address.parse::<IpAddr>().ok()
        });
    Ok(CniResult {
        pod,
        host,
        inside: inside.and_then(|interface| interface.mac.parse().ok()),
        addresses: addresses.collect(),
        written,
    })
}

#[cfg(test)]
mod tests;
