//! Counts panics and logs them through tracing; a task that panics ends alone.

use std::sync::atomic::{AtomicU64, Ordering};

static PANICS: AtomicU64 = AtomicU64::new(0);

/// Panics since [`install`].
pub fn count() -> u64 {
    PANICS.load(Ordering::Relaxed)
}

/// Puts the hook in place.
pub fn install() {
    std::panic::set_hook(Box::new(|panic| {
        PANICS.fetch_add(1, Ordering::Relaxed);
        // The message may quote untrusted input: the place is enough at this level.
        let place = panic.location().map(ToString::to_string);
        tracing::error!(place, "panic; this is a bug in gregor");
        tracing::debug!(%panic, backtrace = %std::backtrace::Backtrace::capture());
    }));
}
