//! Builds the programs that benchmarks measure against, and gregor's own with those that only tests run.

fn main() -> anyhow::Result<()> {
    ebpf_builder::build("bench-ebpf", "bench-ebpf", "ebpf")?;
    ebpf_builder::build_with("dns-ebpf", "gregor-ebpf", "../dns-ebpf", &["testing"])
}
