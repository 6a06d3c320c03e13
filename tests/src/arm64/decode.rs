//! The instructions of arm64 that the kernel's JIT emits, as far as the flow of data through them goes.

/// The stack pointer or zero, whichever an instruction takes register 31 for.
pub const SP: u8 = 31;
/// Zero, as distinct from the stack pointer.
pub const ZERO: u8 = 32;

/// What an instruction does with its sources; all of them carry a dependency from each source to the result.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Combine {
    Add,
    And,
    /// Exclusive or, and subtraction: zero for two equal registers.
    Differ,
    Other,
}

/// Where a load or store goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Address {
    pub base: u8,
    pub index: Option<u8>,
    pub offset: i64,
    /// Whether the base becomes the address.
    pub writes_back: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Instruction {
    /// Neither registers nor memory that matter here: hints, barriers.
    Nothing,
    Constant {
        to: u8,
        value: u64,
    },
    /// `movk`: 16 bits of a constant.
    Insert {
        to: u8,
        value: u64,
        shift: u32,
    },
    /// All 64 bits of a register.
    Copy {
        to: u8,
        from: u8,
    },
    /// A register and a number, or a shift, a swap of bytes and the like of one register.
    Change {
        to: u8,
        from: u8,
        add: Option<i64>,
    },
    Both {
        to: u8,
        from: [u8; 2],
        how: Combine,
    },
    /// Of three registers.
    Three {
        to: u8,
        from: [u8; 3],
    },
    Load {
        to: u8,
        bytes: u8,
        address: Address,
    },
    LoadPair {
        to: [u8; 2],
        address: Address,
    },
    Store {
        from: u8,
        bytes: u8,
        address: Address,
    },
    StorePair {
        from: [u8; 2],
        address: Address,
    },
    /// A read and a write of memory in one, or the halves of such a pair; what was read, or whether it succeeded, is left
    /// in `to`.
    Atomic {
        to: u8,
        base: u8,
    },
    /// A register from something that is neither memory nor registers.
    System {
        to: u8,
    },
    /// Flags from two registers.
    Compare {
        of: [u8; 2],
        is_wide: bool,
    },
    /// Flags from a register and a number.
    CompareNumber,
    Jump {
        by: i64,
    },
    /// May go on or jump.
    Branch {
        by: i64,
    },
    Call,
    /// Leaves the function.
    End,
}

fn bits(word: u32, from: u32, count: u32) -> u32 {
    (word >> from) & ((1 << count) - 1)
}

fn signed(word: u32, from: u32, count: u32) -> i64 {
    let value = i64::from(bits(word, from, count));
    value - ((value >> (count - 1)) << count)
}

/// A register where 31 is zero.
fn register(word: u32, from: u32) -> u8 {
    match bits(word, from, 5) {
        31 => ZERO,
        number => number as u8,
    }
}

/// A register where 31 is the stack pointer.
fn pointer(word: u32, from: u32) -> u8 {
    bits(word, from, 5) as u8
}

/// `None` for what the JIT is not known to emit.
pub fn decode(word: u32) -> Option<Instruction> {
    match bits(word, 25, 4) {
        0b1000 | 0b1001 => immediate(word),
        0b1010 | 0b1011 => branch(word),
        0b0101 | 0b1101 => registers(word),
        0b0100 | 0b0110 | 0b1100 | 0b1110 => memory(word),
        _ => None,
    }
}

fn immediate(word: u32) -> Option<Instruction> {
    let is_wide = word >> 31 == 1;
    let operation = bits(word, 29, 2);
    Some(match bits(word, 23, 3) {
        // adr and adrp.
        0b000 | 0b001 => Instruction::System {
            to: register(word, 0),
        },
        // add, adds, sub, subs.
        0b010 => {
            let number = i64::from(bits(word, 10, 12)) << (12 * bits(word, 22, 1));
            let number = if operation & 2 == 0 { number } else { -number };
            if operation & 1 == 1 {
                if register(word, 0) != ZERO {
                    return None;
                }
                Instruction::CompareNumber
            } else if number == 0 && is_wide {
                Instruction::Copy {
                    to: pointer(word, 0),
                    from: pointer(word, 5),
                }
            } else {
                Instruction::Change {
                    to: pointer(word, 0),
                    from: pointer(word, 5),
                    add: is_wide.then_some(number),
                }
            }
        }
        // and, orr, eor, ands. Zero is not among the numbers that they can have.
        0b100 => match operation {
            3 if register(word, 0) == ZERO => Instruction::CompareNumber,
            3 => return None,
            1 if register(word, 5) == ZERO => Instruction::System {
                to: pointer(word, 0),
            },
            _ => Instruction::Change {
                to: pointer(word, 0),
                from: register(word, 5),
                add: None,
            },
        },
        // movn, movz, movk.
        0b101 => {
            let (to, shift) = (register(word, 0), 16 * bits(word, 21, 2));
            let value = u64::from(bits(word, 5, 16)) << shift;
            let mask = if is_wide {
                u64::MAX
            } else {
                u64::from(u32::MAX)
            };
            match operation {
                0 => Instruction::Constant {
                    to,
                    value: !value & mask,
                },
                2 => Instruction::Constant { to, value },
                3 => Instruction::Insert { to, value, shift },
                _ => return None,
            }
        }
        // sbfm, bfm, ubfm.
        0b110 if operation == 1 => Instruction::Both {
            to: register(word, 0),
            from: [register(word, 0), register(word, 5)],
            how: Combine::Other,
        },
        0b110 if operation != 3 => Instruction::Change {
            to: register(word, 0),
            from: register(word, 5),
            add: None,
        },
        // extr.
        0b111 => Instruction::Both {
            to: register(word, 0),
            from: [register(word, 5), register(word, 16)],
            how: Combine::Other,
        },
        _ => return None,
    })
}

fn branch(word: u32) -> Option<Instruction> {
    Some(match word >> 25 {
        // b; bl.
        0b000_1010 | 0b000_1011 => Instruction::Jump {
            by: signed(word, 0, 26),
        },
        0b100_1010 | 0b100_1011 => Instruction::Call,
        // b.cond.
        0b010_1010 => Instruction::Branch {
            by: signed(word, 5, 19),
        },
        // cbz, cbnz; tbz, tbnz.
        0b001_1010 | 0b101_1010 => Instruction::Branch {
            by: signed(word, 5, 19),
        },
        0b001_1011 | 0b101_1011 => Instruction::Branch {
            by: signed(word, 5, 14),
        },
        // br, blr, ret.
        0b110_1011 => match bits(word, 21, 4) {
            1 => Instruction::Call,
            0 | 2 => Instruction::End,
            _ => return None,
        },
        // Moves from system registers; hints, barriers and moves to them; brk and the like.
        0b110_1010 if word >> 20 == 0xd53 => Instruction::System {
            to: register(word, 0),
        },
        0b110_1010 if bits(word, 24, 1) == 1 => Instruction::Nothing,
        0b110_1010 => Instruction::End,
        _ => return None,
    })
}

fn registers(word: u32) -> Option<Instruction> {
    let is_wide = word >> 31 == 1;
    let operation = bits(word, 29, 2);
    let (to, first, second) = (register(word, 0), register(word, 5), register(word, 16));
    let both = |how| Instruction::Both {
        to,
        from: [first, second],
        how,
    };
    let is_plain = bits(word, 10, 6) == 0 && bits(word, 22, 2) == 0;
    Some(match bits(word, 24, 5) {
        // and, orr, eor, ands; with the second register inverted: bic, orn, eon, bics.
        0b01010 => match (operation, bits(word, 21, 1)) {
            (3, _) if to == ZERO => Instruction::Compare {
                of: [first, second],
                is_wide: false,
            },
            (3, _) => return None,
            (1, 0) if first == ZERO && is_plain && is_wide => {
                Instruction::Copy { to, from: second }
            }
            (0, 0) if is_plain => both(Combine::And),
            (2, 0) if is_plain => both(Combine::Differ),
            _ => both(Combine::Other),
        },
        // add, adds, sub, subs; with bit 21 the second register is extended, and 31 the stack pointer.
        0b01011 => {
            let is_extended = bits(word, 21, 1) == 1;
            if operation & 1 == 1 {
                if to != ZERO {
                    return None;
                }
                Instruction::Compare {
                    of: [first, second],
                    is_wide: is_wide && is_plain && !is_extended && operation == 3,
                }
            } else if is_extended {
                Instruction::Both {
                    to: pointer(word, 0),
                    from: [pointer(word, 5), second],
                    how: Combine::Add,
                }
            } else if operation == 0 {
                both(Combine::Add)
            } else if is_plain {
                both(Combine::Differ)
            } else {
                both(Combine::Other)
            }
        }
        // adc and the like; conditional selects and compares are not emitted.
        0b11010 => match bits(word, 21, 3) {
            // Of one register: rev and its like. Of two: udiv, sdiv, shifts.
            0b110 if bits(word, 30, 1) == 1 => Instruction::Change {
                to,
                from: first,
                add: None,
            },
            0b110 => both(Combine::Other),
            _ => return None,
        },
        // madd, msub and the long ones.
        0b11011 => Instruction::Three {
            to,
            from: [first, second, register(word, 10)],
        },
        _ => return None,
    })
}

fn memory(word: u32) -> Option<Instruction> {
    let base = pointer(word, 5);
    let size = word >> 30;
    let at = |index, offset, writes_back| Address {
        base,
        index,
        offset,
        writes_back,
    };
    match (bits(word, 27, 3), bits(word, 24, 2)) {
        // Exclusive, acquiring and releasing ones, compare and swap.
        (0b001, 0b00) => {
            let (is_load, is_ordered) = (bits(word, 22, 1) == 1, bits(word, 23, 1) == 1);
            Some(if bits(word, 21, 1) == 1 {
                // cas leaves what it read in the register that it compares with.
                Instruction::Atomic {
                    to: register(word, 16),
                    base,
                }
            } else if is_load {
                Instruction::Load {
                    to: register(word, 0),
                    bytes: 1 << size,
                    address: at(None, 0, false),
                }
            } else if is_ordered {
                Instruction::Store {
                    from: register(word, 0),
                    bytes: 1 << size,
                    address: at(None, 0, false),
                }
            } else {
                Instruction::Atomic {
                    to: register(word, 16),
                    base,
                }
            })
        }
        // ldr of a literal.
        (0b011, 0b00) => Some(Instruction::System {
            to: register(word, 0),
        }),
        // ldp and stp of 64-bit registers; after it, before it, or not at all, the base is changed.
        (0b101, how @ (0b00 | 0b01)) if size == 2 && bits(word, 26, 1) == 0 => {
            let offset = 8 * signed(word, 15, 7);
            let (is_before, writes_back) = match (how, bits(word, 23, 1)) {
                (0, 1) => (false, true),
                (1, 0) => (true, false),
                (1, 1) => (true, true),
                _ => return None,
            };
            let address = at(None, if is_before { offset } else { 0 }, writes_back);
            let pair = [register(word, 0), register(word, 10)];
            Some(if bits(word, 22, 1) == 1 {
                Instruction::LoadPair { to: pair, address }
            } else {
                Instruction::StorePair {
                    from: pair,
                    address,
                }
            })
        }
        (0b111, how @ (0b00 | 0b01)) if bits(word, 26, 1) == 0 => {
            let address = if how == 0b01 {
                at(None, i64::from(bits(word, 10, 12)) << size, false)
            } else {
                match (bits(word, 21, 1), bits(word, 10, 2)) {
                    (1, 0b10) => at(Some(register(word, 16)), 0, false),
                    (1, 0b00) => {
                        return Some(Instruction::Atomic {
                            to: register(word, 0),
                            base,
                        });
                    }
                    (0, 0b00) => at(None, signed(word, 12, 9), false),
                    (0, 0b01) => at(None, 0, true),
                    (0, 0b11) => at(None, signed(word, 12, 9), true),
                    _ => return None,
                }
            };
            let (register, bytes) = (register(word, 0), 1 << size);
            Some(match bits(word, 22, 2) {
                0 => Instruction::Store {
                    from: register,
                    bytes,
                    address,
                },
                // prfm.
                2 if size == 3 => Instruction::Nothing,
                _ => Instruction::Load {
                    to: register,
                    bytes,
                    address,
                },
            })
        }
        _ => None,
    }
}
