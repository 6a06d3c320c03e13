//! A process that is killed in the middle of writing an answer: the programs go on giving the tenant's endpoint. A hardware watchpoint
//! stops the process at its first store to an entry.

#![cfg(target_arch = "x86_64")]
#![allow(
    clippy::unwrap_used,
    clippy::disallowed_names,
    reason = "a panic is the report, and foo is the tenant's name"
)]

mod e2e;

use std::{
    fs::{self, File},
    mem::{offset_of, size_of},
    net::IpAddr,
    os::unix::fs::FileExt as _,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::Duration,
};

use dns_common::{
    answer::{ENTRY_WORDS, Slot, key_of},
    word::Word,
};
use e2e::{addresses, qualified, sorted, until, until_the_programs_answer};
use gregor_tests::{
    lab::{
        Ask, Gregor, Lab, Pod, skip,
        world::{FOO_ADDRESSES, NODE_LOCAL_V4},
    },
    tools,
};
use hickory_proto::rr::RecordType;
use nix::{
    errno::Errno,
    sys::{
        ptrace,
        signal::Signal,
        wait::{WaitPidFlag, WaitStatus, waitpid},
    },
    unistd::Pid,
};

const CACHE: IpAddr = IpAddr::V4(NODE_LOCAL_V4);

fn gets(pod: &Pod) -> Vec<IpAddr> {
    let ask = Ask::new(CACHE, &qualified("foo"), RecordType::A);
    pod.ask(ask)
        .map_or_else(|_| Vec::new(), |reply| addresses(&reply))
}

/// Where in the memory of a process the entry of foo's answer is; `None` while there is none.
fn entry_of_foo(pid: Pid) -> Option<u64> {
    let memory = File::open(format!("/proc/{pid}/mem")).unwrap();
    let maps = fs::read_to_string(format!("/proc/{pid}/maps")).unwrap();
    for line in maps.lines().filter(|line| line.contains("bpf-map")) {
        let (range, _) = line.split_once(' ').unwrap();
        let (from, to) = range.split_once('-').unwrap();
        let [from, to] = [from, to].map(|text| u64::from_str_radix(text, 16).unwrap());
        let mut at = from + offset_of!(Slot, entry) as u64;
        while at + (ENTRY_WORDS * 8) as u64 <= to {
            let mut bytes = [0; ENTRY_WORDS * 8];
            if memory.read_exact_at(&mut bytes, at).is_err() {
                break;
            }
            let (words, _) = bytes.as_chunks::<8>();
            let entry: Vec<Word> = words
                .iter()
                .map(|word| Word::new(u64::from_ne_bytes(*word)))
                .collect();
            let is_foos = key_of(&entry).is_some_and(|key| {
                let labels: Vec<_> = key.labels().collect();
                labels.len() == 1 && labels[0].0[..labels[0].1] == *b"foo"
            });
            if is_foos {
                return Some(at);
            }
            at += size_of::<Slot>() as u64;
        }
    }
    None
}

/// Kills a process at its first store to a word. `false` where the processor or its hypervisor has no watchpoints.
fn kill_at_store(pid: Pid, address: u64) -> bool {
    /// The first watchpoint is on, for stores to eight bytes (Intel SDM, volume 3, 17.2.4).
    const STORES: u64 = 1 | 0b01 << 16 | 0b10 << 18;
    let register = |index: usize| {
        let at = offset_of!(libc::user, u_debugreg) + index * size_of::<u64>();
        std::ptr::without_provenance_mut(at)
    };
    let mut threads = Vec::new();
    for task in fs::read_dir(format!("/proc/{pid}/task")).unwrap() {
        let name = task.unwrap().file_name().into_string().unwrap();
        let thread = Pid::from_raw(name.parse().unwrap());
        ptrace::seize(thread, ptrace::Options::empty()).unwrap();
        ptrace::interrupt(thread).unwrap();
        waitpid(thread, Some(WaitPidFlag::__WALL)).unwrap();
        threads.push(thread);
    }
    let is_set = threads.iter().all(|thread| {
        let address = ptrace::write_user(*thread, register(0), address as libc::c_long);
        address.is_ok() && ptrace::write_user(*thread, register(7), STORES as libc::c_long).is_ok()
    });
    for thread in &threads {
        ptrace::cont(*thread, None).unwrap();
    }
    let ended = |thread: Pid| {
        let flags = WaitPidFlag::__WALL | WaitPidFlag::WNOHANG;
        match waitpid(thread, Some(flags)) {
            Ok(WaitStatus::Stopped(_, Signal::SIGTRAP)) => Some(()),
            Ok(WaitStatus::Stopped(_, signal)) => {
                ptrace::cont(thread, signal).unwrap();
                None
            }
            Ok(WaitStatus::PtraceEvent(..)) => {
                ptrace::cont(thread, None).unwrap();
                None
            }
            Ok(_) => None,
            Err(error) => panic!("{thread}: {error}"),
        }
    };
    if is_set {
        until("a store to the entry", || {
            threads.iter().find_map(|thread| ended(*thread))
        });
    }
    nix::sys::signal::kill(pid, Signal::SIGKILL).unwrap();
    // Threads that are traced stay until they are waited for; the first one is the process itself, for whoever started it.
    for thread in threads.iter().filter(|thread| **thread != pid) {
        while !matches!(
            waitpid(*thread, Some(WaitPidFlag::__WALL)),
            Ok(WaitStatus::Exited(..) | WaitStatus::Signaled(..)) | Err(Errno::ECHILD)
        ) {}
    }
    is_set
}

/// Which slot is watched, of the two that an answer has in turns.
enum Watched {
    /// The one that programs find.
    Present,
    /// The one that it has had before.
    Before,
}

fn killed_at_a_store(watched: &Watched) {
    let lab = Lab::builder("e2ewriter").pod("foo").start().unwrap();
    let foo = lab.pod("foo");
    let config = lab.gregor_config().replace("ttl   = 60", "ttl   = 1");
    let gregor: Gregor = lab
        .start_gregor(&tools::gregor().unwrap(), &config)
        .unwrap();
    until_the_programs_answer(&gregor, "foo", |_| {
        assert_eq!(gets(foo), sorted(FOO_ADDRESSES));
    });
    let pid = Pid::from_raw(gregor.process().pid() as i32);
    let stop = AtomicBool::new(false);
    let was_set = thread::scope(|scope| {
        // What is asked for is refreshed each second.
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                gets(foo);
                thread::sleep(Duration::from_millis(20));
            }
        });
        let found = || until("an entry", || entry_of_foo(pid));
        let address = found();
        if let Watched::Before = watched {
            until("another slot", || (found() != address).then_some(()));
        }
        let was_set = kill_at_store(pid, address);
        stop.store(true, Ordering::Relaxed);
        was_set
    });
    if !was_set {
        return skip("killed_writer", "no watchpoints on this machine");
    }
    until("gregor has ended", || gregor.process().exited());
    for _ in 0..50 {
        assert_eq!(gets(foo), sorted(FOO_ADDRESSES));
    }
    let next = lab
        .start_gregor(&tools::gregor().unwrap(), &config)
        .unwrap();
    until_the_programs_answer(&next, "foo", |_| {
        assert_eq!(gets(foo), sorted(FOO_ADDRESSES));
    });
}

#[test]
fn a_process_killed_as_it_writes_an_answer_anew_leaves_the_one_before() {
    killed_at_a_store(&Watched::Before);
}

#[test]
fn a_process_killed_at_the_entry_in_use_leaves_an_answer() {
    killed_at_a_store(&Watched::Present);
}
