//! `servers = "auto"`: nothing is attached before the kubelet's configuration names a server, and what it names is in force
//! without a restart.

#![allow(
    clippy::unwrap_used,
    clippy::disallowed_names,
    reason = "a panic is the report, and foo is the tenant's name"
)]

mod e2e;

use std::{fs, net::IpAddr, path::Path};

use e2e::{addresses, chain, qualified, sorted, until, wait_for_log};
use gregor_tests::{
    lab::{
        Ask, Gregor, Lab, Pod,
        world::{FOO_ADDRESSES, NODE_LOCAL_V4, NODE_LOCAL_V6},
    },
    tools,
};
use hickory_proto::{op::ResponseCode, rr::RecordType};
use nix::sys::signal::Signal;

const V4: IpAddr = IpAddr::V4(NODE_LOCAL_V4);
const V6: IpAddr = IpAddr::V6(NODE_LOCAL_V6);

/// What the pod gets from this server is the tenant's endpoint, or the existing cache's denial.
fn is_served(pod: &Pod, server: IpAddr) -> bool {
    let reply = pod
        .ask(Ask::new(server, &qualified("foo"), RecordType::A))
        .unwrap();
    match reply.metadata.response_code {
        ResponseCode::NoError => {
            let endpoint = FOO_ADDRESSES.into_iter().filter(IpAddr::is_ipv4);
            assert_eq!(addresses(&reply), sorted(endpoint));
            true
        }
        code => {
            assert_eq!(code, ResponseCode::NXDomain);
            assert_eq!(chain(&reply), []);
            false
        }
    }
}

fn config(lab: &Lab, servers: &str, kubelet: &Path) -> String {
    let written: String = lab
        .gregor_config()
        .lines()
        .map(|line| match line.starts_with("servers = ") {
            true => format!("servers = {servers}\n"),
            false => format!("{line}\n"),
        })
        .collect();
    format!(
        "{written}\n[kubernetes]\nkubelet_config = \"{}\"\n",
        kubelet.display()
    )
}

/// Whether `gregor check` finds nothing wrong, and what it says.
fn check(gregor: &Gregor) -> (bool, String) {
    let path = gregor.config_path().display().to_string();
    let control = gregor.control_path().display().to_string();
    let arguments = ["check", "--config", &path, "--control", &control];
    let output = gregor.command(&arguments).unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    (output.status.success(), said)
}

#[test]
fn servers_are_learnt_from_the_kubelet_and_followed() {
    let lab = Lab::builder("e2elearnt").pod("foo").start().unwrap();
    let foo = lab.pod("foo");
    let kubelet = lab.directory().join("kubelet.yaml");
    let text = config(&lab, "\"auto\"", &kubelet);
    let gregor = lab.spawn_gregor(&tools::gregor().unwrap(), &text).unwrap();

    // Nothing is learnt: it says so, waits, and touches nothing.
    let waiting = until("it says what it waits for", || {
        gregor
            .status_text(&[])
            .ok()
            .filter(|said| said.contains("WAITING"))
    });
    for part in [
        "ready        no",
        "no server is learnt",
        "kubelet.yaml: cannot be read",
    ] {
        assert!(waiting.contains(part), "no {part} in {waiting}");
    }
    let log = gregor.log();
    assert_eq!(log.matches("no server is learnt").count(), 1, "{log}");
    assert!(!is_served(foo, V4) && !is_served(foo, V6));
    let (passed, said) = check(&gregor);
    assert!(!passed && said.contains("no server is learnt"), "{said}");

    fs::write(&kubelet, format!("clusterDNS:\n- {V4}\n")).unwrap();
    until("the first server is served", || {
        is_served(foo, V4).then_some(())
    });
    assert!(!is_served(foo, V6));
    let status = until("it is ready", || {
        let status = gregor.status().ok()?;
        (status["readiness"]["attached"] == true).then_some(status)
    });
    assert_eq!(status["servers"], serde_json::json!([V4.to_string()]));
    assert_eq!(status["learnt"][0]["servers"], status["servers"]);
    let (passed, said) = check(&gregor);
    let expected = format!("clusterDNS in {}: {V4}", kubelet.display());
    assert!(passed && said.contains(&expected), "{said}");

    // The kubelet gives pods another one.
    fs::write(&kubelet, format!("clusterDNS:\n- \"{V6}\"\n")).unwrap();
    until("the other server is served", || {
        is_served(foo, V6).then_some(())
    });
    assert!(!is_served(foo, V4), "the first one is not named any more");
    let status = gregor.status().unwrap();
    assert_eq!(status["config"]["loads"], 2, "{status}");
    assert_eq!(status["config"]["failures"], 0, "{status}");

    // Whatever becomes of the file, what it named stays.
    fs::write(&kubelet, "clusterDNS: [").unwrap();
    until("the error is shown", || {
        let status = gregor.status().unwrap();
        let error = status["learnt"][0]["error"].as_str()?;
        error.contains("not YAML").then_some(())
    });
    assert!(is_served(foo, V6) && !is_served(foo, V4));
    assert_eq!(gregor.status().unwrap()["config"]["loads"], 2);
}

#[test]
fn addresses_beside_the_word_are_served_at_once() {
    let lab = Lab::builder("e2ebeside").pod("foo").start().unwrap();
    let foo = lab.pod("foo");
    let kubelet = lab.directory().join("kubelet.json");
    let text = config(&lab, &format!("[\"auto\", \"{V4}\"]"), &kubelet);
    let gregor = lab.start_gregor(&tools::gregor().unwrap(), &text).unwrap();
    assert!(is_served(foo, V4) && !is_served(foo, V6));
    fs::write(&kubelet, format!("{{\"clusterDNS\": [\"{V6}\"]}}")).unwrap();
    until("the learnt one is served", || {
        is_served(foo, V6).then_some(())
    });
    assert!(is_served(foo, V4));

    // Written out, they need no file.
    fs::remove_file(&kubelet).unwrap();
    gregor
        .write_config(&config(&lab, &format!("[\"{V6}\"]"), &kubelet))
        .unwrap();
    until("the reload", || (!is_served(foo, V4)).then_some(()));
    let status = gregor.status().unwrap();
    assert_eq!(status["learnt"], serde_json::json!([]));
    assert!(is_served(foo, V6));

    // The word again, and the file is not there yet: what was intercepted goes on until it is.
    let loads = || gregor.status().unwrap()["config"]["loads"].as_u64();
    let before = loads();
    gregor
        .write_config(&config(&lab, "\"auto\"", &kubelet))
        .unwrap();
    until("the reload", || {
        assert!(is_served(foo, V6));
        (loads() > before).then_some(())
    });
    assert!(is_served(foo, V6));
    fs::write(&kubelet, format!("{{\"clusterDNS\": [\"{V4}\"]}}")).unwrap();
    until("the file is read", || is_served(foo, V4).then_some(()));
    assert!(!is_served(foo, V6));
}

/// As a new pod of the DaemonSet, while what its predecessor has learnt the servers from says nothing.
#[test]
fn a_successor_goes_on_with_what_its_predecessor_has_learnt() {
    let lab = Lab::builder("e2elearntkept").pod("foo").start().unwrap();
    let foo = lab.pod("foo");
    let kubelet = lab.directory().join("kubelet.yaml");
    let text = config(&lab, "\"auto\"", &kubelet);
    let spawn = |name: &str| {
        fs::create_dir(lab.directory().join(name)).unwrap();
        let binary = tools::gregor().unwrap();
        lab.spawn_successor(&format!("{name}/gregor"), &binary, &text)
            .unwrap()
    };
    fs::write(&kubelet, format!("clusterDNS:\n- {V4}\n")).unwrap();
    let first = spawn("first");
    wait_for_log(&first, "gregor::app: ready");
    assert!(is_served(foo, V4));
    fs::remove_file(&kubelet).unwrap();
    first.signal(Signal::SIGKILL);
    until("it ends", || first.process().exited());

    let second = spawn("second");
    wait_for_log(&second, "gregor::app: ready");
    assert!(is_served(foo, V4) && !is_served(foo, V6));
    let status = second.status().unwrap();
    assert_eq!(status["servers"], serde_json::json!([V4.to_string()]));

    // Until it says something.
    fs::write(&kubelet, format!("clusterDNS:\n- \"{V6}\"\n")).unwrap();
    until("the other server is served", || {
        is_served(foo, V6).then_some(())
    });
    assert!(!is_served(foo, V4));
}
