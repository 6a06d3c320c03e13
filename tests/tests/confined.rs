//! What changes a whole kernel for good, or needs one of its own: tables that do not fit into its memory, no JIT, profiles of
//! AppArmor, types of SELinux, lockdown. In guests of `cargo xtask kernels` only. Each refusal is said by `check` first, and by
//! `run` on one line that names the remedy, before anything is attached.

#![allow(
    clippy::unwrap_used,
    clippy::disallowed_names,
    reason = "a panic is the report, and foo is the tenant's name"
)]

mod e2e;

use std::{fs, net::IpAddr, path::Path, process::Command};

use aya::programs::loaded_programs;
use e2e::{REPLY, addresses, programs_on, qualified, sorted, until, until_the_programs_answer};
use gregor::datapath::{Hook, PROGRAM, detect_hook};
use gregor_tests::{
    lab::{
        Ask, Gregor, Lab, enter_profile, enter_type, guest, patience, skip,
        world::{FOO_ADDRESSES, NODE_LOCAL_V4},
    },
    tools,
};
use hickory_proto::rr::RecordType;
use nix::sys::signal::Signal;

const CACHE: IpAddr = IpAddr::V4(NODE_LOCAL_V4);
const LOCKDOWN: &str = "/sys/kernel/security/lockdown";
const JIT: &str = "/proc/sys/net/core/bpf_jit_enable";

/// Whether the test may do that to this machine.
fn is_guest(test: &str) -> bool {
    let is_guest = guest::is_guest();
    if !is_guest {
        skip(
            test,
            "changes the whole machine: for guests of `cargo xtask kernels`",
        );
    }
    is_guest
}

fn gregor() -> Command {
    let mut command = Command::new(tools::gregor().unwrap());
    command.env_remove("RUST_LOG");
    command
}

/// What a command of gregor's printed to both outputs, and its exit code. `confine` prepares it.
fn ran(lab: &Lab, confine: &dyn Fn(&mut Command), arguments: &[&str]) -> (String, Option<i32>) {
    let mut command = gregor();
    confine(&mut command);
    command.args(arguments);
    let output = lab.node().output(command).unwrap();
    let text = [output.stdout, output.stderr].map(|bytes| String::from_utf8(bytes).unwrap());
    (text.concat(), output.status.code())
}

/// `check` has a line that begins with `what` as an error and contains all the parts, with its remedy; `run` ends with one line
/// that does. Nothing is attached.
fn is_refused(lab: &Lab, config: &str, confine: &dyn Fn(&mut Command), what: &str, parts: &[&str]) {
    let path = lab.directory().join("refused.toml");
    fs::write(&path, config).unwrap();
    let control = lab.directory().join("refused.sock");
    let options = [
        "--config",
        path.to_str().unwrap(),
        "--control",
        control.to_str().unwrap(),
    ];
    let (said, code) = ran(lab, confine, &[&["check"], &options[..]].concat());
    println!("{said}");
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

    let (said, code) = ran(lab, confine, &[&["run"], &options[..]].concat());
    println!("{said}");
    assert_eq!(code, Some(1), "{said}");
    // A slow machine is told that the kernel takes its time.
    let lines = said.lines().filter(|line| !line.contains("is still"));
    assert_eq!(lines.count(), 1, "{said}");
    for part in parts {
        assert!(said.contains(part), "run: {part}: {said}");
    }
    if detect_hook() == Hook::Tcx {
        assert_eq!(programs_on(lab, "veth-foo"), [""; 0]);
    }
    assert!(lab.node().ip("link show gregor0\n").is_err());
}

/// It starts, and the pod has its answers from the responder and from the programs.
fn serves(lab: &Lab, confine: &dyn Fn(&mut Command)) -> Gregor {
    let mut command = gregor();
    confine(&mut command);
    let gregor = lab
        .start_gregor_as(command, &tools::gregor().unwrap(), &lab.gregor_config())
        .unwrap();
    until_the_programs_answer(&gregor, "foo asks", |_| {
        let mut ask = Ask::new(CACHE, &qualified("foo"), RecordType::A);
        ask.timeout = patience(REPLY);
        let reply = lab.pod("foo").ask(ask).unwrap();
        assert_eq!(addresses(&reply), sorted(FOO_ADDRESSES));
    });
    gregor
}

fn free(_: &mut Command) {}

fn lab(prefix: &str) -> Lab {
    Lab::builder(prefix).pod("foo").start().unwrap()
}

/// Some 5 GiB, more than 4 of it in one map, and no cgroup limits the memory.
#[test]
fn tables_that_do_not_fit() {
    if !is_guest("tables_that_do_not_fit") {
        return;
    }
    let lab = lab("contables");
    let config = format!("{}\n[limits]\nanswers = 3000000\n", lab.gregor_config());
    let parts = [
        "cannot be created: ENOMEM",
        "the maps need about 4",
        "set [limits] answers lower",
    ];
    is_refused(&lab, &config, &free, "maps", &parts);
    serves(&lab, &free).stop();
}

/// Interpreted programs serve; `check` says that they are.
#[test]
fn without_a_jit() {
    const TEST: &str = "without_a_jit";
    if !is_guest(TEST) {
        return;
    }
    if fs::write(JIT, "0").is_err() {
        return skip(TEST, "its JIT cannot be switched off");
    }
    // The setting is in the machine's own network namespace.
    let output = gregor().arg("check").output().unwrap();
    let said = String::from_utf8(output.stdout).unwrap();
    println!("{said}");
    let at = said.lines().position(|line| line.contains(" jit "));
    let line: String = said.lines().skip(at.unwrap()).take(2).collect();
    assert!(
        line.starts_with("WARNING") && line.contains("programs are interpreted"),
        "{said}"
    );
    assert!(line.contains("sysctl net.core.bpf_jit_enable=1"), "{said}");
    assert!(output.status.success(), "{said}");
    let lab = lab("conjit");
    let served = serves(&lab, &free);
    let sizes: Vec<u32> = loaded_programs()
        .filter_map(Result::ok)
        .filter(|program| program.name_as_str() == Some(PROGRAM))
        .map(|program| program.size_jitted())
        .collect();
    assert_eq!(sizes, [0], "bytes of compiled code");
    served.stop();
    fs::write(JIT, "1").unwrap();
}

/// Whether the kernel has it in force; that it has not is reported.
fn has_apparmor(test: &str) -> bool {
    let found = Path::new("/sys/kernel/security/apparmor").exists();
    if !found {
        skip(test, "no AppArmor");
    }
    found
}

/// Loads a profile of AppArmor, also in the place of one that is there.
fn load_profile(name: &str, rules: &str) {
    // Processes of the lab have mounts of their own, which are no part of the machine's tree.
    let flags = "flags=(attach_disconnected)";
    load_profiles(&format!("profile {name} {flags} {{\n{rules}}}\n"));
}

fn load_profiles(text: &str) {
    const PATH: &str = "/tmp/profiles";
    fs::write(PATH, text).unwrap();
    let mut parser = Command::new("apparmor_parser");
    let output = parser.args(["--replace", "--skip-cache", PATH]).output();
    let output = output.unwrap();
    assert!(output.status.success(), "{output:?}");
}

/// The process has the capability, and may not use it: granting it once more would not help.
#[test]
fn apparmor_without_cap_bpf() {
    const TEST: &str = "apparmor_without_cap_bpf";
    const RULES: &str = "file,\nnetwork,\nunix,\nsignal,\ncapability net_admin,\ncapability net_raw,\n\
                         capability perfmon,\ncapability sys_resource,\ncapability setpcap,\ncapability dac_override,\n";
    if !is_guest(TEST) || !has_apparmor(TEST) {
        return;
    }
    load_profile("without-bpf", RULES);
    let lab = lab("conaabpf");
    let confine = |command: &mut Command| enter_profile(command, "without-bpf");
    let parts = [
        "AppArmor profile without-bpf (enforce) withholds CAP_BPF",
        "`capability bpf,`",
        "securityContext.appArmorProfile",
    ];
    for what in ["capabilities", "maps"] {
        is_refused(&lab, &lab.gregor_config(), &confine, what, &parts);
    }
    load_profile("without-bpf", &format!("{RULES}capability bpf,\n"));
    serves(&lab, &confine).stop();
}

/// The profiles that containerd and Docker give to containers grant all capabilities, and deny writing to /sys.
#[test]
fn apparmor_of_a_container() {
    const TEST: &str = "apparmor_of_a_container";
    const RULES: &str = "file,\nnetwork,\nunix,\nsignal,\ncapability,\n";
    const DENIED: &str = "deny mount,\ndeny /proc/sys/net/** w,\ndeny /sys/fs/bpf/** wl,\n";
    if !is_guest(TEST) || !has_apparmor(TEST) {
        return;
    }
    load_profile("container", &format!("{RULES}{DENIED}"));
    let lab = lab("conaactr");
    let confine = |command: &mut Command| enter_profile(command, "container");
    let parts = [
        "cannot make /sys/fs/bpf/gregor: Permission denied",
        "AppArmor profile container (enforce) is in force",
        "securityContext.appArmorProfile",
    ];
    is_refused(&lab, &lab.gregor_config(), &confine, "bpffs", &parts);
    // What `check` tries leaves nothing, and works where another gregor is.
    let served = serves(&lab, &free);
    let config = lab.directory().join("refused.toml");
    let (said, _) = ran(
        &lab,
        &confine,
        &["check", "--config", config.to_str().unwrap()],
    );
    assert!(said.contains("ERROR    bpffs "), "{said}");
    let (said, _) = ran(
        &lab,
        &free,
        &["check", "--config", config.to_str().unwrap()],
    );
    assert!(said.contains("ok       bpffs "), "{said}");
    served.stop();
    let left = lab
        .node()
        .enter(|| fs::read_dir("/sys/fs/bpf").unwrap().count());
    assert_eq!(left.unwrap(), 0);
}

/// What deploy/policies has for nodes on which nothing may be unconfined is enough, also to take over, to reload and to end.
#[test]
fn apparmor_of_this_repository() {
    const TEST: &str = "apparmor_of_this_repository";
    const PROFILE: &str = include_str!("../../deploy/policies/gregor.apparmor");
    if !is_guest(TEST) || !has_apparmor(TEST) {
        return;
    }
    let lab = lab("conaaown");
    // The lab's place for the control socket.
    let (rules, end) = PROFILE.rsplit_once('}').unwrap();
    let directory = lab.directory().display();
    load_profiles(&format!("{rules}  {directory}/** rwk,\n}}{end}"));
    let confine = |command: &mut Command| enter_profile(command, "gregor");
    let first = serves(&lab, &confine);
    let path = first.config_path().to_str().unwrap().to_owned();
    let (said, code) = ran(&lab, &confine, &["check", "--config", &path]);
    assert!(said.contains("ok       bpffs "), "{said}");
    assert!(said.contains("ok       capabilities "), "{said}");
    assert!(said.contains("ok       return path "), "{said}");
    println!("{code:?} {said}");
    let held = fs::read_to_string(format!("/proc/{}/attr/current", first.process().pid()));
    assert_eq!(held.unwrap().trim(), "gregor (enforce)");
    first.signal(Signal::SIGKILL);
    until("it ends", || first.process().exited());
    let second = serves(&lab, &confine);
    let log = second.log();
    assert!(log.contains("took over from an earlier process"), "{log}");
    second
        .write_config(&(lab.gregor_config() + e2e::MORE))
        .unwrap();
    until("the new rules", || {
        assert_eq!(e2e::loads(&second, "failure"), 0.0, "{}", second.log());
        (e2e::loads(&second, "success") >= 2.0).then_some(())
    });
    let log = second.log();
    assert!(!log.contains("WARN") && !log.contains("ERROR"), "{log}");
    second.signal(Signal::SIGTERM);
    let ended = until("it ends", || second.process().exited());
    assert_eq!(ended.code(), Some(0), "{}", second.log());
    let left = lab
        .node()
        .enter(|| fs::read_dir("/sys/fs/bpf").unwrap().count());
    assert_eq!(left.unwrap(), 0);
}

/// A type that may not use bpf(2), as those of containers may not.
#[test]
fn selinux_without_bpf() {
    const TEST: &str = "selinux_without_bpf";
    const POLICY: &str = include_str!("confined/without-bpf.cil");
    const AT: &str = "/sys/fs/selinux";
    if !is_guest(TEST) {
        return;
    }
    if !Path::new(AT).exists() {
        return skip(TEST, "no SELinux");
    }
    let (source, policy) = ("/tmp/without-bpf.cil", "/tmp/without-bpf.policy");
    fs::write(source, POLICY).unwrap();
    let mut compiler = Command::new("secilc");
    compiler.args(["--policyvers", "31", "--output", policy]);
    let output = compiler
        .args(["--filecontext", "/dev/null", source])
        .output();
    let output = output.unwrap();
    assert!(output.status.success(), "{output:?}");
    fs::write(format!("{AT}/load"), fs::read(policy).unwrap()).unwrap();
    let lab = lab("conselinux");
    let confine = |command: &mut Command| enter_type(command, "u:r:confined_t");
    // In permissive mode it is logged and allowed.
    assert_eq!(fs::read_to_string(format!("{AT}/enforce")).unwrap(), "0");
    serves(&lab, &confine).stop();
    fs::write(format!("{AT}/enforce"), "1").unwrap();
    let parts = [
        "EACCES: Permission denied; no capability is missing; in force for this process: SELinux (type confined_t); let that allow",
    ];
    is_refused(&lab, &lab.gregor_config(), &confine, "maps", &parts);
    serves(&lab, &free).stop();
}

/// Neither mode forbids what gregor does. There is no way back: the last test of a guest.
#[test]
fn lockdown() {
    const TEST: &str = "lockdown";
    if !is_guest(TEST) {
        return;
    }
    if !Path::new(LOCKDOWN).exists() {
        return skip(TEST, "no lockdown");
    }
    let lab = lab("conlock");
    for mode in ["integrity", "confidentiality"] {
        fs::write(LOCKDOWN, mode).unwrap();
        let now = fs::read_to_string(LOCKDOWN).unwrap();
        assert!(now.contains(&format!("[{mode}]")), "{now}");
        let config = lab.directory().join("lockdown.toml");
        fs::write(&config, lab.gregor_config()).unwrap();
        let (said, code) = ran(
            &lab,
            &free,
            &["check", "--config", config.to_str().unwrap()],
        );
        assert_eq!(code, Some(0), "{mode}: {said}");
        serves(&lab, &free).stop();
    }
}
