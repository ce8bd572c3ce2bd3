//! Array literals, as array output functions write them (PostgreSQL documentation, 8.15.6).

use std::borrow::Cow;

/// Deepest nesting that is parsed; PostgreSQL allows six dimensions.
const MAX_DEPTH: usize = 16;

/// An element of an array, or the array itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Element<'a> {
    /// SQL NULL.
    Null,
    /// Text form of a value.
    Value(Cow<'a, [u8]>),
    /// A nested dimension.
    Array(Vec<Element<'a>>),
}

/// Parses an array literal; bounds (`[0:2]=`) are dropped. `None` if the text is none.
///
/// ```
/// use realtime_pgoutput::{Element, parse_array};
/// let elements = vec![Element::Value(b"1"[..].into()), Element::Null];
/// assert_eq!(parse_array(b"{1,NULL}", b','), Some(elements));
/// ```
#[must_use]
pub fn parse_array(text: &[u8], delimiter: u8) -> Option<Vec<Element<'_>>> {
    let text = match text.first()? {
        b'[' => {
            let equals = text.iter().position(|byte| *byte == b'=')?;
            text.get(equals + 1..)?
        }
        _ => text,
    };
    let mut parser = Parser { rest: text, delimiter };
    let elements = parser.array(0)?;
    parser.rest.is_empty().then_some(elements)
}

struct Parser<'a> {
    rest: &'a [u8],
    delimiter: u8,
}

impl<'a> Parser<'a> {
    fn array(&mut self, depth: usize) -> Option<Vec<Element<'a>>> {
        if depth > MAX_DEPTH {
            return None;
        }
        self.rest = self.rest.strip_prefix(b"{")?;
        let mut elements = Vec::new();
        if let Some(rest) = self.rest.strip_prefix(b"}") {
            self.rest = rest;
            return Some(elements);
        }
        loop {
            elements.push(match self.rest.first()? {
                b'{' => Element::Array(self.array(depth + 1)?),
                b'"' => Element::Value(Cow::Owned(self.quoted()?)),
                _ => self.bare()?,
            });
            let (&next, rest) = self.rest.split_first()?;
            self.rest = rest;
            match next {
                b'}' => return Some(elements),
                next if next == self.delimiter => {}
                _ => return None,
            }
        }
    }

    fn quoted(&mut self) -> Option<Vec<u8>> {
        let mut value = Vec::new();
        let mut bytes = self.rest.iter().enumerate().skip(1);
        while let Some((at, &byte)) = bytes.next() {
            match byte {
                b'\\' => value.push(*bytes.next()?.1),
                b'"' => {
                    self.rest = self.rest.get(at + 1..)?;
                    return Some(value);
                }
                byte => value.push(byte),
            }
        }
        None
    }

    fn bare(&mut self) -> Option<Element<'a>> {
        let end = self.rest.iter().position(|byte| *byte == self.delimiter || *byte == b'}')?;
        let (value, rest) = self.rest.split_at(end);
        self.rest = rest;
        if value.is_empty() || value.contains(&b'{') || value.contains(&b'"') {
            return None;
        }
        if value.eq_ignore_ascii_case(b"null") {
            return Some(Element::Null);
        }
        Some(Element::Value(if value.contains(&b'\\') {
            let mut escaped = false;
            let keep = |byte: &&u8| {
                escaped = **byte == b'\\' && !escaped;
                !escaped
            };
            Cow::Owned(value.iter().filter(keep).copied().collect())
        } else {
            Cow::Borrowed(value)
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value(text: &'static str) -> Element<'static> {
        Element::Value(text.as_bytes().into())
    }

    #[test]
    fn literals() {
        assert_eq!(parse_array(b"{}", b','), Some(vec![]));
        assert_eq!(
            parse_array(b"{a,\"b c\",NULL,\"d,e\",\"NULL\",\"q\\\"\\\\\"}", b','),
            Some(vec![value("a"), value("b c"), Element::Null, value("d,e"), value("NULL"), value("q\"\\"),])
        );
        let nested = vec![Element::Array(vec![value("1")]), Element::Array(vec![Element::Null])];
        assert_eq!(parse_array(b"[0:1][1:1]={{1},{NULL}}", b','), Some(nested));
        assert_eq!(
            parse_array(b"{(1,2),(3,4);(5,6),(7,8)}", b';'),
            Some(vec![value("(1,2),(3,4)"), value("(5,6),(7,8)")])
        );
        for bad in ["", "{", "}", "{a", "{a,}", "{,}", "{a}b", "{\"a}", "[1:2]", "{a\"b}", "{{a}"] {
            assert_eq!(parse_array(bad.as_bytes(), b','), None, "{bad}");
        }
        assert_eq!(parse_array("{".repeat(1000).as_bytes(), b','), None);
    }
}
