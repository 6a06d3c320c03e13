//! Whether queries that pass can go back to where they came from: the device for that is made, and removed again.

use super::finding::Finding;
use crate::datapath::{ReturnPath, one_line};

pub fn try_out() -> Finding {
    const WHAT: &str = "return path";
    match ReturnPath::try_out() {
        Ok(true) => Finding::ok(
            WHAT,
            "a gregor that runs, or was killed, has made its veths",
        ),
        Ok(false) => Finding::ok(WHAT, "made its veths and their program, and removed them"),
        Err(error) => Finding::error(
            WHAT,
            format!("queries cannot pass: {}", one_line(&error)),
            "load the module veth, grant CAP_NET_ADMIN, and rename or remove whatever else has the names of these devices",
        ),
    }
}
