//! Builds the kernel side, which the binary carries.

fn main() -> anyhow::Result<()> {
    let layout: &[&str] = match std::env::var_os("CARGO_FEATURE_OTHER_LAYOUT") {
        None => &[],
        Some(_) => &["other-layout"],
    };
    ebpf_builder::build_as(
        "dns-ebpf",
        "gregor-ebpf",
        "../dns-ebpf",
        layout,
        "gregor-ebpf",
    )?;
    ebpf_builder::build("dns-ebpf", "gregor-return", "../dns-ebpf")?;
    // For `--debug-bpf`.
    let log = [&["log"], layout].concat();
    ebpf_builder::build_as(
        "dns-ebpf",
        "gregor-ebpf",
        "../dns-ebpf",
        &log,
        "gregor-ebpf-log",
    )
}
