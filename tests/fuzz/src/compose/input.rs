//! From bytes to a query and an answer, by the rules that the responder keeps.

use arbitrary::{Result, Unstructured};
use gregor::resolve::{Answer, Query, fuzzing::MAX_STEPS, wire_name};
use hickory_proto::rr::{Name, RecordType, rdata::SOA};

/// One call of the compose step.
pub struct Input {
    pub query: Query,
    pub found: Answer,
    pub ttl_seconds: u32,
    pub rotation: usize,
    /// Whether the rdata is such that hickory must be able to read it.
    pub hickory_reads: bool,
}

/// Enough for answers that no datagram holds; larger ones say nothing new and cost time.
const MAX_RECORDS: usize = 128;
const MAX_RDATA: usize = 2048;

const SUFFIXES: [&str; 4] = [
    "svc.cluster.local.",
    "foo.svc.cluster.local.",
    "vpce.amazonaws.com.",
    "Example.",
];

impl Input {
    pub fn read(data: &[u8]) -> Result<Self> {
        let mut input = Unstructured::new(data);
        let qtype = *input.choose(&[1u16, 28, 5, 65, 64, 16, 0xff00])?;
        let query = query(&mut input, qtype)?;
        let found = found(&mut input, qtype.into())?;
        Ok(Self {
            query,
            found,
            ttl_seconds: input.arbitrary()?,
            rotation: input.arbitrary()?,
            hickory_reads: matches!(qtype, 1 | 28 | 5 | 0xff00),
        })
    }
}

fn query(input: &mut Unstructured, qtype: u16) -> Result<Query> {
    let mut message = input.bytes(2)?.to_vec();
    let flags: u16 = input.arbitrary()?;
    message.extend((flags & 0x0130).to_be_bytes());
    let opt: Option<(u16, bool)> = input.arbitrary()?;
    message.extend([0, 1, 0, 0, 0, 0, 0, u8::from(opt.is_some())]);
    message.extend(wire_name(&name(input, &[])?));
    message.extend(qtype.to_be_bytes());
    message.extend([0, 1]);
    if let Some((size, dnssec_ok)) = opt {
        message.extend([0, 0, 41]);
        message.extend(size.to_be_bytes());
        message.extend([0, 0, u8::from(dnssec_ok) << 7, 0, 0, 0]);
    }
    Ok(Query::parse(&message).expect("a plain query"))
}

fn found(input: &mut Unstructured, qtype: RecordType) -> Result<Answer> {
    let mut names = vec![name(input, &[])?];
    for _ in 0..input.int_in_range(0..=MAX_STEPS)? {
        names.push(name(input, &names)?);
    }
    let mut rdata: Vec<Vec<u8>> = Vec::new();
    if qtype != RecordType::CNAME {
        let len = match qtype {
            RecordType::A => 4,
            RecordType::AAAA => 16,
            // hickory refuses a record of unknown type without a byte.
            _ => input.int_in_range(4..=300)?,
        };
        // One byte for all of them: large RRsets, which do not fit, are as easy to come by as small ones.
        let fill: u8 = input.arbitrary()?;
        for index in 0..input.int_in_range(0..=MAX_RECORDS.min(MAX_RDATA / len))? {
            let mut record = vec![fill; len];
            record[0] = index as u8;
            // Records of one length are the rule, and others must do too.
            if len > 16 && fill & 1 != 0 {
                record.truncate(len - index % 4);
            }
            rdata.push(record);
        }
    }
    let soa = if rdata.is_empty() && input.arbitrary()? {
        let zone = name(input, &names)?;
        let soa = SOA::new(
            name(input, &names)?,
            name(input, &names)?,
            input.arbitrary()?,
            input.arbitrary()?,
            input.arbitrary()?,
            input.arbitrary()?,
            input.arbitrary()?,
        );
        Some(Box::new((zone, soa)))
    } else {
        None
    };
    Ok(Answer {
        qtype,
        names,
        rdata,
        soa,
        ttl_seconds: 60,
    })
}

/// Some labels in front of a known suffix, of the end of an earlier name, or of nothing.
fn name(input: &mut Unstructured, earlier: &[Name]) -> Result<Name> {
    let suffix = match input.int_in_range(0..=2)? {
        0 => Name::from_ascii(input.choose(&SUFFIXES)?).expect("a name"),
        1 if !earlier.is_empty() => {
            let whole = input.choose(earlier)?;
            let labels = usize::from(whole.num_labels());
            whole.trim_to(input.int_in_range(0..=labels)?)
        }
        _ => Name::root(),
    };
    let mut labels: Vec<Vec<u8>> = Vec::new();
    let mut len = wire_name(&suffix).len();
    for _ in 0..input.int_in_range(0..=8)? {
        let label_len = input.int_in_range(1..=63)?;
        len += 1 + label_len;
        if len > 255 {
            break;
        }
        labels.push(input.bytes(label_len)?.to_vec());
    }
    labels.extend(suffix.iter().map(<[u8]>::to_vec));
    let mut name = Name::from_labels(labels).expect("labels within their limits");
    name.set_fqdn(true);
    Ok(name)
}
