//! gregor of another ABI version, with other layouts: for tests of succession.

use std::process::ExitCode;

fn main() -> ExitCode {
    gregor::cli::main()
}
