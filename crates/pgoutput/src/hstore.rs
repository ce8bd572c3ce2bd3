//! The text form of the extension type `hstore`: `"key"=>"value", "other"=>NULL`.

/// A key and its value, `None` for NULL.
type Pair = (Vec<u8>, Option<Vec<u8>>);

/// The pairs. `None` if the text is no hstore.
pub(crate) fn parse(text: &[u8]) -> Option<Vec<Pair>> {
    let mut pairs = Vec::new();
    let mut rest = text;
    while !rest.is_empty() {
        let (key, after) = quoted(rest)?;
        let after = after.strip_prefix(b"=>")?;
        let (value, after) = match after.strip_prefix(b"NULL") {
            Some(after) => (None, after),
            None => quoted(after).map(|(value, after)| (Some(value), after))?,
        };
        pairs.push((key, value));
        rest = after.strip_prefix(b", ").unwrap_or(after);
        if !rest.is_empty() && rest.len() == after.len() {
            return None;
        }
    }
    Some(pairs)
}

fn quoted(text: &[u8]) -> Option<(Vec<u8>, &[u8])> {
    let mut value = Vec::new();
    let mut bytes = text.strip_prefix(b"\"")?.iter().enumerate();
    while let Some((at, &byte)) = bytes.next() {
        match byte {
            b'\\' => value.push(*bytes.next()?.1),
            b'"' => return Some((value, text.get(at + 2..)?)),
            byte => value.push(byte),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pairs() {
        let text = br#""a"=>"1", "b \"q\""=>NULL"#;
        assert_eq!(
            parse(text),
            Some(vec![(b"a".to_vec(), Some(b"1".to_vec())), (b"b \"q\"".to_vec(), None)])
        );
        assert_eq!(parse(b""), Some(vec![]));
        for bad in ["a", "\"a\"", "\"a\"=>1", "\"a\"=>\"1\"\"b\"=>\"2\"", "\"a"] {
            assert_eq!(parse(bad.as_bytes()), None, "{bad}");
        }
    }
}
