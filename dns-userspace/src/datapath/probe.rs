//! What this kernel has, found out by trying.

use aya::{
    programs::ProgramType,
    sys::{BpfHelper, is_helper_supported},
};

/// Whether XDP programs may load bytes at any offset of a frame. A kernel without that helper refuses the program for its flag
/// for frames in fragments, which came with the helper, and does not name the reason.
pub(super) fn has_xdp_load_bytes() -> bool {
    // A kernel that does not say is asked by loading.
    is_helper_supported(ProgramType::Xdp, BpfHelper::BPF_FUNC_xdp_load_bytes).unwrap_or(true)
}
