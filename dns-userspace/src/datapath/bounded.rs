//! Work in the kernel that may take minutes, on a thread of its own: with progress messages, and within a time limit.
//!
//! The verifier looks for signals as it goes, and gives up with EAGAIN when there is one.

use std::{
    os::unix::thread::JoinHandleExt as _,
    sync::mpsc::{RecvTimeoutError, sync_channel},
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use nix::sys::signal::{
    SaFlags, SigAction, SigHandler, SigSet, SigmaskHow, Signal, pthread_sigmask, sigaction,
};

/// When the first progress message is due.
const FIRST: Duration = Duration::from_secs(2);
/// The interval of the later ones.
const EVERY: Duration = Duration::from_secs(10);
/// How long the kernel may take to see a signal, between two of them, and in all. After that the thread is abandoned.
const SIGNAL_EVERY: Duration = Duration::from_millis(20);
const GIVE_UP: Duration = Duration::from_secs(5);
/// Interrupts the work. Ignored by default, so that one too many does no harm; nothing else uses it here.
const INTERRUPT: Signal = Signal::SIGURG;

/// Why there is no result.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Failure<S> {
    /// It took too long, and was busy with this.
    TooLong(S),
    /// No thread, or the work panicked.
    Thread,
}

/// Does `work`, calls `progress` with what it is busy with and the time that it took so far, and ends it after `limit`.
pub(super) fn bounded<T: Send + 'static, S>(
    limit: Duration,
    busy_with: impl Fn() -> S,
    mut progress: impl FnMut(S, Duration),
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, Failure<S>> {
    let started = Instant::now();
    let (sender, receiver) = sync_channel(1);
    let thread = thread::Builder::new()
        .name("load".to_owned())
        .spawn(move || {
            block_signals();
            // The caller has given up: the result is dropped.
            let _ = sender.send(work());
        })
        .map_err(|_| Failure::Thread)?;
    let mut next = FIRST;
    loop {
        let until = next.min(limit);
        match receiver.recv_timeout(until.saturating_sub(started.elapsed())) {
            Ok(result) => return Ok(result),
            Err(RecvTimeoutError::Disconnected) => return Err(Failure::Thread),
            Err(RecvTimeoutError::Timeout) if until == limit => {
                let last = busy_with();
                interrupt(&thread);
                return Err(Failure::TooLong(last));
            }
            Err(RecvTimeoutError::Timeout) => {
                progress(busy_with(), started.elapsed());
                next += EVERY;
            }
        }
    }
}

/// Signals of the process are for other threads: one here would interrupt the load.
fn block_signals() {
    let mut blocked = SigSet::all();
    blocked.remove(INTERRUPT);
    let _ = pthread_sigmask(SigmaskHow::SIG_SETMASK, Some(&blocked), None);
}

/// Signals the thread until it ends. One signal is not enough: aya loads a second time for the verifier's log.
fn interrupt<T>(thread: &JoinHandle<T>) {
    extern "C" fn nothing(_: libc::c_int) {}
    let action = SigAction::new(
        SigHandler::Handler(nothing),
        SaFlags::empty(),
        SigSet::empty(),
    );
    // SAFETY: the handler does nothing, which is safe at any point.
    if unsafe { sigaction(INTERRUPT, &action) }.is_err() {
        return;
    }
    let started = Instant::now();
    while !thread.is_finished() && started.elapsed() < GIVE_UP {
        // SAFETY: the thread was not joined, so its identity is good even if it has ended meanwhile.
        unsafe { libc::pthread_kill(thread.as_pthread_t(), INTERRUPT as libc::c_int) };
        thread::sleep(SIGNAL_EVERY);
    }
}

#[cfg(test)]
mod tests {
    use std::{
        os::fd::AsRawFd as _,
        sync::{
            Arc,
            atomic::{AtomicBool, Ordering},
        },
    };

    use super::*;

    #[test]
    fn results_come_back_and_panics_are_failures() {
        assert_eq!(bounded(Duration::MAX, || (), |(), _| {}, || 7), Ok(7));
        let panicked = bounded(
            Duration::MAX,
            || (),
            |(), _| {},
            || -> u8 { panic!("as the test wants") },
        );
        assert_eq!(panicked, Err(Failure::Thread));
    }

    #[test]
    fn a_system_call_is_interrupted_at_the_limit() {
        let interrupted = Arc::new(AtomicBool::new(false));
        let seen = Arc::clone(&interrupted);
        let (pipe, _writer) = nix::unistd::pipe().unwrap();
        let result = bounded(
            Duration::ZERO,
            || "reading",
            |_, _| panic!("before the first message is due"),
            move || {
                let mut byte = [0u8];
                // SAFETY: one byte, live. Not by the standard library, which tries again.
                let read = unsafe { libc::read(pipe.as_raw_fd(), byte.as_mut_ptr().cast(), 1) };
                seen.store(read == -1, Ordering::SeqCst);
            },
        );
        assert_eq!(result, Err(Failure::TooLong("reading")));
        assert!(interrupted.load(Ordering::SeqCst));
    }
}
