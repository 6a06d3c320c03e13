//! UDP sockets of a lab: buffers that hold a burst, and what the kernel has dropped at full ones.

use std::{fs, io, os::fd::AsFd};

use nix::sys::socket::{setsockopt, sockopt::RcvBufForce};

/// Room for some ten thousand short datagrams. The default of 208 KiB holds 277, which a gregor that goes on after a pause asks
/// for at once.
const BUFFER_BYTES: usize = 8 << 20;

/// Has a socket hold a burst, whatever limit the machine sets; needs CAP_NET_ADMIN.
///
/// # Errors
/// As of setsockopt(2).
pub fn hold_bursts(socket: &impl AsFd) -> io::Result<()> {
    Ok(setsockopt(socket, RcvBufForce, &BUFFER_BYTES)?)
}

/// Datagrams that the kernel has dropped at sockets with this local port, in the network namespace of the calling thread.
///
/// # Errors
/// When the kernel's tables cannot be read.
pub fn dropped_at(port: u16) -> io::Result<u64> {
    let v4 = fs::read_to_string("/proc/thread-self/net/udp")?;
    // Missing without IPv6.
    let v6 = fs::read_to_string("/proc/thread-self/net/udp6").unwrap_or_default();
    Ok([v4, v6].iter().map(|table| dropped_in(table, port)).sum())
}

fn dropped_in(table: &str, port: u16) -> u64 {
    let suffix = format!(":{port:04X}");
    let drops = |line: &str| {
        let words: Vec<&str> = line.split_whitespace().collect();
        let is_here = words.get(1)?.ends_with(&suffix);
        is_here.then(|| words.last()?.parse::<u64>().ok())?
    };
    table.lines().skip(1).filter_map(drops).sum()
}

#[cfg(test)]
mod tests {
    use std::net::UdpSocket;

    use super::*;

    #[test]
    fn drops_are_counted_by_local_port() {
        let table = "\
   sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode ref pointer drops
  265: 0A14FEA9:0035 00000000:0000 07 00000000:00000000 00:00000000 00000000     0        0 23841 2 0 14
  265: 0100007F:0035 00000000:0000 07 00000000:00000000 00:00000000 00000000     0        0 23842 2 0 2
  300: 00000000:9C40 00000000:0035 07 00000000:00000000 00:00000000 00000000     0        0 23843 2 0 9
";
        assert_eq!(dropped_in(table, 53), 16);
        assert_eq!(dropped_in(table, 40_000), 9);
        assert_eq!(dropped_in(table, 54), 0);
    }

    /// Wants root, as everything in a lab does.
    #[test]
    fn a_full_socket_drops_and_one_that_holds_bursts_does_not() {
        if !nix::unistd::geteuid().is_root() {
            return;
        }
        let dropped = |is_prepared: bool| {
            let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
            if is_prepared {
                hold_bursts(&socket).unwrap();
            }
            let address = socket.local_addr().unwrap();
            let sender = UdpSocket::bind("127.0.0.1:0").unwrap();
            for _ in 0..2000 {
                sender.send_to(&[0; 64], address).unwrap();
            }
            dropped_at(address.port()).unwrap()
        };
        assert!(dropped(false) > 0);
        assert_eq!(dropped(true), 0);
    }
}
