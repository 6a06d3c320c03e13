//! Checksums of IP and UDP, changed by what has changed of that which they cover (RFC 1071, RFC 1624).

/// A ones' complement sum in 16 bits.
#[inline(always)]
pub fn fold(sum: u32) -> u16 {
    let sum = (sum & 0xffff) + (sum >> 16);
    ((sum & 0xffff) + (sum >> 16)) as u16
}

/// The bytes of a 16-bit value the other way round.
#[inline(always)]
pub(crate) const fn swap(value: u32) -> u32 {
    (value & 0xff) << 8 | value >> 8 & 0xff
}

/// A sum as it counts at an offset.
#[inline(always)]
pub(crate) fn aligned(sum: u32, offset: u32) -> u32 {
    let sum = u32::from(fold(sum));
    if offset & 1 == 0 { sum } else { swap(sum) }
}

/// A checksum that covers everything, after what it covers has changed (RFC 1624).
#[inline(always)]
pub fn changed_checksum(checksum: u16, delta: u16, old_len: u16, new_len: u16) -> u16 {
    let delta = u32::from(delta) + u32::from(!old_len) + u32::from(new_len);
    with_delta(checksum, delta)
}

/// The same where the sum has grown by `delta`, in the byte order of the checksum. 0 means no checksum.
#[inline(always)]
pub fn with_delta(checksum: u16, delta: u32) -> u16 {
    if checksum == 0 {
        return 0;
    }
    match !fold(u32::from(!checksum) + delta) {
        0 => 0xffff,
        checksum => checksum,
    }
}

/// Whether a field that was `before` and is `after` has had a part of its pseudo-header, `from`, replaced by `to` as in a
/// checksum that is only begun: by adding to the field, where a whole one, which is the complement of its sum, is taken
/// from. An unchanged length shows nothing.
#[inline(always)]
pub fn is_begun(before: u16, after: u16, from: u16, to: u16) -> bool {
    let begun = fold(u32::from(before) + u32::from(!from) + u32::from(to));
    // Both 0 and 0xffff are zero.
    matches!(fold(u32::from(after) + u32::from(!begun)), 0 | 0xffff)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_length_does_to_a_checksum_tells_a_begun_one_from_a_whole_one() {
        for before in (1..=u16::MAX).step_by(7) {
            for (from, to) in [(100u16, 101u16), (101, 100), (9, 1240), (1240, 9), (8, 520)] {
                let (from, to) = (from.to_be(), to.to_be());
                let change = u32::from(!from) + u32::from(to);
                let begun = fold(u32::from(before) + change);
                assert!(is_begun(before, begun, from, to));
                let whole = with_delta(before, change);
                assert!(!is_begun(before, whole, from, to), "{before} {from} {to}");
            }
        }
    }

    #[test]
    fn a_delta_and_a_length_can_be_put_right_one_after_the_other() {
        for checksum in [0, 1, 0x1234, 0xfffe, 0xffff] {
            let at_once = changed_checksum(checksum, 0xabcd, 60, 259);
            let length = with_delta(checksum, u32::from(!60u16) + 259);
            assert_eq!(with_delta(length, 0xabcd), at_once);
        }
    }
}
