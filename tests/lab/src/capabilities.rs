//! Starts a program with a few capabilities, whatever the test itself may do.

use std::{io, os::unix::process::CommandExt as _, process::Command};

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
