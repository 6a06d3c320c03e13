//! The system call bpf(2), for what aya does not do or does with more capabilities than gregor has.

use std::{
    io,
    os::fd::{FromRawFd as _, OwnedFd},
};

/// The part of `union bpf_attr` that most commands use; the kernel takes the rest as zero.
#[repr(C, align(8))]
#[derive(Clone, Copy, Default)]
pub(super) struct Attr(pub [u32; 4]);

/// A command that makes a descriptor.
pub(super) fn descriptor(command: libc::c_int, mut attr: Attr) -> io::Result<OwnedFd> {
    let fd = bpf(command, &mut attr)?;
    // SAFETY: the kernel just made this descriptor for us.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as libc::c_int) })
}

/// A command whose part of the union is no longer than `Attr`.
pub(super) fn bpf(command: libc::c_int, attr: &mut Attr) -> io::Result<libc::c_long> {
    // SAFETY: `attr` has the length that is passed to the kernel; callers fill it with live descriptors, ids, and addresses
    // with their lengths.
    unsafe { bpf_raw(command, attr) }
}

/// # Safety
///
/// `attr` must be the `union bpf_attr` of this command, and what it points to must be there, as long as it says.
pub(super) unsafe fn bpf_raw<T>(command: libc::c_int, attr: &mut T) -> io::Result<libc::c_long> {
    // SAFETY: `attr` is live and of the length given; the rest is the caller's promise.
    let result = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            command,
            std::ptr::from_mut(attr),
            size_of::<T>(),
        )
    };
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(result)
    }
}
