//! Starts a program with less than the test itself may do: few capabilities, a limit of locked memory, a filter of system calls,
//! a profile of AppArmor, a type of SELinux, a cgroup.

use std::{ffi::CString, io, os::unix::process::CommandExt as _, path::Path, process::Command};

/// The largest number that a kernel may have; Linux 5.10 ends at 40.
const LAST: u8 = 63;

/// Root in a container: user 0 whose bounding set is these. The rest goes before the program is executed, which then gets
/// all that is left, and nothing may give it more.
pub fn keep(command: &mut Command, capabilities: &[u8]) {
    let dropped: Vec<u8> = (0..=LAST).filter(|n| !capabilities.contains(n)).collect();
    let drop_all = move || {
        for capability in &dropped {
            // SAFETY: no pointers; what it changes is the new process alone.
            let result =
                unsafe { libc::prctl(libc::PR_CAPBSET_DROP, libc::c_ulong::from(*capability)) };
            let error = io::Error::last_os_error();
            // A number that this kernel does not have.
            if result != 0 && error.raw_os_error() != Some(libc::EINVAL) {
                return Err(error);
            }
        }
        // SAFETY: as above.
        match unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) } {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    };
    // SAFETY: between fork and exec it makes system calls and nothing else: no memory is allocated, no lock is taken.
    unsafe { command.pre_exec(drop_all) };
}

/// Starts it with this limit for locked memory, soft and hard.
pub fn limit_memlock(command: &mut Command, bytes: u64) {
    let limit = libc::rlimit {
        rlim_cur: bytes,
        rlim_max: bytes,
    };
    // SAFETY: one system call, with a value of the closure's own.
    unsafe {
        command.pre_exec(
            move || match libc::setrlimit(libc::RLIMIT_MEMLOCK, &raw const limit) {
                0 => Ok(()),
                _ => Err(io::Error::last_os_error()),
            },
        );
    }
}

/// Starts it with a seccomp filter that refuses bpf(2) with EPERM and allows everything else.
pub fn forbid_bpf(command: &mut Command) {
    const NUMBER: u32 = 0;
    let statement = |code: u32, k: u32| libc::sock_filter {
        code: code as u16,
        jt: 0,
        jf: 0,
        k,
    };
    let load = statement(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, NUMBER);
    let is_bpf = libc::sock_filter {
        jf: 1,
        ..statement(
            libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K,
            libc::SYS_bpf as u32,
        )
    };
    let mut filter = [
        load,
        is_bpf,
        statement(
            libc::BPF_RET | libc::BPF_K,
            libc::SECCOMP_RET_ERRNO | libc::EPERM as u32,
        ),
        statement(libc::BPF_RET | libc::BPF_K, libc::SECCOMP_RET_ALLOW),
    ];
    let install = move || {
        let program = libc::sock_fprog {
            len: filter.len() as u16,
            filter: filter.as_mut_ptr(),
        };
        // SAFETY: the kernel copies the filter, which is live and as long as it says.
        let result = unsafe {
            libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
            libc::prctl(
                libc::PR_SET_SECCOMP,
                libc::SECCOMP_MODE_FILTER,
                &raw const program,
            )
        };
        match result {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    };
    // SAFETY: system calls and nothing else.
    unsafe { command.pre_exec(install) };
}

/// Starts it under a profile of AppArmor that the kernel has.
///
/// # Panics
/// When the name has a NUL.
pub fn enter_profile(command: &mut Command, profile: &str) {
    write_before_exec(
        command,
        c"/proc/self/attr/exec".to_owned(),
        &format!("exec {profile}"),
    );
}

/// Starts it with a context of SELinux, `user:role:type`.
///
/// # Panics
/// When it has a NUL.
pub fn enter_type(command: &mut Command, context: &str) {
    write_before_exec(command, c"/proc/self/attr/current".to_owned(), context);
}

/// Starts it in a cgroup, whose directory this is.
///
/// # Panics
/// When its path has a NUL.
pub fn enter_group(command: &mut Command, group: &Path) {
    let path = group.join("cgroup.procs").into_os_string();
    let path = CString::new(path.into_encoded_bytes()).expect("no NUL");
    write_before_exec(command, path, "0");
}

fn write_before_exec(command: &mut Command, path: CString, text: &str) {
    let text = CString::new(text).expect("no NUL");
    let write = move || {
        let bytes = text.as_bytes();
        // SAFETY: the path ends with a NUL, and the bytes are live and as many as it says.
        let written = unsafe {
            let file = libc::open(path.as_ptr(), libc::O_WRONLY | libc::O_CLOEXEC);
            libc::write(file, bytes.as_ptr().cast(), bytes.len())
        };
        match usize::try_from(written) {
            Ok(written) if written == bytes.len() => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    };
    // SAFETY: between fork and exec it makes system calls and nothing else: what it writes was made before.
    unsafe { command.pre_exec(write) };
}
