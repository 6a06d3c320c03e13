//! What forbids bpf(2) to this process although it has the capabilities: what is in force is looked up, nothing is guessed.

use std::{fs, io};

use super::sys::{Attr, bpf};

/// A command that no kernel has: all but a filter refuse it with another error.
const NO_COMMAND: libc::c_int = 0xffff;

/// See the module.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Confinement {
    pub seccomp: Seccomp,
    /// What security modules say of this process, such as `AppArmor profile docker-default (enforce)`.
    pub module: Option<String>,
    /// `integrity` or `confidentiality`.
    pub lockdown: Option<String>,
}

/// Whether system calls are filtered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Seccomp {
    #[default]
    Off,
    /// There is a filter, and bpf(2) gets through.
    Allows,
    /// There is a filter, and it forbids bpf(2).
    Forbids,
}

impl Confinement {
    pub fn look() -> Self {
        let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
        let status = read("/proc/thread-self/status");
        // With several modules AppArmor has a file of its own.
        let current = [
            "/proc/self/attr/apparmor/current",
            "/proc/self/attr/current",
        ]
        .into_iter()
        .map(read)
        .find(|text| !text.is_empty())
        .unwrap_or_default();
        let is_permissive = read("/sys/fs/selinux/enforce").trim() == "0";
        Self {
            seccomp: match is_filtered(&status) {
                false => Seccomp::Off,
                true if is_refused(bpf(NO_COMMAND, &mut Attr::default())) => Seccomp::Forbids,
                true => Seccomp::Allows,
            },
            module: module(&current, is_permissive),
            lockdown: lockdown(&read("/sys/kernel/security/lockdown")),
        }
    }

    /// What is in force, as parts of a sentence.
    pub fn in_force(&self) -> Vec<String> {
        let seccomp = match self.seccomp {
            Seccomp::Off => None,
            Seccomp::Allows => Some("a seccomp filter, which lets bpf(2) through".to_owned()),
            Seccomp::Forbids => Some("a seccomp filter, which forbids bpf(2)".to_owned()),
        };
        let lockdown = self
            .lockdown
            .as_ref()
            .map(|mode| format!("kernel lockdown ({mode})"));
        seccomp
            .into_iter()
            .chain(self.module.clone())
            .chain(lockdown)
            .collect()
    }
}

fn is_refused<T>(result: io::Result<T>) -> bool {
    // Filters may say ENOSYS instead, so that libraries take the call for missing.
    let error = result.err().and_then(|error| error.raw_os_error());
    matches!(error, Some(libc::EPERM | libc::ENOSYS | libc::EACCES))
}

/// From /proc/PID/status.
fn is_filtered(status: &str) -> bool {
    let mode = status
        .lines()
        .find_map(|line| line.strip_prefix("Seccomp:"));
    mode.is_some_and(|mode| mode.trim() == "2")
}

/// From /proc/PID/attr/current: the name of a profile of AppArmor, or a context of SELinux, `user:role:type:level`.
fn module(current: &str, is_permissive: bool) -> Option<String> {
    let current = current.trim_matches(|c: char| c == '\0' || c.is_whitespace());
    let fields: Vec<&str> = current.split(':').collect();
    match fields.as_slice() {
        [] | [""] | ["unconfined" | "kernel"] => None,
        [_, _, of_type, ..] => {
            let is_free =
                matches!(*of_type, "unconfined_t" | "spc_t" | "kernel_t") || is_permissive;
            (!is_free).then(|| format!("SELinux (type {of_type})"))
        }
        _ => Some(format!("AppArmor profile {current}")),
    }
}

/// The mode in brackets, unless that is `none`.
fn lockdown(text: &str) -> Option<String> {
    let (_, rest) = text.split_once('[')?;
    let (mode, _) = rest.split_once(']')?;
    (mode != "none").then(|| mode.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filters_modules_and_lockdown() {
        assert!(is_filtered("Name:\tx\nSeccomp:\t2\nSeccomp_filters:\t1\n"));
        assert!(!is_filtered("Seccomp:\t0\n"));
        assert!(!is_filtered(""));
        for (current, permissive, expected) in [
            ("", false, None),
            ("unconfined\n", false, None),
            ("kernel\0", false, None),
            (
                "cri-containerd.apparmor.d (enforce)\n",
                false,
                Some("AppArmor profile cri-containerd.apparmor.d (enforce)"),
            ),
            (
                "system_u:system_r:container_t:s0:c1,c2\0",
                false,
                Some("SELinux (type container_t)"),
            ),
            ("system_u:system_r:container_t:s0:c1,c2\0", true, None),
            ("system_u:system_r:spc_t:s0\0", false, None),
        ] {
            assert_eq!(
                module(current, permissive).as_deref(),
                expected,
                "{current}"
            );
        }
        assert_eq!(lockdown("[none] integrity confidentiality\n"), None);
        assert_eq!(
            lockdown("none integrity [confidentiality]\n").as_deref(),
            Some("confidentiality")
        );
        assert_eq!(lockdown(""), None);
    }

    #[test]
    fn what_is_in_force_is_listed() {
        let all = Confinement {
            seccomp: Seccomp::Forbids,
            module: Some("AppArmor profile x".to_owned()),
            lockdown: Some("integrity".to_owned()),
        };
        let listed = all.in_force().join("; ");
        assert_eq!(
            listed,
            "a seccomp filter, which forbids bpf(2); AppArmor profile x; kernel lockdown (integrity)"
        );
        assert!(Confinement::default().in_force().is_empty());
    }
}
