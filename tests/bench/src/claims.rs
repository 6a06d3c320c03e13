//! The claims about gregor, whether a run confirms them, and known reasons where it does not.

use super::{
    analyse::FIRST,
    contenders::{
        COREDNS, GREGOR_COREDNS, GREGOR_NODELOCAL, NODELOCAL, REFLECTOR, REFLECTOR_LONG, RESPONDER,
        UNBOUND,
    },
    metric,
    schema::{CellReport, Claim, Ratio, Required},
    stats::Interval,
};

const KERNEL_ANSWERS: &str =
    "answers from the kernel: answers per second beside the fixed-answer program";

/// What is known of why a claim does not hold where it does not, by the beginning of its text.
const CAUSES: [(&str, &str); 7] = [
    (
        KERNEL_ANSWERS,
        "an answer has no room behind its question, so that the kernel takes a larger buffer and copies the frame \
         (bpf_skb_change_tail); one fixed record has room. The next line is beside a fixed answer that has none either",
    ),
    (
        "foreign queries: throughput",
        "the program and the tables that it looks at are cold in the processor's caches whenever the cache server has run: some \
         300 ns for a foreign query end to end, where the program by itself takes a tenth of that",
    ),
    ("foreign queries: latency", "as for throughput"),
    (
        "TCP",
        "the kernel calls the program for each segment, and it looks at its headers (what one packet pays, below); segments of 536 bytes \
         that nothing puts together are the worst case",
    ),
    (
        "UDP",
        "the kernel calls the program for each datagram, and it looks at its headers (what one packet pays, below)",
    ),
    (
        "time per answer with 50000 namespaces",
        "so many answers are read from memory and through more pages than the processor keeps addresses of",
    ),
    ("unloaded median latency", "as for the answers per second"),
];

fn cause(text: &str) -> Option<&'static str> {
    CAUSES
        .iter()
        .find(|(beginning, _)| text.starts_with(beginning))
        .map(|(_, cause)| *cause)
}

/// What gregor is to show, as far as there are cells for it.
pub fn claims(cells: &[CellReport]) -> Vec<Claim> {
    let mut claims = vec![
        to_other(
            cells,
            KERNEL_ANSWERS,
            ("throughput/matched", GREGOR_NODELOCAL, REFLECTOR),
            metric::ANSWERS,
            Required::AtLeast(0.9),
        ),
        to_other(
            cells,
            "the same beside one whose fixed answer is as long",
            ("throughput/matched", GREGOR_NODELOCAL, REFLECTOR_LONG),
            metric::ANSWERS,
            Required::AtLeast(0.9),
        ),
        per_machine_second(cells, NODELOCAL, 20.0),
        per_machine_second(cells, UNBOUND, 5.0),
        to_other(
            cells,
            "unloaded median latency beside the fixed-answer program",
            ("latency", GREGOR_NODELOCAL, REFLECTOR),
            metric::P50,
            Required::AtMost(1.2),
        ),
        to_other(
            cells,
            "responder only: answers per second beside CoreDNS as NodeLocal",
            ("throughput/matched", RESPONDER, NODELOCAL),
            metric::ANSWERS,
            Required::AtLeast(1.0),
        ),
        to_other(
            cells,
            "over plain CoreDNS: answers per second beside it",
            ("throughput/matched", GREGOR_COREDNS, COREDNS),
            metric::ANSWERS,
            Required::AtLeast(1.0),
        ),
    ];
    for (id, text, required) in [
        (
            "pair/foreign-throughput",
            "foreign queries: throughput of the cache with gregor, in parts of without",
            Required::IntervalAtLeast(0.97),
        ),
        (
            "pair/foreign-latency",
            "foreign queries: latency of the cache with gregor, in parts of without",
            Required::IntervalAtMost(1.03),
        ),
        (
            "pair/tcp",
            "TCP in small segments with gregor, in parts of without",
            Required::IntervalAtLeast(0.97),
        ),
        (
            "pair/udp",
            "UDP in small datagrams with gregor, in parts of without",
            Required::IntervalAtLeast(0.97),
        ),
    ] {
        let figure = cells
            .iter()
            .find(|cell| cell.id == id)
            .and_then(|cell| cell.figure(metric::RATIO, None));
        let ratio = figure.map(|figure| Ratio {
            median: figure.summary.median,
            interval: figure.interval,
        });
        claims.push(claim(text, ratio, required));
    }
    for (id, what) in [
        ("growth/rules", "rules"),
        ("growth/namespaces", "namespaces"),
    ] {
        let last = cells
            .iter()
            .find(|cell| cell.id == id)
            .and_then(|cell| {
                let answers = cell.figures.iter().filter(|f| f.metric == metric::ANSWERS);
                answers.max_by_key(|figure| figure.point)
            })
            .filter(|figure| figure.point > Some(1));
        let text = match last.and_then(|figure| figure.point) {
            Some(point) => format!("time per answer with {point} {what}, in parts of that with 1"),
            None => format!("time per answer as {what} grow"),
        };
        // Time is the inverse of the rate, and a quantile of an inverse is the inverse of the other quantile.
        let ratio = last
            .and_then(|figure| figure.ratios.get(FIRST))
            .map(inverse);
        claims.push(claim(&text, ratio, Required::AtMost(1.2)));
    }
    claims
}

fn inverse(ratio: &Ratio) -> Ratio {
    Ratio {
        median: 1.0 / ratio.median,
        interval: ratio.interval.map(|interval| Interval {
            count: interval.count,
            median: 1.0 / interval.median,
            low: 1.0 / interval.high,
            high: 1.0 / interval.low,
        }),
    }
}

/// Answers per second that the machine works are the inverse of its busy time for an answer.
fn per_machine_second(cells: &[CellReport], other: &str, least: f64) -> Claim {
    let text = format!("answers per second of busy machine beside {other}");
    let ratio = find_ratio(
        cells,
        ("throughput/matched", GREGOR_NODELOCAL, other),
        metric::BUSY,
    );
    let ratio = ratio.map(|ratio| inverse(&ratio));
    claim(&text, ratio, Required::AtLeast(least))
}

fn to_other(
    cells: &[CellReport],
    text: &str,
    which: (&str, &str, &str),
    metric: &str,
    required: Required,
) -> Claim {
    claim(text, find_ratio(cells, which, metric), required)
}

fn find_ratio(
    cells: &[CellReport],
    (work, contender, other): (&str, &str, &str),
    metric: &str,
) -> Option<Ratio> {
    let id = format!("{work}/{contender}");
    let cell = cells.iter().find(|cell| cell.id == id)?;
    cell.figure(metric, None)?.ratios.get(other).copied()
}

fn claim(text: &str, ratio: Option<Ratio>, required: Required) -> Claim {
    let holds = ratio.and_then(|ratio| holds(&ratio, required));
    let cause = if holds == Some(false) {
        cause(text)
    } else {
        None
    };
    Claim {
        text: text.to_owned(),
        measured: ratio.map(|ratio| ratio.median),
        interval: ratio.and_then(|ratio| ratio.interval),
        required,
        holds,
        cause: cause.map(str::to_owned),
    }
}

/// None where the interval that is required was not measured.
fn holds(ratio: &Ratio, required: Required) -> Option<bool> {
    match required {
        Required::AtLeast(least) => Some(ratio.median >= least),
        Required::AtMost(most) => Some(ratio.median <= most),
        Required::IntervalAtLeast(least) => ratio.interval.map(|interval| interval.low >= least),
        Required::IntervalAtMost(most) => ratio.interval.map(|interval| interval.high <= most),
    }
}
