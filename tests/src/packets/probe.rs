//! The features of a kernel, found by trying: distributions backport features, so versions say little.

use super::observer::{instruction, load};

/// What the XDP program needs and this kernel lacks; `None` when it has all of it.
pub fn lacks_for_xdp() -> Option<String> {
    const BPF_PROG_TYPE_XDP: u32 = 6;
    const BPF_XDP_LOAD_BYTES: i32 = 189;
    const XDP_PASS: i32 = 2;
    // bpf_xdp_load_bytes(ctx, 0, fp - 8, 8); return XDP_PASS
    let program = [
        instruction(0xb7, 2, 0, 0, 0),
        instruction(0xbf, 3, 10, 0, 0),
        instruction(0x07, 3, 0, 0, -8),
        instruction(0xb7, 4, 0, 0, 8),
        instruction(0x85, 0, 0, 0, BPF_XDP_LOAD_BYTES),
        instruction(0xb7, 0, 0, 0, XDP_PASS),
        instruction(0x95, 0, 0, 0, 0),
    ];
    match load(BPF_PROG_TYPE_XDP, &program, *b"probe\0\0\0\0\0\0\0\0\0\0\0") {
        Ok(_) => None,
        Err(_) => Some("no bpf_xdp_load_bytes".to_owned()),
    }
}
