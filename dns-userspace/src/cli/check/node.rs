//! The kernel and the privileges of this process.

use std::path::Path;

use super::finding::{Finding, Level};
use crate::datapath::{
    ALLOW_CAPABILITIES, Memlock, Node, State, StateError, Wanted, size, withheld_capabilities,
};

/// What does not depend on the configuration. `wanted` is what the maps take; what a kernel lacks is an error only where the
/// programs do not load.
pub fn judge(node: &Node, wanted: &Wanted, is_loaded: bool, state: &Path) -> Vec<Finding> {
    let mut findings = vec![
        Finding::ok("kernel", release()),
        judge_jit(
            std::fs::read_to_string("/proc/sys/net/core/bpf_jit_enable")
                .ok()
                .as_deref(),
        ),
        judge_btf(node.has_btf, is_loaded),
        judge_bpffs(state, State::try_out(state)),
    ];
    findings.extend(judge_capabilities(node));
    findings.push(judge_memlock(node.memlock, wanted.bytes));
    findings.push(judge_memory(node.memory_limit, wanted));
    findings
}

fn release() -> String {
    nix::sys::utsname::uname()
        .map(|uname| uname.release().to_string_lossy().into_owned())
        .unwrap_or_default()
}

fn judge_jit(setting: Option<&str>) -> Finding {
    match setting.map(str::trim) {
        Some("0") => Finding::warning(
            "jit",
            "off: programs are interpreted, several times slower",
            "sysctl net.core.bpf_jit_enable=1",
        ),
        Some(_) => Finding::ok("jit", "on"),
        // The sysctl belongs to the first network namespace only.
        None => Finding::ok("jit", "not visible in this network namespace"),
    }
}

fn judge_btf(is_there: bool, is_loaded: bool) -> Finding {
    const REMEDY: &str = "use a kernel with CONFIG_DEBUG_INFO_BTF";
    match (is_there, is_loaded) {
        (true, _) => Finding::ok("btf", "/sys/kernel/btf/vmlinux"),
        (false, true) => Finding::warning(
            "btf",
            "the kernel has no type information; the programs load without",
            REMEDY,
        ),
        (false, false) => Finding::error(
            "btf",
            "the kernel has no type information (/sys/kernel/btf/vmlinux), and the programs do not load",
            REMEDY,
        ),
    }
}

/// Where maps and links are pinned.
fn judge_bpffs(path: &Path, state: Result<(), StateError>) -> Finding {
    match state {
        Ok(()) => Finding::ok("bpffs", path.display().to_string()),
        Err(error) => Finding {
            level: Level::Error,
            ..Finding::ok("bpffs", error.to_string())
        },
    }
}

/// One finding, or one for each of two reasons.
fn judge_capabilities(node: &Node) -> Vec<Finding> {
    const WHAT: &str = "capabilities";
    if node.missing_capabilities.is_empty() {
        return vec![Finding::ok(
            WHAT,
            "CAP_BPF CAP_PERFMON CAP_NET_ADMIN CAP_NET_RAW",
        )];
    }
    let withheld =
        withheld_capabilities(node).map(|text| Finding::error(WHAT, text, ALLOW_CAPABILITIES));
    let missing = node.not_granted();
    let missing = (!missing.is_empty()).then(|| {
        Finding::error(
            WHAT,
            format!("missing {}", missing.join(" ")),
            "run as root, or add them to the container's securityContext.capabilities",
        )
    });
    withheld.into_iter().chain(missing).collect()
}

fn judge_memlock(found: Memlock, needed: u64) -> Finding {
    match found {
        Memlock::NotCharged => Finding::ok("memlock", "not charged by this kernel"),
        Memlock::Unlimited => Finding::ok("memlock", "charged by this kernel, and unlimited"),
        Memlock::Unknown => Finding::ok(
            "memlock",
            "unknown: this process may not create maps to find out",
        ),
        Memlock::Limited(bytes) if bytes >= needed => Finding::ok(
            "memlock",
            format!(
                "{}, of which the maps take about {}",
                size(bytes),
                size(needed)
            ),
        ),
        Memlock::Limited(bytes) => Finding::error(
            "memlock",
            format!("{}, and the maps need about {}", size(bytes), size(needed)),
            "LimitMEMLOCK=infinity in the unit, `ulimit -l unlimited`, or CAP_SYS_RESOURCE in the container's \
             securityContext.capabilities, with which gregor raises it",
        ),
    }
}

/// Memory of a process that has just started, beside the maps, with some reserve.
const PROCESS: u64 = 8 << 20;

fn judge_memory(limit: Option<u64>, wanted: &Wanted) -> Finding {
    const REMEDY: &str =
        "raise it (resources.limits.memory, MemoryMax=), or set [limits] answers lower";
    let start = wanted.bytes + PROCESS;
    let reload = start + wanted.of_reload;
    let Some(limit) = limit else {
        return Finding::ok("memory", "no cgroup limit is visible");
    };
    let detail = format!(
        "the limit of the cgroup is {}; gregor needs about {}, and {} at a reload",
        size(limit),
        size(start),
        size(reload)
    );
    if limit < start {
        Finding::error("memory", detail, REMEDY)
    } else if limit < reload {
        Finding::warning(
            "memory",
            format!("{detail}, so every reload will be refused"),
            REMEDY,
        )
    } else {
        Finding::ok("memory", detail)
    }
}

#[cfg(test)]
mod tests {
    use super::{super::finding::Level, *};

    #[test]
    fn memory_must_suffice_for_a_second_matcher() {
        let wanted = Wanted {
            bytes: 20 << 20,
            of_reload: 5 << 20,
            ..Wanted::default()
        };
        for (limit, level, detail) in [
            (None, Level::Ok, "no cgroup limit"),
            (
                Some(256 << 20),
                Level::Ok,
                "about 28 MiB, and 33 MiB at a reload",
            ),
            (
                Some(30 << 20),
                Level::Warning,
                "every reload will be refused",
            ),
            (
                Some(16 << 20),
                Level::Error,
                "the limit of the cgroup is 16 MiB",
            ),
        ] {
            let finding = judge_memory(limit, &wanted);
            assert_eq!(finding.level, level, "{finding:?}");
            assert!(finding.detail.contains(detail), "{finding:?}");
        }
    }

    #[test]
    fn capabilities() {
        let judge = |missing: &[&'static str], withheld: &[&'static str]| {
            let mut node = Node::look();
            node.missing_capabilities = missing.to_vec();
            node.withheld_capabilities = withheld.to_vec();
            node.confinement.module = Some("AppArmor profile x (enforce)".to_owned());
            judge_capabilities(&node)
        };
        assert_eq!(judge(&[], &[])[0].level, Level::Ok);
        let findings = judge(&["CAP_BPF", "CAP_NET_RAW"], &["CAP_BPF"]);
        let [withheld, missing] = findings.as_slice() else {
            panic!("{findings:?}");
        };
        for (finding, detail, remedy) in [
            (
                withheld,
                "AppArmor profile x (enforce) withholds CAP_BPF",
                "`capability bpf,`",
            ),
            (
                missing,
                "missing CAP_NET_RAW",
                "securityContext.capabilities",
            ),
        ] {
            assert_eq!(finding.level, Level::Error);
            assert_eq!(finding.detail, detail);
            let said = finding.remedy.as_deref().unwrap();
            assert!(said.contains(remedy), "{said}");
        }
        assert_eq!(judge(&["CAP_PERFMON"], &[]).len(), 1);
    }

    #[test]
    fn memlock_counts_only_where_it_is_charged() {
        const NEEDED: u64 = 158 << 20;
        for (found, level, detail) in [
            (Memlock::NotCharged, Level::Ok, "not charged"),
            (Memlock::Unlimited, Level::Ok, "unlimited"),
            (Memlock::Unknown, Level::Ok, "unknown"),
            (Memlock::Limited(1 << 30), Level::Ok, "1024 MiB"),
            (
                Memlock::Limited(64 << 10),
                Level::Error,
                "64 KiB, and the maps need about 158 MiB",
            ),
        ] {
            let finding = judge_memlock(found, NEEDED);
            assert_eq!(finding.level, level, "{finding:?}");
            assert!(finding.detail.contains(detail), "{finding:?}");
        }
    }

    #[test]
    fn type_information_is_needed_where_nothing_loads_without() {
        assert_eq!(judge_btf(true, false).level, Level::Ok);
        assert_eq!(judge_btf(false, true).level, Level::Warning);
        assert_eq!(judge_btf(false, false).level, Level::Error);
    }
}
