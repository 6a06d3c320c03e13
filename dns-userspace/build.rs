//! Builds the kernel side, which the binary carries.

fn main() -> anyhow::Result<()> {
    ebpf_builder::build("dns-ebpf", "gregor-ebpf", "../dns-ebpf")
}
