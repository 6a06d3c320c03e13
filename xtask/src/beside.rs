//! Work of the tests that needs no lab, one piece after the other at idle priority: it fills the time in which the lab waits.

use std::{
    sync::mpsc::{self, Sender},
    thread::{self, JoinHandle},
};

use anyhow::{Context as _, Result, bail};

/// A piece of work, with what it adds to.
type Job<T> = Box<dyn FnOnce(&mut T) + Send>;

/// A thread that does pieces of work; they and the processes that they start get what time the processors have left.
#[derive(Debug)]
pub struct Beside<T> {
    jobs: Sender<Job<T>>,
    worker: JoinHandle<T>,
}

impl<T: Default + Send + 'static> Beside<T> {
    pub fn start() -> Result<Self> {
        let (jobs, work) = mpsc::channel::<Job<T>>();
        let worker = thread::Builder::new()
            .name("beside".to_owned())
            .spawn(move || {
                // Without it, the work is done all the same.
                let _ = become_idle();
                let mut sum = T::default();
                for job in work {
                    job(&mut sum);
                }
                sum
            })
            .context("starting a thread")?;
        Ok(Self { jobs, worker })
    }

    /// Does this after what was added before.
    pub fn add(&self, job: impl FnOnce(&mut T) + Send + 'static) -> Result<()> {
        self.jobs
            .send(Box::new(job))
            .ok()
            .context("the thread for work beside the tests has ended")
    }

    /// What all pieces together have added up to, once the last one is done.
    pub fn finish(self) -> Result<T> {
        drop(self.jobs);
        match self.worker.join() {
            Ok(sum) => Ok(sum),
            Err(_) => bail!("work beside the tests panicked"),
        }
    }
}

/// Gives this thread, and what it starts from now on, the scheduling policy SCHED_IDLE: sched(7).
fn become_idle() -> std::io::Result<()> {
    let parameters = libc::sched_param { sched_priority: 0 };
    // SAFETY: the parameters outlive the call; 0 is the calling thread.
    let result = unsafe { libc::sched_setscheduler(0, libc::SCHED_IDLE, &raw const parameters) };
    if result == 0 {
        Ok(())
    } else {
        Err(std::io::Error::last_os_error())
    }
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn work_is_done_in_order_at_idle_priority() {
        let beside = Beside::<Vec<String>>::start().unwrap();
        beside.add(|done| done.push("first".to_owned())).unwrap();
        beside
            .add(|done| {
                let policy = Command::new("sh")
                    // The 41st field: the policy, of which 5 is SCHED_IDLE; proc_pid_stat(5).
                    .args(["-c", "cut -d ' ' -f 41 /proc/$$/stat"])
                    .output()
                    .unwrap();
                done.push(String::from_utf8(policy.stdout).unwrap().trim().to_owned());
            })
            .unwrap();
        assert_eq!(beside.finish().unwrap(), ["first", "5"]);
    }

    #[test]
    fn a_panic_is_an_error() {
        let beside = Beside::<u64>::start().unwrap();
        beside.add(|_| panic!("as planned")).unwrap();
        assert!(beside.finish().is_err());
    }
}
