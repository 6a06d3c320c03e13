//! `gregor detach --all` removes gregor's programs, and not a foreign program of the same name.

#![allow(
    clippy::unwrap_used,
    clippy::disallowed_names,
    reason = "a panic is the report, and foo is the tenant's name"
)]

mod e2e;

use std::{
    io::{BufRead as _, BufReader},
    path::Path,
    process::{Command, Stdio},
};

use aya::{
    Ebpf,
    programs::{
        LinkOrder, SchedClassifier, TcAttachType,
        tc::{NlOptions, TcAttachOptions, TcHandle, qdisc_add_clsact},
    },
};
use e2e::{alone, programs_on, until};
use gregor::datapath::STATE;
use gregor_tests::{lab::Lab, tools};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

const INTERFACE: &str = "veth-foo";
/// Behind gregor's own filter.
const PRIORITY: u16 = 100;

/// A program called `gregor` that is not gregor's, on tcx and on clsact behind everything else.
fn attach_stranger(lab: &Lab) -> Ebpf {
    let attach = || {
        let mut ebpf = Ebpf::load(gregor_tests::PROGRAMS).unwrap();
        let program: &mut SchedClassifier = ebpf.program_mut("gregor").unwrap().try_into().unwrap();
        program.load().unwrap();
        let _ = qdisc_add_clsact(INTERFACE);
        for options in [
            TcAttachOptions::TcxOrder(LinkOrder::last()),
            TcAttachOptions::Netlink(NlOptions {
                priority: PRIORITY,
                handle: TcHandle::default(),
                classid: None,
            }),
        ] {
            program
                .attach_with_options(INTERFACE, TcAttachType::Ingress, options)
                .unwrap();
        }
        ebpf
    };
    lab.node().enter(attach).unwrap()
}

/// The lines of `tc` that name a filter called like gregor's.
fn filters(lab: &Lab) -> Vec<String> {
    let mut command = Command::new("tc");
    command.args(["filter", "show", "dev", INTERFACE, "ingress"]);
    let output = lab.node().output(command).unwrap();
    assert!(output.status.success(), "{output:?}");
    String::from_utf8_lossy(&output.stdout)
        .lines()
        .filter(|line| line.contains("gregor"))
        .map(str::to_owned)
        .collect()
}

#[test]
fn a_foreign_program_of_the_same_name_stays() {
    let lab = Lab::builder("e2edetname").pod("foo").start().unwrap();
    for hook in ["tcx", "clsact"] {
        let config = lab.gregor_config().replace(
            "[intercept]\n",
            &format!("[intercept]\nhook = \"{hook}\"\n"),
        );
        // First the foreign program, so that gregor's own start meets it, too.
        let stranger = attach_stranger(&lab);
        let gregor = lab
            .start_gregor(&tools::gregor().unwrap(), &config)
            .unwrap();
        let both = |on_tcx, on_clsact| {
            assert_eq!(programs_on(&lab, INTERFACE).len(), on_tcx, "{hook}");
            assert_eq!(filters(&lab).len(), on_clsact, "{hook}");
        };
        match hook {
            "tcx" => both(2, 1),
            _ => both(1, 2),
        }
        if !alone("a_foreign_program_of_the_same_name_stays", &gregor) {
            return;
        }
        let output = gregor.command(&["detach", "--all"]).unwrap();
        assert_eq!(output.status.code(), Some(0), "{output:?}");
        assert!(!output.stdout.is_empty());
        both(1, 1);
        gregor.stop();
        both(1, 1);
        lab.node().enter(move || drop(stranger)).unwrap();
        both(0, 0);
    }
}

/// As a DaemonSet runs it: the node is clean, and the process runs until SIGTERM.
#[test]
fn with_stay_the_programs_are_removed_and_the_process_waits_for_sigterm() {
    let lab = Lab::builder("e2edetstay").pod("foo").start().unwrap();
    // It leaves its programs to a successor, as a pod of the DaemonSet does.
    let gregor = lab
        .spawn_successor("gregor-0", &tools::gregor().unwrap(), &lab.gregor_config())
        .unwrap();
    until("it is attached", || {
        (!programs_on(&lab, INTERFACE).is_empty()).then_some(())
    });
    if !alone(
        "with_stay_the_programs_are_removed_and_the_process_waits_for_sigterm",
        &gregor,
    ) {
        return;
    }
    let mut command = Command::new(tools::gregor().unwrap());
    command
        .args(["detach", "--all", "--stay"])
        .stdout(Stdio::piped());
    let mut detach = lab.node().spawn(command).unwrap();
    let mut lines = BufReader::new(detach.stdout.take().unwrap()).lines();
    assert!(lines.next().unwrap().unwrap().starts_with("detached link"));
    until("the program is off", || {
        programs_on(&lab, INTERFACE).is_empty().then_some(())
    });
    assert_eq!(detach.try_wait().unwrap(), None);
    // The process whose programs it removed ends first, as in a rollout; the marker does not outlive them.
    let state = || {
        let exists = || Path::new(STATE).exists();
        lab.node().enter(exists).unwrap()
    };
    gregor.stop();
    assert!(state());
    kill(Pid::from_raw(detach.id() as i32), Signal::SIGTERM).unwrap();
    assert_eq!(detach.wait().unwrap().code(), Some(0));
    assert!(!state());
}
