//! One daemon per control socket, and reloads that fail halfway: the last good configuration stays in force.

#![allow(
    clippy::unwrap_used,
    clippy::disallowed_names,
    reason = "a panic is the report, and foo is the tenant's name"
)]

mod e2e;

use std::{
    fs,
    net::IpAddr,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::Command,
};

use e2e::{
    HeldUpstream, MORE, REPLY, Wire, addresses, exchange, loads, programs_on, qualified, sorted,
    until,
};
use gregor_tests::{
    lab::{
        Gregor, Lab, Pod,
        world::{BROKER, FOO_ADDRESSES, NODE_LOCAL_V4},
    },
    tools,
};
use hickory_proto::{op::Message, rr::RecordType};
use nix::sys::signal::Signal;

const CACHE: IpAddr = IpAddr::V4(NODE_LOCAL_V4);

fn served(pod: &Pod) {
    assert_eq!(pod.getent(BROKER).unwrap(), sorted(FOO_ADDRESSES));
}

fn rules(gregor: &Gregor) -> usize {
    gregor.status().unwrap()["rules"].as_array().unwrap().len()
}

/// The first daemon gets SIGTERM and waits for a look-up, so its socket is not served any more. The second one must not start
/// beside it, and its own socket must be in place once it does.
#[test]
fn a_second_daemon_is_refused_until_the_first_has_ended() {
    let lab = Lab::builder("e2esecond").pod("foo").start().unwrap();
    let upstream = HeldUpstream::start(&lab);
    let config = format!(
        "{}\n[upstream]\nserver = \"{}\"\ntimeout = \"30s\"\n",
        lab.gregor_config(),
        HeldUpstream::SERVER
    );
    let binary = tools::gregor().unwrap();
    let first = lab.start_gregor(&binary, &config).unwrap();
    let (query, _) = Wire::new(&qualified("foo"), RecordType::A).bytes();
    let waiting = lab
        .pod("foo")
        .netns()
        .enter_detached(move || exchange(CACHE, &query, REPLY))
        .unwrap();
    upstream.was_asked();
    first.signal(Signal::SIGTERM);
    until("the programs are gone", || {
        programs_on(&lab, "veth-foo").is_empty().then_some(())
    });

    // One that does start would run on.
    let mut second = Command::new("timeout");
    let control = first.control_path().to_owned();
    second
        .arg("20")
        .arg(&binary)
        .arg("run")
        .arg("--config")
        .arg(first.config_path());
    second.arg("--control").arg(&control);
    let output = lab.node().output(second).unwrap();
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let holder = format!("another gregor (pid {})", first.process().pid());
    assert!(text.contains(&holder), "{text}");
    assert!(programs_on(&lab, "veth-foo").is_empty());

    upstream.release();
    let reply = waiting.join().unwrap().unwrap();
    let reply = Message::from_vec(&reply).unwrap();
    assert_eq!(addresses(&reply), [IpAddr::V4(HeldUpstream::ADDRESS)]);
    let ended = until("the first one ends", || first.process().exited());
    assert_eq!(ended.code(), Some(0), "{}", first.log());
    assert!(!control.exists());

    // The lock file is left behind, which does not matter.
    let next = lab.start_gregor(&binary, &lab.gregor_config()).unwrap();
    served(lab.pod("foo"));
    assert!(control.exists());
    assert_eq!(rules(&next), 1);
}

/// A script that starts gregor with a library in front of libc, by which it gets no listening sockets while a file is there.
fn without_listeners(directory: &Path) -> (PathBuf, PathBuf) {
    const SOURCE: &str = r#"
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

int listen(int socket, int backlog) {
    const char *file = getenv("NO_LISTENERS");
    if (file && access(file, F_OK) == 0) {
        errno = EMFILE;
        return -1;
    }
    int (*real)(int, int) = dlsym(RTLD_NEXT, "listen");
    return real(socket, backlog);
}
"#;
    let source = directory.join("socket.c");
    let library = directory.join("socket.so");
    let trigger = directory.join("no-listeners");
    fs::write(&source, SOURCE).unwrap();
    let status = Command::new("cc")
        .args(["-shared", "-fPIC", "-o"])
        .arg(&library)
        .arg(&source)
        .arg("-ldl")
        .status()
        .unwrap();
    assert!(status.success());
    let script = directory.join("gregor-without-listeners");
    let text = format!(
        "#!/bin/sh\nNO_LISTENERS={} LD_PRELOAD={} exec {} \"$@\"\n",
        trigger.display(),
        library.display(),
        tools::gregor().unwrap().display()
    );
    fs::write(&script, text).unwrap();
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).unwrap();
    (script, trigger)
}

#[test]
fn a_reload_that_fails_after_loading_leaves_the_last_good_configuration() {
    let lab = Lab::builder("e2ehalf").pod("foo").start().unwrap();
    let (binary, trigger) = without_listeners(lab.directory());
    let config = lab.gregor_config();
    let never = config.replace("[intercept]\n", "[intercept]\ntcp = \"never\"\n");
    let gregor = lab.start_gregor(&binary, &never).unwrap();
    served(lab.pod("foo"));

    fs::write(&trigger, "").unwrap();
    // TCP is to be steered from now on, which takes listeners.
    let next = format!("{config}{MORE}");
    gregor.write_config(&next).unwrap();
    until("the reload fails", || {
        assert!(gregor.process().exited().is_none(), "{}", gregor.log());
        let log = gregor.log();
        log.contains("the last good one stays in force")
            .then_some(())
    });
    fs::remove_file(&trigger).unwrap();
    assert_eq!(rules(&gregor), 1);
    assert_eq!(loads(&gregor, "failure"), 1.0);
    assert!(
        gregor.log().contains("Too many open files"),
        "{}",
        gregor.log()
    );
    assert_eq!(programs_on(&lab, "veth-foo"), ["gregor"]);
    served(lab.pod("foo"));
    assert_eq!(gregor.get("/readyz").unwrap().0, 200);

    gregor.signal(Signal::SIGHUP);
    until("the next reload", || {
        (loads(&gregor, "success") == 2.0).then_some(())
    });
    assert_eq!(rules(&gregor), 2);
    served(lab.pod("foo"));
}

/// Whether a veth takes VLAN tags out of frames; then no XDP program of gregor's attaches to it.
fn leave_tags_in_frames(lab: &Lab, interface: &str) {
    let mut command = Command::new("ethtool");
    command.args([
        "-K",
        interface,
        "rxvlan",
        "off",
        "rx-vlan-stag-hw-parse",
        "off",
    ]);
    let output = lab.node().output(command).unwrap();
    assert!(output.status.success(), "{output:?}");
}

/// The program can be attached to the new hook on one interface and not on the other.
#[test]
fn a_reload_to_a_hook_that_is_not_available_keeps_the_programs() {
    let lab = Lab::builder("e2etaken")
        .pod("foo")
        .pod("bar")
        .start()
        .unwrap();
    let config = lab.gregor_config();
    let gregor = lab
        .start_gregor(&tools::gregor().unwrap(), &config)
        .unwrap();
    leave_tags_in_frames(&lab, "veth-foo");
    let xdp = config.replace(
        "[intercept]\n",
        "[intercept]\nhook = \"xdp\"\ninterfaces = [\"veth-*\"]\nallow_sources = [\"10.0.0.0/8\"]\n",
    );
    gregor.write_config(&format!("{xdp}{MORE}")).unwrap();
    until("the reload fails", || {
        (loads(&gregor, "failure") == 1.0).then_some(())
    });
    let status = gregor.status().unwrap();
    assert_ne!(status["hook"], "xdp");
    assert_eq!(rules(&gregor), 1);
    let error = status["config"]["error"].as_str().unwrap();
    assert!(error.contains("veth-bar"), "{error}");
    for interface in status["interfaces"].as_array().unwrap() {
        assert!(interface["mode"].is_null() && interface["error"].is_null());
    }
    for pod in lab.pods() {
        assert_eq!(programs_on(&lab, &pod.host_interface), ["gregor"]);
    }
    served(lab.pod("foo"));

    // Once it is available, the same configuration is accepted.
    leave_tags_in_frames(&lab, "veth-bar");
    gregor.signal(Signal::SIGHUP);
    until("the next reload", || {
        (loads(&gregor, "success") == 2.0).then_some(())
    });
    assert_eq!(rules(&gregor), 2);
    let status = gregor.status().unwrap();
    for interface in status["interfaces"].as_array().unwrap() {
        assert!(interface["mode"].is_string(), "{interface}");
    }
    for pod in lab.pods() {
        assert!(programs_on(&lab, &pod.host_interface).is_empty());
    }
}
