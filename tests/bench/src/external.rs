//! Measurements by other programs: dnsperf and iperf3, started in the lab.

use std::{
    fmt::Write as _,
    fs,
    net::SocketAddr,
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use gregor_lab::{Lab, Pod, tools};

/// Queries per second that dnsperf gets answered from a pod in one second, with its usual hundred under way.
pub fn dnsperf(lab: &Lab, pod: &Pod, server: SocketAddr, names: &[String]) -> Result<f64> {
    let file = lab.directory().join("dnsperf-names");
    let mut text = String::new();
    for name in names {
        let _ = writeln!(text, "{name} A");
    }
    fs::write(&file, text)?;
    let mut command = Command::new(tools::dnsperf()?);
    command
        .args(["-s", &server.ip().to_string(), "-l", "1", "-c", "4", "-d"])
        .arg(&file);
    let output = pod.output(command)?;
    let text = String::from_utf8_lossy(&output.stdout);
    ensure!(output.status.success(), "dnsperf: {text}");
    queries_per_second(&text).with_context(|| format!("dnsperf said {text}"))
}

fn queries_per_second(text: &str) -> Option<f64> {
    text.lines()
        .find_map(|line| line.trim().strip_prefix("Queries per second:"))
        .and_then(|rest| rest.trim().parse().ok())
}

const PORT: u16 = 5201;

/// How a stream is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stream {
    /// Segments of 536 bytes.
    Tcp,
    /// 64-byte datagrams as fast as they go.
    Udp,
}

/// Bits per second that a server on the node receives from a pod, over a fraction of a second.
pub fn iperf(lab: &Lab, pod: &Pod, stream: Stream) -> Result<f64> {
    let program = tools::iperf3()?;
    let node = pod
        .netns()
        .enter(default_gateway)?
        .context("the pod has no default route")?;
    let mut server = Command::new(&program);
    server
        .args(["-s", "-1", "-B", &node, "-p", &PORT.to_string()])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    let mut server = lab.node().spawn(server)?;
    let outcome = iperf_client(&program, pod, &node, stream);
    // A server that was not reached waits for ever.
    if outcome.is_err() {
        let _ = server.kill();
    }
    server.wait()?;
    outcome
}

fn iperf_client(program: &std::path::Path, pod: &Pod, node: &str, stream: Stream) -> Result<f64> {
    let deadline = Instant::now() + Duration::from_secs(5);
    loop {
        let mut client = Command::new(program);
        client.args(["-c", node, "-p", &PORT.to_string(), "-J"]);
        match stream {
            Stream::Tcp => client.args(["-M", "536", "-n", "16M"]),
            Stream::Udp => client.args(["-u", "-b", "0", "-l", "64", "-n", "1M"]),
        };
        let output = pod.output(client)?;
        let report: serde_json::Value = serde_json::from_slice(&output.stdout)?;
        // With -J it ends well whatever happens.
        if report.get("error").is_none() {
            return received(&report).with_context(|| format!("iperf3 said {report}"));
        }
        if Instant::now() > deadline {
            bail!("iperf3: {}", String::from_utf8_lossy(&output.stdout));
        }
        // Its server is not listening yet.
        thread::sleep(Duration::from_millis(20));
    }
}

/// What arrived: for UDP that is what was sent less what was lost.
fn received(report: &serde_json::Value) -> Option<f64> {
    let end = report.get("end")?;
    if let Some(received) = end
        .get("sum_received")
        .and_then(|sum| sum.get("bits_per_second"))
        && received.as_f64()? > 0.0
        && end.get("sum").is_none()
    {
        return received.as_f64();
    }
    let sum = end.get("sum")?;
    let lost = sum.get("lost_percent")?.as_f64()?;
    Some(sum.get("bits_per_second")?.as_f64()? * (1.0 - lost / 100.0))
}

/// The node's address on the pod's veth, from the pod's routing table.
fn default_gateway() -> Option<String> {
    let routes = fs::read_to_string("/proc/thread-self/net/route").ok()?;
    routes.lines().skip(1).find_map(|line| {
        let columns: Vec<&str> = line.split_whitespace().collect();
        let (destination, gateway) = (columns.get(1)?, columns.get(2)?);
        if *destination != "00000000" {
            return None;
        }
        let address = u32::from_str_radix(gateway, 16).ok()?;
        Some(std::net::Ipv4Addr::from(address.to_ne_bytes()).to_string())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_figure_of_dnsperf_is_found() {
        let text =
            "Statistics:\n\n  Run time (s):         1.000\n  Queries per second:   84213.5\n";
        assert_eq!(queries_per_second(text), Some(84_213.5));
        assert_eq!(queries_per_second("nothing"), None);
    }

    #[test]
    fn lost_datagrams_are_not_counted_as_received() {
        let tcp = serde_json::json!({"end": {"sum_received": {"bits_per_second": 7e6}}});
        assert_eq!(received(&tcp), Some(7e6));
        let udp =
            serde_json::json!({"end": {"sum": {"bits_per_second": 8e6, "lost_percent": 25.0}}});
        assert_eq!(received(&udp), Some(6e6));
        assert_eq!(received(&serde_json::json!({})), None);
    }
}
