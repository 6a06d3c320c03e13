//! Reads and writes of the scratch at any index, which a mask keeps within bounds: nothing here decides.

use super::{COOKIE_WORDS, Frame, NAME_AT, REPLY_MASK, SCRATCH_MASK, STRIDE, Scratch};
use crate::verifier;

impl Scratch {
    /// Where a label begins; the index is masked.
    #[inline(always)]
    pub(crate) fn label(&self, index: u32) -> u32 {
        // SAFETY: masked to the length of the array.
        u32::from(unsafe { *self.labels.as_ptr().add(verifier::index::<127>(index)) })
    }

    #[inline(always)]
    pub(crate) fn set_label(&mut self, index: u32, position: u32) {
        // SAFETY: as in `label`.
        unsafe {
            *self.labels.as_mut_ptr().add(verifier::index::<127>(index)) = position as u8;
        }
    }

    /// A big-endian 16-bit integer of the reply; the position is masked.
    #[inline(always)]
    pub(crate) fn reply16(&self, position: u32) -> u16 {
        let at = verifier::index::<REPLY_MASK>(position);
        // SAFETY: two bytes from a masked index are within the array.
        unsafe {
            u16::from(*self.reply.as_ptr().add(at)) << 8
                | u16::from(*self.reply.as_ptr().add(at + 1))
        }
    }

    /// Eight bytes of the reply, little-endian; the position is masked.
    #[inline(always)]
    pub(crate) fn reply_word(&self, position: u32) -> u64 {
        let at = verifier::index::<REPLY_MASK>(position);
        // SAFETY: eight bytes from a masked index are within the array.
        u64::from_le(unsafe { unaligned(self.reply.as_ptr().add(at)) })
    }

    #[inline(always)]
    pub(crate) fn set_reply16(&mut self, position: u32, value: u16) {
        let at = verifier::index::<REPLY_MASK>(position);
        // SAFETY: as in `reply16`.
        unsafe { put(self.reply.as_mut_ptr().add(at), value.to_be()) }
    }

    #[inline(always)]
    pub(crate) fn set_reply32(&mut self, position: u32, value: u32) {
        let at = verifier::index::<REPLY_MASK>(position);
        // SAFETY: four bytes from a masked index are within the array.
        unsafe { put(self.reply.as_mut_ptr().add(at), value.to_be()) }
    }

    #[inline(always)]
    pub(crate) fn set_reply_words(&mut self, position: u32, values: [u64; STRIDE / 8]) {
        let at = verifier::index::<REPLY_MASK>(position);
        let mut index = 0;
        while index < STRIDE / 8 {
            // SAFETY: a stride from a masked index is within the array.
            unsafe {
                put(
                    self.reply.as_mut_ptr().add(at + index * 8),
                    values[index].to_le(),
                )
            };
            index += 1;
        }
    }

    /// Eight bytes, little-endian.
    #[inline(always)]
    pub(crate) fn set_reply_word(&mut self, position: u32, value: u64) {
        let at = verifier::index::<REPLY_MASK>(position);
        // SAFETY: eight bytes from a masked index are within the array.
        unsafe { put(self.reply.as_mut_ptr().add(at), value.to_le()) }
    }

    /// Keeps the option at the start of the reply's place.
    #[inline(always)]
    pub(crate) fn take_cookie(&mut self) {
        let mut index = 0;
        while index < COOKIE_WORDS {
            self.cookie[index] = self.reply_word(index as u32 * 8);
            index += 1;
        }
    }

    /// Puts the option that was kept, and bytes without a meaning behind it, at a position of the reply.
    #[inline(always)]
    pub(crate) fn put_cookie(&mut self, position: u32) {
        let mut index = 0;
        while index < COOKIE_WORDS {
            self.set_reply_word(position + index as u32 * 8, self.cookie[index]);
            index += 1;
        }
    }

    /// A byte of the scratch; the index is masked, never out of bounds.
    #[inline(always)]
    pub fn byte(&self, index: u64) -> u8 {
        let index = verifier::index64::<SCRATCH_MASK>(index);
        // SAFETY: masked to the length of the array. A checked index would pull the panic machinery into the program.
        unsafe { *self.bytes.as_ptr().add(index) }
    }

    /// Eight bytes from `index`, little-endian; the index is masked.
    #[inline(always)]
    pub(crate) fn word(&self, index: u32) -> u64 {
        let index = verifier::index::<SCRATCH_MASK>(index);
        // SAFETY: index ≤ SCRATCH_MASK and SCRATCH_MASK + 8 < SCRATCH_LEN.
        u64::from_le(unsafe { unaligned(self.bytes.as_ptr().add(index)) })
    }

    #[inline(always)]
    pub(crate) fn set(&mut self, index: u32, value: u8) {
        let index = verifier::index::<SCRATCH_MASK>(index);
        // SAFETY: masked to the length of the array.
        unsafe { *self.bytes.as_mut_ptr().add(index) = value }
    }

    /// `value`, of which the verifier knows nothing any more. It walks every round of a loop; what leaves the loop as a
    /// different constant each time would make it walk all that follows as often.
    #[inline(always)]
    pub(crate) fn forget(&mut self, value: u32) -> u32 {
        let slot = &raw mut self.forgotten;
        // SAFETY: `slot` is a field of ours.
        unsafe {
            slot.write_volatile(value);
            slot.read_volatile()
        }
    }

    /// Sets how often the next loop is to run. Each loop has a constant bound as well; [`Scratch::rounds`] is read again in
    /// each of its rounds, because LLVM would else merge both into a bound that the verifier cannot follow.
    #[inline(always)]
    pub(crate) fn set_rounds(&mut self, rounds: u32) {
        // SAFETY: a field of ours.
        unsafe { (&raw mut self.rounds).write_volatile(rounds) }
    }

    /// How often the current loop is to run.
    #[inline(always)]
    pub(crate) fn rounds(&self) -> u32 {
        verifier::reread(&self.rounds)
    }

    /// Where the label with so many others behind it begins in the scratch, and its length. The name was split.
    #[inline(always)]
    pub(crate) fn label_behind(&self, behind: u8) -> (u32, u32) {
        let label = self.label_count.wrapping_sub(1 + u32::from(behind));
        let at = self.label(label) + 1;
        let len = self.label(label.wrapping_add(1)).wrapping_sub(at) & 63;
        (NAME_AT + at, len)
    }

    /// Big-endian 16-bit integer at `index`.
    #[inline(always)]
    pub fn be16(&self, index: u32) -> u16 {
        let index = u64::from(index);
        u16::from(self.byte(index)) << 8 | u16::from(self.byte(index + 1))
    }

    #[inline(always)]
    pub(crate) fn set_frame(&mut self, frame: &Frame) {
        // SAFETY: a field of ours.
        unsafe { (&raw mut self.frame).write_volatile(*frame) };
    }

    #[inline(always)]
    pub(crate) fn frame(&self) -> Frame {
        // SAFETY: a field of ours.
        unsafe { (&raw const self.frame).read_volatile() }
    }

    /// First byte after the message of the query that the pipeline's last stage is to look at.
    #[inline(always)]
    pub fn end(&self) -> u32 {
        self.frame().end
    }
}

/// Reads a word at any alignment.
///
/// # Safety
/// Eight bytes from `at` must be readable.
#[inline(always)]
unsafe fn unaligned(at: *const u8) -> u64 {
    #[cfg(target_arch = "bpf")]
    {
        // SAFETY: the machines that gregor supports read unaligned words; `read_unaligned` would become eight byte
        // loads here, because LLVM's BPF target knows no unaligned access.
        unsafe { core::ptr::read_volatile(at.cast::<u64>()) }
    }
    #[cfg(not(target_arch = "bpf"))]
    {
        // SAFETY: as the caller promises.
        unsafe { at.cast::<u64>().read_unaligned() }
    }
}

/// Writes an integer at any alignment.
///
/// # Safety
/// The bytes of a `T` from `at` must be writable.
#[inline(always)]
unsafe fn put<T>(at: *mut u8, value: T) {
    #[cfg(target_arch = "bpf")]
    {
        // SAFETY: see `unaligned`.
        unsafe { core::ptr::write_volatile(at.cast::<T>(), value) }
    }
    #[cfg(not(target_arch = "bpf"))]
    {
        // SAFETY: as the caller promises.
        unsafe { at.cast::<T>().write_unaligned(value) }
    }
}
