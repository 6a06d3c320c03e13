use std::{
    fs,
    os::unix::fs::{PermissionsExt as _, symlink},
    path::PathBuf,
};

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;

fn cached(result: Value) -> Value {
    json!({
        "kind": "cniCacheV1", "containerId": "c0ffee", "config": "e30=", "ifName": "eth0",
        "networkName": "net", "netns": "/var/run/netns/cni-1",
        "cniArgs": [
            ["IgnoreUnknown", "1"], ["K8S_POD_NAMESPACE", "foo"], ["K8S_POD_NAME", "web-0"],
            ["K8S_POD_INFRA_CONTAINER_ID", "c0ffee"], ["K8S_POD_UID", "1-2-3"],
        ],
        "capabilityArgs": { "portMappings": [] },
        "result": result,
    })
}

fn read_json(value: &Value) -> Result<CniResult, Ignored> {
    parse(value.to_string().as_bytes(), SystemTime::UNIX_EPOCH)
}

fn bridge(version: &str) -> Value {
    let ip = |address: &str| match version {
        "0.3.1" | "0.4.0" => json!({ "version": "4", "interface": 2, "address": address }),
        _ => json!({ "interface": 2, "address": address, "gateway": "10.244.0.1" }),
    };
    let mut eth0 = json!({
        "name": "eth0", "mac": "0a:58:0a:f4:00:05", "sandbox": "/var/run/netns/cni-1",
    });
    if version == "1.1.0" {
        eth0["mtu"] = json!(1500);
        eth0["socketPath"] = json!("");
    }
    json!({
        "cniVersion": version,
        "interfaces": [
            { "name": "cni0", "mac": "02:00:00:00:00:01" },
            { "name": "veth1a2b", "mac": "02:00:00:00:00:02" },
            eth0,
        ],
        "ips": [ip("10.244.0.5/24"), ip("fd00::5/64")],
        "routes": [{ "dst": "0.0.0.0/0" }],
        "dns": {},
    })
}

#[test]
fn results_of_each_version() {
    for version in ["0.3.1", "0.4.0", "1.0.0", "1.1.0"] {
        let result = read_json(&cached(bridge(version))).unwrap();
        let pod = &result.pod;
        assert_eq!(
            (&*pod.namespace, &*pod.pod, &*pod.uid),
            ("foo", "web-0", "1-2-3")
        );
        assert_eq!(
            result.host,
            [
                ("cni0".to_owned(), Some(Mac([2, 0, 0, 0, 0, 1]))),
                ("veth1a2b".to_owned(), Some(Mac([2, 0, 0, 0, 0, 2]))),
            ]
        );
        assert_eq!(result.inside, "0a:58:0a:f4:00:05".parse().ok());
        let expected = ["10.244.0.5", "fd00::5"].map(|text| text.parse::<IpAddr>().unwrap());
        assert_eq!(result.addresses, expected);
    }
}

#[test]
fn a_plugin_that_says_the_name_of_the_interface_alone() {
    let result = json!({
        "cniVersion": "0.3.1",
        "interfaces": [{ "name": "cali1234" }],
        "ips": [{ "version": "4", "address": "10.1.2.3/32" }],
    });
    let result = read_json(&cached(result)).unwrap();
    assert_eq!(result.host, [("cali1234".to_owned(), None)]);
    assert_eq!(result.inside, None);
    assert_eq!(result.addresses, ["10.1.2.3".parse::<IpAddr>().unwrap()]);
}

#[test]
fn addresses_of_another_interface_of_the_pod_are_not_this_ones() {
    let mut result = bridge("1.0.0");
    let net1 = json!({ "name": "net1", "sandbox": "/var/run/netns/cni-1" });
    result["interfaces"].as_array_mut().unwrap().push(net1);
    result["ips"][1]["interface"] = json!(3);
    let result = read_json(&cached(result)).unwrap();
    assert_eq!(result.addresses, ["10.244.0.5".parse::<IpAddr>().unwrap()]);
}

#[test]
fn what_is_no_result_of_a_pod_is_ignored_with_a_reason() {
    let good = cached(bridge("1.0.0"));
    let changed = |change: &dyn Fn(&mut Value)| {
        let mut value = good.clone();
        change(&mut value);
        read_json(&value).unwrap_err()
    };
    assert_eq!(changed(&|v| v["kind"] = json!("other")), Ignored::Malformed);
    assert_eq!(changed(&|v| v["cniArgs"] = json!([])), Ignored::NoPod);
    assert_eq!(changed(&|v| v["cniArgs"] = json!(null)), Ignored::Malformed);
    assert_eq!(
        changed(&|v| v["result"]["interfaces"] = json!([])),
        Ignored::NoHostInterface
    );
    // Of before 0.3, and of libcni before 0.7.
    let old = json!({ "cniVersion": "0.2.0", "ip4": { "ip": "10.1.2.3/24" } });
    assert_eq!(
        read_json(&cached(old.clone())),
        Err(Ignored::NoHostInterface)
    );
    assert_eq!(read_json(&old), Err(Ignored::Malformed));
    for text in ["", "{", "null", "[]", "\"", "{\"kind\":\"cniCacheV1\"}"] {
        let read = parse(text.as_bytes(), SystemTime::UNIX_EPOCH);
        assert_eq!(read, Err(Ignored::Malformed), "{text}");
    }
    let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
    let read = parse(deep.as_bytes(), SystemTime::UNIX_EPOCH);
    assert_eq!(read, Err(Ignored::Malformed));
}

proptest! {
    #[test]
    fn no_file_is_read_to_a_panic(
        bytes in prop::collection::vec(any::<u8>(), 0..200), cut in 0..2000usize, at in 0..2000usize,
    ) {
        let _ = parse(&bytes, SystemTime::UNIX_EPOCH);
        let mut whole = cached(bridge("1.0.0")).to_string().into_bytes();
        let _ = parse(&whole[..cut.min(whole.len())], SystemTime::UNIX_EPOCH);
        let at = at % whole.len();
        whole.splice(at..at + 1, bytes);
        let _ = parse(&whole, SystemTime::UNIX_EPOCH);
    }
}

struct Folder(PathBuf);

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

#[test]
fn only_roots_own_files_are_read() {
    let path = std::env::temp_dir().join(format!("gregor-cni-{}", std::process::id()));
    fs::create_dir_all(&path).unwrap();
    let folder = Folder(path);
    let file = folder.0.join("net-c0ffee-eth0");
    assert_eq!(read(&file), Ok(None));
    fs::write(&file, cached(bridge("1.0.0")).to_string()).unwrap();
    let mode = |mode| fs::set_permissions(&file, fs::Permissions::from_mode(mode)).unwrap();
    mode(0o600);
    assert_eq!(read(&file).unwrap().unwrap().pod.pod, "web-0");
    mode(0o666);
    assert_eq!(read(&file), Err(Ignored::NotRoots));
    mode(0o620);
    assert_eq!(read(&file), Err(Ignored::NotRoots));
    mode(0o600);
    let link = folder.0.join("link");
    symlink(&file, &link).unwrap();
    assert_eq!(read(&link), Err(Ignored::NotAFile));
    assert_eq!(read(&folder.0), Err(Ignored::NotAFile));
    let pipe = folder.0.join("pipe");
    nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRUSR).unwrap();
    assert_eq!(read(&pipe), Err(Ignored::NotAFile));
    let large = File::create(&file).unwrap();
    large.set_len(MAX_FILE + 1).unwrap();
    assert_eq!(read(&file), Err(Ignored::TooLarge));
    if nix::unistd::geteuid().is_root() {
        large.set_len(0).unwrap();
        std::os::unix::fs::chown(&file, Some(65534), None).unwrap();
        assert_eq!(read(&file), Err(Ignored::NotRoots));
    }
}
