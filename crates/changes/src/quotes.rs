//! Values in quotes and in brackets, as clients write them.

/// Removes the quotes around a value; a backslash makes the next character plain. What is not quoted from end
/// to end stays as it is.
pub(crate) fn unquote(value: &str) -> String {
    match quoted(value) {
        Some((inner, "")) => inner,
        _ => value.to_owned(),
    }
}

/// A text in quotes, without them, and what follows. `None` if the text does not begin with one.
pub(crate) fn quoted(text: &str) -> Option<(String, &str)> {
    let inner = text.strip_prefix('"')?;
    let mut out = String::with_capacity(inner.len().min(64));
    let mut chars = inner.chars();
    loop {
        match chars.next()? {
            '\\' => out.push(chars.next()?),
            '"' => return Some((out, chars.as_str())),
            c => out.push(c),
        }
    }
}

/// The length of an array, a range or a document in brackets at the start of a text. Quotes protect brackets, a backslash
/// the next character. `None` if there is none, or it does not end.
pub(crate) fn brackets(text: &str) -> Option<usize> {
    // The brackets of a range need not be alike. Those inside of braces belong to elements.
    let (opens, closes) = match text.as_bytes().first()? {
        b'{' => (&b"{"[..], &b"}"[..]),
        b'[' | b'(' => (&b"[("[..], &b"])"[..]),
        _ => return None,
    };
    let (mut depth, mut quoted, mut escaped) = (0usize, false, false);
    for (at, byte) in text.bytes().enumerate() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = true,
            b'"' => quoted = !quoted,
            _ if quoted => {}
            byte if opens.contains(&byte) => depth += 1,
            byte if closes.contains(&byte) => {
                depth -= 1;
                if depth == 0 {
                    return Some(at + 1);
                }
            }
            _ => {}
        }
    }
    None
}
