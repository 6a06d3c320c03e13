//! Token buckets per interface, bounded in number; no clock of its own.

use std::{collections::HashMap, time::Instant};

use dns_common::abi::Bucket;

/// Most interfaces with a bucket of their own; the others share one.
const MAX_BUCKETS: usize = 4096;

/// The bucket of the kernel's ABI, one per interface.
#[derive(Debug)]
pub struct Limiter {
    started: Instant,
    /// The initial bucket of an interface.
    full: Bucket,
    buckets: HashMap<u32, Bucket>,
}

impl Limiter {
    /// Lets `per_second` through, and `burst` at once.
    pub fn new(now: Instant, per_second: u32, burst: u32) -> Limiter {
        Limiter {
            started: now,
            // Here 0 does not mean unlimited.
            full: Bucket::new(per_second.max(1), burst),
            buckets: HashMap::new(),
        }
    }

    /// Takes one token of an interface; `false` when it has none left.
    pub fn admit(&mut self, ifindex: u32, now: Instant) -> bool {
        let key = if self.buckets.len() < MAX_BUCKETS || self.buckets.contains_key(&ifindex) {
            ifindex
        } else {
            0
        };
        let bucket = self.buckets.entry(key).or_insert(self.full);
        bucket.admit(now.duration_since(self.started).as_nanos() as u64)
    }

    /// Removes the bucket of an interface.
    pub fn release(&mut self, ifindex: u32) {
        self.buckets.remove(&ifindex);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn one_interface_does_not_use_up_anothers_tokens() {
        let now = Instant::now();
        let mut limiter = Limiter::new(now, 10, 3);
        let taken = (0..10).filter(|_| limiter.admit(1, now)).count();
        assert_eq!(taken, 3);
        assert!(limiter.admit(2, now));
        assert!(!limiter.admit(1, now + Duration::from_millis(99)));
        assert!(limiter.admit(1, now + Duration::from_millis(100)));
    }

    #[test]
    fn the_number_of_buckets_is_bounded() {
        let now = Instant::now();
        let mut limiter = Limiter::new(now, 1, 1);
        for ifindex in 1..3 * MAX_BUCKETS as u32 {
            limiter.admit(ifindex, now);
        }
        assert!(limiter.buckets.len() <= MAX_BUCKETS + 1);
    }
}
