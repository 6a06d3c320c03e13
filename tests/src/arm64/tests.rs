use super::{Fault, Reader, check};

/// Instructions with 64-bit registers, as the JIT encodes them.
mod asm {
    pub fn mov(to: u32, value: u32) -> u32 {
        0xd280_0000 | value << 5 | to
    }

    pub fn movk(to: u32, value: u32, shift: u32) -> u32 {
        0xf280_0000 | (shift / 16) << 21 | value << 5 | to
    }

    pub fn copy(to: u32, from: u32) -> u32 {
        0xaa00_03e0 | from << 16 | to
    }

    pub fn add(to: u32, one: u32, other: u32) -> u32 {
        0x8b00_0000 | other << 16 | one << 5 | to
    }

    pub fn add_number(to: u32, from: u32, number: u32) -> u32 {
        0x9100_0000 | number << 10 | from << 5 | to
    }

    pub fn and(to: u32, one: u32, other: u32) -> u32 {
        0x8a00_0000 | other << 16 | one << 5 | to
    }

    pub fn or(to: u32, one: u32, other: u32) -> u32 {
        0xaa00_0000 | other << 16 | one << 5 | to
    }

    pub fn xor(to: u32, one: u32, other: u32) -> u32 {
        0xca00_0000 | other << 16 | one << 5 | to
    }

    pub fn load(to: u32, base: u32, offset: u32) -> u32 {
        0xf940_0000 | (offset / 8) << 10 | base << 5 | to
    }

    pub fn load16(to: u32, base: u32, index: u32) -> u32 {
        0x7860_6800 | index << 16 | base << 5 | to
    }

    pub fn store(from: u32, base: u32, offset: u32) -> u32 {
        0xf900_0000 | (offset / 8) << 10 | base << 5 | from
    }

    pub fn compare(one: u32, other: u32) -> u32 {
        0xeb00_001f | other << 16 | one << 5
    }

    /// Jumps over this many instructions if what was compared is not equal.
    pub fn unless_equal(over: u32) -> u32 {
        0x5400_0001 | (over + 1) << 5
    }

    /// Jumps this many instructions back if it is not zero.
    pub fn back_unless_zero(register: u32, by: u32) -> u32 {
        0xb500_0000 | (by.wrapping_neg() & 0x7_ffff) << 5 | register
    }

    pub fn call(register: u32) -> u32 {
        0xd63f_0000 | register << 5
    }

    pub const SUB_SP_64: u32 = 0xd101_03ff;
    pub const SP: u32 = 31;
    pub const RETURN: u32 = 0xd65f_03c0;
}

use asm::*;

const ENTRY: u32 = 19;
const SEQUENCE: u32 = 20;
const BASE: u32 = 21;
const WITNESS: u32 = 22;
const ZERO: u32 = 10;

/// A call that leaves the entry in its register.
fn look_up() -> Vec<u32> {
    vec![call(10), copy(ENTRY, 0)]
}

/// The first look, and the base for data that wait for it.
fn first() -> Vec<u32> {
    vec![
        load(SEQUENCE, ENTRY, 0),
        copy(BASE, SEQUENCE),
        mov(ZERO, 0),
        and(BASE, BASE, ZERO),
        add(BASE, BASE, ENTRY),
    ]
}

/// Two words, and a witness of both.
fn data(base: u32) -> Vec<u32> {
    vec![load(0, base, 8), load(1, base, 16), or(WITNESS, 0, 1)]
}

/// The second look, and the comparison.
fn second() -> Vec<u32> {
    vec![
        mov(ZERO, 0),
        and(WITNESS, WITNESS, ZERO),
        add(WITNESS, WITNESS, ENTRY),
        load(2, WITNESS, 0),
        compare(2, SEQUENCE),
        unless_equal(1),
        mov(0, 1),
        RETURN,
    ]
}

fn faults(parts: &[Vec<u32>]) -> Vec<Fault> {
    let report = check(&parts.concat()).expect("known instructions");
    report.faults.into_iter().collect()
}

#[test]
fn reader_with_both_dependencies_is_in_order() {
    let report =
        check(&[look_up(), first(), data(BASE), second()].concat()).expect("known instructions");
    assert_eq!(report.faults.into_iter().collect::<Vec<_>>(), []);
    let readers: Vec<Reader> = report.readers.into_iter().collect();
    assert_eq!(
        readers,
        [Reader {
            first: 5,
            last: 11,
            loads: 2
        }]
    );
}

#[test]
fn reader_of_plain_loads_is_none() {
    let plain = vec![
        load(SEQUENCE, ENTRY, 0),
        load(0, ENTRY, 8),
        load(2, ENTRY, 0),
        compare(2, SEQUENCE),
        unless_equal(1),
        mov(0, 1),
        RETURN,
    ];
    let report = check(&[look_up(), plain].concat()).expect("known instructions");
    assert!(report.readers.is_empty());
}

#[test]
fn data_by_the_plain_address_are_early() {
    assert_eq!(
        faults(&[
            look_up(),
            first(),
            vec![load(3, ENTRY, 24)],
            data(BASE),
            second()
        ]),
        [Fault::Early { load: 7 }]
    );
    // Even if the witness has them: they may be loaded before the first look.
    assert_eq!(
        faults(&[look_up(), first(), data(ENTRY), second()]),
        [
            Fault::Early { load: 7 },
            Fault::Early { load: 8 },
            Fault::Empty { first: 5 },
        ]
    );
}

#[test]
fn second_look_by_the_plain_address_closes_nothing() {
    let second = vec![
        load(2, ENTRY, 0),
        compare(2, SEQUENCE),
        unless_equal(1),
        mov(0, 1),
        RETURN,
    ];
    assert_eq!(
        faults(&[look_up(), first(), data(BASE), second]),
        [
            Fault::Early { load: 2 },
            Fault::Early { load: 10 },
            Fault::Unmatched { zero: 5 }
        ]
    );
}

#[test]
fn comparison_with_something_else_closes_nothing() {
    let mut wrong = second();
    wrong[4] = compare(2, 5);
    assert_eq!(
        faults(&[look_up(), first(), data(BASE), wrong]),
        [
            Fault::Early { load: 2 },
            Fault::Unmatched { zero: 5 },
            Fault::Unmatched { zero: 11 },
        ]
    );
}

#[test]
fn word_that_the_witness_lacks_is_named() {
    let lacking = vec![load(0, BASE, 8), load(1, BASE, 16), copy(WITNESS, 1)];
    assert_eq!(
        faults(&[look_up(), first(), lacking, second()]),
        [Fault::Unwitnessed { load: 7, last: 11 }]
    );
}

#[test]
fn word_that_one_way_lacks_is_named() {
    // The second word is taken in only on one of two ways.
    let branching = vec![
        load(0, BASE, 8),
        load(1, BASE, 16),
        copy(WITNESS, 0),
        compare(0, 3),
        unless_equal(1),
        or(WITNESS, WITNESS, 1),
    ];
    assert_eq!(
        faults(&[look_up(), first(), branching, second()]),
        [Fault::Unwitnessed { load: 8, last: 14 }]
    );
    // A word that is not loaded on one of them is not missing there.
    let absent = vec![
        load(WITNESS, BASE, 8),
        compare(WITNESS, 3),
        unless_equal(2),
        load(1, BASE, 16),
        or(WITNESS, WITNESS, 1),
    ];
    assert_eq!(faults(&[look_up(), first(), absent, second()]), []);
}

/// A loop that loads a word at a growing offset and does something with it.
fn looping(taken: u32) -> Vec<u32> {
    vec![
        mov(WITNESS, 0),
        mov(3, 8),
        load16(1, BASE, 3),
        taken,
        add_number(3, 3, 2),
        back_unless_zero(4, 3),
    ]
}

#[test]
fn every_turn_of_a_loop_is_witnessed() {
    assert_eq!(
        faults(&[
            look_up(),
            first(),
            looping(or(WITNESS, WITNESS, 1)),
            second()
        ]),
        []
    );
    // The last turn alone is not enough.
    assert_eq!(
        faults(&[look_up(), first(), looping(copy(WITNESS, 1)), second()]),
        [Fault::Unwitnessed { load: 9, last: 14 }]
    );
}

#[test]
fn witness_on_the_stack_is_followed() {
    let spilled = vec![
        load(WITNESS, BASE, 8),
        store(WITNESS, SP, 16),
        call(10),
        load(1, BASE, 16),
        load(2, SP, 16),
        or(WITNESS, 1, 2),
    ];
    let function = [
        vec![SUB_SP_64],
        look_up(),
        first(),
        spilled.clone(),
        second(),
    ];
    assert_eq!(faults(&function), []);
    let mut overwritten = spilled;
    overwritten.insert(2, store(5, SP, 16));
    let function = [vec![SUB_SP_64], look_up(), first(), overwritten, second()];
    assert_eq!(
        faults(&function),
        [Fault::Unwitnessed { load: 8, last: 16 }]
    );
}

#[test]
fn load_after_the_last_look_is_late() {
    let mut late = second();
    late.insert(6, load(3, BASE, 24));
    late[5] = unless_equal(2);
    assert_eq!(
        faults(&[look_up(), first(), data(BASE), late]),
        [Fault::Late { load: 16 }]
    );
}

#[test]
fn two_readers_in_one_function_do_not_mix() {
    let mut again = second();
    again.truncate(5);
    again.push(unless_equal(12));
    assert_eq!(
        faults(&[
            look_up(),
            first(),
            data(BASE),
            again,
            first()[1..].to_vec(),
            data(BASE),
            second()[..6].to_vec(),
            vec![mov(0, 1), RETURN],
        ]),
        []
    );
}

/// The end of a stage: the number, which waits for the witness, is stored at the address in register 23.
fn hand_over() -> Vec<u32> {
    vec![
        copy(3, SEQUENCE),
        mov(ZERO, 0),
        and(WITNESS, WITNESS, ZERO),
        add(3, 3, WITNESS),
        store(3, 23, 40),
        RETURN,
    ]
}

#[test]
fn words_beside_the_entry_are_under_the_same_number() {
    const BESIDE: u32 = 23;
    let beside = vec![
        copy(BESIDE, SEQUENCE),
        mov(ZERO, 0),
        and(BESIDE, BESIDE, ZERO),
        add(BESIDE, BESIDE, 24),
    ];
    let read = |witnessed| {
        [
            look_up(),
            first(),
            vec![load(3, BASE, 24)],
            beside.clone(),
            vec![load(4, BESIDE, 0)],
            data(BASE),
            vec![or(WITNESS, WITNESS, 3), or(WITNESS, WITNESS, witnessed)],
            second(),
        ]
    };
    assert_eq!(faults(&read(4)), []);
    assert_eq!(
        faults(&read(3)),
        [Fault::Unwitnessed { load: 12, last: 19 }]
    );
}

#[test]
fn stage_that_hands_over_is_a_reader() {
    let function = [look_up(), first(), data(BASE), hand_over()].concat();
    let report = check(&function).expect("known instructions");
    assert_eq!(report.faults.into_iter().collect::<Vec<_>>(), []);
    assert_eq!(report.readers.len(), 1);

    // It may have looked again before that.
    let mut looked = second();
    looked.truncate(6);
    looked[1] = and(4, WITNESS, ZERO);
    looked[2] = add(4, 4, BASE);
    looked[3] = load(2, 4, 0);
    looked[5] = unless_equal(5);
    assert_eq!(
        faults(&[look_up(), first(), data(BASE), looked, hand_over()]),
        []
    );

    // What is handed over lacks a word.
    let mut lacking = data(BASE);
    lacking[2] = copy(WITNESS, 1);
    assert_eq!(
        faults(&[look_up(), first(), lacking, hand_over()]),
        [Fault::Unwitnessed { load: 7, last: 12 }]
    );
    // The number without the zero.
    let mut plain = hand_over();
    plain[4] = store(SEQUENCE, 23, 40);
    assert_eq!(
        faults(&[look_up(), first(), data(BASE), plain]),
        [
            Fault::Early { load: 2 },
            Fault::Unmatched { zero: 5 },
            Fault::Unmatched { zero: 12 },
        ]
    );
    // On the stack no other stage finds it.
    let mut spilled = hand_over();
    spilled[4] = store(3, SP, 16);
    assert_eq!(
        faults(&[vec![SUB_SP_64], look_up(), first(), data(BASE), spilled]),
        [
            Fault::Early { load: 3 },
            Fault::Unmatched { zero: 6 },
            Fault::Unmatched { zero: 13 },
        ]
    );
}

#[test]
fn next_stage_waits_for_the_number_in_memory() {
    // The number comes from memory of the reader's own, and is compared in its register.
    let next = |compared| {
        vec![
            load(SEQUENCE, 23, 40),
            copy(BASE, SEQUENCE),
            mov(ZERO, 0),
            and(BASE, BASE, ZERO),
            add(BASE, BASE, ENTRY),
            load(WITNESS, BASE, 8),
            mov(ZERO, 0),
            and(WITNESS, WITNESS, ZERO),
            add(WITNESS, WITNESS, BASE),
            load(2, WITNESS, 0),
            compare(2, compared),
            unless_equal(1),
            mov(0, 1),
            RETURN,
        ]
    };
    assert_eq!(faults(&[look_up(), next(SEQUENCE)]), []);
    assert_eq!(
        faults(&[look_up(), next(5)]),
        [Fault::Unmatched { zero: 5 }, Fault::Unmatched { zero: 9 },]
    );
}

#[test]
fn address_of_a_map_in_the_code_is_an_entry_too() {
    // Addresses of 48 bits and of 52.
    for high in [0xffff, 0xfff0] {
        let map = vec![
            mov(ENTRY, 0x1000),
            movk(ENTRY, 0x080e, 32),
            movk(ENTRY, high, 48),
            add(ENTRY, ENTRY, 4),
        ];
        let read = |base| {
            [
                map.clone(),
                first(),
                vec![load(3, base, 24)],
                data(BASE),
                second(),
            ]
        };
        assert_eq!(faults(&read(ENTRY)), [Fault::Early { load: 9 }]);
        assert_eq!(faults(&read(5)), []);
    }
}

#[test]
fn zero_by_difference_is_a_zero() {
    let mut first = first();
    first.splice(1..4, [xor(BASE, SEQUENCE, SEQUENCE)]);
    assert_eq!(faults(&[look_up(), first, data(BASE), second()]), []);
}

/// What the JIT of Linux 6.12 made of [`super::sample`].
#[test]
fn code_of_a_real_kernel_is_understood() {
    let code = [
        0x910003c9, 0xd503201f, 0xd503233f, 0xa9bf7bfd, 0x910003fd, 0xa9bf6bff, 0x910003fa,
        0xa9bf53f3, 0xa9bf67f5, 0x910003f9, 0xd10043ff, 0xd280000a, 0xb9000fea, 0x91000321,
        0xd1001021, 0xd2fffe00, 0xf2a101c0, 0xf29b4000, 0x91042000, 0xb9400027, 0xf10004ff,
        0x54000082, 0xd37ae4e7, 0x8b0000e7, 0x14000002, 0xd2800007, 0xf10000ff, 0x54000061,
        0xd2800007, 0x14000013, 0x910000f3, 0xf9400274, 0x91000275, 0x91000295, 0xd280000a,
        0x8a0a02b5, 0x8b1302b5, 0xf94006a1, 0xf9400aa2, 0xaa010042, 0xd280000a, 0x8a0a0042,
        0x8b130042, 0xf9400043, 0xd2800007, 0xeb14007f, 0x54000041, 0xd2800027, 0x910043ff,
        0xa8c167f5, 0xa8c153f3, 0xa8c16bff, 0xa8c17bfd, 0x910000e0, 0xd50323bf, 0xd65f03c0,
        0x5800004a, 0xd61f0140,
    ];
    let report = check(&code).expect("known instructions");
    assert_eq!(report.faults.into_iter().collect::<Vec<_>>(), []);
    assert_eq!(report.readers.len(), 1);
    // Without the instruction that makes the zero of the witness.
    let mut planted = code;
    planted[41] = mov(2, 0);
    let report = check(&planted).expect("known instructions");
    assert_eq!(report.readers.len(), 0);
}

#[test]
fn an_unknown_instruction_is_an_error() {
    let error = check(&[0x0000_0000, RETURN]).expect_err("udf");
    assert_eq!((error.at, error.word), (0, 0));
    // Where control never comes there may be anything.
    assert!(check(&[RETURN, 0]).is_ok());
    // Past the end of the function.
    assert!(check(&[unless_equal(5), RETURN]).is_err());
    assert!(check(&[mov(0, 0)]).is_err());
}
