//! Reads words that userspace may overwrite meanwhile: the sequence number first, then the data, then the number again.
//!
//! The writer ([`change`]) makes the number odd, writes, and makes it another even one. What a reader has loaded between two
//! looks at one even number is of one entry, if the loads happen in that order. x86 keeps loads in order. Other processors
//! do so only where something orders them, and BPF has no barrier that all supported kernels know: there, the address of
//! each word depends on the number that was loaded before, and the address of the second look depends on all words (Arm
//! ARM, B2.3: an address dependency orders two loads, also where its value makes no difference).

use core::marker::PhantomData;
#[cfg(not(target_arch = "bpf"))]
use core::sync::atomic::{Ordering, fence};

use crate::word::Word;

/// Place of the sequence number.
pub(crate) const SEQUENCE: usize = 0;

/// The words of one entry, or of what lies beside it under the same sequence number.
pub struct Reader<'a, const N: usize> {
    first: *const Word,
    /// Depends on everything that was read.
    witness: u64,
    words: PhantomData<&'a [Word; N]>,
}

impl<'a, const N: usize> Reader<'a, N> {
    /// Whose loads happen after the one that has given `earlier`.
    #[inline(always)]
    pub fn after(words: &'a [Word; N], earlier: u64) -> Self {
        Self {
            first: dependent(words.as_ptr(), earlier),
            witness: earlier,
            words: PhantomData,
        }
    }

    /// A word; `index` is below `N`.
    #[inline(always)]
    pub fn word(&mut self, index: usize) -> u64 {
        // SAFETY: callers keep below N; a checked index would pull the panic machinery into the program.
        let word = unsafe { (*self.first.add(index)).load() };
        self.note(word)
    }

    /// The word again whose value is to be compared with an earlier one, loaded after everything that was read.
    #[inline(always)]
    pub fn last(&self, index: usize) -> u64 {
        // SAFETY: as above.
        unsafe { (*dependent(self.first, self.witness).add(index)).load() }
    }

    /// Takes over what another reader has read.
    #[inline(always)]
    pub fn join<const M: usize>(&mut self, other: &Reader<'_, M>) {
        self.note(other.witness);
    }

    /// `value`, which depends on everything that was read. A load after a store of it and a load of what was stored
    /// happens after all of these reads.
    #[inline(always)]
    pub fn witnessed(&self, value: u64) -> u64 {
        dependent(
            core::ptr::without_provenance::<u8>(value as usize),
            self.witness,
        )
        .addr() as u64
    }

    /// A 16-bit number of the run of these that begins with word `from`; at most number 31.
    #[inline(always)]
    pub fn half(&mut self, from: usize, index: u32) -> u32 {
        #[cfg(target_arch = "bpf")]
        {
            let index = crate::verifier::index::<31>(index);
            // SAFETY: callers keep the run within the words. One 16-bit load, where a word would have to be shifted.
            let half = u64::from(unsafe {
                self.first
                    .add(from)
                    .cast::<u16>()
                    .add(index)
                    .read_volatile()
            });
            self.note(half) as u32
        }
        #[cfg(not(target_arch = "bpf"))]
        {
            let word = self.word(from + (index / 4) as usize);
            (word >> (16 * (index % 4))) as u32 & 0xffff
        }
    }

    /// `COUNT` words from byte `offset` behind word `from` on, at any alignment. The place is masked to 1,024 bytes, behind
    /// which `COUNT` words must follow; in tests, what lies behind the last word reads as 0.
    #[inline(always)]
    pub fn run<const COUNT: usize>(&mut self, from: usize, offset: u32) -> [u64; COUNT] {
        #[cfg(target_arch = "bpf")]
        {
            const { assert!(N * 8 >= 1024 + COUNT * 8) };
            let at = crate::verifier::index::<0x3ff>(offset + from as u32 * 8);
            let mut words = [0; COUNT];
            let mut index = 0;
            while index < COUNT {
                // SAFETY: within the words, as asserted; the machines that gregor supports read unaligned words.
                let word = unsafe {
                    self.first
                        .cast::<u8>()
                        .add(at)
                        .cast::<u64>()
                        .add(index)
                        .read_volatile()
                };
                words[index] = self.note(word);
                index += 1;
            }
            words
        }
        #[cfg(not(target_arch = "bpf"))]
        {
            let (first, shift) = (from + (offset / 8) as usize, offset % 8 * 8);
            let mut at = |index: usize| if index < N { self.word(index) } else { 0 };
            core::array::from_fn(|index| {
                let low = at(first + index) >> shift;
                if shift == 0 {
                    low
                } else {
                    low | at(first + index + 1) << (64 - shift)
                }
            })
        }
    }

    /// Takes `word` into the witness, and returns it for use. Where a reader goes on only if a word equals a value of its
    /// own, LLVM puts that value in the place of the word, and the witness would depend on what was never loaded from here:
    /// so it does not know that the two are one.
    #[inline(always)]
    fn note(&mut self, word: u64) -> u64 {
        if ORDERED_BY_DEPENDENCY {
            self.witness |= word;
            opaque(word)
        } else {
            word
        }
    }
}

/// `value`, of which LLVM does not know that it is.
#[inline(always)]
fn opaque(value: u64) -> u64 {
    #[cfg(target_arch = "bpf")]
    {
        let mut value = value;
        // SAFETY: one instruction that changes nothing.
        unsafe {
            core::arch::asm!("{0} = {0}", inout(reg) value, options(pure, nomem, nostack));
        }
        value
    }
    #[cfg(not(target_arch = "bpf"))]
    value
}

/// Whether loads have to be ordered by their addresses. In userspace the loads of a [`Word`] are acquiring ones.
const ORDERED_BY_DEPENDENCY: bool = cfg!(all(target_arch = "bpf", not(bpf_target_arch = "x86_64")));

/// `pointer`, by way of an address that depends on `earlier`.
#[inline(always)]
fn dependent<T>(pointer: *const T, earlier: u64) -> *const T {
    #[cfg(all(target_arch = "bpf", not(bpf_target_arch = "x86_64")))]
    {
        let mut pointer = pointer;
        // SAFETY: arithmetic on two registers. LLVM does not know that the second one is 0 then, and the kernel's compilers
        // translate both instructions as they are.
        unsafe {
            core::arch::asm!(
                "{1} &= 0",
                "{0} += {1}",
                inout(reg) pointer,
                inout(reg) earlier => _,
                options(pure, nomem, nostack)
            );
        }
        pointer
    }
    #[cfg(not(all(target_arch = "bpf", not(bpf_target_arch = "x86_64"))))]
    {
        let _ = earlier;
        pointer
    }
}

/// Marks an entry as being written, writes, and marks it as another one than before. There must be one writer at a time.
#[cfg(not(target_arch = "bpf"))]
pub(crate) fn change(entry: &[Word], stores: impl FnOnce()) {
    let sequence = entry[SEQUENCE].load() | 1;
    entry[SEQUENCE].store(sequence);
    // No store below may be seen before the one above.
    fence(Ordering::SeqCst);
    stores();
    entry[SEQUENCE].store(sequence + 1);
}
