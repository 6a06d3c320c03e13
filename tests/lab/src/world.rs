//! The names and addresses of the lab: one table, served by the embedded DNS and written out for CoreDNS.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// The broker name of the demonstration, as a client asks for it: unqualified, five dots.
pub const BROKER: &str = "lkc-1.eu-west-1.aws.private.kafka.managed";
/// A name that no rule matches.
pub const FOREIGN: &str = "www.example.com";

/// NodeLocal's address and its IPv6 sibling, on a device of the node.
pub const NODE_LOCAL_V4: Ipv4Addr = Ipv4Addr::new(169, 254, 20, 10);
pub const NODE_LOCAL_V6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0x10, 0, 0, 0, 0, 0, 0xa);
/// The cluster DNS's Service addresses, behind the node.
pub const CLUSTER_DNS_V4: Ipv4Addr = Ipv4Addr::new(172, 20, 0, 10);
pub const CLUSTER_DNS_V6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0x20, 0, 0, 0, 0, 0, 0xa);

/// TTL that CoreDNS's kubernetes plugin gives everything in the cluster zone.
pub const CLUSTER_TTL: u32 = 5;

/// All data of the lab's DNS.
#[derive(Clone, Debug)]
pub struct World {
    /// The cluster zone, `cluster.local.`: no records besides these.
    pub external_names: Vec<ExternalName>,
    /// Namespaces whose names exist even with nothing in them.
    pub namespaces: Vec<String>,
    /// The rest of the Internet; what lies outside is NXDOMAIN.
    pub zones: Vec<Zone>,
}

/// A Service of type ExternalName.
#[derive(Clone, Debug)]
pub struct ExternalName {
    pub service: String,
    pub namespace: String,
    /// Absolute, with its trailing dot.
    pub target: String,
}

impl ExternalName {
    /// The Service's own name in the cluster zone, absolute.
    pub fn owner(&self) -> String {
        format!("{}.{}.svc.cluster.local.", self.service, self.namespace)
    }
}

/// An ordinary zone.
#[derive(Clone, Debug)]
pub struct Zone {
    /// Absolute, with its trailing dot.
    pub apex: String,
    pub records: Vec<Record>,
}

/// A record; an owner that starts with `*.` is a wildcard (RFC 4592).
#[derive(Clone, Debug)]
pub struct Record {
    /// Absolute, with its trailing dot.
    pub owner: String,
    pub ttl: u32,
    pub data: Data,
}

#[derive(Clone, Debug)]
pub enum Data {
    A(Ipv4Addr),
    Aaaa(Ipv6Addr),
    /// Absolute, with its trailing dot.
    Cname(String),
}

/// The tenants' VPC endpoints: foo has IPv4 only, in three availability zones; bar has both families.
pub const FOO_ENDPOINT: &str =
    "vpce-0f00f00f00f00f00f-foofoofo.vpce-svc-00df17f473adaf690.eu-west-1.vpce.amazonaws.com.";
pub const BAR_ENDPOINT: &str =
    "vpce-0ba50ba50ba50ba50-barbarba.vpce-svc-00df17f473adaf690.eu-west-1.vpce.amazonaws.com.";
pub const FOO_ADDRESSES: [IpAddr; 3] = [v4(10, 10, 1, 11), v4(10, 10, 2, 11), v4(10, 10, 3, 11)];
pub const BAR_ADDRESSES: [IpAddr; 3] = [
    v4(10, 20, 1, 21),
    v4(10, 20, 2, 21),
    IpAddr::V6(Ipv6Addr::new(0xfd00, 0x2020, 0, 0, 0, 0, 0, 0x21)),
];
/// The address of the public broker name: what a tenant without an endpoint of its own gets.
pub const PUBLIC_ADDRESS: IpAddr = v4(203, 0, 113, 7);
/// The address of [`FOREIGN`].
pub const FOREIGN_ADDRESSES: [IpAddr; 2] = [
    v4(192, 0, 2, 80),
    IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0x80)),
];

const fn v4(a: u8, b: u8, c: u8, d: u8) -> IpAddr {
    IpAddr::V4(Ipv4Addr::new(a, b, c, d))
}

impl Default for World {
    /// Tenants foo and bar with `kafka-upstream` Services, and a public name for all others.
    fn default() -> Self {
        let addresses = |owner: &str, ttl, addresses: &[IpAddr]| -> Vec<Record> {
            addresses
                .iter()
                .map(|address| Record {
                    owner: owner.to_owned(),
                    ttl,
                    data: match address {
                        IpAddr::V4(address) => Data::A(*address),
                        IpAddr::V6(address) => Data::Aaaa(*address),
                    },
                })
                .collect()
        };
        let upstream = |namespace: &str, target: &str| ExternalName {
            service: "kafka-upstream".to_owned(),
            namespace: namespace.to_owned(),
            target: target.to_owned(),
        };
        Self {
            external_names: vec![upstream("foo", FOO_ENDPOINT), upstream("bar", BAR_ENDPOINT)],
            namespaces: ["default", "foo", "bar", "baz"].map(str::to_owned).to_vec(),
            zones: vec![
                Zone {
                    apex: "vpce.amazonaws.com.".to_owned(),
                    records: [
                        addresses(FOO_ENDPOINT, 60, &FOO_ADDRESSES),
                        addresses(BAR_ENDPOINT, 60, &BAR_ADDRESSES),
                    ]
                    .concat(),
                },
                Zone {
                    apex: "kafka.managed.".to_owned(),
                    records: addresses("*.aws.private.kafka.managed.", 300, &[PUBLIC_ADDRESS]),
                },
                Zone {
                    apex: "example.com.".to_owned(),
                    records: addresses("www.example.com.", 300, &FOREIGN_ADDRESSES),
                },
            ],
        }
    }
}
