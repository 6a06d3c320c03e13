//! What `gregor run` takes of the node beside the hooks: the metrics address, and the directory for what outlives it.

use std::{
    io,
    net::{SocketAddr, TcpListener},
    path::Path,
};

use super::finding::Finding;
use crate::datapath::{STATE, State};

/// Whether the metrics address is free.
pub fn metrics(listen: SocketAddr) -> Finding {
    judge_metrics(listen, TcpListener::bind(listen).map(drop))
}

fn judge_metrics(listen: SocketAddr, bound: io::Result<()>) -> Finding {
    match bound {
        Ok(()) => Finding::ok("metrics", format!("{listen} is free")),
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => Finding::warning(
            "metrics",
            format!("{listen} is in use"),
            "unless a gregor that runs here has it, set [metrics] listen to a free address",
        ),
        Err(error) => Finding::error(
            "metrics",
            format!("cannot listen on {listen}: {error}"),
            "set [metrics] listen to an address of this node",
        ),
    }
}

/// Whether maps and links can be pinned.
pub fn state() -> Finding {
    match State::on_bpffs(Path::new(STATE)) {
        Ok(()) => Finding::ok("state", format!("{STATE} is on bpffs")),
        Err(error) => Finding {
            level: super::finding::Level::Error,
            ..Finding::ok("state", error.to_string())
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::check::finding::Level;

    #[test]
    fn an_address_is_free_in_use_or_none() {
        let taken = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = taken.local_addr().unwrap();
        assert_eq!(metrics(address).level, Level::Warning);
        drop(taken);
        assert_eq!(metrics(address).level, Level::Ok);
        let elsewhere = metrics("192.0.2.1:9753".parse().unwrap());
        assert_eq!(elsewhere.level, Level::Error);
    }
}
