//! A word of a table that one side may write while the other reads it.

/// A word that userspace may write while a program reads it.
#[repr(transparent)]
pub struct Word(core::cell::UnsafeCell<u64>);

// SAFETY: every access is a single load or store of the whole word (`load`, `store`).
unsafe impl Sync for Word {}

impl Word {
    pub const fn new(value: u64) -> Self {
        Self(core::cell::UnsafeCell::new(value))
    }

    #[inline(always)]
    pub fn load(&self) -> u64 {
        #[cfg(target_arch = "bpf")]
        {
            // SAFETY: aligned and within a map value; loads of a word do not tear.
            unsafe { core::ptr::read_volatile(self.0.get()) }
        }
        #[cfg(not(target_arch = "bpf"))]
        {
            // SAFETY: aligned and valid as long as `self` is.
            unsafe { core::sync::atomic::AtomicU64::from_ptr(self.0.get()) }
                .load(core::sync::atomic::Ordering::Acquire)
        }
    }

    #[inline(always)]
    pub fn store(&self, value: u64) {
        #[cfg(target_arch = "bpf")]
        {
            // SAFETY: as in `load`.
            unsafe { core::ptr::write_volatile(self.0.get(), value) }
        }
        #[cfg(not(target_arch = "bpf"))]
        {
            // SAFETY: as in `load`.
            unsafe { core::sync::atomic::AtomicU64::from_ptr(self.0.get()) }
                .store(value, core::sync::atomic::Ordering::Release)
        }
    }

    /// Adds one to a word that has several writers. The value before is not asked for: that takes Linux 5.12.
    #[inline(always)]
    pub fn count_shared(&self) {
        #[cfg(target_arch = "bpf")]
        {
            // SAFETY: as in `load`; core has no such operation for this target.
            unsafe {
                core::arch::asm!(
                    "lock *(u64 *)({0} + 0) += {1}",
                    in(reg) self.0.get(),
                    in(reg) 1u64,
                    options(nostack)
                );
            }
        }
        #[cfg(not(target_arch = "bpf"))]
        {
            // SAFETY: as in `load`.
            unsafe { core::sync::atomic::AtomicU64::from_ptr(self.0.get()) }
                .fetch_add(1, core::sync::atomic::Ordering::Relaxed);
        }
    }
}
