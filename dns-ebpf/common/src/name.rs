//! The name of a question in the scratch: its labels, and its bytes compared eight at a time with literals.

use crate::{
    scratch::{NAME_AT, Scratch},
    verifier,
};

/// Stands for a label boundary. A byte of this value inside a label never matches.
pub const SEPARATOR: u8 = 0xff;

/// Up to eight literal bytes, the last one highest: `(name | fold) & care == value`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct LiteralWord {
    /// 0x20 where there is a letter, so that both cases become the lower one.
    pub fold: u64,
    /// 0xff where a byte is compared.
    pub care: u64,
    pub value: u64,
}

impl LiteralWord {
    /// Compares nothing.
    pub const NONE: Self = Self {
        fold: 0,
        care: 0,
        value: 0,
    };

    /// Whether eight bytes of a name, the last one highest, are these.
    #[inline(always)]
    pub const fn matches(&self, word: u64) -> bool {
        (word | self.fold) & self.care == self.value
    }
}

/// What is wrong with a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NameError {
    /// A label type other than 00, or more than 255 bytes.
    Invalid,
    /// It does not end within the bytes given.
    Truncated,
}

impl Scratch {
    /// Finds the labels of the name at [`NAME_AT`], of which at most `available` bytes are there, and puts
    /// [`SEPARATOR`] in the place of each length byte. Sets `label_count` and `name_len`.
    #[inline(always)]
    pub fn split_labels(&mut self, available: u32) -> Result<(), NameError> {
        let mut position = 0u32;
        let mut count = 0u32;
        // 127 labels of one byte fill 255 bytes with the root label; one more round finds the root.
        while count < 128 {
            if position >= available {
                return Err(NameError::Truncated);
            }
            let length = u32::from(self.byte(u64::from(NAME_AT + position)));
            self.set_label(count, position);
            if length == 0 {
                self.label_count = count;
                self.name_len = position + 1;
                return Ok(());
            }
            if length > 63 {
                return Err(NameError::Invalid);
            }
            self.set(NAME_AT + position, SEPARATOR);
            position += length + 1;
            if position > 254 {
                return Err(NameError::Invalid);
            }
            count += 1;
        }
        Err(NameError::Invalid)
    }

    /// Whether these literals, last word first, precede `end`.
    #[inline(always)]
    pub(crate) fn ends_with<const N: usize>(
        &self,
        end: u32,
        words: &[LiteralWord; N],
        count: &u32,
    ) -> bool {
        let mut index = 0usize;
        while index < N && index < verifier::reread(count) as usize {
            // SAFETY: index < N.
            let expected = unsafe { &*words.as_ptr().add(index) };
            if !expected.matches(self.word(end.wrapping_sub(8 * (index as u32 + 1)))) {
                return false;
            }
            index += 1;
        }
        true
    }

    /// Whether the name up to `end` has a separator at each label boundary and nowhere else, and no '.' in a label: the
    /// walk ends before it has read the labels of a leading `*`.
    ///
    /// Words are read from the end, so that what does not belong to the name is the room in front of it, which is zero.
    #[inline(always)]
    pub(crate) fn is_plain(&self, end: u32) -> bool {
        let mut dots = 0u64;
        let mut separators = 0u64;
        let mut at = end;
        while at > NAME_AT {
            at -= 8;
            let word = self.word(at);
            dots |= zero_bytes(word ^ (ONES * b'.' as u64));
            separators += zero_bytes(!word) >> 7;
        }
        // Each byte lane counted at most 32.
        dots == 0 && separators.wrapping_mul(ONES) >> 56 == u64::from(self.label_count)
    }
}

const ONES: u64 = 0x0101_0101_0101_0101;
const LOW_BITS: u64 = 0x7f7f_7f7f_7f7f_7f7f;

/// 0x80 in each byte of `word` that is zero, exactly.
#[inline(always)]
const fn zero_bytes(word: u64) -> u64 {
    !(((word & LOW_BITS) + LOW_BITS) | word | LOW_BITS)
}

/// Not zero when one of the bytes is '.' or [`SEPARATOR`].
#[inline(always)]
pub(crate) const fn has_separator_or_dot(word: u64) -> u64 {
    zero_bytes(word ^ (ONES * b'.' as u64)) | zero_bytes(!word)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zero_bytes_is_exact() {
        for word in [
            0u64,
            1,
            0x0100,
            0x8000_0001_00ff_0100,
            u64::MAX,
            0x0001_0203_8081_00ff,
        ] {
            let expected = (0..8)
                .filter(|i| (word >> (i * 8)) & 0xff == 0)
                .fold(0u64, |sum, i| sum | 0x80 << (i * 8));
            assert_eq!(zero_bytes(word), expected, "{word:#x}");
        }
    }

    fn scratch(wire: &[u8]) -> Scratch {
        let mut scratch = Scratch::new();
        scratch.bytes[NAME_AT as usize..][..wire.len()].copy_from_slice(wire);
        scratch
    }

    #[test]
    fn labels_are_split() {
        let wire = b"\x01a\x02bc\x00";
        let mut s = scratch(wire);
        s.split_labels(wire.len() as u32).unwrap();
        assert_eq!((s.label_count, s.name_len), (2, 6));
        assert_eq!(&s.bytes[64..70], b"\xffa\xffbc\x00");
    }

    #[test]
    fn names_at_the_limits() {
        let longest: Vec<u8> = [1, b'a'].repeat(127).into_iter().chain([0]).collect();
        assert_eq!(longest.len(), 255);
        let mut s = scratch(&longest);
        s.split_labels(255).unwrap();
        assert_eq!((s.label_count, s.name_len), (127, 255));

        let mut over = [1, b'a'].repeat(126);
        over.extend([2, b'a', b'a', 0]);
        assert_eq!(over.len(), 256);
        assert_eq!(scratch(&over).split_labels(256), Err(NameError::Invalid));
        assert_eq!(scratch(&[64]).split_labels(255), Err(NameError::Invalid));
        assert_eq!(
            scratch(&[0xc0, 12]).split_labels(2),
            Err(NameError::Invalid)
        );
        assert_eq!(
            scratch(&[3, b'a']).split_labels(2),
            Err(NameError::Truncated)
        );
        let mut root = scratch(&[0]);
        root.split_labels(1).unwrap();
        assert_eq!((root.label_count, root.name_len), (0, 1));
    }
}
