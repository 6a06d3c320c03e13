//! What each thread of `gregor run` may do: capability sets are a thread's own, and a new thread has those of the one that
//! starts it.
//!
//! A thread that handles bytes from pods, upstreams or clients keeps none. docs/security.md has the table, which a test compares
//! with a running gregor.

use std::{fs, sync::OnceLock};

use caps::{CapSet, Capability, CapsHashSet};

/// All that `gregor run` uses, at any time.
const USED: [Capability; 6] = [
    Capability::CAP_BPF,
    Capability::CAP_PERFMON,
    Capability::CAP_NET_ADMIN,
    Capability::CAP_NET_RAW,
    // Where maps are charged to RLIMIT_MEMLOCK.
    Capability::CAP_SYS_RESOURCE,
    // For a configuration in a directory that another user keeps for itself.
    Capability::CAP_DAC_READ_SEARCH,
];

/// What a thread does, as far as that takes capabilities.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Starts everything, with RLIMIT_MEMLOCK raised.
    Start,
    /// The same thread once the sockets for packets are open: it loads programs again at a reload.
    Main,
    /// Attaches to interfaces, replaces and detaches.
    Kernel,
    /// Reads interfaces of other network namespaces, and files of root's that say whose they are.
    Identity,
    /// Sends queries that pass into the return device, whose program goes by the mark of a frame.
    Return,
    /// Reads queries, replies of upstreams, TCP connections and requests for pages.
    Worker {
        /// Whether bpf(2) on an open map takes CAP_BPF here.
        maps_take_bpf: bool,
    },
}

impl Role {
    fn wants(self, capability: Capability) -> bool {
        use Capability::*;
        match self {
            Role::Start => capability != CAP_SYS_RESOURCE && USED.contains(&capability),
            Role::Main => matches!(
                capability,
                CAP_BPF | CAP_PERFMON | CAP_NET_ADMIN | CAP_DAC_READ_SEARCH
            ),
            Role::Kernel => matches!(capability, CAP_BPF | CAP_NET_ADMIN),
            Role::Identity => capability == CAP_NET_ADMIN,
            Role::Return => capability == CAP_NET_RAW,
            Role::Worker { maps_take_bpf } => maps_take_bpf && capability == CAP_BPF,
        }
    }

    /// Those of a thread's capabilities that it keeps. CAP_SYS_ADMIN is kept where it has to stand for CAP_BPF.
    fn keeps(self, had: &CapsHashSet) -> CapsHashSet {
        let mut kept: CapsHashSet = had
            .iter()
            .copied()
            .filter(|capability| self.wants(*capability))
            .collect();
        if self.wants(Capability::CAP_BPF) && stands_for_bpf(had) {
            kept.insert(Capability::CAP_SYS_ADMIN);
        }
        kept
    }
}

/// Whether CAP_SYS_ADMIN was granted in the place of CAP_BPF or CAP_PERFMON, as by runtimes that do not know those.
fn stands_for_bpf(had: &CapsHashSet) -> bool {
    had.contains(&Capability::CAP_SYS_ADMIN)
        && !(had.contains(&Capability::CAP_BPF) && had.contains(&Capability::CAP_PERFMON))
}

/// What this process was granted, whether or not it may use it: capget(2) leaves out what a profile of AppArmor withholds, and with
/// the first change of a set that is given up.
pub fn granted_at_start() -> &'static CapsHashSet {
    static GRANTED: OnceLock<CapsHashSet> = OnceLock::new();
    GRANTED.get_or_init(|| {
        effective(&fs::read_to_string("/proc/thread-self/status").unwrap_or_default())
    })
}

/// From /proc/PID/status.
fn effective(status: &str) -> CapsHashSet {
    let mask = status
        .lines()
        .find_map(|line| line.strip_prefix("CapEff:"))
        .and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok())
        .unwrap_or_default();
    caps::all()
        .into_iter()
        .filter(|capability| mask & capability.bitmask() != 0)
        .collect()
}

/// At the start of the process, before it has other threads: it keeps no capability that gregor has no use for, can get none by
/// executing a program, and hands none on.
pub fn restrict_process() {
    granted_at_start();
    let had = caps::read(None, CapSet::Permitted).unwrap_or_default();
    let mut kept: CapsHashSet = had
        .iter()
        .copied()
        .filter(|capability| USED.contains(capability))
        .collect();
    if stands_for_bpf(&had) {
        kept.insert(Capability::CAP_SYS_ADMIN);
    }
    // gregor executes no other program.
    let no_new_privileges = nix::sys::prctl::set_no_new_privs();
    // Without CAP_SETPCAP the set stays, and is no use to a process that cannot gain privileges.
    let bounding = if had.contains(&Capability::CAP_SETPCAP) {
        caps::clear(None, CapSet::Bounding)
    } else {
        Ok(())
    };
    let results = [
        no_new_privileges.map_err(|error| error.to_string()),
        text(bounding),
        text(caps::clear(None, CapSet::Ambient)),
        text(caps::clear(None, CapSet::Inheritable)),
        text(set(&kept)),
    ];
    for error in results.into_iter().filter_map(Result::err) {
        tracing::warn!(
            error,
            "privileges that are of no use here cannot be given up"
        );
    }
}

/// The calling thread gives up what its role has no use for; threads that it starts from then on have none of that either.
pub fn restrict_thread(role: Role) {
    let had = caps::read(None, CapSet::Permitted).unwrap_or_default();
    if let Err(error) = set(&role.keeps(&had)) {
        tracing::warn!(%error, ?role, "privileges that are of no use to this thread cannot be given up");
    }
}

/// For a thread that sends frames with marks: Linux before 5.17 asks for CAP_NET_ADMIN there. `try_mark` is called with
/// CAP_NET_RAW alone in force.
pub fn restrict_to_marks<E>(try_mark: impl FnOnce() -> Result<(), E>) {
    let had = caps::read(None, CapSet::Permitted).unwrap_or_default();
    let raw = Role::Return.keeps(&had);
    let may_mark = caps::set(None, CapSet::Effective, &raw).is_ok() && try_mark().is_ok();
    let mut kept = raw;
    if !may_mark && had.contains(&Capability::CAP_NET_ADMIN) {
        kept = CapsHashSet::from([Capability::CAP_NET_ADMIN]);
    }
    if let Err(error) = set(&kept) {
        tracing::warn!(%error, "privileges that are of no use to this thread cannot be given up");
    }
}

fn set(kept: &CapsHashSet) -> Result<(), caps::errors::CapsError> {
    // Permitted may not be less than effective, nor effective more than permitted.
    let both: CapsHashSet = caps::read(None, CapSet::Permitted)?
        .intersection(kept)
        .copied()
        .collect();
    caps::set(None, CapSet::Effective, &both)?;
    caps::set(None, CapSet::Permitted, &both)
}

fn text(result: Result<(), caps::errors::CapsError>) -> Result<(), String> {
    result.map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use Capability::*;

    use super::*;

    fn kept(role: Role, had: &[Capability]) -> Vec<Capability> {
        let had = had.iter().copied().collect();
        let mut kept: Vec<_> = role.keeps(&had).into_iter().collect();
        kept.sort_by_key(|capability| capability.index());
        kept
    }

    #[test]
    fn each_role_keeps_what_it_uses_of_what_there_is() {
        let documented = [CAP_NET_ADMIN, CAP_NET_RAW, CAP_PERFMON, CAP_BPF];
        let quiet = Role::Worker {
            maps_take_bpf: false,
        };
        let with_maps = Role::Worker {
            maps_take_bpf: true,
        };
        assert_eq!(
            kept(Role::Main, &documented),
            [CAP_NET_ADMIN, CAP_PERFMON, CAP_BPF]
        );
        assert_eq!(kept(Role::Start, &documented), documented);
        assert_eq!(kept(Role::Kernel, &documented), [CAP_NET_ADMIN, CAP_BPF]);
        assert_eq!(kept(Role::Identity, &documented), [CAP_NET_ADMIN]);
        assert_eq!(kept(Role::Return, &documented), [CAP_NET_RAW]);
        assert_eq!(kept(quiet, &documented), []);
        assert_eq!(kept(with_maps, &documented), [CAP_BPF]);
        assert_eq!(kept(Role::Kernel, &[CAP_BPF]), [CAP_BPF]);

        // A runtime of before CAP_BPF.
        let old = [CAP_NET_ADMIN, CAP_NET_RAW, CAP_SYS_ADMIN];
        assert_eq!(kept(Role::Kernel, &old), [CAP_NET_ADMIN, CAP_SYS_ADMIN]);
        assert_eq!(kept(quiet, &old), []);
        // Root has more than it needs.
        let root: Vec<_> = caps::all().into_iter().collect();
        assert_eq!(
            kept(Role::Main, &root),
            [CAP_DAC_READ_SEARCH, CAP_NET_ADMIN, CAP_PERFMON, CAP_BPF]
        );
    }

    #[test]
    fn the_effective_set_is_read_from_the_status() {
        let status = "CapPrm:\t000001ffffffffff\nCapEff:\t000000c000003000\nCapBnd:\t0\n";
        let expected = [CAP_NET_ADMIN, CAP_NET_RAW, CAP_PERFMON, CAP_BPF];
        assert_eq!(effective(status), expected.into_iter().collect());
        assert!(effective("").is_empty());
    }

    #[test]
    fn a_thread_that_has_given_up_hands_on_nothing_and_others_keep_theirs() {
        let before = caps::read(None, CapSet::Permitted).unwrap();
        let of_a_child = std::thread::spawn(|| {
            restrict_thread(Role::Worker {
                maps_take_bpf: false,
            });
            let child = std::thread::spawn(|| caps::read(None, CapSet::Permitted).unwrap());
            child.join().unwrap()
        });
        assert_eq!(of_a_child.join().unwrap(), CapsHashSet::new());
        assert_eq!(caps::read(None, CapSet::Permitted).unwrap(), before);
    }
}
