//! Builds the programs that benchmarks measure against.

fn main() -> anyhow::Result<()> {
    ebpf_builder::build("bench-ebpf", "bench-ebpf", "ebpf")?;
    ebpf_builder::build_with("dns-ebpf", "gregor-ebpf", "../dns-ebpf", &["restore"])
}
