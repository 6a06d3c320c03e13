//! The verifier's report on each program that this process loads, also on those that it accepts.
//!
//! `verified_insns` in the kernel's own listing of programs exists from 5.16 on, and aya asks for a log only when a load has
//! failed. So this module takes the place of libc's `syscall`, through which aya calls bpf(2): a load without a log gets one
//! of ours at the level of statistics (BPF_LOG_STATS, a few lines whatever the program is like), and a load that was refused
//! is not repeated for the sake of its log, which takes minutes on a slow machine: the lines that we have are handed out.

use std::{
    ffi::{c_int, c_long},
    mem::offset_of,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use gregor_tests::lab::guest::Walk;

/// A load that the kernel has judged.
#[derive(Clone, Debug)]
pub struct Judged {
    pub program: String,
    pub time: Duration,
    pub walk: Walk,
    /// Its reason in one line, when it refused.
    pub refused: Option<String>,
}

static JUDGED: Mutex<Vec<Judged>> = Mutex::new(Vec::new());
/// The last refusal: program, errno, log.
static REFUSED: Mutex<Option<(String, c_int, String)>> = Mutex::new(None);

/// The loads since the last call, in their order; aya's own probes have no name.
pub fn take() -> Vec<Judged> {
    let mut judged = JUDGED.lock().unwrap_or_else(PoisonError::into_inner);
    judged
        .drain(..)
        .filter(|judged| !judged.program.is_empty() && !judged.program.starts_with("aya"))
        .collect()
}

const BPF_PROG_LOAD: c_long = 5;
const BPF_LOG_STATS: u32 = 4;
/// More than statistics and one message ever take.
const LOG_BYTES: usize = 1 << 16;

/// The beginning of `union bpf_attr` for BPF_PROG_LOAD.
#[derive(Clone, Copy)]
#[repr(C)]
struct ProgLoad {
    prog_type: u32,
    insn_cnt: u32,
    insns: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log_buf: u64,
    kern_version: u32,
    prog_flags: u32,
    prog_name: [u8; 16],
}

/// libc's function of this name, in this program.
///
/// # Safety
/// As for the system call.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn syscall(
    number: c_long,
    a: c_long,
    b: c_long,
    c: c_long,
    d: c_long,
    e: c_long,
    f: c_long,
) -> c_long {
    if number == libc::SYS_bpf && a == BPF_PROG_LOAD && c as usize >= size_of::<ProgLoad>() {
        // SAFETY: `b` is the address of a `union bpf_attr` of `c` bytes, as the caller promises.
        let attributes = unsafe {
            std::slice::from_raw_parts_mut(b as *mut u8, usize::try_from(c).unwrap_or(0))
        };
        return returned(load(attributes));
    }
    // SAFETY: passed on as it came.
    returned(unsafe { raw(number, [a, b, c, d, e, f]) })
}

/// What the kernel returns, as libc does: -1 and errno for an error.
fn returned(result: c_long) -> c_long {
    if (-4095..0).contains(&result) {
        // SAFETY: the calling thread's own errno.
        unsafe { *libc::__errno_location() = -result as c_int };
        return -1;
    }
    result
}

fn load(attributes: &mut [u8]) -> c_long {
    // SAFETY: it is long enough, and any bytes make this type.
    let mut head: ProgLoad = unsafe { attributes.as_ptr().cast::<ProgLoad>().read_unaligned() };
    let name = text(&head.prog_name);
    if head.log_level != 0 && head.log_buf != 0 {
        let refused = REFUSED.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((program, errno, log)) = refused.as_ref()
            && *program == name
            && !name.is_empty()
        {
            let length = log.len().min(head.log_size as usize - 1);
            // SAFETY: the caller's buffer is of `log_size` bytes.
            unsafe {
                let to = head.log_buf as *mut u8;
                to.copy_from_nonoverlapping(log.as_ptr(), length);
                to.add(length).write(0);
            }
            return -c_long::from(*errno);
        }
        // SAFETY: the caller's attributes as they are.
        return unsafe { bpf(attributes) };
    }

    let mut log = vec![0u8; LOG_BYTES];
    head.log_level = BPF_LOG_STATS;
    head.log_size = LOG_BYTES as u32;
    head.log_buf = log.as_mut_ptr() as u64;
    let mut own = attributes.to_vec();
    // SAFETY: the same bytes with three of their fields changed, in a copy of the same length.
    unsafe { own.as_mut_ptr().cast::<ProgLoad>().write_unaligned(head) };
    let started = Instant::now();
    // SAFETY: the caller's attributes with a buffer that outlives the call.
    let result = unsafe { bpf(&mut own) };
    let time = started.elapsed();
    let log = text(&log);
    let refused = (result < 0).then(|| {
        let errno = -result as c_int;
        let refusal = (name.clone(), errno, log.clone());
        *REFUSED.lock().unwrap_or_else(PoisonError::into_inner) = Some(refusal);
        reason(&log, errno)
    });
    JUDGED
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .push(Judged {
            program: name,
            time,
            walk: walk(&log),
            refused,
        });
    result
}

/// bpf(BPF_PROG_LOAD).
///
/// # Safety
/// The attributes must be such as the command wants, with valid pointers.
unsafe fn bpf(attributes: &mut [u8]) -> c_long {
    let arguments = [
        BPF_PROG_LOAD,
        attributes.as_mut_ptr() as c_long,
        attributes.len() as c_long,
        0,
        0,
        0,
    ];
    // SAFETY: as the caller promises.
    unsafe { raw(libc::SYS_bpf, arguments) }
}

/// The system call itself.
///
/// # Safety
/// As for the system call.
#[cfg(target_arch = "x86_64")]
unsafe fn raw(number: c_long, [a, b, c, d, e, f]: [c_long; 6]) -> c_long {
    let result;
    // SAFETY: the kernel's calling convention; it changes rcx, r11 and memory that the arguments name.
    unsafe {
        std::arch::asm!(
            "syscall",
            inlateout("rax") number => result,
            in("rdi") a, in("rsi") b, in("rdx") c, in("r10") d, in("r8") e, in("r9") f,
            lateout("rcx") _, lateout("r11") _,
            options(nostack)
        );
    }
    result
}

/// The system call itself.
///
/// # Safety
/// As for the system call.
#[cfg(target_arch = "aarch64")]
unsafe fn raw(number: c_long, [a, b, c, d, e, f]: [c_long; 6]) -> c_long {
    let result;
    // SAFETY: the kernel's calling convention; it changes memory that the arguments name.
    unsafe {
        std::arch::asm!(
            "svc 0",
            in("x8") number,
            inlateout("x0") a => result,
            in("x1") b, in("x2") c, in("x3") d, in("x4") e, in("x5") f,
            options(nostack)
        );
    }
    result
}

fn text(bytes: &[u8]) -> String {
    let end = bytes
        .iter()
        .position(|byte| *byte == 0)
        .unwrap_or(bytes.len());
    String::from_utf8_lossy(&bytes[..end]).into_owned()
}

/// `processed 49377 insns (limit 1000000) max_states_per_insn 18 total_states 2986 peak_states 512 mark_read 60`
fn walk(log: &str) -> Walk {
    let Some(line) = log.lines().rfind(|line| line.starts_with("processed ")) else {
        return Walk::default();
    };
    let words: Vec<&str> = line.split_whitespace().collect();
    let behind = |key: &str| {
        let at = words.iter().position(|word| *word == key);
        at.and_then(|at| words.get(at + 1)?.parse().ok())
            .unwrap_or(0)
    };
    Walk {
        instructions: behind("processed"),
        states: behind("total_states"),
        peak_states: behind("peak_states"),
        states_per_instruction: behind("max_states_per_insn"),
    }
}

/// The last line before the statistics is the verifier's own reason.
fn reason(log: &str, errno: c_int) -> String {
    // Those of functions since 7.3.
    let statistics = ["processed ", "verification time", "stack depth", "subprog "];
    let said = log
        .lines()
        .map(str::trim)
        .rfind(|line| !line.is_empty() && !statistics.iter().any(|start| line.starts_with(start)));
    let error = std::io::Error::from_raw_os_error(errno);
    match said {
        Some(said) => said.to_owned(),
        None => format!("{error}, without a word of the verifier"),
    }
}

#[test]
fn statistics_are_read() {
    let log = "R1 invalid\nsubprog 6 (gregor_locate) global insns_self 0 insns_total 0 stack 0\nverification time 9 usec\nstack depth 40+8\nprocessed 35689 insns (limit 1000000) max_states_per_insn 18 total_states 2986 peak_states 512 mark_read 60\n";
    let walk = walk(log);
    assert_eq!(walk.instructions, 35_689);
    assert_eq!(walk.states, 2986);
    assert_eq!(walk.peak_states, 512);
    assert_eq!(walk.states_per_instruction, 18);
    assert_eq!(reason(log, libc::EACCES), "R1 invalid");
    assert!(reason("", libc::EINVAL).starts_with("Invalid argument"));
    assert_eq!(offset_of!(ProgLoad, prog_name), 48);
}
