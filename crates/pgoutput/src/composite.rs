//! Row literals, as composite output functions write them (PostgreSQL documentation, 8.16.6).

/// The fields of a row literal, `None` for NULL. `None` if the text is no row literal.
pub(crate) fn parse_row(text: &[u8]) -> Option<Vec<Option<Vec<u8>>>> {
    let inner = text.strip_prefix(b"(")?.strip_suffix(b")")?;
    let mut fields = Vec::new();
    let mut field = Vec::new();
    let (mut quoted, mut present) = (false, false);
    let mut bytes = inner.iter().peekable();
    while let Some(&byte) = bytes.next() {
        match byte {
            b'"' if quoted && bytes.peek() == Some(&&b'"') => {
                bytes.next();
                field.push(b'"');
            }
            b'"' => {
                quoted = !quoted;
                present = true;
            }
            b'\\' => {
                field.push(*bytes.next()?);
                present = true;
            }
            b',' if !quoted => {
                fields.push(present.then(|| std::mem::take(&mut field)));
                present = false;
            }
            byte => {
                field.push(byte);
                present = true;
            }
        }
    }
    if quoted {
        return None;
    }
    fields.push(present.then_some(field));
    Some(fields)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn literals() {
        let fields = |text: &str| parse_row(text.as_bytes());
        let some = |text: &str| Some(text.as_bytes().to_vec());
        assert_eq!(
            fields(r#"(1,"a ""b"" \\ c",,"")"#),
            Some(vec![some("1"), some("a \"b\" \\ c"), None, some("")])
        );
        assert_eq!(fields("()"), Some(vec![None]));
        assert_eq!(fields(r#"("(1,2)",x)"#), Some(vec![some("(1,2)"), some("x")]));
        for bad in ["", "(", "1,2", "(\"a)", "(a\\)"] {
            assert_eq!(fields(bad), None, "{bad}");
        }
    }
}
