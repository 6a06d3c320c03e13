//! What a guest runs: parts of the matrix, each a list of tests of the programs that `cargo xtask test` runs as well.

use anyhow::{Result, bail};
use clap::ValueEnum;
use gregor_lab::guest::Step;

use super::{Architecture, image::test_path};

/// A part of the matrix.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Part {
    /// Loading every program
    Load,
    /// The tables of packets by BPF_PROG_TEST_RUN
    Tables,
    /// The order of loads in the JIT's code, on arm64
    Order,
    /// Pods, caches and gregor itself
    Lab,
    /// The same where the kernel is short of memory, has no JIT, or confines gregor
    Confined,
}

impl Part {
    /// What its tests are listed under.
    pub fn group(self) -> &'static str {
        match self {
            Self::Load => "load",
            Self::Tables => "tables",
            Self::Order => "order",
            Self::Lab | Self::Confined => "lab",
        }
    }
}

/// Tests of a program. The two lists of the lab are all that tests/tests/node.rs has: see the test below.
struct Tests {
    part: Part,
    program: &'static str,
    quick: &'static [&'static str],
    /// On top of those of a quick run.
    full: &'static [&'static str],
    limit_seconds: u64,
    /// See [`Step::boot`].
    boot: &'static str,
}

pub const USUAL: &str = "";
/// The boot parameter of guests that have SELinux in the place of AppArmor.
pub const SELINUX: &str = "security=selinux";

const TESTS: &[Tests] = &[
    Tests {
        part: Part::Load,
        program: "kernel",
        quick: &["tc", "xdp"],
        full: &["tc_debug", "xdp_debug"],
        limit_seconds: 1200,
        boot: USUAL,
    },
    Tests {
        part: Part::Tables,
        program: "programs",
        quick: &[
            "the_table_under_test_run",
            "answers_under_test_run",
            "the_table_where_targets_are_protected",
        ],
        full: &[
            "the_table_under_test_run_with_one_rule",
            "the_table_with_answers_to_other_questions",
            "no_answers",
            "answers_without_a_responder",
            "addresses_take_turns",
            "without_a_responder_matched_queries_pass",
            "an_interface_that_is_not_ours_passes",
            "over_the_token_bucket_matched_queries_pass",
            "a_full_ring_passes",
            "queries_to_other_servers_are_counted",
        ],
        limit_seconds: 1200,
        boot: USUAL,
    },
    Tests {
        part: Part::Tables,
        program: "xdp",
        quick: &["the_table", "the_table_where_targets_are_protected"],
        full: &[
            "the_table_with_one_rule",
            "only_allowed_sources_are_answered",
        ],
        limit_seconds: 1200,
        boot: USUAL,
    },
    Tests {
        part: Part::Order,
        program: "arm64",
        quick: &[
            "jit_keeps_dependencies",
            "missing_dependencies_are_seen_in_jited_code",
            "tc_reads_in_order",
            "xdp_reads_in_order",
        ],
        full: &[],
        limit_seconds: 1200,
        boot: USUAL,
    },
    Tests {
        part: Part::Lab,
        program: "node",
        quick: &[
            "pod_by_veth",
            "pod_behind_a_bridge",
            "vlan",
            "killed_and_started_again_on_clsact",
            "documented_capabilities",
            "each_capability_is_needed",
            "memlock",
        ],
        full: &[
            "ipv6",
            "clsact",
            "tcx",
            "pod_behind_a_bridge_on_clsact",
            "netkit",
            "interfaces_that_are_no_veths_are_named",
            "a_hook_without_a_place",
            "xdp_on_virtio_net",
            "tcp_steering",
            "killed_and_started_again_on_tcx",
            "detach_all",
            "as_root_threads_have_the_same_capabilities",
            "a_seccomp_filter_that_forbids_bpf_is_named",
            "an_unprivileged_process_gets_nothing_into_a_pods_interface",
        ],
        limit_seconds: 600,
        boot: USUAL,
    },
    Tests {
        part: Part::Lab,
        program: "chaos",
        quick: &[],
        full: &["a_short_run", "killed_for_lack_of_memory"],
        limit_seconds: 900,
        boot: USUAL,
    },
    Tests {
        part: Part::Lab,
        program: "memory",
        quick: &[
            "reloads_fit_into_the_limit_of_the_manifest",
            "upgrades_fit_into_the_limit_of_the_manifest",
            "maps_that_do_not_fit_are_refused",
        ],
        full: &[],
        limit_seconds: 600,
        boot: USUAL,
    },
    Tests {
        part: Part::Lab,
        program: "learnt_servers",
        quick: &["a_successor_goes_on_with_what_its_predecessor_has_learnt"],
        full: &[],
        limit_seconds: 300,
        boot: USUAL,
    },
    Tests {
        part: Part::Lab,
        program: "programs",
        quick: &["return_path_that_others_take_away"],
        full: &[],
        limit_seconds: 300,
        boot: USUAL,
    },
    Tests {
        part: Part::Lab,
        program: "reinjection",
        quick: &["a_query_that_is_brought_back_passes"],
        full: &[],
        limit_seconds: 300,
        boot: USUAL,
    },
    Tests {
        part: Part::Confined,
        program: "confined",
        quick: &[
            "tables_that_do_not_fit",
            "without_a_jit",
            "apparmor_without_cap_bpf",
            "apparmor_of_a_container",
            "apparmor_of_this_repository",
            // For good: the last one.
            "lockdown",
        ],
        full: &[],
        limit_seconds: 600,
        boot: USUAL,
    },
    Tests {
        part: Part::Confined,
        program: "confined",
        quick: &["selinux_without_bpf"],
        full: &[],
        limit_seconds: 600,
        boot: SELINUX,
    },
];

/// The steps of a guest; of all parts when none is named.
pub fn steps(architecture: Architecture, only: &[Part], quick: bool) -> Vec<Step> {
    TESTS
        .iter()
        // Elsewhere the program has no tests.
        .filter(|tests| tests.part != Part::Order || architecture == Architecture::Aarch64)
        .filter(|tests| only.is_empty() || only.contains(&tests.part))
        .map(|tests| Step {
            group: tests.part.group().to_owned(),
            program: test_path(tests.program),
            tests: tests
                .quick
                .iter()
                .chain(if quick { &[] } else { tests.full })
                .map(|name| (*name).to_owned())
                .collect(),
            limit_seconds: tests.limit_seconds,
            boot: tests.boot.to_owned(),
        })
        // Without names, a guest runs all of a program's tests.
        .filter(|step| !step.tests.is_empty())
        .collect()
}

/// Only these tests, where any is named; one that no step has is an error.
pub fn with_tests(mut steps: Vec<Step>, names: &[String]) -> Result<Vec<Step>> {
    if names.is_empty() {
        return Ok(steps);
    }
    for name in names {
        if !steps.iter().any(|step| step.tests.contains(name)) {
            bail!("--tests {name}: no such test in these parts");
        }
    }
    for step in &mut steps {
        step.tests.retain(|test| names.contains(test));
    }
    steps.retain(|step| !step.tests.is_empty());
    Ok(steps)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_step_runs_all_tests_of_its_program() {
        for quick in [false, true] {
            let steps = steps(Architecture::X86_64, &[], quick);
            assert!(steps.iter().all(|step| !step.tests.is_empty()));
            let has_chaos = steps.iter().any(|step| step.program.ends_with("chaos"));
            assert_eq!(has_chaos, !quick);
        }
    }

    #[test]
    fn tests_are_chosen_by_name() {
        let all = || steps(Architecture::X86_64, &[], false);
        assert_eq!(with_tests(all(), &[]).unwrap(), all());
        let chosen = with_tests(all(), &["netkit".to_owned(), "lockdown".to_owned()]).unwrap();
        let tests: Vec<_> = chosen.iter().map(|step| step.tests.concat()).collect();
        assert_eq!(tests, ["netkit", "lockdown"]);
        assert!(with_tests(all(), &["netkat".to_owned()]).is_err());
    }

    /// A test that is added to the lab is run in guests, too.
    #[test]
    fn the_whole_lab_is_listed() {
        for (part, source) in [
            (Part::Lab, include_str!("../../../tests/tests/node.rs")),
            (
                Part::Confined,
                include_str!("../../../tests/tests/confined.rs"),
            ),
        ] {
            all_are_listed(part, source);
        }
    }

    fn all_are_listed(part: Part, source: &str) {
        let defined: Vec<&str> = source
            .split("#[test]\n")
            .skip(1)
            .filter_map(|rest| rest.strip_prefix("fn ")?.split('(').next())
            .collect();
        let lab = steps(Architecture::X86_64, &[part], false);
        let mut listed: Vec<&str> = lab
            .iter()
            .filter(|step| step.program == lab[0].program)
            .flat_map(|step| step.tests.iter().map(String::as_str))
            .collect();
        assert!(defined.len() > 5, "{defined:?}");
        listed.sort_unstable();
        let mut sorted = defined.clone();
        sorted.sort_unstable();
        assert_eq!(listed, sorted);
    }
}
