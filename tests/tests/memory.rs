//! The memory that gregor is charged with: within the documented figures, within the limit of the shipped manifest over
//! reloads and upgrades, and as `gregor check` says. `cargo xtask kernels` runs it with cgroups of version 2.

#![allow(
    clippy::unwrap_used,
    clippy::disallowed_names,
    reason = "a panic is the report, and foo is the tenant's name"
)]

mod e2e;

use std::{
    collections::BTreeMap,
    fs,
    os::fd::{AsFd as _, AsRawFd as _},
    path::PathBuf,
    process::{self, Command},
    sync::atomic::{AtomicU32, Ordering},
};

use aya::{maps::MapInfo, programs::loaded_programs};
use e2e::{lines_said, programs_on, sorted, until};
use gregor::{
    app::settings::Settings,
    datapath::{Hook, Memlock, Node, detect_hook, wanted},
    rules::selector::Labelled,
};
use gregor_tests::{
    lab::{
        Gregor, Lab, enter_group, guest, skip,
        world::{BROKER, FOO_ADDRESSES},
    },
    tools,
};
use nix::{
    mount::{MntFlags, MsFlags, mount, umount2},
    sys::signal::Signal,
};

const MIB: u64 = 1 << 20;

/// Where groups are made whose memory is limited, by whichever version of cgroups this kernel counts memory with; in guests by
/// version 2. The lab's namespaces do not see the machine's /sys, so its file system is mounted once more, before they are made.
struct MemoryGroups {
    mounted: PathBuf,
    is_v2: bool,
}

impl MemoryGroups {
    /// The error says why there is none here.
    fn mount() -> Result<Self, String> {
        // Tests run side by side.
        static MOUNTS: AtomicU32 = AtomicU32::new(0);
        let number = MOUNTS.fetch_add(1, Ordering::Relaxed);
        let name = format!("gregor-cgroup-{}-{number}", process::id());
        let mounted = std::env::temp_dir().join(name);
        fs::create_dir_all(&mounted).map_err(|error| error.to_string())?;
        let mut groups = Self {
            mounted,
            is_v2: false,
        };
        let mount = |kind, options| {
            mount(
                Some(kind),
                &groups.mounted,
                Some(kind),
                MsFlags::empty(),
                options,
            )
        };
        let v1 = match std::env::var_os(guest::GUEST) {
            None => mount("cgroup", Some("memory")).map_err(|error| error.to_string()),
            Some(_) => Err("not tried in a guest".to_owned()),
        };
        if let Err(v1) = v1 {
            mount("cgroup2", None)
                .map_err(|v2| format!("no cgroup with memory: v1 {v1}, v2 {v2}"))?;
            groups.is_v2 = true;
            let control = groups.mounted.join("cgroup.subtree_control");
            fs::write(control, "+memory").map_err(|error| format!("cgroup v2: {error}"))?;
        }
        Ok(groups)
    }

    /// One with this limit, in bytes.
    fn group(&self, name: &str, limit: u64) -> MemoryGroup {
        let name = format!("gregor-test-{}-{name}", process::id());
        let path = self.mounted.join(name);
        fs::create_dir(&path).unwrap();
        let (limit_file, peak_file) = if self.is_v2 {
            ("memory.max", "memory.peak")
        } else {
            ("memory.limit_in_bytes", "memory.max_usage_in_bytes")
        };
        fs::write(path.join(limit_file), limit.to_string()).unwrap();
        MemoryGroup { path, peak_file }
    }

    /// Makes them visible in the node, where gregor looks.
    fn show_in(&self, lab: &Lab) {
        let place = if self.is_v2 {
            "/sys/fs/cgroup"
        } else {
            "/sys/fs/cgroup/memory"
        };
        let mounted = self.mounted.clone();
        let made = lab.node().enter(move || {
            let none = None::<&str>;
            let at = "/sys/fs/cgroup";
            mount(Some("none"), at, Some("tmpfs"), MsFlags::empty(), none)?;
            fs::create_dir_all(place)?;
            mount(Some(&mounted), place, none, MsFlags::MS_BIND, none)?;
            std::io::Result::Ok(())
        });
        made.unwrap().unwrap();
    }
}

impl Drop for MemoryGroups {
    fn drop(&mut self) {
        let _ = umount2(&self.mounted, MntFlags::MNT_DETACH);
        let _ = fs::remove_dir(&self.mounted);
    }
}

/// Dropped before the groups' file system.
struct MemoryGroup {
    path: PathBuf,
    peak_file: &'static str,
}

impl MemoryGroup {
    /// The most that it had; `None` where the kernel does not say.
    fn peak(&self) -> Option<u64> {
        let text = fs::read_to_string(self.path.join(self.peak_file)).ok()?;
        text.trim().parse().ok()
    }

    /// Runs gregor in here from its first instruction on.
    fn command(&self) -> Command {
        let mut command = Command::new(tools::gregor().unwrap());
        enter_group(&mut command, &self.path);
        command
    }

    fn has(&self, gregor: &Gregor) -> bool {
        let procs = fs::read_to_string(self.path.join("cgroup.procs")).unwrap();
        procs.trim() == gregor.process().pid().to_string()
    }
}

impl Drop for MemoryGroup {
    fn drop(&mut self) {
        let _ = fs::remove_dir(&self.path);
    }
}

/// The groups of this machine; that there are none is reported.
fn groups(test: &str) -> Option<MemoryGroups> {
    MemoryGroups::mount()
        .map_err(|reason| skip(test, &reason))
        .ok()
}

/// `resources.limits.memory` of deploy/manifests/gregor.yaml.
fn limit_of_the_manifest() -> u64 {
    let manifest = include_str!("../../deploy/manifests/gregor.yaml");
    let (_, limits) = manifest.split_once("limits:").unwrap();
    let (_, memory) = limits.split_once("memory:").unwrap();
    let value = memory.split_whitespace().next().unwrap();
    value.strip_suffix("Mi").unwrap().parse::<u64>().unwrap() * MIB
}

fn reload(gregor: &Gregor) {
    let loads = |result: &str| e2e::loads(gregor, result);
    let before = loads("success");
    gregor.signal(Signal::SIGHUP);
    until("a reload", || {
        assert!(gregor.process().exited().is_none(), "{}", gregor.log());
        assert_eq!(loads("failure"), 0.0, "{}", gregor.log());
        (loads("success") > before).then_some(())
    });
}

/// Where the kernel can be asked for them.
fn has_programs(lab: &Lab, expected: &[&str]) {
    if detect_hook() == Hook::Tcx {
        assert_eq!(programs_on(lab, "veth-foo"), expected);
    }
}

/// The pod gets its endpoint.
fn serves(lab: &Lab) {
    let answer = lab.pod("foo").getent(BROKER).unwrap();
    assert_eq!(answer, sorted(FOO_ADDRESSES));
}

#[test]
fn reloads_fit_into_the_limit_of_the_manifest() {
    let Some(groups) = groups("reloads_fit_into_the_limit_of_the_manifest") else {
        return;
    };
    let group = groups.group("only", limit_of_the_manifest());
    let lab = Lab::builder("e2elimit").pod("foo").start().unwrap();
    let gregor = lab
        .start_gregor_as(
            group.command(),
            &tools::gregor().unwrap(),
            &lab.gregor_config(),
        )
        .unwrap();
    assert!(group.has(&gregor));
    for _ in 0..5 {
        reload(&gregor);
        serves(&lab);
    }
    has_programs(&lab, &["gregor"]);
    let peak = group.peak().unwrap_or(0);
    println!("{} MiB at most over 5 reloads", peak / MIB);
    gregor.stop();
}

/// Each in a group of its own, as pods are: what the first one has made is the second one's to reload.
#[test]
fn upgrades_fit_into_the_limit_of_the_manifest() {
    let Some(groups) = groups("upgrades_fit_into_the_limit_of_the_manifest") else {
        return;
    };
    let group = |number: u32| groups.group(&number.to_string(), limit_of_the_manifest());
    let lab = Lab::builder("e2eupgrade").pod("foo").start().unwrap();
    let binary = tools::gregor().unwrap();
    let successor = |number: u32, group: &MemoryGroup| {
        let name = format!("gregor-{number}");
        lab.spawn_successor_as(&name, group.command(), &binary, &lab.gregor_config())
            .unwrap()
    };
    let logs = |gregor: &Gregor, text: &str| {
        until(text, || {
            assert!(gregor.process().exited().is_none(), "{}", gregor.log());
            gregor.log().contains(text).then_some(())
        });
    };
    let mut old = (group(0), None);
    let first = successor(0, &old.0);
    logs(&first, "gregor::app: ready");
    old.1 = Some(first);
    for number in 1..=3 {
        let group = group(number);
        let next = successor(number, &group);
        logs(&next, "ready to take over");
        assert!(group.has(&next));
        let before = old.1.take().unwrap();
        before.signal(Signal::SIGTERM);
        let ended = until("it ends", || before.process().exited());
        assert_eq!(ended.code(), Some(0), "{}", before.log());
        logs(&next, "gregor::app: ready");
        serves(&lab);
        reload(&next);
        serves(&lab);
        let peak = group.peak().unwrap_or(0);
        println!("{} MiB at most in upgrade {number}", peak / MIB);
        // The group of the one before goes, as that of a pod does; what it has made stays.
        old = (group, Some(next));
    }
    has_programs(&lab, &["gregor"]);
}

/// Maps that do not fit into the cgroup are refused by the kernel, not a reason for it to kill somebody: one line, which names limit
/// and remedy, and `check` says it first. Nothing is left of them.
#[test]
fn maps_that_do_not_fit_are_refused() {
    const TEST: &str = "maps_that_do_not_fit_are_refused";
    if Node::look().memlock != Memlock::NotCharged {
        return skip(TEST, "this kernel charges maps to no cgroup");
    }
    let Some(groups) = groups(TEST) else {
        return;
    };
    let limit = 64;
    let group = groups.group("only", limit * MIB);
    let lab = Lab::builder("e2enomem").pod("foo").start().unwrap();
    groups.show_in(&lab);
    let config = lab.directory().join("many.toml");
    let many = format!("{}\n[limits]\nanswers = 100000\n", lab.gregor_config());
    fs::write(&config, many).unwrap();
    let control = lab.directory().join("many.sock");
    for subcommand in ["check", "run"] {
        let mut command = group.command();
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
        assert_eq!(subcommand == "run", lines_said(&said) == 1, "{said}");
    }
    has_programs(&lab, &[]);
    // With the defaults it starts there.
    let gregor = lab
        .start_gregor_as(
            group.command(),
            &tools::gregor().unwrap(),
            &lab.gregor_config(),
        )
        .unwrap();
    serves(&lab);
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
