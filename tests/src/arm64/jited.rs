//! The code that the kernel's JIT made of a loaded program.

use std::{
    io,
    os::fd::{AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd},
};

use anyhow::{Context as _, bail, ensure};

const PROG_GET_FD_BY_ID: libc::c_long = 13;
const OBJ_GET_INFO_BY_FD: libc::c_long = 15;

/// The beginning of the kernel's `struct bpf_prog_info`; it fills as much as there is.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
struct ProgramInfo {
    program_type: u32,
    id: u32,
    tag: [u8; 8],
    jited_len: u32,
    xlated_len: u32,
    jited_instructions: u64,
    xlated_instructions: u64,
    load_time: u64,
    created_by_uid: u32,
    map_ids_count: u32,
    map_ids: u64,
    name: [u8; 16],
    interface_index: u32,
    gpl_compatible: u32,
    netns_dev: u64,
    netns_ino: u64,
    jited_ksyms_count: u32,
    jited_lens_count: u32,
    jited_ksyms: u64,
    jited_lens: u64,
}

/// The functions of the program with this id, each as the instructions of the machine. Wants CAP_SYS_ADMIN, and
/// CAP_SYSLOG where kernel addresses are hidden.
pub fn functions_by_id(id: u32) -> anyhow::Result<Vec<Vec<u32>>> {
    #[repr(C)]
    struct ById {
        id: u32,
        next_id: u32,
        open_flags: u32,
    }
    let mut by_id = ById {
        id,
        next_id: 0,
        open_flags: 0,
    };
    // SAFETY: the kernel reads these three numbers.
    let fd = unsafe { bpf(PROG_GET_FD_BY_ID, &mut by_id) }
        .with_context(|| format!("opening program {id}"))?;
    // SAFETY: the kernel has just opened it, for this process alone.
    let program = unsafe { OwnedFd::from_raw_fd(fd as i32) };
    functions(std::os::fd::AsFd::as_fd(&program))
}

/// The functions of a loaded program.
pub fn functions(program: BorrowedFd<'_>) -> anyhow::Result<Vec<Vec<u32>>> {
    let mut info = ProgramInfo::default();
    read_info(program, &mut info).context("asking for the program's sizes")?;
    ensure!(
        info.jited_len > 0,
        "the kernel does not show the program's code: is the JIT on, and kptr_restrict below 2?"
    );
    let mut code = vec![0u32; info.jited_len as usize / 4];
    let mut lens = vec![0u32; info.jited_lens_count as usize];
    let mut wanted = ProgramInfo {
        jited_len: info.jited_len,
        jited_instructions: code.as_mut_ptr() as u64,
        jited_lens_count: info.jited_lens_count,
        jited_lens: lens.as_mut_ptr() as u64,
        ..ProgramInfo::default()
    };
    read_info(program, &mut wanted).context("asking for the program's code")?;
    if wanted.jited_instructions == 0 || code.iter().all(|word| *word == 0) {
        bail!(
            "the kernel hides the program's code: it takes CAP_SYSLOG, and kptr_restrict below 2"
        );
    }
    let mut functions = Vec::new();
    let mut rest = code.as_slice();
    for len in lens {
        let (function, others) = rest
            .split_at_checked(len as usize / 4)
            .context("functions longer than the program")?;
        functions.push(function.to_vec());
        rest = others;
    }
    ensure!(rest.is_empty(), "code that belongs to no function");
    Ok(functions)
}

fn read_info(program: BorrowedFd<'_>, info: &mut ProgramInfo) -> io::Result<()> {
    #[repr(C)]
    struct ByFd {
        fd: u32,
        len: u32,
        info: u64,
    }
    let mut by_fd = ByFd {
        fd: program.as_raw_fd() as u32,
        len: size_of::<ProgramInfo>() as u32,
        info: (info as *mut ProgramInfo) as u64,
    };
    // SAFETY: `info` has as many bytes as are named, and what it points to lives in its caller, with the lengths in it.
    unsafe { bpf(OBJ_GET_INFO_BY_FD, &mut by_fd) }.map(drop)
}

/// The system call.
///
/// # Safety
/// The argument must be what the command takes, with valid pointers in it.
pub(crate) unsafe fn bpf<T>(command: libc::c_long, argument: &mut T) -> io::Result<libc::c_long> {
    // SAFETY: as the caller says.
    let result = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            command,
            std::ptr::from_mut(argument),
            size_of::<T>(),
        )
    };
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(result)
    }
}
