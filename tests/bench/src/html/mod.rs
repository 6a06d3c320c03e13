//! The report as one HTML page: style and plots inside, nothing fetched, no script.

mod charts;
mod svg;

use std::fmt::Write as _;

use anyhow::Result;

use self::{
    charts::{Bar, Curve, Point},
    svg::escape,
};
use super::{
    analyse::FIRST,
    contenders::{GREGOR_NODELOCAL, NODELOCAL, REFLECTOR, RESPONDER},
    figures,
    journal::duration_text,
    metric,
    schema::{CellReport, Claim, Figure, Report},
    terminal,
};

const STYLE: &str = include_str!("style.css");

/// Others using more of the machine than this are pointed out.
const NOISY: f64 = 0.05;

/// The whole page.
pub fn page(report: &Report) -> Result<String> {
    let mut body = String::new();
    head(&mut body, report);
    claims(&mut body, &report.claims);
    throughput(&mut body, report);
    latency(&mut body, report)?;
    pairs(&mut body, report);
    program(&mut body, report);
    growth(&mut body, report);
    table(&mut body, report);
    method(&mut body, report);
    Ok(format!(
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <title>gregor: benchmark report</title>\n<style>\n{STYLE}</style>\n</head>\n<body>\n<main>\n{body}</main>\n</body>\n</html>\n"
    ))
}

fn head(body: &mut String, report: &Report) {
    let machine = &report.machine;
    let commit = report.gregor.commit.as_deref().unwrap_or("no commit");
    let _ = write!(
        body,
        "<h1>gregor beside what people run today</h1>\n<p class=\"soft\">gregor {} ({}{}), {} run of {} on {}</p>\n\
         <p>{}: {} cores, {} GiB, Linux {}{}{}.</p>\n",
        escape(&report.gregor.version),
        escape(commit.get(..12).unwrap_or(commit)),
        if report.gregor.modified {
            ", modified"
        } else {
            ""
        },
        match report.mode {
            super::plan::Mode::Quick => "quick",
            super::plan::Mode::Full => "full",
        },
        duration_text(std::time::Duration::from_secs_f64(report.seconds)),
        date(report.started),
        escape(&machine.cpu),
        machine.cores,
        machine.memory_kib / 1_048_576,
        escape(&machine.kernel),
        if machine.virtual_machine {
            ", a virtual machine"
        } else {
            ""
        },
        machine
            .governor
            .as_ref()
            .map_or(String::new(), |governor| format!(
                ", governor {}",
                escape(governor)
            )),
    );
    if report.background > NOISY {
        let _ = writeln!(
            body,
            "<p class=\"warning\">Before the run, others used {:.0} % of this machine. Figures of such a run are for finding mistakes; do not quote them.</p>",
            report.background * 100.0
        );
    }
}

/// A day in the calendar, from seconds since 1970.
fn date(seconds: u64) -> String {
    // Days to a date in the Gregorian calendar, counted in eras of 400 years that begin in March.
    let days = (seconds / 86_400) as i64 + 719_468;
    let era = days / 146_097;
    let day_of_era = days % 146_097;
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    format!("{year:04}-{month:02}-{day:02}")
}

fn claims(body: &mut String, claims: &[Claim]) {
    body.push_str("<h2>What it is to show</h2>\n<table>\n");
    for claim in claims {
        let class = match claim.holds {
            Some(true) => "holds",
            Some(false) => "fails",
            None => "open",
        };
        let _ = writeln!(
            body,
            "<tr><td class=\"{class}\">{}</td><td>{}{}</td><td class=\"number\">{}</td></tr>",
            terminal::verdict(claim).to_lowercase(),
            escape(&claim.text),
            claim.cause.as_deref().map_or_else(String::new, |cause| {
                format!("<br><span class=\"soft\">{}</span>", escape(cause))
            }),
            escape(&terminal::measured(claim))
        );
    }
    body.push_str("</table>\n");
}

fn bars_of(report: &Report, work: &str, metric: &str) -> Vec<Bar> {
    report
        .cells
        .iter()
        .filter(|cell| cell.work() == work)
        .filter_map(|cell| {
            let figure = cell.figure(metric, None)?;
            let contender = cell.contender.clone().unwrap_or_default();
            Some(Bar {
                label: report.title(&contender),
                contender,
                median: figure.summary.median,
                rounds: values(cell, metric),
            })
        })
        .collect()
}

fn figure(body: &mut String, chart: &str, caption: &str) {
    let _ = writeln!(
        body,
        "<figure>{chart}<figcaption>{}</figcaption></figure>",
        escape(caption)
    );
}

fn throughput(body: &mut String, report: &Report) {
    let works: Vec<&str> = works(report, |cell| cell.figure(metric::ANSWERS, None).is_some());
    if works.is_empty() {
        return;
    }
    body.push_str("<h2>Throughput</h2>\n<p>Bars are medians over all rounds; each dot is one round, so their spread is the noise.</p>\n");
    for work in works {
        let (title, caption) = match work {
            "throughput/matched" => (
                "Answers per second to matched names, warm, one pod",
                "Frames from inside the pod, at most 100 queries under way; the dropping program answers nothing and shows what the generator alone could send.",
            ),
            "throughput/mixed-1" => (
                "1 % of all queries matched",
                "The other names are answered by the existing cache in both cases.",
            ),
            "throughput/mixed-50" => ("Half of all queries matched", ""),
            "throughput/10-pods" => ("10 pods, each with its own namespace", ""),
            "throughput/100-pods" => ("100 pods, each with its own namespace", ""),
            "cold" => (
                "Matched names that were not asked for before",
                "Each name is asked once; a cache has to make each answer, gregor's answers do not depend on the first label.",
            ),
            "dnsperf" => (
                "The same names as dnsperf sees it",
                "dnsperf's own sockets are the limit of whatever answers faster than it sends.",
            ),
            other => (other, ""),
        };
        let mut bars = bars_of(report, work, metric::ANSWERS);
        if let Some(cell) = report.cell(&format!("{work}/discard"))
            && let Some(sent) = cell.figure(metric::SENT, None)
        {
            bars.insert(
                0,
                Bar {
                    label: "sent to the dropping program".to_owned(),
                    contender: "discard".to_owned(),
                    median: sent.summary.median,
                    rounds: values(cell, metric::SENT),
                },
            );
        }
        let _ = writeln!(body, "<h3>{}</h3>", escape(title));
        figure(body, &charts::bars(title, "1/s", &bars), caption);
    }
    let busy: Vec<Bar> = bars_of(report, "throughput/matched", metric::BUSY)
        .into_iter()
        .filter(|bar| bar.contender != "discard")
        .collect();
    if !busy.is_empty() {
        let title = "Processor time of the whole machine for a million answers";
        let _ = writeln!(body, "<h3>{title}</h3>");
        figure(
            body,
            &charts::bars(title, "s", &busy),
            "All that the machine was busy with, kernel and every process, less what the same generator costs when its queries are dropped.",
        );
    }
}

/// Names of cells without their contender, each once, in order.
fn works(report: &Report, keep: impl Fn(&CellReport) -> bool) -> Vec<&str> {
    let mut works: Vec<&str> = Vec::new();
    for cell in report.cells.iter().filter(|cell| cell.contender.is_some()) {
        if keep(cell) && !works.contains(&cell.work()) {
            works.push(cell.work());
        }
    }
    works
}

fn latency(body: &mut String, report: &Report) -> Result<()> {
    let works = works(report, |cell| cell.latency.is_some());
    if works.is_empty() {
        return Ok(());
    }
    body.push_str("<h2>Latency at the pod</h2>\n");
    for work in works {
        let (title, caption) = match work.strip_prefix("latency-at-") {
            None => (
                "Unloaded: one query after the other".to_owned(),
                "One UDP socket, as a stub resolver has it.",
            ),
            Some(rate) => (
                format!("{rate} queries per second at intended times"),
                "A query's time starts when it was meant to be sent, so that a pause is charged to every query that had to wait for it.",
            ),
        };
        let mut curves = Vec::new();
        for cell in report.cells.iter().filter(|cell| cell.work() == work) {
            let (Some(times), Some(contender)) = (&cell.latency, &cell.contender) else {
                continue;
            };
            curves.push(Curve {
                label: report.title(contender),
                contender: contender.clone(),
                times: times.histogram()?,
            });
        }
        let _ = writeln!(body, "<h3>{}</h3>", escape(&title));
        figure(body, &charts::latency(&title, &curves), caption);
    }
    Ok(())
}

fn pairs(body: &mut String, report: &Report) {
    let cells: Vec<&CellReport> = report
        .cells
        .iter()
        .filter(|cell| cell.figure(metric::RATIO, None).is_some())
        .collect();
    if cells.is_empty() {
        return;
    }
    body.push_str("<h2>What everything else pays</h2>\n<p>Two pods do the same work over the same cache in turn, one of them with gregor on its interface. Each dot is one round: with gregor, in parts of without. The bar is the interval that holds the true median with 95 %; the dashed line is the bound that it is to keep.</p>\n");
    for cell in cells {
        let Some(figure_of) = cell.figure(metric::RATIO, None) else {
            continue;
        };
        let (title, bound) = match cell.id.as_str() {
            "pair/foreign-throughput" => {
                ("Foreign queries: throughput of the existing cache", 0.97)
            }
            "pair/foreign-latency" => (
                "Foreign queries: median latency of the existing cache",
                1.03,
            ),
            "pair/tcp" => ("TCP in small segments (iperf3)", 0.97),
            "pair/udp" => ("UDP in small datagrams (iperf3)", 0.97),
            other => (other, 1.0),
        };
        let ratios = values(cell, metric::RATIO);
        let interval = figure_of.interval;
        let caption = match interval {
            Some(interval) => format!(
                "{} rounds, median {}, 95 % from {} to {}",
                interval.count,
                figures::ratio(interval.median),
                figures::digits(interval.low),
                figures::ratio(interval.high)
            ),
            None => format!("{} pairs: too few for an interval", ratios.len()),
        };
        let _ = writeln!(body, "<h3>{}</h3>", escape(title));
        figure(
            body,
            &charts::pairs(title, &ratios, interval, bound),
            &caption,
        );
    }
}

fn program(body: &mut String, report: &Report) {
    let Some(cell) = report.cell("program") else {
        return;
    };
    let bars: Vec<Bar> = [
        (metric::PROGRAM_NOT_DNS, "not DNS", GREGOR_NODELOCAL),
        (metric::PROGRAM_FOREIGN, "a foreign name", GREGOR_NODELOCAL),
        (
            metric::PROGRAM_CLUSTER,
            "another name of the cluster",
            GREGOR_NODELOCAL,
        ),
        (
            metric::PROGRAM_RECOGNISED,
            "a match, no responder",
            GREGOR_NODELOCAL,
        ),
        (
            metric::PROGRAM_HANDED_OVER,
            "a match, to the responder",
            RESPONDER,
        ),
        (
            metric::PROGRAM_ANSWERED,
            "a match, answered",
            GREGOR_NODELOCAL,
        ),
        (
            metric::PROGRAM_REFLECTOR,
            "fixed answer of one address",
            REFLECTOR,
        ),
        (
            metric::PROGRAM_WHOLE_REFLECTOR,
            "fixed answer as long as gregor's",
            REFLECTOR,
        ),
    ]
    .into_iter()
    .filter_map(|(metric, label, contender)| {
        Some(Bar {
            label: label.to_owned(),
            contender: contender.to_owned(),
            median: cell.figure(metric, None)?.summary.median,
            rounds: values(cell, metric),
        })
    })
    .collect();
    let title = "What one packet pays in the program itself";
    let _ = writeln!(body, "<h3>{title}</h3>");
    figure(
        body,
        &charts::bars(title, "ns", &bars),
        "BPF_PROG_TEST_RUN, net of an empty program. The first line is what every packet of a pod pays, the second what a foreign query does.",
    );
}

/// A metric of each round.
fn values(cell: &CellReport, metric: &str) -> Vec<f64> {
    cell.samples
        .iter()
        .filter_map(|sample| sample.values.get(metric).copied())
        .collect()
}

fn growth(body: &mut String, report: &Report) {
    let cells: Vec<&CellReport> = report
        .cells
        .iter()
        .filter(|cell| cell.id.starts_with("growth/"))
        .collect();
    if cells.is_empty() {
        return;
    }
    body.push_str("<h2>Growth</h2>\n<p>Time per answer through gregor over NodeLocal, in parts of that at the first point; the band is the middle half of all rounds.</p>\n<div class=\"two\">\n");
    for cell in cells {
        let (label, limit) = match cell.id.as_str() {
            "growth/rules" => ("rules", Some(1.2)),
            "growth/namespaces" => ("namespaces that are asked for", Some(1.2)),
            "growth/interfaces" => ("interfaces with a program", None),
            "growth/name-length" => ("length of the name", None),
            other => (other, None),
        };
        let mut points: Vec<Point> = cell
            .figures
            .iter()
            .filter(|figure| figure.metric == metric::ANSWERS)
            .filter_map(|figure| growth_point(cell, figure))
            .collect();
        points.sort_by_key(|point| point.at);
        figure(body, &charts::growth(label, &points, limit), "");
    }
    body.push_str("</div>\n");
}

fn growth_point(cell: &CellReport, figure: &Figure) -> Option<Point> {
    let ratio = figure.ratios.get(FIRST)?;
    let summary = &figure.summary;
    let first = cell
        .figures
        .iter()
        .filter(|other| other.metric == figure.metric)
        .min_by_key(|other| other.point)?;
    Some(Point {
        at: figure.point?,
        median: 1.0 / ratio.median,
        // Of this point alone: rates turned into times of the first point's.
        low: first.summary.median / summary.upper_quartile,
        high: first.summary.median / summary.lower_quartile,
    })
}

fn table(body: &mut String, report: &Report) {
    body.push_str("<h2>All figures</h2>\n<p>Medians over the rounds and where the middle half of them lies; ratios are medians of the ratios of each round. Shares of lost queries and of wrong replies are shown where there were any.</p>\n<div class=\"wide\"><table>\n<thead><tr><th>cell</th><th>metric</th><th class=\"number\">median</th><th class=\"number\">middle half</th><th class=\"number\">rounds</th><th class=\"number\">/ NodeLocal</th><th class=\"number\">/ limit</th></tr></thead>\n<tbody>\n");
    let mut group = "";
    for cell in &report.cells {
        if cell.group != group {
            group = &cell.group;
            let _ = writeln!(
                body,
                "<tr class=\"group\"><th colspan=\"7\">{}</th></tr>",
                escape(group)
            );
        }
        // Nothing lost and nothing wrong, in all rounds, is what one expects.
        let shown = cell.figures.iter().filter(|figure| {
            let expected = [metric::LOST, metric::WRONG].contains(&figure.metric.as_str());
            !expected || figure.summary.max > 0.0
        });
        for (index, figure) in shown.enumerate() {
            row(body, cell, figure, index == 0);
        }
    }
    body.push_str("</tbody>\n</table></div>\n");
}

fn row(body: &mut String, cell: &CellReport, figure: &Figure, first: bool) {
    let name = if first { cell.id.as_str() } else { "" };
    let at = figure
        .point
        .map_or(String::new(), |point| format!(" at {point}"));
    let to = |other: &str| {
        figure
            .ratios
            .get(other)
            .map_or(String::new(), |ratio| figures::ratio(ratio.median))
    };
    let summary = &figure.summary;
    let _ = writeln!(
        body,
        "<tr><td>{}</td><td class=\"metric\">{}{at}</td><td class=\"number\">{}</td><td class=\"number\">{} – {}</td><td class=\"number\">{}</td><td class=\"number\">{}</td><td class=\"number\">{}</td></tr>",
        // Long names break where their parts meet.
        escape(name).replace('/', "/<wbr>"),
        escape(&figure.metric.replace('_', " ")),
        figures::value(summary.median, &figure.unit),
        figures::value(summary.lower_quartile, &figure.unit),
        figures::value(summary.upper_quartile, &figure.unit),
        summary.count,
        to(NODELOCAL),
        to(REFLECTOR)
    );
}

fn method(body: &mut String, report: &Report) {
    body.push_str("<h2>What was started</h2>\n<p>Each contender runs in network namespaces of its own, with pods behind veth pairs and the same CoreDNS as cluster DNS behind it; rounds of different contenders alternate.</p>\n");
    for contender in &report.contenders {
        let _ = writeln!(
            body,
            "<details><summary>{} (<code>{}</code>)</summary><pre>{}</pre></details>",
            escape(&contender.title),
            escape(&contender.id),
            escape(&contender.about)
        );
    }
    body.push_str("<p class=\"soft\">Made by <code>cargo xtask bench</code>; docs/bench-report.md describes report.json, which holds every single measurement.</p>\n");
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schema::sample_report;

    #[test]
    fn the_page_needs_nothing_else() {
        let page = page(&sample_report()).unwrap();
        for outside in ["http:", "https:", "<script", "@import", "url("] {
            assert!(!page.contains(outside), "{outside}");
        }
        assert!(!page.contains("NaN") && !page.contains("inf"), "{page}");
        assert!(page.matches("<svg").count() >= 4);
        for contender in ["gregor over NodeLocal", "CoreDNS as NodeLocal"] {
            assert!(page.contains(contender), "{contender}");
        }
        assert!(page.contains("does not hold") && page.contains("do not quote them"));
    }

    #[test]
    fn days_are_those_of_the_calendar() {
        assert_eq!(date(0), "1970-01-01");
        assert_eq!(date(951_782_400), "2000-02-29");
        assert_eq!(date(1_735_689_599), "2024-12-31");
    }
}
