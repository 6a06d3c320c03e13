//! `gregor monitor`: the outcome of each intercepted query, as the running gregor reports it.

use std::{
    fmt::Write as _,
    io::{self, Write as _},
    path::PathBuf,
    process::ExitCode,
};

use crate::{
    monitor::{DEFAULT_RATE, Filter, LeftOut, Line, Record, Transport, Verdict},
    observe::Monitor,
};

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  gregor monitor
  gregor monitor --namespace foo --rate 10
  gregor monitor --json --interface eni0123
  gregor monitor --pod foo/web-0

One line for each query that a rule matches: who answered it (kernel or responder), or why it was passed on to the
existing cache. Queries that no rule matches are not shown. What is left out is counted in lines of its own.")]
pub struct Args {
    /// Print one JSON object per line.
    #[arg(long)]
    json: bool,
    /// Lines per second; 0 for all that there are.
    #[arg(long, value_name = "N", default_value_t = DEFAULT_RATE)]
    rate: u32,
    /// Only queries that came in on this interface.
    #[arg(long, value_name = "IF")]
    interface: Option<String>,
    /// Only queries for this namespace's target.
    #[arg(long, value_name = "NS")]
    namespace: Option<String>,
    /// Only queries of this pod, where it is known which one that is.
    #[arg(long, value_name = "NS/NAME")]
    pod: Option<String>,
    /// Where the running gregor listens.
    #[arg(long, value_name = "PATH", default_value = super::CONTROL)]
    control: PathBuf,
}

pub fn run(args: Args) -> anyhow::Result<ExitCode> {
    let filter = Filter {
        rate: args.rate,
        interface: args.interface,
        namespace: args.namespace,
        pod: args.pod,
    };
    super::block_on(async {
        let mut monitor = Monitor::open(&args.control, &filter).await?;
        if !args.json && !print(HEADER)? {
            return Ok(ExitCode::SUCCESS);
        }
        while let Some((json, line)) = monitor.next().await? {
            let text = if args.json { json } else { render(&line) };
            if !print(&text)? {
                return Ok(ExitCode::SUCCESS);
            }
        }
        anyhow::bail!("the gregor at {} has ended", args.control.display());
    })
}

/// Whether the output is still read.
fn print(line: &str) -> io::Result<bool> {
    let mut out = io::stdout().lock();
    match writeln!(out, "{line}").and_then(|()| out.flush()) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(false),
        Err(error) => Err(error),
    }
}

const HEADER: &str = "\
TIME                     INTERFACE       POD                      CLIENT                SERVER                \
QTYPE RULE         NAMESPACE        VERDICT                   RCODE    LATENCY  QNAME";

fn render(line: &Line) -> String {
    match line {
        Line::Query(record) => query(record),
        Line::LeftOut { left_out } => omission(left_out),
    }
}

/// The name comes last: it is the one column that is often long.
fn query(record: &Record) -> String {
    let or_none = |text: &Option<String>| text.clone().unwrap_or_else(|| "-".to_owned());
    let verdict = match (record.verdict, &record.reason) {
        (Verdict::Kernel, _) => "kernel".to_owned(),
        (Verdict::Responder, _) if record.stale => "responder (stale)".to_owned(),
        (Verdict::Responder, _) if record.transport == Transport::Tcp => {
            "responder (TCP)".to_owned()
        }
        (Verdict::Responder, _) => "responder".to_owned(),
        (Verdict::PassedOn, Some(reason)) => format!("passed on: {reason}"),
        (Verdict::PassedOn, None) => "passed on".to_owned(),
        (Verdict::Unanswered, Some(reason)) => format!("unanswered: {reason}"),
        (Verdict::Unanswered, None) => "unanswered".to_owned(),
    };
    let latency = record.latency.map_or_else(
        || "-".to_owned(),
        |latency| format!("{:.1} ms", latency.as_secs_f64() * 1e3),
    );
    format!(
        "{} {:<15} {:<24} {:<21} {:<21} {:<5} {:<12} {:<16} {:<25} {:<8} {:<8} {}",
        humantime::format_rfc3339_millis(record.time),
        record.interface,
        or_none(&record.pod),
        record.client.to_string(),
        record.server.to_string(),
        record.qtype,
        or_none(&record.rule),
        or_none(&record.namespace),
        verdict,
        or_none(&record.rcode),
        latency,
        record.qname,
    )
}

fn omission(left_out: &LeftOut) -> String {
    let mut text = String::from("left out:");
    for (count, why) in [
        (left_out.rate, "more than --rate"),
        (left_out.reader, "this reader was too slow"),
        (left_out.kernel, "more than the program reports"),
    ] {
        if count > 0 {
            let _ = write!(text, " {count} ({why})");
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn example() -> Record {
        serde_json::from_str(
            r#"{"time":"2023-11-14T22:13:20.123456Z","ifindex":7,"interface":"veth7","pod":"foo/web-0",
                "client":"10.0.0.2:5353","server":"169.254.20.10:53","transport":"udp","qname":"b-1.kafka.foo.svc.","qtype":"AAAA",
                "rule":"kafka","namespace":"foo","verdict":"responder","reason":null,"rcode":"NOERROR","stale":false,
                "latency_seconds":0.0015}"#,
        )
        .unwrap()
    }

    #[test]
    fn columns_are_aligned_with_their_header() {
        assert_eq!(
            [HEADER, &query(&example())],
            [
                "TIME                     INTERFACE       POD                      CLIENT                SERVER                QTYPE RULE         NAMESPACE        VERDICT                   RCODE    LATENCY  QNAME",
                "2023-11-14T22:13:20.123Z veth7           foo/web-0                10.0.0.2:5353         169.254.20.10:53      AAAA  kafka        foo              responder                 NOERROR  1.5 ms   b-1.kafka.foo.svc.",
            ]
        );
    }

    #[test]
    fn each_verdict_shows_the_server_or_the_reason() {
        let of = |verdict, reason: Option<&str>, stale| {
            query(&Record {
                verdict,
                reason: reason.map(str::to_owned),
                stale,
                ..example()
            })
        };
        assert!(of(Verdict::Kernel, None, false).contains(" kernel "));
        assert!(of(Verdict::Responder, None, true).contains(" responder (stale) "));
        let passed = of(Verdict::PassedOn, Some("no_target"), false);
        assert!(passed.contains(" passed on: no_target "), "{passed}");
    }

    #[test]
    fn missing_fields_have_a_dash() {
        let line = query(&Record {
            pod: None,
            rule: None,
            namespace: None,
            rcode: None,
            latency: None,
            ..example()
        });
        assert_eq!(line.matches(" - ").count(), 5, "{line}");
    }

    #[test]
    fn omitted_lines_are_reported_with_the_reason() {
        let left_out = LeftOut {
            rate: 40,
            reader: 0,
            kernel: 2,
        };
        assert_eq!(
            omission(&left_out),
            "left out: 40 (more than --rate) 2 (more than the program reports)"
        );
    }
}
