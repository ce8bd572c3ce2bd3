//! `erlang:phash2` of a pair of binaries, by which the reference spreads tenants over a rollout.
//!
//! The hash is portable and promised never to change (Erlang/OTP documentation of `phash2/2`). Of its many rules two
//! are needed: a tuple mixes in how many elements it has, then each element in turn; a binary goes in with Bob
//! Jenkins' function of 1996 over blocks of twelve bytes, begun with what was hashed before it.

/// The golden ratio as 32 bits: what terms of each type begin with is a multiple of it.
const GOLDEN: u32 = 0x9e37_79b9;
const TUPLE: u32 = GOLDEN.wrapping_mul(9);
const BINARY: u32 = GOLDEN.wrapping_mul(13);

/// `erlang:phash2({First, Second}, Range)`: a number below `range`, which must not be zero.
pub(crate) fn of_pair(first: &[u8], second: &[u8], range: u32) -> u32 {
    [first, second].into_iter().fold(tuple(2), binary) % range.max(1)
}

/// A tuple's beginning, before its elements.
fn tuple(arity: u32) -> u32 {
    mix(TUPLE.wrapping_add(arity), TUPLE, 0).2
}

/// A binary after what was hashed before it.
fn binary(hash: u32, bytes: &[u8]) -> u32 {
    let begin = BINARY.wrapping_add(hash);
    if bytes.is_empty() {
        return begin;
    }
    let (mut a, mut b, mut c) = (GOLDEN, GOLDEN, begin);
    let (blocks, rest) = bytes.as_chunks::<12>();
    for block in blocks {
        let [x, y, z] = words(*block);
        (a, b, c) = mix(a.wrapping_add(x), b.wrapping_add(y), c.wrapping_add(z));
    }
    // In the last block the lowest byte of the third word is the length's place: what is there moves up by one.
    let mut last = [0; 12];
    for (at, byte) in rest.iter().enumerate() {
        if let Some(place) = last.get_mut(if at < 8 { at } else { at + 1 }) {
            *place = *byte;
        }
    }
    let [x, y, z] = words(last);
    // The reference cuts the length to 32 bits too.
    let z = z.wrapping_add(bytes.len() as u32);
    mix(a.wrapping_add(x), b.wrapping_add(y), c.wrapping_add(z)).2
}

fn words(block: [u8; 12]) -> [u32; 3] {
    let [a, b, c, d, e, f, g, h, i, j, k, l] = block;
    [[a, b, c, d], [e, f, g, h], [i, j, k, l]].map(u32::from_le_bytes)
}

/// Three rounds of: each word loses the other two, then is mixed with a shifted neighbour.
fn mix(mut a: u32, mut b: u32, mut c: u32) -> (u32, u32, u32) {
    for (right, left, back) in [(13, 8, 13), (12, 16, 5), (3, 10, 15)] {
        a = a.wrapping_sub(b).wrapping_sub(c) ^ (c >> right);
        b = b.wrapping_sub(c).wrapping_sub(a) ^ (a << left);
        c = c.wrapping_sub(a).wrapping_sub(b) ^ (b >> back);
    }
    (a, b, c)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An atom after what was hashed before it: its own hash is that of its letters' codes, here of one letter.
    fn letter(hash: u32, letter: u8) -> u32 {
        let atom = GOLDEN.wrapping_mul(3);
        mix(atom.wrapping_add(letter.into()), atom, hash).2
    }

    /// From Erlang/OTP's own test suite (`erts/emulator/test/hash_SUITE.erl`, `phash2_test`), with range 2^32.
    #[test]
    fn known_answers() {
        assert_eq!(binary(0, b""), 147_926_629);
        assert_eq!(binary(0, &[0]), 2_914_887_855);
        assert_eq!(binary(0, &[0; 4]), 2_014_511_533);
        assert_eq!(binary(0, b"abc"), 1_306_188_027);
        assert_eq!(binary(0, b"12345678901234567890"), 3_021_061_640);
        let long: Vec<u8> = (32..=127).cycle().take(500 * 96).collect();
        assert_eq!(binary(0, &long), 2_644_086_993);
        assert_eq!(binary(0, &long[16..]), 3_575_839_236);

        assert_eq!(tuple(0), 221_703_996);
        assert_eq!(binary(tuple(1), b""), 682_464_809);
        assert_eq!(binary(letter(tuple(2), b'a'), b""), 2_724_468_891);
        assert_eq!(binary(letter(tuple(2), b'b'), b""), 2_702_508_511);
    }

    #[test]
    fn pairs_are_their_parts_in_turn() {
        let whole = binary(binary(tuple(2), b"realtime-dev"), b"gcm_encryption_backfill");
        assert_eq!(of_pair(b"realtime-dev", b"gcm_encryption_backfill", 100), whole % 100);
        assert_ne!(of_pair(b"a", b"b", u32::MAX), of_pair(b"b", b"a", u32::MAX));
    }

    #[test]
    fn tenants_are_spread_evenly() {
        let below_thirty = (0..10_000)
            .filter(|number| of_pair(format!("tenant-{number}").as_bytes(), b"flag", 100) < 30)
            .count();
        assert!((2_800..3_200).contains(&below_thirty), "{below_thirty}");
    }
}
