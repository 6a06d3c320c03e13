//! gregor of another ABI version, with the same layouts: for tests of succession.

use std::process::ExitCode;

fn main() -> ExitCode {
    gregor::cli::main()
}
