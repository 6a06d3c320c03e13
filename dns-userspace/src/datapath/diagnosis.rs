//! Explains an error of loading to the operator: the reason and the remedy, on one line.

use std::fmt;

use super::{
    XDP_PROGRAM,
    confinement::Seccomp,
    error::{DatapathError, ENOTSUPP, Refused, one_line, os_error},
    memlock::Memlock,
    node::Node,
    verifier,
};

const GRANT: &str = "run it as root, or grant what is missing: securityContext.capabilities of a container, \
                     AmbientCapabilities= of a unit";
const UNSUPPORTED: &str =
    "gregor does not run on this kernel; use one that docs/kernels.md names, or report it";

/// See the module.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Diagnosis {
    /// The program that it is about; `None` when it is about all of them.
    pub program: Option<&'static str>,
    pub reason: String,
    pub remedy: Option<String>,
}

impl fmt::Display for Diagnosis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.reason)?;
        match &self.remedy {
            Some(remedy) => write!(f, "; {remedy}"),
            None => Ok(()),
        }
    }
}

/// What the maps would take of this kernel.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wanted {
    /// To within a few per cent; 0 when that is not known.
    pub bytes: u64,
    /// The part of it that a reload allocates again, beside what is in use.
    pub of_reload: u64,
    /// Processors that this machine may have, and the part of `bytes` that each of them has.
    pub processors: u64,
    pub per_processor: u64,
    /// Kinds of maps that the kernel does not have.
    pub unsupported: Vec<String>,
}

impl Diagnosis {
    /// Of an error of loading on this node.
    pub fn of(error: &DatapathError, node: &Node, wanted: &Wanted) -> Self {
        match error {
            DatapathError::Refused(refused) => Self {
                program: Some(refused.program),
                reason: one_line(error),
                remedy: of_program(refused, node, wanted),
            },
            DatapathError::NoXdpLoadBytes => Self {
                program: Some(XDP_PROGRAM),
                reason: one_line(error),
                remedy: Some("use hook = \"tcx\" or \"clsact\"".to_owned()),
            },
            DatapathError::TooLong { stage, .. } => Self {
                program: stage.program(),
                reason: one_line(error),
                remedy: Some(
                    "--load-timeout gives it more time; where that does not help, use a kernel that docs/kernels.md names"
                        .to_owned(),
                ),
            },
            _ => Self {
                program: None,
                reason: one_line(error),
                remedy: os_error(error).and_then(|number| of_number(number, node, wanted)),
            },
        }
    }
}

/// The remedy for an error number.
fn of_number(number: i32, node: &Node, wanted: &Wanted) -> Option<String> {
    match number {
        libc::EPERM | libc::EACCES => Some(permission(node, wanted)),
        libc::ENOMEM => Some(memory(node, wanted)),
        libc::EINVAL if !wanted.unsupported.is_empty() => Some(format!(
            "this kernel has no maps of the kind {}; {UNSUPPORTED}",
            wanted.unsupported.join(", ")
        )),
        libc::E2BIG => Some("set [limits] answers lower".to_owned()),
        libc::EMFILE => Some("raise the limit of open files: LimitNOFILE= of a unit".to_owned()),
        libc::ENOSYS => Some("use a kernel with CONFIG_BPF_SYSCALL".to_owned()),
        _ => None,
    }
}

fn of_program(refused: &Refused, node: &Node, wanted: &Wanted) -> Option<String> {
    if !refused.log.is_empty() {
        if node.is_unprivileged() {
            return Some(permission(node, wanted));
        }
        if let Some(helper) = verifier::unknown_helper(&refused.reason()) {
            return Some(format!("this kernel has no helper {helper}; {UNSUPPORTED}"));
        }
        if !node.has_btf {
            return Some(
                "the kernel has no type information (/sys/kernel/btf/vmlinux); use one with CONFIG_DEBUG_INFO_BTF"
                    .to_owned(),
            );
        }
        return Some(UNSUPPORTED.to_owned());
    }
    match refused.errno {
        libc::EAGAIN | libc::EINTR => Some("it was interrupted; try again".to_owned()),
        ENOTSUPP => Some("sysctl net.core.bpf_jit_enable=1".to_owned()),
        libc::EINVAL | libc::E2BIG => Some(format!(
            "this kernel does not have this kind of program; {UNSUPPORTED}"
        )),
        number => of_number(number, node, wanted),
    }
}

/// What forbids bpf(2).
fn permission(node: &Node, wanted: &Wanted) -> String {
    if let Some(remedy) = missing_capabilities_remedy(node) {
        return remedy;
    }
    if node.confinement.seccomp == Seccomp::Forbids {
        return "a seccomp filter forbids bpf(2) to this process; allow it there (seccompProfile: RuntimeDefault does, with CAP_BPF)"
            .to_owned();
    }
    if node.in_user_namespace {
        return "it runs in a user namespace, whose capabilities do not reach bpf(2); run it in the node's (hostUsers: true, \
                no rootless container)"
            .to_owned();
    }
    if let Memlock::Limited(bytes) = node.memlock {
        return format!(
            "RLIMIT_MEMLOCK allows {} and the maps need about {}; LimitMEMLOCK=infinity of a unit, or CAP_SYS_RESOURCE in the \
             container's securityContext.capabilities, with which gregor raises it",
            size(bytes),
            size(wanted.bytes)
        );
    }
    match node.confinement.in_force().join(", ") {
        none if none.is_empty() => {
            "no capability is missing, and this process is under no seccomp filter, AppArmor profile, SELinux type or kernel lockdown; \
             the kernel's log may say what forbids it"
                .to_owned()
        }
        in_force => format!("no capability is missing; in force for this process: {in_force}; let that allow bpf(2)"),
    }
}

/// Where capabilities are missing: which, and how to grant them.
pub fn missing_capabilities_remedy(node: &Node) -> Option<String> {
    let withheld = withheld_capabilities(node);
    let missing = node.not_granted().join(" ");
    let missing = (!missing.is_empty()).then(|| format!("missing {missing}; {GRANT}"));
    let parts: Vec<String> = withheld
        .map(|withheld| format!("{withheld}; {ALLOW_CAPABILITIES}"))
        .into_iter()
        .chain(missing)
        .collect();
    (!parts.is_empty()).then(|| parts.join("; "))
}

/// How to allow what [`withheld_capabilities`] names.
pub const ALLOW_CAPABILITIES: &str = "allow them there (`capability bpf,` and so on), or give a container another profile \
                                      (securityContext.appArmorProfile, type Unconfined)";

/// Capabilities that this process has and may not use, and what withholds them.
pub fn withheld_capabilities(node: &Node) -> Option<String> {
    let withheld = node.withheld_capabilities.join(" ");
    let module = node
        .confinement
        .module
        .as_deref()
        .unwrap_or("a security module");
    (!withheld.is_empty()).then(|| format!("{module} withholds {withheld}"))
}

fn memory(node: &Node, wanted: &Wanted) -> String {
    let needed = size(wanted.bytes);
    match node.memory_limit {
        Some(limit) => format!(
            "the maps need about {needed}, and the memory limit of the cgroup is {}; raise it \
             (resources.limits.memory, MemoryMax=), or set [limits] answers lower",
            size(limit)
        ),
        None => {
            format!("the maps need about {needed}; free as much, or set [limits] answers lower")
        }
    }
}

/// `158 MiB`, `64 KiB`.
pub fn size(bytes: u64) -> String {
    match bytes {
        0..1_048_576 => format!("{} KiB", bytes.div_ceil(1 << 10)),
        _ => format!("{} MiB", bytes.div_ceil(1 << 20)),
    }
}

#[cfg(test)]
mod tests {
    use std::io;

    use aya::{EbpfError, maps::MapError};

    use super::{super::confinement::Confinement, *};

    fn node() -> Node {
        Node {
            missing_capabilities: Vec::new(),
            withheld_capabilities: Vec::new(),
            in_user_namespace: false,
            memlock: Memlock::NotCharged,
            has_btf: true,
            memory_limit: None,
            confinement: Confinement::default(),
        }
    }

    fn wanted() -> Wanted {
        Wanted {
            bytes: 158 << 20,
            unsupported: Vec::new(),
            ..Wanted::default()
        }
    }

    fn create(number: i32) -> DatapathError {
        EbpfError::MapError(MapError::CreateError {
            name: "ANSWERS".to_owned(),
            io_error: io::Error::from_raw_os_error(number),
        })
        .into()
    }

    fn refused(errno: i32, log: &str) -> DatapathError {
        DatapathError::Refused(Refused {
            program: "gregor",
            errno,
            log: log.to_owned(),
            took: std::time::Duration::ZERO,
        })
    }

    /// The line for an error, which must be one.
    fn line(error: &DatapathError, node: &Node) -> String {
        let line = Diagnosis::of(error, node, &wanted()).to_string();
        assert_eq!(line.lines().count(), 1, "{line}");
        line
    }

    #[test]
    fn maps_that_cannot_be_created() {
        let unprivileged = Node {
            missing_capabilities: vec!["CAP_BPF", "CAP_NET_RAW"],
            memlock: Memlock::Unknown,
            ..node()
        };
        let charged = Node {
            memlock: Memlock::Limited(64 << 10),
            ..node()
        };
        let limited = Node {
            memory_limit: Some(64 << 20),
            ..node()
        };
        let filtered = Node {
            confinement: Confinement {
                seccomp: Seccomp::Forbids,
                ..Confinement::default()
            },
            ..node()
        };
        let profiled = Node {
            confinement: Confinement {
                module: Some("AppArmor profile docker-default (enforce)".to_owned()),
                ..Confinement::default()
            },
            ..node()
        };
        let withheld = Node {
            missing_capabilities: vec!["CAP_BPF"],
            withheld_capabilities: vec!["CAP_BPF"],
            ..profiled.clone()
        };
        let partly_withheld = Node {
            missing_capabilities: vec!["CAP_BPF", "CAP_NET_RAW"],
            ..withheld.clone()
        };
        let contained = Node {
            in_user_namespace: true,
            ..node()
        };
        for (number, node, part) in [
            (
                libc::EPERM,
                &unprivileged,
                "missing CAP_BPF CAP_NET_RAW; run it as root",
            ),
            (
                libc::EPERM,
                &charged,
                "RLIMIT_MEMLOCK allows 64 KiB and the maps need about 158 MiB; LimitMEMLOCK=infinity",
            ),
            (libc::EPERM, &contained, "user namespace"),
            (libc::EPERM, &filtered, "; a seccomp filter forbids bpf(2)"),
            (
                libc::EPERM,
                &profiled,
                "; no capability is missing; in force for this process: AppArmor profile docker-default (enforce); let",
            ),
            (
                libc::EPERM,
                &withheld,
                "; AppArmor profile docker-default (enforce) withholds CAP_BPF; allow them there (`capability bpf,` and so on), or give \
                 a container another profile (securityContext.appArmorProfile, type Unconfined)",
            ),
            (
                libc::EPERM,
                &partly_withheld,
                "type Unconfined); missing CAP_NET_RAW; run it as root",
            ),
            (
                libc::EPERM,
                &node(),
                "this process is under no seccomp filter",
            ),
            (
                libc::ENOMEM,
                &limited,
                "the maps need about 158 MiB, and the memory limit of the cgroup is 64 MiB; raise it",
            ),
            (
                libc::ENOMEM,
                &node(),
                "free as much, or set [limits] answers lower",
            ),
            (libc::E2BIG, &node(), "set [limits] answers lower"),
            (libc::ENOSYS, &node(), "CONFIG_BPF_SYSCALL"),
        ] {
            let line = line(&create(number), node);
            let name = format!(
                "map ANSWERS cannot be created: {:?}",
                nix::errno::Errno::from_raw(number)
            );
            assert!(line.starts_with(&name), "{line}");
            assert!(line.contains(part), "{line}");
        }
        let without = Wanted {
            unsupported: vec!["RingBuf (RING)".to_owned()],
            ..wanted()
        };
        let line = Diagnosis::of(&create(libc::EINVAL), &node(), &without).to_string();
        assert!(
            line.contains("no maps of the kind RingBuf (RING)"),
            "{line}"
        );
    }

    #[test]
    fn programs_that_the_verifier_refuses() {
        let without_btf = Node {
            has_btf: false,
            ..node()
        };
        let unprivileged = Node {
            missing_capabilities: vec!["CAP_PERFMON"],
            ..node()
        };
        for (errno, log, node, reason, remedy) in [
            (
                libc::E2BIG,
                "BPF program is too large. Processed 1000001 insn\nprocessed 1000001 insns (limit 1000000)",
                &node(),
                "BPF program is too large. Processed 1000001 insn",
                "docs/kernels.md",
            ),
            (
                libc::EACCES,
                "invalid access to packet, off=0 size=8, R1(id=0,off=0,r=0)\nR1 offset is outside of the packet\n",
                &node(),
                "invalid access to packet, off=0 size=8, R1(id=0,off=0,r=0); R1 offset is outside of the packet",
                "docs/kernels.md",
            ),
            (
                libc::EINVAL,
                "invalid func unknown#189\n",
                &node(),
                "invalid func unknown#189",
                "this kernel has no helper 189",
            ),
            (
                libc::EINVAL,
                "Arg#0 type PTR in parse() is not supported yet.\n",
                &without_btf,
                "Arg#0 type PTR",
                "CONFIG_DEBUG_INFO_BTF",
            ),
            (
                libc::EACCES,
                "R3 pointer comparison prohibited\n",
                &unprivileged,
                "R3 pointer comparison prohibited",
                "missing CAP_PERFMON",
            ),
            (
                libc::EPERM,
                "",
                &unprivileged,
                "EPERM",
                "missing CAP_PERFMON",
            ),
            (libc::EPERM, "", &node(), "EPERM", "no seccomp filter"),
            (libc::ENOMEM, "", &node(), "ENOMEM", "158 MiB"),
            (
                libc::EINVAL,
                "",
                &node(),
                "EINVAL",
                "does not have this kind of program",
            ),
            (libc::EAGAIN, "", &node(), "EAGAIN", "try again"),
            (ENOTSUPP, "", &node(), "ENOTSUPP", "bpf_jit_enable"),
        ] {
            let line = line(&refused(errno, log), node);
            let start = format!("the kernel refuses program gregor: {reason}");
            assert!(line.starts_with(&start), "{line}");
            assert!(line.contains(remedy), "{line}");
        }
    }

    #[test]
    fn xdp_on_a_kernel_without_the_helper() {
        assert_eq!(
            line(&DatapathError::NoXdpLoadBytes, &node()),
            "this kernel has no bpf_xdp_load_bytes (Linux 5.18); use hook = \"tcx\" or \"clsact\""
        );
    }
}
