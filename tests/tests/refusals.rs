//! What makes gregor refuse to start, each for real: before anything is attached, with one line that names the remedy, and
//! `gregor check` says it first. Missing capabilities are in `node.rs`, programs that the kernel refuses in `cli.rs`, memory in
//! `memory.rs`.

#![allow(
    clippy::unwrap_used,
    clippy::disallowed_names,
    reason = "a panic is the report, and foo is the tenant's name"
)]

mod e2e;

use std::{fs, os::unix::fs::PermissionsExt as _, path::Path, process::Command};

use e2e::{lines_said, programs_on, sorted, until};
use gregor_tests::{
    lab::{
        Gregor, Lab,
        world::{BROKER, FOO_ADDRESSES},
    },
    tools,
};
use nix::sys::signal::Signal;

const BPFFS: &str = "/sys/fs/bpf";

fn lab(prefix: &str) -> Lab {
    Lab::builder(prefix).pod("foo").start().unwrap()
}

/// Runs a program in the node, whose mounts are its own.
fn sh(lab: &Lab, script: &str) -> String {
    let mut command = Command::new("sh");
    command.args(["-ec", script]);
    let output = lab.node().output(command).unwrap();
    assert!(output.status.success(), "{script}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// What a command of gregor's printed to both outputs, and its exit code.
fn ran(lab: &Lab, arguments: &[&str]) -> (String, Option<i32>) {
    let mut command = Command::new(tools::gregor().unwrap());
    command.args(arguments).env_remove("RUST_LOG");
    let output = lab.node().output(command).unwrap();
    let text = [output.stdout, output.stderr].map(|bytes| String::from_utf8(bytes).unwrap());
    (text.concat(), output.status.code())
}

fn config(lab: &Lab) -> String {
    let path = lab.directory().join("refused.toml");
    fs::write(&path, lab.gregor_config()).unwrap();
    path.to_str().unwrap().to_owned()
}

/// `check` has an error about `what` that contains all the parts, and `run` ends with one line that does.
fn is_refused_with(lab: &Lab, control: &Path, what: &str, parts: &[&str]) {
    let config = config(lab);
    let control = control.to_str().unwrap();
    let options = ["--config", &config, "--control", control];
    let (said, code) = ran(lab, &[&["check"], &options[..]].concat());
    assert_eq!(code, Some(1), "{said}");
    let at = said.lines().position(|line| {
        line.starts_with("ERROR") && line[5..].trim_start().starts_with(&format!("{what} "))
    });
    let at = at.unwrap_or_else(|| panic!("no error about {what}: {said}"));
    // A remedy may be on a line of its own.
    let found: String = said.lines().skip(at).take(2).collect();
    for part in parts {
        assert!(found.contains(part), "check: {part}: {said}");
    }

    let (said, code) = ran(lab, &[&["run"], &options[..]].concat());
    assert_eq!(code, Some(1), "{said}");
    assert_eq!(lines_said(&said), 1, "{said}");
    println!("{said}");
    for part in parts {
        assert!(said.contains(part), "run: {part}: {said}");
    }
    assert_eq!(programs_on(lab, "veth-foo"), [""; 0]);
    assert!(lab.node().ip("link show gregor0\n").is_err());
}

/// With the cause gone it starts and serves.
fn serves(lab: &Lab) -> Gregor {
    let gregor = lab
        .start_gregor(&tools::gregor().unwrap(), &lab.gregor_config())
        .unwrap();
    is_answered(lab);
    gregor
}

fn is_answered(lab: &Lab) {
    let found = lab.pod("foo").getent(BROKER).unwrap();
    assert_eq!(found, sorted(FOO_ADDRESSES));
}

#[test]
fn bpffs_that_is_not_mounted() {
    let lab = lab("refmount");
    let control = lab.directory().join("refused.sock");
    sh(&lab, &format!("umount {BPFFS}"));
    let parts = [
        "/sys/fs/bpf/gregor is not on bpffs",
        "mount -t bpf bpf /sys/fs/bpf",
    ];
    is_refused_with(&lab, &control, "bpffs", &parts);
    sh(&lab, &format!("mount -t bpf bpf {BPFFS}"));
    serves(&lab).stop();
}

#[test]
fn bpffs_that_is_read_only() {
    let lab = lab("refro");
    let control = lab.directory().join("refused.sock");
    sh(&lab, &format!("mount -o remount,ro {BPFFS}"));
    let parts = [
        "/sys/fs/bpf/gregor is on a bpffs that is mounted read-only",
        "mount -o remount,rw /sys/fs/bpf",
    ];
    is_refused_with(&lab, &control, "bpffs", &parts);
    sh(&lab, &format!("mount -o remount,rw {BPFFS}"));
    serves(&lab).stop();
}

#[test]
fn a_state_directory_of_another_user() {
    let lab = lab("refowner");
    let control = lab.directory().join("refused.sock");
    let directory = format!("{BPFFS}/gregor");
    sh(
        &lab,
        &format!("mkdir -m 755 {directory}; chown 1000 {directory}"),
    );
    let remedy = "remove it (rm -r /sys/fs/bpf/gregor)";
    let parts = ["/sys/fs/bpf/gregor is owned by user 1000", remedy];
    is_refused_with(&lab, &control, "bpffs", &parts);
    sh(
        &lab,
        &format!("chown 0 {directory}; chmod 1777 {directory}"),
    );
    let parts = ["/sys/fs/bpf/gregor is writable for other users", remedy];
    is_refused_with(&lab, &control, "bpffs", &parts);
    sh(&lab, &format!("rm -r {directory}"));
    serves(&lab).stop();
    // Whatever the umask of who starts it.
    let script = lab.directory().join("with-umask");
    let binary = tools::gregor().unwrap();
    let text = format!("#!/bin/sh\numask 0; exec {} \"$@\"\n", binary.display());
    fs::write(&script, text).unwrap();
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).unwrap();
    let gregor = lab.start_gregor(&script, &lab.gregor_config()).unwrap();
    let modes = sh(
        &lab,
        &format!("stat -c %a {directory} {directory}/v*/links"),
    );
    assert_eq!(modes, "755\n755\n");
    gregor.stop();
}

/// bpffs has no limits of its own; the file system of the control socket has.
#[test]
fn a_full_file_system_under_the_control_socket() {
    let lab = lab("reffull");
    let directory = lab.directory().join("full");
    fs::create_dir(&directory).unwrap();
    let path = directory.display();
    // The root takes the only inode.
    sh(
        &lab,
        &format!("mount -t tmpfs -o size=4k,nr_inodes=1 full {path}"),
    );
    let parts = [
        "No space left on device",
        "free space and inodes there",
        "another path with --control",
    ];
    is_refused_with(
        &lab,
        &directory.join("gregor.sock"),
        "control socket",
        &parts,
    );
    sh(&lab, &format!("umount {path}"));
    serves(&lab).stop();
}

/// Without type information: what `check` says and what `run` does are the same.
#[test]
fn no_type_information() {
    let lab = lab("refbtf");
    let control = lab.directory().join("refused.sock");
    sh(&lab, "mount -t tmpfs none /sys/kernel/btf");
    let config = config(&lab);
    let options = ["--config", &config, "--control", control.to_str().unwrap()];
    let (said, code) = ran(&lab, &[&["check"], &options[..]].concat());
    println!("{code:?} {said}");
    let line = said.lines().position(|line| line.contains(" btf "));
    let line = line.unwrap_or_else(|| panic!("{said}"));
    let found: String = said.lines().skip(line).take(2).collect();
    assert!(found.contains("CONFIG_DEBUG_INFO_BTF"), "{said}");
    if code == Some(0) {
        assert!(found.starts_with("WARNING"), "{said}");
        serves(&lab).stop();
    } else {
        assert!(found.starts_with("ERROR"), "{said}");
        let parts = ["CONFIG_DEBUG_INFO_BTF"];
        is_refused_with(&lab, &control, "btf", &parts);
    }
}

/// Pins go with the bpffs that is unmounted, and a lock on its directory keeps no process away from the new one's.
#[test]
fn bpffs_that_is_mounted_anew_under_a_running_gregor() {
    let lab = lab("refanew");
    let gregor = serves(&lab);
    let pins = format!("cd {BPFFS}/gregor && find . -type f -o -type l | sort");
    let before = sh(&lab, &pins);
    assert!(before.contains("links/"), "{before}");
    sh(
        &lab,
        &format!("umount -l {BPFFS}; mount -t bpf bpf {BPFFS}"),
    );
    is_answered(&lab);
    until("everything is pinned again", || {
        gregor
            .log()
            .contains("everything is pinned again")
            .then_some(())
    });
    assert_eq!(sh(&lab, &pins), before);
    assert_eq!(gregor.log().matches("pinning again").count(), 1);

    // It owns the new one: a second gregor does not start beside it.
    let config = config(&lab);
    let other = lab.directory().join("second.sock");
    let arguments = [
        "run",
        "--config",
        &config,
        "--control",
        other.to_str().unwrap(),
    ];
    let (said, code) = ran(&lab, &arguments);
    assert_eq!(code, Some(1));
    assert!(
        said.contains("another gregor owns /sys/fs/bpf/gregor"),
        "{said}"
    );

    // What it has pinned there outlives it, and its successor takes it over with the answers.
    gregor.signal(Signal::SIGKILL);
    until("gregor ends", || gregor.process().exited());
    assert_eq!(programs_on(&lab, "veth-foo"), ["gregor"]);
    is_answered(&lab);
    let successor = serves(&lab);
    assert!(
        successor
            .log()
            .contains("took over from an earlier process"),
        "{}",
        successor.log()
    );
    // Not mounted again: it says so once, and serves.
    sh(&lab, &format!("umount -l {BPFFS}"));
    until("it is noticed", || {
        successor.log().contains("is not on bpffs").then_some(())
    });
    is_answered(&lab);
    sh(&lab, &format!("mount -t bpf bpf {BPFFS}"));
    until("everything is pinned again", || {
        successor
            .log()
            .contains("everything is pinned again")
            .then_some(())
    });
    assert_eq!(sh(&lab, &pins), before);
    assert_eq!(successor.log().matches("is not on bpffs").count(), 1);
    successor.stop();
    assert!(
        !Path::new(BPFFS).join("gregor").exists()
            && !sh(&lab, &format!("ls {BPFFS}")).contains("gregor")
    );
}
