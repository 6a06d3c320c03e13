//! Builds the kernel side, which the binary carries.

fn main() -> anyhow::Result<()> {
    ebpf_builder::build("dns-ebpf", "gregor-ebpf", "../dns-ebpf")?;
    ebpf_builder::build("dns-ebpf", "gregor-return", "../dns-ebpf")?;
    // For `--debug-bpf`.
    ebpf_builder::build_with("dns-ebpf", "gregor-ebpf", "../dns-ebpf", &["log"])
}
