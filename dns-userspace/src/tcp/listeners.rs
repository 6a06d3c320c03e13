//! Opens the sockets at which steered connections are accepted.

use std::{
    io,
    net::{IpAddr, SocketAddr, TcpListener},
    sync::Arc,
};

use socket2::{Domain, Socket, Type};

use crate::model::Listeners;

/// Connections that wait to be accepted.
const BACKLOG: i32 = 1024;

/// Opens the listeners, on loopback addresses with ports of the kernel's choice: connections arrive by steering only, and
/// those made to the port directly are closed. One listener per family, since one bound to `::1` takes no IPv4.
pub fn open_listeners() -> io::Result<Listeners> {
    let open = |address: IpAddr| -> io::Result<Arc<TcpListener>> {
        let address = SocketAddr::new(address, 0);
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
        // Connections that are steered have the cache's address and port, and inherit this: a cache that binds these with
        // either option must not find them in use.
        socket.set_reuse_address(true)?;
        socket.set_reuse_port(true)?;
        socket.set_nonblocking(true)?;
        socket.bind(&address.into())?;
        socket.listen(BACKLOG)?;
        Ok(Arc::new(socket.into()))
    };
    Ok(Listeners {
        v4: open(std::net::Ipv4Addr::LOCALHOST.into())?,
        v6: match open(std::net::Ipv6Addr::LOCALHOST.into()) {
            Ok(listener) => Some(listener),
            Err(error) => {
                tracing::debug!(%error, "no IPv6 on the loopback interface");
                None
            }
        },
    })
}
