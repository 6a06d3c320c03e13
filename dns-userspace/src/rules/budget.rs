//! How much time and memory the compilation of rules may take, all of it together.

use std::time::{Duration, Instant};

use crate::cgroup;

/// Most time.
const TIME: Duration = Duration::from_secs(10);
/// Most memory, in bytes.
const MEMORY: usize = 128 << 20;
/// What rules of ordinary size need, however little a cgroup has left, in bytes.
const LEAST_MEMORY: usize = 8 << 20;

/// A limit that counts from when it was made.
#[derive(Clone, Debug)]
pub struct Budget {
    until: Instant,
    time: Duration,
    bytes: usize,
}

/// A limit that was reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Spent {
    Time,
    Memory,
    /// The kernel's table is full.
    Table,
}

impl Budget {
    pub fn new(time: Duration, bytes: usize) -> Self {
        Self {
            until: Instant::now() + time,
            time,
            bytes,
        }
    }

    /// What this process may spend from now on: of its cgroup's memory, half of what is left, for the tables are to be
    /// loaded besides.
    pub fn of_this_process() -> Self {
        let bytes = match cgroup::memory_headroom() {
            Some(left) => share(left),
            None => MEMORY,
        };
        Self::new(TIME, bytes)
    }

    /// The memory, in bytes.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    pub fn check_time(&self) -> Result<(), Spent> {
        if Instant::now() < self.until {
            Ok(())
        } else {
            Err(Spent::Time)
        }
    }

    pub fn check_memory(&self, bytes: usize) -> Result<(), Spent> {
        if bytes <= self.bytes {
            Ok(())
        } else {
            Err(Spent::Memory)
        }
    }

    /// What was reached, for a message.
    pub fn describe(&self, spent: Spent) -> String {
        match spent {
            Spent::Time => format!(
                "the rules together take more than {} to compile",
                humantime::format_duration(self.time)
            ),
            Spent::Memory => format!(
                "the rules together take more than {} MiB to compile",
                self.bytes >> 20
            ),
            Spent::Table => "the rules together need too large a table".to_owned(),
        }
    }
}

fn share(left: u64) -> usize {
    usize::try_from(left / 2)
        .unwrap_or(MEMORY)
        .clamp(LEAST_MEMORY, MEMORY)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_a_share_of_what_is_left() {
        assert_eq!(share(1 << 40), 128 << 20);
        assert_eq!(share(100 << 20), 50 << 20);
        assert_eq!(share(0), 8 << 20);
    }

    #[test]
    fn nothing_is_spent_of_nothing() {
        let budget = Budget::new(Duration::ZERO, 10);
        assert_eq!(budget.check_time(), Err(Spent::Time));
        assert_eq!(budget.check_memory(11), Err(Spent::Memory));
        assert_eq!(budget.check_memory(10), Ok(()));
        assert_eq!(Budget::new(TIME, 0).check_time(), Ok(()));
    }
}
