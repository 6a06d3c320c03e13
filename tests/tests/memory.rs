//! The memory that gregor is charged with: within the documented figures, within the limit of the shipped manifest over
//! reloads, and as `gregor check` says.

#![allow(
    clippy::unwrap_used,
    clippy::disallowed_names,
    reason = "a panic is the report, and foo is the tenant's name"
)]

mod e2e;

use std::{
    collections::BTreeMap,
    fs,
    os::{
        fd::{AsFd as _, AsRawFd as _},
        unix::fs::PermissionsExt as _,
    },
    path::{Path, PathBuf},
    process::{self, Command},
};

use aya::{maps::MapInfo, programs::loaded_programs};
use e2e::{Metrics, programs_on, sorted, until};
use gregor::{app::settings::Settings, datapath::wanted, rules::selector::Labelled};
use gregor_tests::{
    lab::{
        Gregor, Lab, skip,
        world::{BROKER, FOO_ADDRESSES},
    },
    tools,
};
use nix::{
    mount::{MntFlags, MsFlags, mount, umount2},
    sys::signal::Signal,
};

const MIB: u64 = 1 << 20;

/// A memory cgroup, of whichever version this kernel counts memory with. The lab's namespaces do not see the machine's
/// /sys, so its file system is mounted once more, before they are made.
struct MemoryGroup {
    mounted: PathBuf,
    path: PathBuf,
    limit_file: &'static str,
    peak_file: &'static str,
}

impl MemoryGroup {
    /// The error says why there is none here.
    fn new() -> Result<Self, String> {
        let mounted = std::env::temp_dir().join(format!("gregor-cgroup-{}", process::id()));
        fs::create_dir_all(&mounted).map_err(|error| error.to_string())?;
        let mut group = Self {
            path: mounted.join(format!("gregor-test-{}", process::id())),
            mounted,
            limit_file: "memory.limit_in_bytes",
            peak_file: "memory.max_usage_in_bytes",
        };
        let none = MsFlags::empty();
        let v1 = mount(
            Some("cgroup"),
            &group.mounted,
            Some("cgroup"),
            none,
            Some("memory"),
        );
        if let Err(v1) = v1 {
            let v2 = mount(
                Some("cgroup"),
                &group.mounted,
                Some("cgroup2"),
                none,
                None::<&str>,
            );
            v2.map_err(|v2| format!("no cgroup with memory: v1 {v1}, v2 {v2}"))?;
            group.limit_file = "memory.max";
            group.peak_file = "memory.peak";
            let control = group.mounted.join("cgroup.subtree_control");
            fs::write(control, "+memory").map_err(|error| format!("cgroup v2: {error}"))?;
        }
        fs::create_dir(&group.path).map_err(|error| error.to_string())?;
        if !group.path.join(group.limit_file).exists() {
            return Err(format!("the cgroup has no {}", group.limit_file));
        }
        Ok(group)
    }

    fn limit(&self, bytes: u64) {
        fs::write(self.path.join(self.limit_file), bytes.to_string()).unwrap();
    }

    fn peak(&self) -> Option<u64> {
        let text = fs::read_to_string(self.path.join(self.peak_file)).ok()?;
        text.trim().parse().ok()
    }

    /// Makes it visible in the node, where gregor looks.
    fn show_in(&self, lab: &Lab) {
        let is_v1 = self.limit_file == "memory.limit_in_bytes";
        let place = if is_v1 {
            "/sys/fs/cgroup/memory"
        } else {
            "/sys/fs/cgroup"
        };
        let mut command = Command::new("sh");
        command.arg("-ec").arg(format!(
            "mount -t tmpfs none /sys/fs/cgroup; mkdir -p {place}; mount --bind {} {place}",
            self.mounted.display()
        ));
        let output = lab.node().output(command).unwrap();
        assert!(output.status.success(), "{output:?}");
    }

    /// A script that runs gregor in here from its first instruction on.
    fn script(&self, directory: &Path) -> PathBuf {
        let script = directory.join("gregor-in-cgroup");
        let text = format!(
            "#!/bin/sh\necho $$ > {} && exec {} \"$@\"\n",
            self.path.join("cgroup.procs").display(),
            tools::gregor().unwrap().display()
        );
        fs::write(&script, text).unwrap();
        fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).unwrap();
        script
    }
}

impl Drop for MemoryGroup {
    fn drop(&mut self) {
        let _ = fs::remove_dir(&self.path);
        let _ = umount2(&self.mounted, MntFlags::MNT_DETACH);
        let _ = fs::remove_dir(&self.mounted);
    }
}

/// `resources.limits.memory` of deploy/manifests/gregor.yaml.
fn limit_of_the_manifest() -> u64 {
    let manifest = include_str!("../../deploy/manifests/gregor.yaml");
    let (_, limits) = manifest.split_once("limits:").unwrap();
    let (_, memory) = limits.split_once("memory:").unwrap();
    let value = memory.split_whitespace().next().unwrap();
    value.strip_suffix("Mi").unwrap().parse::<u64>().unwrap() * MIB
}

#[test]
fn reloads_fit_into_the_limit_of_the_manifest() {
    let group = match MemoryGroup::new() {
        Ok(group) => group,
        Err(reason) => return skip("reloads_fit_into_the_limit_of_the_manifest", &reason),
    };
    group.limit(limit_of_the_manifest());
    let lab = Lab::builder("e2elimit").pod("foo").start().unwrap();
    let binary = group.script(lab.directory());
    let gregor = lab.start_gregor(&binary, &lab.gregor_config()).unwrap();
    let procs = fs::read_to_string(group.path.join("cgroup.procs")).unwrap();
    assert_eq!(procs.trim(), gregor.process().pid().to_string());
    for round in 1..=5 {
        gregor.signal(Signal::SIGHUP);
        until("a reload", || {
            assert!(gregor.process().exited().is_none(), "{}", gregor.log());
            let loads = |result: &str| {
                Metrics::of(&gregor)
                    .get(&format!("gregor_config_loads_total{{result=\"{result}\"}}"))
            };
            assert_eq!(loads("failure"), 0.0, "{}", gregor.log());
            (loads("success") == f64::from(1 + round)).then_some(())
        });
        let answer = lab.pod("foo").getent(BROKER).unwrap();
        assert_eq!(answer, sorted(FOO_ADDRESSES));
    }
    assert_eq!(programs_on(&lab, "veth-foo"), ["gregor"]);
    let peak = group.peak().unwrap_or(0);
    println!("{} MiB at most over 5 reloads", peak / MIB);
    gregor.stop();
}

/// Maps that do not fit into the cgroup are refused by the kernel, not a reason for it to kill somebody: one line, which names limit
/// and remedy, and `check` says it first. Nothing is left of them.
#[test]
fn maps_that_do_not_fit_are_refused() {
    let group = match MemoryGroup::new() {
        Ok(group) => group,
        Err(reason) => return skip("maps_that_do_not_fit_are_refused", &reason),
    };
    let limit = 64;
    group.limit(limit * MIB);
    let lab = Lab::builder("e2enomem").pod("foo").start().unwrap();
    group.show_in(&lab);
    let script = group.script(lab.directory());
    let config = lab.directory().join("many.toml");
    let many = format!("{}\n[limits]\nanswers = 100000\n", lab.gregor_config());
    fs::write(&config, many).unwrap();
    let control = lab.directory().join("many.sock");
    for subcommand in ["check", "run"] {
        let mut command = Command::new(&script);
        command
            .arg(subcommand)
            .arg("--config")
            .arg(&config)
            .arg("--control")
            .arg(&control)
            .env_remove("RUST_LOG");
        let output = lab.node().output(command).unwrap();
        let text = [output.stdout, output.stderr].map(|bytes| String::from_utf8(bytes).unwrap());
        let said = text.concat();
        assert_eq!(output.status.code(), Some(1), "{subcommand}: {said}");
        let line = said.lines().find(|line| line.contains("ENOMEM"));
        let line = line.unwrap_or_else(|| panic!("{subcommand}: {said}"));
        for part in [
            "cannot be created: ENOMEM",
            &format!(
                "the memory limit of the cgroup is {limit} MiB; raise it (resources.limits.memory"
            ),
            "[limits] answers lower",
        ] {
            assert!(line.contains(part), "{subcommand}: {part}: {said}");
        }
        println!("{line}");
        assert_eq!(subcommand == "run", said.lines().count() == 1, "{said}");
    }
    assert_eq!(programs_on(&lab, "veth-foo"), [""; 0]);
    // With the defaults it starts there.
    let gregor = lab.start_gregor(&script, &lab.gregor_config()).unwrap();
    assert_eq!(
        lab.pod("foo").getent(BROKER).unwrap(),
        sorted(FOO_ADDRESSES)
    );
    gregor.stop();
}

fn field(text: &str, key: &str) -> Option<u64> {
    text.lines()
        .find_map(|line| line.strip_prefix(key)?.trim().parse().ok())
}

/// What the kernel has charged for the maps that a process holds, and for those of its programs: the process closes some.
fn map_bytes(pid: u32) -> u64 {
    let mut maps = BTreeMap::new();
    let mut programs = Vec::new();
    for entry in fs::read_dir(format!("/proc/{pid}/fdinfo")).unwrap() {
        // Descriptors come and go while they are read.
        let Ok(text) = fs::read_to_string(entry.unwrap().path()) else {
            continue;
        };
        if let (Some(id), Some(bytes)) = (field(&text, "map_id:"), field(&text, "memlock:")) {
            maps.insert(id as u32, bytes);
        }
        programs.extend(field(&text, "prog_id:"));
    }
    assert!(!programs.is_empty());
    for program in loaded_programs().filter_map(Result::ok) {
        if !programs.contains(&u64::from(program.id())) {
            continue;
        }
        for id in program.map_ids().unwrap().unwrap() {
            let map = MapInfo::from_id(id).unwrap().fd().unwrap();
            let fd = map.as_fd().as_raw_fd();
            let text = fs::read_to_string(format!("/proc/self/fdinfo/{fd}")).unwrap();
            maps.insert(id, field(&text, "memlock:").unwrap());
        }
    }
    maps.values().sum()
}

/// Of the process itself: not its text, which is shared and can be read again, nor maps that it has mapped.
fn process_bytes(gregor: &Gregor) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", gregor.process().pid())).unwrap();
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("RssAnon:"));
    let kib = line.unwrap().split_whitespace().next().unwrap();
    kib.parse::<u64>().unwrap() << 10
}

#[test]
fn memory_of_maps_and_process_is_within_the_documented_figures() {
    let lab = Lab::builder("e2ememory").pod("foo").start().unwrap();
    let config = lab.gregor_config();
    for (what, config, limit_mib) in [
        ("the defaults", config.clone(), 24),
        (
            "100,000 answers",
            format!("{config}\n[limits]\nanswers = 100000\n"),
            170,
        ),
    ] {
        let gregor = lab
            .start_gregor(&tools::gregor().unwrap(), &config)
            .unwrap();
        lab.pod("foo").getent(BROKER).unwrap();
        let (maps, process) = (map_bytes(gregor.process().pid()), process_bytes(&gregor));
        println!(
            "{what}: maps {:.1} MiB, process {:.1} MiB",
            maps as f64 / MIB as f64,
            process as f64 / MIB as f64
        );
        assert!(
            maps + process <= limit_mib * MIB,
            "{what}: {maps} + {process}"
        );

        // What `gregor check` says beforehand.
        let options = Settings::load(gregor.config_path(), &[], &[], &Labelled::default())
            .unwrap()
            .load_options();
        let announced = wanted(&options).bytes;
        assert!(
            announced.abs_diff(maps) < maps / 20,
            "{what}: {announced} announced, {maps} charged"
        );
        gregor.stop();
    }
}
