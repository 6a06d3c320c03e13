//! Gives memory back that loading took: reading the object and its type information takes some megabytes for a moment, and
//! glibc keeps them.

/// Returns what is free to the kernel, where the allocator does not do so by itself.
pub fn trim_heap() {
    #[cfg(target_env = "gnu")]
    // SAFETY: it touches only memory that is not in use.
    unsafe {
        libc::malloc_trim(0);
    }
}
