//! `gregor run` with sources of identity: `status`, the metrics and `check` say who is behind each veth, or why nobody is known,
//! over changes of the static file, reloads and pods that come and go.

#![allow(
    clippy::unwrap_used,
    clippy::disallowed_names,
    reason = "a panic is the report, and foo is the tenant's name"
)]

mod e2e;

use std::{fs, path::PathBuf};

use e2e::{reload, until};
use gregor_tests::{
    lab::{Gregor, Lab},
    tools,
};
use serde_json::Value;

/// What is shown of the veth of a namespace's pod.
fn shown(lab: &Lab, gregor: &Gregor, namespace: &str) -> Value {
    let status = gregor.status().unwrap();
    let name = &lab.pod(namespace).host_interface;
    let interfaces = status["interfaces"].as_array().unwrap().clone();
    let found = interfaces
        .into_iter()
        .find(|interface| interface["name"] == **name);
    found.unwrap_or_default()
}

fn is(lab: &Lab, gregor: &Gregor, namespace: &str, pod: &str) {
    until(pod, || {
        let shown = shown(lab, gregor, namespace);
        (shown["who"]["pod"] == pod).then_some(())
    });
}

fn is_nobody(lab: &Lab, gregor: &Gregor, namespace: &str, why: &str) {
    until(why, || {
        let shown = shown(lab, gregor, namespace);
        let nobody = shown["nobody"].as_str().unwrap_or_default();
        (shown["who"].is_null() && nobody.contains(why)).then_some(())
    });
}

fn entry(lab: &Lab, namespace: &str, pod: &str) -> String {
    format!(
        "[[pod]]\nnamespace = \"{namespace}\"\npod = \"{pod}\"\naddresses = [\"{}\"]\n",
        lab.pod(namespace).v4
    )
}

fn interfaces(gregor: &Gregor, state: &str) -> f64 {
    let metrics = gregor.metrics().unwrap();
    let series = format!("gregor_identity_interfaces{{state=\"{state}\"}} ");
    let line = metrics.lines().find_map(|line| line.strip_prefix(&series));
    line.unwrap().parse().unwrap()
}

#[test]
fn who_is_behind_a_veth_is_shown_over_changes_and_reloads() {
    let mut lab = Lab::new("who").unwrap();
    let file: PathBuf = lab.directory().join("pods.toml");
    let write = |text: &str| {
        let new = file.with_extension("new");
        fs::write(&new, text).unwrap();
        fs::rename(new, &file).unwrap();
    };
    write(&entry(&lab, "foo", "web-0"));
    let plain = lab.gregor_config();
    let with_file = format!(
        "{plain}\n[identity]\nsources = [\"file\"]\nfile = \"{}\"\n",
        file.display()
    );
    let gregor = lab
        .start_gregor(&tools::gregor().unwrap(), &with_file)
        .unwrap();
    is(&lab, &gregor, "foo", "web-0");
    is_nobody(&lab, &gregor, "bar", "no source knows a pod");
    let who = &shown(&lab, &gregor, "foo")["who"];
    assert_eq!(
        (&who["namespace"], &who["source"]),
        (&"foo".into(), &"file".into())
    );
    let all = gregor.status().unwrap()["interfaces"]
        .as_array()
        .unwrap()
        .len() as f64;
    assert_eq!(
        (interfaces(&gregor, "file"), interfaces(&gregor, "unknown")),
        (1.0, all - 1.0)
    );
    let text = gregor.status_text(&[]).unwrap();
    assert!(text.contains("foo/web-0 (file) 10.244."), "{text}");
    assert!(
        text.contains("nobody: no source knows a pod for it"),
        "{text}"
    );
    // No pod is named in the metrics, nor in the log at info.
    assert!(!gregor.metrics().unwrap().contains("web-0"));

    // The pod takes the address of one that the file names.
    write(&(entry(&lab, "foo", "web-0") + &entry(&lab, "bar", "db-0")));
    is(&lab, &gregor, "bar", "db-0");
    let victim = lab.pod("bar").v4;
    let taken = format!("addr add {victim}/32 dev lo\n");
    lab.pod("foo").netns().ip(&taken).unwrap();
    is_nobody(&lab, &gregor, "foo", "an address of another pod");
    is(&lab, &gregor, "bar", "db-0");
    lab.pod("foo")
        .netns()
        .ip(&format!("addr del {victim}/32 dev lo\n"))
        .unwrap();
    is(&lab, &gregor, "foo", "web-0");

    // A pod goes, and another comes.
    lab.remove_pod("foo").unwrap();
    lab.add_pod("fresh").unwrap();
    write(&(entry(&lab, "fresh", "new-0") + &entry(&lab, "bar", "db-0")));
    is(&lab, &gregor, "fresh", "new-0");

    // A file that is refused leaves what the last one said.
    write("[[pod]]\nnamespace = 1\n");
    until("the error", || {
        let status = gregor.status().unwrap();
        let error = status["identity"]["sources"][0]["error"].as_str();
        error
            .is_some_and(|error| error.contains("pods.toml:2"))
            .then_some(())
    });
    is(&lab, &gregor, "bar", "db-0");
    let config = gregor.config_path().display().to_string();
    let checked = gregor.command(&["check", "--config", &config]).unwrap();
    let checked = String::from_utf8_lossy(&checked.stdout).into_owned();
    assert!(checked.contains("pods.toml:2"), "{checked}");
    assert!(
        checked.contains(&format!("what is behind {all} interfaces can be read")),
        "{checked}"
    );

    // Off, and on again.
    reload(&gregor, &plain);
    until("nothing is shown", || {
        let shown = shown(&lab, &gregor, "bar");
        (shown["who"].is_null() && shown["nobody"].is_null()).then_some(())
    });
    assert_eq!(interfaces(&gregor, "off"), all);
    write(&entry(&lab, "bar", "db-0"));
    reload(&gregor, &with_file);
    is(&lab, &gregor, "bar", "db-0");
}
