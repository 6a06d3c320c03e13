//! Whether the metrics address can be bound.

use std::{
    io,
    net::{SocketAddr, TcpListener},
};

use super::finding::Finding;

/// Whether the metrics address is free.
pub fn judge(listen: SocketAddr) -> Finding {
    of(listen, TcpListener::bind(listen).map(drop))
}

fn of(listen: SocketAddr, bound: io::Result<()>) -> Finding {
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::check::finding::Level;

    #[test]
    fn an_address_is_free_in_use_or_none() {
        let taken = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = taken.local_addr().unwrap();
        assert_eq!(judge(address).level, Level::Warning);
        drop(taken);
        assert_eq!(judge(address).level, Level::Ok);
        let elsewhere = judge("192.0.2.1:9753".parse().unwrap());
        assert_eq!(elsewhere.level, Level::Error);
    }
}
