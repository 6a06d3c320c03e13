//! Reads the lines of a program that was built to log its decisions.

use std::io;

use aya_log::EbpfLogger;
use tokio::io::{Interest, unix::AsyncFd};

/// What the lines are filtered by.
pub const LOG_TARGET: &str = "gregor::bpf";

/// The lines of one program.
pub struct ProgramLog {
    logger: AsyncFd<EbpfLogger<ToTracing>>,
}

impl ProgramLog {
    pub(super) fn open(ebpf: &mut aya::Ebpf) -> io::Result<Self> {
        let logger = EbpfLogger::init_with_logger(ebpf, ToTracing).map_err(io::Error::other)?;
        // SAFETY: the logger owns its ring buffer's descriptor, keeps it open as long as it lives, and always returns the
        // same.
        let logger = unsafe { AsyncFd::register_with_interest(logger, Interest::READABLE) }?;
        Ok(Self { logger })
    }

    /// Passes lines on as long as it is polled.
    pub async fn run(mut self) -> io::Result<()> {
        loop {
            let mut ready = self.logger.readable_mut().await?;
            ready.get_inner_mut().flush();
            ready.clear_ready();
        }
    }
}

/// Writes to the log of this process, at debug level and under a target of its own.
struct ToTracing;

impl log::Log for ToTracing {
    fn enabled(&self, _: &log::Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &log::Record<'_>) {
        tracing::debug!(target: LOG_TARGET, "{}", record.args());
    }

    fn flush(&self) {}
}
