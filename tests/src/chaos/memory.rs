//! A memory cgroup in which the kernel kills a process that exceeds the limit.

use std::{
    ffi::{CStr, CString},
    fs,
    path::{Path, PathBuf},
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use nix::{
    sys::{
        signal::{Signal, kill},
        wait::waitpid,
    },
    unistd::{ForkResult, Pid, fork},
};

use crate::lab::{Process, patience};

/// What the group may have. The process that takes it all needs more.
const LIMIT: &str = "33554432";
/// What that process takes, in bytes.
const EATEN: usize = 256 << 20;

/// Whether this machine's cgroups can do that, and where.
#[derive(Debug)]
pub struct Group(PathBuf);

impl Group {
    /// Makes a group, in cgroup v1 or v2.
    ///
    /// # Errors
    /// When this machine has no such cgroup.
    pub fn make(name: &str) -> Result<Self> {
        let v1 = Path::new("/sys/fs/cgroup/memory");
        let v2 = Path::new("/sys/fs/cgroup");
        let (root, limit) = if v1.join("memory.limit_in_bytes").exists() {
            (v1, "memory.limit_in_bytes")
        } else {
            let delegated = fs::read_to_string(v2.join("cgroup.subtree_control"))
                .context("no memory cgroup, neither of v1 nor of v2")?;
            if !delegated.split_whitespace().any(|name| name == "memory") {
                bail!("the memory controller is not delegated at {}", v2.display());
            }
            (v2, "memory.max")
        };
        let group = Self(root.join(name));
        fs::create_dir(&group.0).with_context(|| format!("making {}", group.0.display()))?;
        let limit = group.0.join(limit);
        fs::write(&limit, LIMIT).with_context(|| format!("writing {}", limit.display()))?;
        Ok(group)
    }

    /// Moves a process into the group and uses up its memory, until the kernel has killed the process.
    pub fn kill(&self, process: &Process) -> Result<()> {
        fs::write(self.0.join("cgroup.procs"), process.pid().to_string())
            .context("moving a process into a cgroup")?;
        // Of the two, the kernel takes the other one for the one that needs more.
        let badness = format!("/proc/{}/oom_score_adj", process.pid());
        fs::write(&badness, "1000").with_context(|| format!("writing {badness}"))?;
        let eater = self.start_eater()?;
        let limit = patience(Duration::from_secs(30));
        let mut waited = Duration::ZERO;
        let outcome = loop {
            if process.exited().is_some() {
                break Ok(());
            }
            if waited > limit {
                break Err(anyhow::anyhow!(
                    "the kernel killed nothing within {limit:?}"
                ));
            }
            thread::sleep(Duration::from_millis(2));
            waited += Duration::from_millis(2);
        };
        let _ = kill(eater, Signal::SIGKILL);
        waitpid(eater, None)?;
        outcome
    }

    /// A process that moves into the group and takes more memory than that may have. Nothing is executed: guests of
    /// `cargo xtask kernels` have no shell.
    fn start_eater(&self) -> Result<Pid> {
        let path = self.0.join("cgroup.procs").into_os_string();
        let path = CString::new(path.into_encoded_bytes())?;
        // SAFETY: the child makes system calls and writes to memory of its own, and nothing else.
        match unsafe { fork() }.context("cannot fork")? {
            ForkResult::Parent { child } => Ok(child),
            ForkResult::Child => eat(&path),
        }
    }
}

fn eat(procs: &CStr) -> ! {
    // SAFETY: the path ends with a NUL, what is written is one byte, and the pages are those of the new mapping.
    unsafe {
        let file = libc::open(procs.as_ptr(), libc::O_WRONLY);
        if libc::write(file, c"0".as_ptr().cast(), 1) == 1 {
            let memory = libc::mmap(
                std::ptr::null_mut(),
                EATEN,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE,
                -1,
                0,
            );
            if memory != libc::MAP_FAILED {
                for page in (0..EATEN).step_by(4096) {
                    memory.cast::<u8>().add(page).write_volatile(1);
                }
            }
        }
        // The parent sees that nothing was killed.
        libc::_exit(1)
    }
}

impl Drop for Group {
    /// Also where the kernel has not finished with its last process.
    fn drop(&mut self) {
        for _ in 0..50 {
            if fs::remove_dir(&self.0).is_ok() {
                return;
            }
            thread::sleep(Duration::from_millis(20));
        }
    }
}
