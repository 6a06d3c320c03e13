//! DNS messages as two unrelated parsers read them, hickory-proto and miekg/dns, put into one form that can be compared.

use std::{
    fmt::Write as _,
    io::Write as _,
    process::{Command, Stdio},
    thread,
};

use anyhow::{Context as _, Result, bail, ensure};
use hickory_proto::{
    op::{Message, MessageType},
    rr::{Name, Record as HickoryRecord},
    serialize::binary::{
        BinDecodable as _, BinDecoder, BinEncodable as _, BinEncoder, NameEncoding,
    },
};
use serde::Deserialize;

use crate::tools;

/// A message taken apart. Names and rdata are in hexadecimal, uncompressed, so that both parsers can be held to each byte.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Reading {
    pub id: u16,
    pub qr: bool,
    pub opcode: u8,
    pub aa: bool,
    pub tc: bool,
    pub rd: bool,
    pub ra: bool,
    /// The header's reserved bit; hickory does not expose it, so [`hickory`] looks for itself.
    pub z: bool,
    pub ad: bool,
    pub cd: bool,
    /// With its upper bits from OPT.
    pub rcode: u16,
    pub question: Vec<Question>,
    pub answer: Vec<Record>,
    pub authority: Vec<Record>,
    /// Without OPT.
    pub additional: Vec<Record>,
    pub opt: Option<Opt>,
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Question {
    pub name: String,
    #[serde(rename = "type")]
    pub qtype: u16,
    pub class: u16,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
pub struct Record {
    pub name: String,
    #[serde(rename = "type")]
    pub rtype: u16,
    pub class: u16,
    pub ttl: u32,
    pub data: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Opt {
    /// UDP payload size.
    pub size: u16,
    pub version: u8,
    #[serde(rename = "do")]
    pub dnssec_ok: bool,
    /// The flags beside DO.
    pub z: u16,
    pub options: Vec<OptOption>,
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct OptOption {
    pub code: u16,
    pub data: String,
}

/// Reads messages with both parsers.
///
/// # Errors
/// When either refuses one of them, or they do not read the same: with the message's index and bytes.
pub fn both<M: AsRef<[u8]>>(messages: &[M]) -> Result<Vec<Reading>> {
    miekg(messages)?
        .into_iter()
        .zip(messages)
        .enumerate()
        .map(|(index, (second, message))| {
            let message = message.as_ref();
            let what = || format!("message {index}: {}", hex(message));
            let second = second
                .map_err(anyhow::Error::msg)
                .context("miekg/dns")
                .with_context(what)?;
            let first = hickory(message).context("hickory").with_context(what)?;
            let mut alike = second.clone();
            if let Some(opt) = &mut alike.opt {
                // As hickory reads it: less than 512 means 512 (RFC 6891 §6.2.3).
                opt.size = opt.size.max(512);
            }
            ensure!(
                first == alike,
                "{}\nhickory: {first:#?}\nmiekg/dns: {second:#?}",
                what()
            );
            Ok(second)
        })
        .collect()
}

/// miekg/dns' reading of each message, or why it refuses it. One process reads them all.
pub fn miekg<M: AsRef<[u8]>>(messages: &[M]) -> Result<Vec<Result<Reading, String>>> {
    let mut input = Vec::new();
    for message in messages {
        let message = message.as_ref();
        let length = u16::try_from(message.len()).context("a message over 65,535 bytes")?;
        input.extend(length.to_be_bytes());
        input.extend(message);
    }
    let mut process = Command::new(tools::unpack()?)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    let mut stdin = process.stdin.take().context("no standard input")?;
    // It prints while it reads, and would wait for its reader.
    let writer = thread::spawn(move || stdin.write_all(&input));
    let output = process.wait_with_output()?;
    if !output.status.success() {
        bail!("unpack: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    if let Ok(written) = writer.join() {
        written.context("writing to unpack")?;
    }
    let text = String::from_utf8(output.stdout)?;
    let readings = text
        .lines()
        .map(|line| {
            let value: serde_json::Value = serde_json::from_str(line)?;
            if let Some(error) = value.get("error").and_then(serde_json::Value::as_str) {
                return Ok(Err(error.to_owned()));
            }
            Ok(Ok(serde_json::from_value(value)?))
        })
        .collect::<Result<Vec<_>>>()?;
    ensure!(
        readings.len() == messages.len(),
        "unpack: {} lines for {} messages",
        readings.len(),
        messages.len()
    );
    Ok(readings)
}

/// hickory's reading of a message.
pub fn hickory(bytes: &[u8]) -> Result<Reading> {
    let mut decoder = BinDecoder::new(bytes);
    let message = Message::read(&mut decoder)?;
    ensure!(
        decoder.is_empty(),
        "{} bytes behind the last record",
        decoder.len()
    );
    let metadata = &message.metadata;
    let opt = message.edns.as_ref().map(opt).transpose()?;
    Ok(Reading {
        id: metadata.id,
        qr: metadata.message_type == MessageType::Response,
        opcode: metadata.op_code.into(),
        aa: metadata.authoritative,
        tc: metadata.truncation,
        rd: metadata.recursion_desired,
        ra: metadata.recursion_available,
        z: bytes[3] & 0x40 != 0,
        ad: metadata.authentic_data,
        cd: metadata.checking_disabled,
        rcode: metadata.response_code.into(),
        question: message
            .queries
            .iter()
            .map(|query| {
                Ok(Question {
                    name: hex(&name(query.name())?),
                    qtype: query.query_type().into(),
                    class: query.query_class().into(),
                })
            })
            .collect::<Result<_>>()?,
        answer: records(&message.answers)?,
        authority: records(&message.authorities)?,
        additional: records(&message.additionals)?,
        opt,
    })
}

fn opt(edns: &hickory_proto::op::Edns) -> Result<Opt> {
    let record = flat(&HickoryRecord::from(edns))?;
    let mut data = record.rdata.as_slice();
    let mut options = Vec::new();
    while let [a, b, c, d, rest @ ..] = data {
        let length = u16::from_be_bytes([*c, *d]).into();
        let (own, rest) = rest.split_at_checked(length).context("half an option")?;
        options.push(OptOption {
            code: u16::from_be_bytes([*a, *b]),
            data: hex(own),
        });
        data = rest;
    }
    ensure!(data.is_empty(), "half an option");
    Ok(Opt {
        size: edns.max_payload(),
        version: edns.version(),
        dnssec_ok: edns.flags().dnssec_ok,
        z: edns.flags().z,
        options,
    })
}

fn records(records: &[HickoryRecord]) -> Result<Vec<Record>> {
    records
        .iter()
        .map(|record| {
            let flat = flat(record)?;
            Ok(Record {
                name: hex(&flat.owner),
                rtype: record.record_type().into(),
                class: record.dns_class.into(),
                ttl: record.ttl,
                data: hex(&flat.rdata),
            })
        })
        .collect()
}

struct Flat {
    owner: Vec<u8>,
    rdata: Vec<u8>,
}

/// Owner and rdata without compression.
fn flat(record: &HickoryRecord) -> Result<Flat> {
    let owner = name(&record.name)?;
    let mut wire = Vec::new();
    let mut encoder = BinEncoder::new(&mut wire);
    encoder.set_name_encoding(NameEncoding::Uncompressed);
    record.emit(&mut encoder)?;
    // Type, class, TTL and length are between owner and rdata.
    let rdata = wire.split_off(owner.len() + 10);
    Ok(Flat { owner, rdata })
}

fn name(name: &Name) -> Result<Vec<u8>> {
    let mut wire = Vec::new();
    let mut encoder = BinEncoder::new(&mut wire);
    encoder.set_name_encoding(NameEncoding::Uncompressed);
    name.emit(&mut encoder)?;
    Ok(wire)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests;
