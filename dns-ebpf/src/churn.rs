//! Look-ups of answers and nothing else, each judged on the spot, for a test that changes the tables meanwhile. Not part
//! of the product.
//!
//! The frame of a test run, which is not restored between its runs, holds the questions and what the look-ups showed.

use aya_ebpf::{helpers::generated::bpf_ktime_get_ns, macros::classifier, programs::TcContext};
use dns_common::{
    answer::{Found, Tables as _, locate, locate_by_suffix, read_with, suffix_of},
    churn::{KEYS, NAME_LEN, NAME_WORDS, NAMES, SEEN, SEEN_WORDS, is_own},
    scratch::{Asked, NAME_AT, Scratch},
};

use crate::{host::MapTables, maps};

/// With the look at the sequence number after the copy.
#[classifier]
pub fn churn(context: TcContext) -> i32 {
    run::<true>(&context)
}

/// Without it.
#[classifier]
pub fn churn_unchecked(context: TcContext) -> i32 {
    run::<false>(&context)
}

#[inline(always)]
fn run<const CHECKED: bool>(context: &TcContext) -> i32 {
    let data = context.data();
    let Some(scratch) = maps::scratch() else {
        return crate::NEXT;
    };
    if data + NAMES > context.data_end() {
        return crate::NEXT;
    }
    let seen = (data + SEEN) as *mut u64;
    let mut counts = [0u64; SEEN_WORDS];
    let mut word = 0;
    while word < SEEN_WORDS {
        // SAFETY: the frame was seen to be long enough.
        counts[word] = unsafe { core::ptr::read_volatile(seen.add(word)) };
        word += 1;
    }
    let key = (counts[0] % KEYS as u64) as usize;
    let from = data + NAMES + key * NAME_WORDS * 8;
    if from + NAME_WORDS * 8 > context.data_end() {
        return crate::NEXT;
    }
    let from = from as *const u64;
    let to = scratch.bytes.as_mut_ptr().cast::<u64>();
    let mut word = 0;
    while word < NAME_WORDS {
        // SAFETY: as above; the scratch has room for a name, and its bytes are aligned to words.
        unsafe {
            let value = core::ptr::read_volatile(from.add(word));
            core::ptr::write_volatile(to.add(NAME_AT as usize / 8 + word), value);
        }
        word += 1;
    }
    counts[0] += 1;
    match look_up::<CHECKED>(scratch, key as u32) {
        OWN => counts[1] += 1,
        FOREIGN => counts[2] += 1,
        _ => {}
    }
    let mut word = 0;
    while word < SEEN_WORDS {
        // SAFETY: as above.
        unsafe { core::ptr::write_volatile(seen.add(word), counts[word]) };
        word += 1;
    }
    crate::NEXT
}

const NOTHING: u32 = 0;
const OWN: u32 = 1;
const FOREIGN: u32 = 2;

#[inline(never)]
fn look_up<const CHECKED: bool>(scratch: &mut Scratch, key: u32) -> u32 {
    scratch.name_len = u32::from(scratch.byte(u64::from(NAME_AT) + NAME_LEN as u64));
    let Some(rule) = MapTables.rule(key & 1) else {
        return FOREIGN;
    };
    scratch.asked = Asked {
        // SAFETY: takes no argument.
        now_ns: unsafe { bpf_ktime_get_ns() },
        // Of a name that is not found by its end.
        rule: rule.id,
        captures: rule.captures,
        qtype: 1,
        server: 0,
        room: 1000,
        ..Asked::default()
    };
    // The ways of the pipeline, one after the other.
    let found = if by_suffix(scratch) != 0 {
        read::<CHECKED>(scratch)
    } else if scratch.split_labels(NAME_WORDS as u32 * 8).is_err() {
        return FOREIGN;
    } else {
        match located(scratch) {
            1 => read::<CHECKED>(scratch),
            _ => Found::Nothing as u32,
        }
    };
    match Found::from_code(found) {
        Found::Answer if is_own(scratch, key) => OWN,
        Found::Nothing => NOTHING,
        _ => FOREIGN,
    }
}

#[inline(never)]
fn by_suffix(scratch: &mut Scratch) -> u32 {
    match suffix_of(&MapTables, scratch) {
        (0, _) => 0,
        (at, _) => u32::from(locate_by_suffix(&MapTables, scratch, at)),
    }
}

#[inline(never)]
fn located(scratch: &mut Scratch) -> u32 {
    locate(&MapTables, scratch) as u32
}

#[inline(never)]
fn read<const CHECKED: bool>(scratch: &mut Scratch) -> u32 {
    read_with::<_, CHECKED>(&MapTables, scratch) as u32
}
