//! Queries as whole frames with full checksums, built once and sent from where they are.

use std::{net::IpAddr, ops::Range};

use anyhow::{Result, ensure};

use gregor_tests::packets::build::{name, question, udp_to};

/// Source ports of the generator, outside the ephemeral range. As in `tests/ebpf/src/receive.rs`.
pub const PORTS: Range<u16> = 20_000..24_096;

const TYPE_A: u16 = 1;

/// The two ends of a pod's veth, and who is asked.
#[derive(Clone, Copy, Debug)]
pub struct Path {
    pub pod_mac: [u8; 6],
    pub node_mac: [u8; 6],
    pub pod: IpAddr,
    pub server: IpAddr,
}

/// One frame per name, with an ID and a source port of its own as far as there are ports.
pub fn queries(path: &Path, names: &[String]) -> Result<Vec<Vec<u8>>> {
    ensure!(!names.is_empty(), "no names to ask for");
    ensure!(
        path.pod.is_ipv4() && path.server.is_ipv4(),
        "the receiver counts IPv4"
    );
    let ports = PORTS.len();
    Ok(names
        .iter()
        .enumerate()
        .map(|(index, text)| {
            let payload = question(name(text), TYPE_A)
                .with(|message| message.id = spread(index))
                .build();
            udp_to(path.server, payload)
                .with(|packet| {
                    packet.source_mac = path.pod_mac;
                    packet.destination_mac = path.node_mac;
                    packet.source = path.pod;
                })
                .with_udp(|udp| udp.source_port = PORTS.start + (index % ports) as u16)
                .build()
                .bytes
        })
        .collect())
}

/// IDs that differ from one to the next in more than the last bits.
fn spread(index: usize) -> u16 {
    (index as u16).wrapping_mul(40_503).wrapping_add(1)
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use hickory_proto::op::Message;

    use super::*;
    use gregor_tests::packets::build::internet_checksum;

    fn path() -> Path {
        Path {
            pod_mac: [2, 0, 0, 0, 0, 1],
            node_mac: [2, 0, 0, 0, 0, 2],
            pod: [10, 244, 1, 10].into(),
            server: [169, 254, 20, 10].into(),
        }
    }

    #[test]
    fn frames_are_whole_queries() {
        let names: Vec<String> = (0..5000).map(|i| format!("lkc-{i}.example.com")).collect();
        let frames = queries(&path(), &names).unwrap();
        let mut keys = HashSet::new();
        for (frame, name) in frames.iter().zip(&names) {
            let udp = &frame[34..];
            let mut pseudo = frame[26..34].to_vec();
            pseudo.extend([0, 17]);
            pseudo.extend((udp.len() as u16).to_be_bytes());
            assert_eq!(internet_checksum(&[&frame[14..34]]), 0);
            assert_eq!(internet_checksum(&[&pseudo, udp]), 0);
            let port = u16::from_be_bytes([frame[34], frame[35]]);
            assert!(PORTS.contains(&port));
            let message = Message::from_vec(&udp[8..]).unwrap();
            assert_eq!(message.queries[0].name().to_ascii(), format!("{name}."));
            keys.insert((port, message.metadata.id));
        }
        assert_eq!(keys.len(), frames.len(), "every reply identifies its query");
    }

    #[test]
    fn an_empty_list_of_names_is_an_error() {
        assert!(queries(&path(), &[]).is_err());
    }
}
