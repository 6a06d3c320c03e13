//! How long to wait before the API server is asked again: longer with each failure, and never the same for two nodes.

use std::time::Duration;

const FIRST: Duration = Duration::from_millis(500);
const LONGEST: Duration = Duration::from_secs(30);

/// Delays between attempts.
#[derive(Clone, Copy, Debug, Default)]
pub struct Backoff {
    failures: u32,
}

impl Backoff {
    /// The delay after one more failure. `random` is from 0 to 1: what many nodes lost at the same moment they do not all ask
    /// for at the same moment.
    pub fn next(&mut self, random: f64) -> Duration {
        let longest = LONGEST.min(FIRST * 2_u32.saturating_pow(self.failures.min(16)));
        self.failures += 1;
        longest.mul_f64(0.5 + random.clamp(0.0, 1.0))
    }

    /// It went well.
    pub fn reset(&mut self) {
        self.failures = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_grow_to_a_limit_and_begin_anew() {
        let mut backoff = Backoff::default();
        let delays: Vec<u128> = (0..8).map(|_| backoff.next(0.5).as_millis()).collect();
        assert_eq!(
            delays,
            [500, 1000, 2000, 4000, 8000, 16_000, 30_000, 30_000]
        );
        for _ in 0..100 {
            assert!(backoff.next(1.0) <= LONGEST.mul_f64(1.5));
        }
        backoff.reset();
        assert_eq!(backoff.next(0.0), FIRST / 2);
        assert_eq!(backoff.next(1.0), FIRST * 3);
    }
}
