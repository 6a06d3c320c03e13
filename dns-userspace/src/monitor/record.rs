//! One line of `gregor monitor`, as JSON and in memory.

use std::{
    net::SocketAddr,
    time::{Duration, SystemTime},
};

use serde::{Deserialize, Serialize};

use super::Exchange;
use crate::model::Transport;

/// What answered a query, or did not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// The program answered by itself.
    Kernel,
    /// The responder answered.
    Responder,
    /// The query went on to the existing cache.
    PassedOn,
    /// The query got no reply: the name exists, and its records are not known now; or it is one that is refused.
    Unanswered,
}

/// One intercepted query and its outcome.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// When it was recorded: with or right after the answer.
    #[serde(with = "rfc3339")]
    pub time: SystemTime,
    pub ifindex: u32,
    /// The name of the interface with this index; empty when it was removed.
    pub interface: String,
    /// `NAMESPACE/NAME` of the pod behind it, where that is known.
    #[serde(default)]
    pub pod: Option<String>,
    pub client: SocketAddr,
    pub server: SocketAddr,
    pub transport: Transport,
    /// In the case that it was sent in, escaped as in a zone file.
    pub qname: String,
    pub qtype: String,
    /// Name of the rule.
    pub rule: Option<String>,
    pub namespace: Option<String>,
    pub verdict: Verdict,
    /// Why it was passed on, with the labels of the metrics.
    pub reason: Option<String>,
    /// Of the answer.
    pub rcode: Option<String>,
    /// The answer has outlived its TTL.
    pub stale: bool,
    /// From the responder's first sight of the query to its answer, in seconds.
    #[serde(rename = "latency_seconds", with = "seconds")]
    pub latency: Option<Duration>,
}

impl Record {
    /// A query before its outcome is known: over UDP, and answered by the responder, until that is set otherwise.
    pub fn new(exchange: &Exchange, time: SystemTime, ifindex: u32) -> Record {
        Record {
            time,
            ifindex,
            interface: String::new(),
            pod: None,
            client: exchange.client,
            server: exchange.server,
            transport: Transport::Udp,
            qname: exchange.qname_text(),
            qtype: exchange.qtype_text(),
            rule: None,
            namespace: None,
            verdict: Verdict::Responder,
            reason: None,
            rcode: None,
            stale: false,
            latency: None,
        }
    }
}

/// Queries without a line, since the last line that counted them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeftOut {
    /// More lines per second than asked for.
    pub rate: u64,
    /// The reader was too slow.
    pub reader: u64,
    /// The program decided more per second than it reports, whatever interface and namespace.
    pub kernel: u64,
}

impl LeftOut {
    pub fn is_nothing(&self) -> bool {
        *self == LeftOut::default()
    }
}

/// What a reader is sent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Line {
    LeftOut { left_out: LeftOut },
    Query(Box<Record>),
}

pub(super) mod rfc3339 {
    use std::time::SystemTime;

    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub fn serialize<S: Serializer>(time: &SystemTime, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&humantime::format_rfc3339_micros(*time))
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<SystemTime, D::Error> {
        let text = String::deserialize(from)?;
        humantime::parse_rfc3339(&text).map_err(D::Error::custom)
    }
}

mod seconds {
    use std::time::Duration;

    use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error};

    pub fn serialize<S: Serializer>(value: &Option<Duration>, to: S) -> Result<S::Ok, S::Error> {
        value.map(|value| value.as_secs_f64()).serialize(to)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Duration>, D::Error> {
        Option::<f64>::deserialize(from)?
            .map(Duration::try_from_secs_f64)
            .transpose()
            .map_err(D::Error::custom)
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub fn example() -> Record {
        Record {
            time: SystemTime::UNIX_EPOCH + Duration::from_micros(1_700_000_000_123_456),
            ifindex: 7,
            interface: "veth7".to_owned(),
            pod: None,
            client: "10.0.0.2:5353".parse().unwrap(),
            server: "169.254.20.10:53".parse().unwrap(),
            transport: Transport::Udp,
            qname: "b-1.kafka.foo.svc.".to_owned(),
            qtype: "A".to_owned(),
            rule: Some("kafka".to_owned()),
            namespace: Some("foo".to_owned()),
            verdict: Verdict::Responder,
            reason: None,
            rcode: Some("NOERROR".to_owned()),
            stale: false,
            latency: Some(Duration::from_micros(1500)),
        }
    }

    #[test]
    fn both_kinds_of_line_come_back_from_json() {
        let left_out = LeftOut {
            rate: 1,
            reader: 0,
            kernel: 3,
        };
        for line in [Line::Query(Box::new(example())), Line::LeftOut { left_out }] {
            let text = serde_json::to_string(&line).unwrap();
            assert_eq!(serde_json::from_str::<Line>(&text).unwrap(), line, "{text}");
        }
    }

    #[test]
    fn the_fields_that_scripts_rely_on() {
        let json = serde_json::to_value(example()).unwrap();
        assert_eq!(json["time"], "2023-11-14T22:13:20.123456Z");
        assert_eq!(json["client"], "10.0.0.2:5353");
        assert_eq!(json["pod"], serde_json::Value::Null);
        let identified = Record {
            pod: Some("foo/web-0".to_owned()),
            ..example()
        };
        let identified = serde_json::to_value(identified).unwrap();
        assert_eq!(identified["pod"], "foo/web-0");
        assert_eq!(json["verdict"], "responder");
        assert_eq!(json["latency_seconds"], 0.0015);
        let passed = Record {
            verdict: Verdict::PassedOn,
            reason: Some("no_target".to_owned()),
            ..example()
        };
        let json = serde_json::to_value(passed).unwrap();
        assert_eq!(
            (&json["verdict"], &json["reason"]),
            (&"passed_on".into(), &"no_target".into())
        );
    }
}
