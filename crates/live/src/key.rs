//! Keys of rows, as a few bytes: a DELETE has to name the row that left.

/// How a value is written.
mod mark {
    pub(super) const NULL: u8 = 0;
    pub(super) const TEXT: u8 = 1;
    pub(super) const UUID: u8 = 2;
    pub(super) const POSITIVE: u8 = 3;
    pub(super) const NEGATIVE: u8 = 4;
}

/// Where the hyphens of a UUID stand.
const HYPHENS: [usize; 4] = [8, 13, 18, 23];

/// Writes the values of a row's key. Numbers and UUIDs take few bytes; equal texts, and only these, give equal keys.
#[must_use]
pub fn key<'v>(values: impl IntoIterator<Item = Option<&'v [u8]>>) -> Vec<u8> {
    let mut out = Vec::with_capacity(24);
    for value in values {
        match value {
            None => out.push(mark::NULL),
            Some(text) => write(&mut out, text),
        }
    }
    out
}

fn write(out: &mut Vec<u8>, text: &[u8]) {
    if let Some(uuid) = uuid(text) {
        out.push(mark::UUID);
        out.extend_from_slice(&uuid);
    } else if let Some(number) = number(text) {
        out.push(if number < 0 { mark::NEGATIVE } else { mark::POSITIVE });
        write_size(out, number.unsigned_abs());
    } else {
        out.push(mark::TEXT);
        write_size(out, text.len() as u64);
        out.extend_from_slice(text);
    }
}

/// The values that a key was made of.
#[must_use]
pub fn values(key: &[u8]) -> Vec<Option<Vec<u8>>> {
    let (mut out, mut rest) = (Vec::new(), key);
    while !rest.is_empty() {
        // What was not written here ends the list: it is our own memory.
        let Some(value) = read(&mut rest) else { break };
        out.push(value);
    }
    out
}

fn read(rest: &mut &[u8]) -> Option<Option<Vec<u8>>> {
    let (mark, after) = rest.split_first()?;
    *rest = after;
    Some(Some(match *mark {
        mark::NULL => return Some(None),
        mark::UUID => uuid_text(take(rest, 16)?),
        mark::POSITIVE => read_size(rest)?.to_string().into_bytes(),
        mark::NEGATIVE => format!("-{}", read_size(rest)?).into_bytes(),
        _ => {
            let length = usize::try_from(read_size(rest)?).ok()?;
            take(rest, length)?.to_vec()
        }
    }))
}

fn take<'k>(rest: &mut &'k [u8], length: usize) -> Option<&'k [u8]> {
    let (taken, after) = rest.split_at_checked(length)?;
    *rest = after;
    Some(taken)
}

/// Seven bits a byte, the lowest first.
fn write_size(out: &mut Vec<u8>, mut size: u64) {
    loop {
        let low = u8::try_from(size & 0x7f).unwrap_or(0x7f);
        size >>= 7;
        if size == 0 {
            return out.push(low);
        }
        out.push(low | 0x80);
    }
}

fn read_size(rest: &mut &[u8]) -> Option<u64> {
    let (mut size, mut shift) = (0_u64, 0);
    loop {
        let byte = *take(rest, 1)?.first()?;
        size |= u64::from(byte & 0x7f).checked_shl(shift)?;
        if byte & 0x80 == 0 {
            return Some(size);
        }
        shift += 7;
    }
}

/// A number as PostgreSQL writes it: nothing before its first digit but a minus.
fn number(text: &[u8]) -> Option<i64> {
    let digits = text.strip_prefix(b"-").unwrap_or(text);
    let plain = match digits {
        [b'0'] => digits.len() == text.len(),
        [b'1'..=b'9', rest @ ..] => rest.len() < 19 && rest.iter().all(u8::is_ascii_digit),
        _ => false,
    };
    if !plain {
        return None;
    }
    std::str::from_utf8(text).ok()?.parse().ok()
}

/// The bytes of a UUID as PostgreSQL writes it.
fn uuid(text: &[u8]) -> Option<[u8; 16]> {
    if text.len() != 36 || HYPHENS.iter().any(|at| text.get(*at) != Some(&b'-')) {
        return None;
    }
    let mut out = [0; 16];
    let mut digits = text.iter().enumerate().filter(|(at, _)| !HYPHENS.contains(at)).map(|(_, digit)| digit);
    let mut half = || match digits.next()? {
        digit @ b'0'..=b'9' => Some(digit - b'0'),
        digit @ b'a'..=b'f' => Some(digit - b'a' + 10),
        _ => None,
    };
    for byte in &mut out {
        *byte = half()? << 4 | half()?;
    }
    Some(out)
}

fn uuid_text(bytes: &[u8]) -> Vec<u8> {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let mut out = Vec::with_capacity(36);
    for byte in bytes {
        if HYPHENS.contains(&out.len()) {
            out.push(b'-');
        }
        for half in [byte >> 4, byte & 15] {
            out.extend(DIGITS.get(usize::from(half)));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn numbers_and_uuids_are_small() {
        let size = |text: &str| key([Some(text.as_bytes())]).len();
        assert_eq!(size("5"), 2);
        assert_eq!(size("-128"), 3);
        assert_eq!(size("9223372036854775807"), 10);
        assert_eq!(size("0f4b1b7e-0b6f-4c1e-9d43-0123456789ab"), 17);
        assert_eq!(size("0F4b1b7e-0b6f-4c1e-9d43-0123456789ab"), 38);
    }

    fn value() -> impl Strategy<Value = Option<Vec<u8>>> {
        let special = ["0", "-0", "00", "-1", "1", "+1", "9223372036854775807", "-9223372036854775808", ""];
        let special = prop::sample::select(special.to_vec()).prop_map(|text| text.as_bytes().to_vec());
        let numbers = any::<i64>().prop_map(|number| number.to_string().into_bytes());
        let bytes = prop::collection::vec(any::<u8>(), 0..40);
        let uuids =
            "[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}".prop_map(String::into_bytes);
        let near = "[0-9a-fA-F-]{36}".prop_map(String::into_bytes);
        prop::option::of(prop_oneof![special, numbers, bytes, uuids, near])
    }

    proptest! {
        /// A key says which values it was made of; so different values have different keys.
        #[test]
        fn values_survive(row in prop::collection::vec(value(), 0..5)) {
            let written = key(row.iter().map(|value| value.as_deref()));
            prop_assert_eq!(values(&written), row);
        }

        #[test]
        fn other_bytes_do_no_harm(bytes in prop::collection::vec(any::<u8>(), 0..60)) {
            let _ = values(&bytes);
        }
    }
}
