//! Every task of this repository, one file per subcommand.

fn main() {}
