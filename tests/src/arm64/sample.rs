//! Readers written by hand in BPF, to see what the JIT of a kernel makes of a dependency.

use std::{
    io,
    os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd},
};

use super::jited::bpf;

const MAP_CREATE: libc::c_long = 0;
const PROG_LOAD: libc::c_long = 5;
const MAP_TYPE_ARRAY: u32 = 2;
const PROG_TYPE_SCHED_CLS: u32 = 3;

/// What a reader makes its addresses from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dependencies {
    Both,
    /// The data do not wait for the first look.
    NoFirst,
    /// The second look does not wait for the data.
    NoSecond,
    None,
}

/// One BPF instruction.
fn instruction(code: u8, to: u8, from: u8, offset: i16, number: i32) -> u64 {
    u64::from(code)
        | u64::from(to) << 8
        | u64::from(from) << 12
        | u64::from(offset as u16) << 16
        | u64::from(number as u32) << 32
}

fn copy(to: u8, from: u8) -> u64 {
    instruction(0xbf, to, from, 0, 0)
}

fn set(to: u8, number: i32) -> u64 {
    instruction(0xb7, to, 0, 0, number)
}

fn add(to: u8, from: u8) -> u64 {
    instruction(0x0f, to, from, 0, 0)
}

fn or(to: u8, from: u8) -> u64 {
    instruction(0x4f, to, from, 0, 0)
}

fn and_zero(to: u8) -> u64 {
    instruction(0x57, to, 0, 0, 0)
}

fn load(to: u8, from: u8, offset: i16) -> u64 {
    instruction(0x79, to, from, offset, 0)
}

const EXIT: u64 = 0x95;

/// A reader of an entry of two words behind their sequence number.
fn reader(map: i32, dependencies: Dependencies) -> Vec<u64> {
    let (first, second) = match dependencies {
        Dependencies::Both => (true, true),
        Dependencies::NoFirst => (false, true),
        Dependencies::NoSecond => (true, false),
        Dependencies::None => (false, false),
    };
    let mut program = vec![
        // The entry: element 0.
        instruction(0x62, 10, 0, -4, 0),
        copy(2, 10),
        instruction(0x07, 2, 0, 0, -4),
        instruction(0x18, 1, 1, 0, map),
        0,
        instruction(0x85, 0, 0, 0, 1),
        instruction(0x55, 0, 0, 2, 0),
        set(0, 0),
        EXIT,
        copy(6, 0),
        // The first look.
        load(7, 6, 0),
        copy(8, 6),
    ];
    if first {
        program.extend([copy(8, 7), and_zero(8), add(8, 6)]);
    }
    program.extend([load(2, 8, 8), load(3, 8, 16), or(3, 2)]);
    // The second look.
    if second {
        program.extend([and_zero(3), add(3, 6), load(4, 3, 0)]);
    } else {
        program.push(load(4, 6, 0));
    }
    program.extend([set(0, 0), instruction(0x5d, 4, 7, 1, 0), set(0, 1), EXIT]);
    program
}

/// Loads such a reader; nothing is attached.
pub fn load_reader(dependencies: Dependencies) -> io::Result<OwnedFd> {
    #[repr(C)]
    struct Map {
        map_type: u32,
        key_size: u32,
        value_size: u32,
        max_entries: u32,
        flags: u32,
    }
    #[repr(C)]
    struct Program {
        program_type: u32,
        instruction_count: u32,
        instructions: u64,
        license: u64,
        log_level: u32,
        log_size: u32,
        log: u64,
        kernel_version: u32,
        flags: u32,
    }
    let mut map = Map {
        map_type: MAP_TYPE_ARRAY,
        key_size: 4,
        value_size: 64,
        max_entries: 1,
        flags: 0,
    };
    // SAFETY: the kernel reads these numbers.
    let fd = unsafe { bpf(MAP_CREATE, &mut map) }?;
    // SAFETY: the kernel has just opened it, for this process alone.
    let map = unsafe { OwnedFd::from_raw_fd(fd as i32) };
    let instructions = reader(map.as_raw_fd(), dependencies);
    let mut program = Program {
        program_type: PROG_TYPE_SCHED_CLS,
        instruction_count: instructions.len() as u32,
        instructions: instructions.as_ptr() as u64,
        license: c"MIT".as_ptr() as u64,
        log_level: 0,
        log_size: 0,
        log: 0,
        kernel_version: 0,
        flags: 0,
    };
    // SAFETY: the instructions and the licence outlive the call.
    let fd = unsafe { bpf(PROG_LOAD, &mut program) }?;
    // SAFETY: the kernel has just opened it, for this process alone.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}
