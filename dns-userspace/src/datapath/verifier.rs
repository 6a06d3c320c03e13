//! The reason for which the kernel's verifier refuses a program: one line, out of a log of up to millions.

/// The reason at the end of a log; `None` for a log without any.
///
/// The verifier says what is wrong in its last lines but for its statistics, often in two: what is accessed, and what is
/// known of the register. Before that, at a higher level of verbosity, every instruction that it walked.
pub(super) fn reason(log: &str) -> Option<String> {
    /// `invalid access to packet, …` and `R1 offset is outside of the packet`.
    const LINES: usize = 2;
    let mut reason: Vec<&str> = log
        .lines()
        .rev()
        .map(str::trim)
        .skip_while(|line| is_trace(line))
        .take_while(|line| !is_trace(line))
        .take(LINES)
        .collect();
    reason.reverse();
    (!reason.is_empty()).then(|| reason.join("; "))
}

/// The helper that this kernel does not have, by name or number, when that is the reason.
pub(super) fn unknown_helper(reason: &str) -> Option<&str> {
    // `unknown func bpf_xdp_load_bytes#189`, `invalid func unknown#189`,
    // `program of this type cannot use helper bpf_redirect_peer#155`
    let (_, helper) = ["unknown func ", "invalid func ", "cannot use helper "]
        .iter()
        .find_map(|words| reason.split_once(words))?;
    let helper = helper.split_whitespace().next()?;
    match helper.split_once('#') {
        Some(("unknown", number)) => Some(number),
        Some((name, _)) => Some(name),
        None => Some(helper),
    }
}

/// Whether a line is not a reason: an instruction, a state, source text, statistics.
fn is_trace(line: &str) -> bool {
    const BEGINNINGS: [&str; 18] = [
        // Statistics.
        "processed ",
        "verification time ",
        "stack depth ",
        "insns processed ",
        "mark_precise: ",
        // Source text of the next instruction.
        ";",
        // Where a path began, and its result.
        "from ",
        "propagating ",
        "last_idx ",
        "regs=",
        "parent ",
        "caller:",
        "callee:",
        "returning from callee",
        "to caller at ",
        "func#",
        "Validating ",
        "Func#",
    ];
    line.is_empty()
        || BEGINNINGS.iter().any(|words| line.starts_with(words))
        || is_instruction(line)
        || is_state(line)
        || is_cost_of_a_function(line)
}

/// `subprog 6 (gregor_locate) global insns_self 0 insns_total 0 stack 0`: statistics, since 7.3.
fn is_cost_of_a_function(line: &str) -> bool {
    line.starts_with("subprog ") && line.contains(" insns_self ")
}

/// `123: (85) call bpf_map_lookup_elem#1`, also with `R0_w=…` after a colon.
fn is_instruction(line: &str) -> bool {
    let rest = line.trim_start_matches(|c: char| c.is_ascii_digit());
    rest.len() < line.len() && rest.starts_with(':')
}

/// `R0=inv(id=0) R1_w=ctx(…) …` or `frame1: R0=…`, but not `R4 invalid zero-sized read`.
fn is_state(line: &str) -> bool {
    if line.starts_with("frame") {
        return true;
    }
    let Some(rest) = line.strip_prefix('R') else {
        return false;
    };
    let rest = rest.trim_start_matches(|c: char| c.is_ascii_digit());
    rest.starts_with(['=', '_'])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reasons_of_recorded_logs() {
        for (log, expected) in [
            // 5.10, level 1.
            (
                "from 412 to 414: R0_w=inv0 R6=ctx(id=0,off=0,imm=0) R10=fp0\n414: (85) call bpf_skb_load_bytes#26\n\
                 R4 invalid zero-sized read: u64=[0,4294967295]\nprocessed 6098 insns (limit 1000000) max_states_per_insn 4 \
                 total_states 229 peak_states 229 mark_read 40\n\n",
                "R4 invalid zero-sized read: u64=[0,4294967295]",
            ),
            // 6.12, level 4: statistics around the reason.
            (
                "BPF program is too large. Processed 1000001 insn\nverification time 190184527 usec\nstack depth 344+0\n\
                 processed 1000001 insns (limit 1000000) max_states_per_insn 47 total_states 34471 peak_states 4221 mark_read 0\n",
                "BPF program is too large. Processed 1000001 insn",
            ),
            (
                "; let value = unsafe { data.add(off).read() };\n1033: (79) r3 = *(u64 *)(r1 +0)\n\
                 invalid access to packet, off=0 size=8, R1(id=0,off=0,r=0)\nR1 offset is outside of the packet\n\
                 processed 35689 insns (limit 1000000)",
                "invalid access to packet, off=0 size=8, R1(id=0,off=0,r=0); R1 offset is outside of the packet",
            ),
            (
                "invalid access to memory, mem_size=1560 off=24 size=0\nR3 min value is outside of the allowed memory range\n\
                 processed 6098 insns (limit 1000000)",
                "invalid access to memory, mem_size=1560 off=24 size=0; R3 min value is outside of the allowed memory range",
            ),
            (
                "The sequence of 8193 jumps is too complex.\nprocessed 77712 insns (limit 1000000)",
                "The sequence of 8193 jumps is too complex.",
            ),
            (
                "0: R1=ctx() R10=fp0\n0: (85) call unknown#189\ninvalid func unknown#189\nprocessed 1 insns (limit 1000000)",
                "invalid func unknown#189",
            ),
            // 7.3, level 4.
            (
                "R4 invalid zero-sized read: u64=[0,511]\nverification time 3158 usec\nsubprog 0 (gregor) main insns_self 729 \
                 insns_total 729 stack 344\nsubprog 6 (gregor_locate) global insns_self 0 insns_total 0 stack 0\nprocessed 729 insns",
                "R4 invalid zero-sized read: u64=[0,511]",
            ),
            (
                "Invalid line_info[12].insn_off\n",
                "Invalid line_info[12].insn_off",
            ),
        ] {
            assert_eq!(reason(log).as_deref(), Some(expected), "{log}");
        }
        for log in ["", "\n", "processed 0 insns (limit 1000000)\n"] {
            assert_eq!(reason(log), None, "{log:?}");
        }
    }

    #[test]
    fn helpers_are_named() {
        for (reason, helper) in [
            (
                "unknown func bpf_xdp_load_bytes#189",
                Some("bpf_xdp_load_bytes"),
            ),
            ("invalid func unknown#189", Some("189")),
            (
                "program of this type cannot use helper bpf_redirect_peer#155",
                Some("bpf_redirect_peer"),
            ),
            ("R1 offset is outside of the packet", None),
        ] {
            assert_eq!(unknown_helper(reason), helper, "{reason}");
        }
    }
}
