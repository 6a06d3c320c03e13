//! Bounds and values in the form in which the verifier sees them, whatever LLVM makes of the code around.
//!
//! The verifier follows each register by itself. LLVM merges comparisons, compares a copy and drops a mask that it knows
//! to change nothing; older verifiers then know no bound of the register that is used. So an index is masked, a length
//! is bounded and a pointer is formed in assembly here, in the register that is used afterwards, and nowhere else.

/// `index & MASK`, for an array of at least `MASK + 1` elements.
#[inline(always)]
pub fn index<const MASK: u32>(index: u32) -> usize {
    index64::<MASK>(u64::from(index))
}

/// The same for an index that is 64 bits wide already.
#[inline(always)]
pub fn index64<const MASK: u32>(index: u64) -> usize {
    #[cfg(target_arch = "bpf")]
    {
        let mut index = index;
        // SAFETY: one instruction on one register.
        unsafe {
            core::arch::asm!("{0} &= {1}", inout(reg) index, const MASK, options(pure, nomem, nostack));
        }
        index as usize
    }
    #[cfg(not(target_arch = "bpf"))]
    {
        (index & u64::from(MASK)) as usize
    }
}

/// A length from 1 to `MAX`, a power of two, for a helper that reads or writes that many bytes. Any other length becomes
/// one that is in bounds, so it is to be checked before.
#[inline(always)]
pub fn length<const MAX: u32>(len: u32) -> u32 {
    const { assert!(MAX.is_power_of_two()) };
    #[cfg(target_arch = "bpf")]
    {
        let mut len = u64::from(len);
        // SAFETY: arithmetic on one register.
        unsafe {
            core::arch::asm!(
                "{0} += -1",
                "{0} &= {1}",
                "{0} += 1",
                inout(reg) len,
                const MAX - 1,
                options(pure, nomem, nostack)
            );
        }
        len as u32
    }
    #[cfg(not(target_arch = "bpf"))]
    {
        (len.wrapping_sub(1) & (MAX - 1)) + 1
    }
}

/// `base + offset` for a pointer into a frame. LLVM knows nothing of the sum, so the end of what is read is computed from
/// this register, and a comparison of that end with the end of the frame holds for it.
#[cfg(target_arch = "bpf")]
#[inline(always)]
pub fn pointer(base: usize, offset: usize) -> usize {
    let mut at = base;
    // SAFETY: one instruction on one register.
    unsafe {
        core::arch::asm!("{0} += {1}", inout(reg) at, in(reg) offset, options(pure, nomem, nostack));
    }
    at
}

/// A pointer that the kernel's context has in a field of 32 bits. LLVM would keep it on the stack in as many, which the
/// verifier refuses.
#[cfg(target_arch = "bpf")]
#[inline(always)]
pub fn context_pointer(field: u32) -> usize {
    let mut pointer = field as usize;
    // SAFETY: one instruction that changes nothing; LLVM does not know that.
    unsafe {
        core::arch::asm!("{0} = {0}", inout(reg) pointer, options(pure, nomem, nostack, preserves_flags));
    }
    pointer
}

/// A number of rounds that is read again in each of them. Where LLVM knows that it stays, it merges it with the constant
/// bound of the loop, and the verifier sees neither.
#[inline(always)]
pub fn reread(count: &u32) -> u32 {
    // SAFETY: a reference is valid and aligned.
    unsafe { core::ptr::from_ref(count).read_volatile() }
}

/// For a value that a stage, which has a pointer of its own to it, reads and writes while `value` is borrowed: what was
/// stored before is in memory, and nothing that was loaded before is known any more.
#[inline(always)]
pub fn share<T>(value: &mut T) {
    #[cfg(target_arch = "bpf")]
    // SAFETY: one instruction that changes nothing; LLVM does not know that.
    unsafe {
        core::arch::asm!("{0} = {0}", inout(reg) core::ptr::from_mut(value) => _, options(nostack, preserves_flags));
    }
    #[cfg(not(target_arch = "bpf"))]
    let _ = value;
}

/// All ones for a number whose highest bit is set, else 0. Where LLVM sees a shift, it makes a branch of it.
#[inline(always)]
pub fn spread_sign(value: u64) -> u64 {
    #[cfg(target_arch = "bpf")]
    {
        let mut value = value;
        // SAFETY: one instruction on one register.
        unsafe {
            core::arch::asm!("{0} s>>= 63", inout(reg) value, options(pure, nomem, nostack));
        }
        value
    }
    #[cfg(not(target_arch = "bpf"))]
    {
        (value as i64 >> 63) as u64
    }
}

/// Takes one off, in one register: the verifier counts the rounds of a loop by the range of this value, and LLVM would
/// keep a second copy of it, of which the verifier knows nothing.
#[inline(always)]
pub fn decrement(value: &mut u64) {
    #[cfg(target_arch = "bpf")]
    // SAFETY: one instruction on one register.
    unsafe {
        core::arch::asm!(
            "{0} += -1",
            inout(reg) * value,
            options(pure, nomem, nostack)
        );
    }
    #[cfg(not(target_arch = "bpf"))]
    {
        *value -= 1;
    }
}
