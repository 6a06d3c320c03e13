//! The `gregor` binary.

use std::process::ExitCode;

fn main() -> ExitCode {
    gregor::cli::main()
}
