//! The properties of this process and node for which the kernel may refuse maps or programs.

use std::{fs, path::Path};

use caps::{CapSet, Capability, CapsHashSet};

use super::{
    confinement::Confinement,
    memlock::{Memlock, raise_memlock},
};
use crate::{cgroup, privileges};

/// The capabilities that gregor needs. CAP_SYS_ADMIN is good for the first two.
const NEEDED: [(&str, Capability, bool); 4] = [
    ("CAP_BPF", Capability::CAP_BPF, true),
    ("CAP_PERFMON", Capability::CAP_PERFMON, true),
    ("CAP_NET_ADMIN", Capability::CAP_NET_ADMIN, false),
    ("CAP_NET_RAW", Capability::CAP_NET_RAW, false),
];

/// See the module.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// Those that this process may not use, whatever the reason.
    pub missing_capabilities: Vec<&'static str>,
    /// The part of them that it has, and that a profile of AppArmor withholds: capget(2) leaves those out.
    pub withheld_capabilities: Vec<&'static str>,
    /// Capabilities do not reach bpf(2) from a user namespace.
    pub in_user_namespace: bool,
    pub memlock: Memlock,
    /// Whether the kernel has type information, which programs of several functions need.
    pub has_btf: bool,
    /// Of the cgroup, in bytes; `None` without one, or where it is not visible.
    pub memory_limit: Option<u64>,
    pub confinement: Confinement,
}

impl Node {
    /// Looks, and raises RLIMIT_MEMLOCK where that is charged.
    pub fn look() -> Self {
        let missing =
            missing_capabilities(&caps::read(None, CapSet::Effective).unwrap_or_default());
        let not_granted = missing_capabilities(privileges::granted_at_start());
        let is_granted = |name: &&str| !not_granted.contains(name);
        Self {
            withheld_capabilities: missing.iter().copied().filter(is_granted).collect(),
            missing_capabilities: missing,
            in_user_namespace: fs::read_to_string("/proc/self/uid_map")
                .is_ok_and(|map| !is_initial(&map)),
            memlock: raise_memlock(),
            has_btf: Path::new("/sys/kernel/btf/vmlinux").exists(),
            memory_limit: cgroup::memory_limit(),
            confinement: Confinement::look(),
        }
    }

    /// Those that this process does not have.
    pub fn not_granted(&self) -> Vec<&'static str> {
        let is_not_granted = |name: &&str| !self.withheld_capabilities.contains(name);
        self.missing_capabilities
            .iter()
            .copied()
            .filter(is_not_granted)
            .collect()
    }

    /// Whether the verifier applies the rules for unprivileged processes.
    pub(super) fn is_unprivileged(&self) -> bool {
        ["CAP_BPF", "CAP_PERFMON"]
            .iter()
            .any(|name| self.missing_capabilities.contains(name))
    }
}

/// Those of the needed ones that a process with these has not.
pub fn missing_capabilities(effective: &CapsHashSet) -> Vec<&'static str> {
    let is_admin = effective.contains(&Capability::CAP_SYS_ADMIN);
    NEEDED
        .into_iter()
        .filter(|(_, capability, by_admin)| {
            !(effective.contains(capability) || (*by_admin && is_admin))
        })
        .map(|(name, _, _)| name)
        .collect()
}

/// Whether a uid_map is that of the first user namespace: all users are themselves.
fn is_initial(uid_map: &str) -> bool {
    let fields: Vec<&str> = uid_map.split_whitespace().collect();
    fields == ["0", "0", "4294967295"]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn capabilities() {
        use Capability::*;
        let missing = |names: &[Capability]| missing_capabilities(&names.iter().copied().collect());
        assert!(missing(&[CAP_BPF, CAP_PERFMON, CAP_NET_ADMIN, CAP_NET_RAW]).is_empty());
        assert!(missing(&[CAP_SYS_ADMIN, CAP_NET_ADMIN, CAP_NET_RAW]).is_empty());
        assert_eq!(
            missing(&[CAP_BPF, CAP_NET_ADMIN]),
            ["CAP_PERFMON", "CAP_NET_RAW"]
        );
    }

    #[test]
    fn user_namespaces() {
        assert!(is_initial("         0          0 4294967295\n"));
        assert!(!is_initial("         0       1000          1\n"));
    }
}
