//! How much longer than usual everything may take: a guest without hardware support runs at a hundredth of the speed.

use std::{sync::OnceLock, time::Duration};

/// The environment variable with the factor for every time limit of lab and tests, 1 when it is not set.
pub const PATIENCE: &str = "GREGOR_PATIENCE";

/// A time limit of a lab or a test on this machine. Nothing may wait this long when all is well.
pub fn patience(usual: Duration) -> Duration {
    static FACTOR: OnceLock<u32> = OnceLock::new();
    let factor = FACTOR.get_or_init(|| {
        let Ok(text) = std::env::var(PATIENCE) else {
            return 1;
        };
        match text.parse() {
            Ok(factor @ 1..) => factor,
            _ => panic!("{PATIENCE}={text}: not a whole number from 1 on"),
        }
    });
    usual * *factor
}
