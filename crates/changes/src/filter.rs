//! The filter grammar (postgres_changes 1.5).

use crate::elixir;

/// Longest filter in bytes: a hundred lists of long values, and nothing that costs others.
const MAX_BYTES: usize = 64 * 1024;

/// Most conditions of a filter: each is looked at for every row.
pub(crate) const MAX_CONDITIONS: usize = 100;

/// One condition of a filter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Filter {
    /// Column name, verbatim.
    pub column: Box<str>,
    /// Operator.
    pub operator: Operator,
    /// Value, unquoted; for `in` the body of an array literal with its braces.
    pub value: Box<str>,
    /// Written with `not.`.
    pub negate: bool,
}

/// What a condition compares with (postgres_changes 1.6).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[allow(missing_docs, reason = "named as clients write them")]
pub enum Operator {
    Eq,
    Neq,
    Lt,
    Lte,
    Gt,
    Gte,
    In,
    Like,
    Ilike,
    Is,
    Match,
    Imatch,
    IsDistinct,
}

impl Operator {
    const ALL: [(&'static str, Self); 13] = [
        ("eq", Self::Eq),
        ("neq", Self::Neq),
        ("lt", Self::Lt),
        ("lte", Self::Lte),
        ("gt", Self::Gt),
        ("gte", Self::Gte),
        ("in", Self::In),
        ("like", Self::Like),
        ("ilike", Self::Ilike),
        ("is", Self::Is),
        ("match", Self::Match),
        ("imatch", Self::Imatch),
        ("isdistinct", Self::IsDistinct),
    ];

    /// As clients write it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        Self::ALL.iter().find(|(_, operator)| *operator == self).map_or("", |(name, _)| name)
    }

    fn parse(name: &str) -> Option<Self> {
        Self::ALL.iter().find(|(known, _)| *known == name).map(|(_, operator)| *operator)
    }
}

/// A filter that cannot be parsed. `Display` is the detail that clients see.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FilterError {
    /// A segment is not `column=op.value`; the pieces that were found, rendered.
    #[error("{0}")]
    Segment(String),
    /// The list of `in` stands without parentheses.
    #[error("`in` filter value must be wrapped by parentheses")]
    InWithoutParentheses,
    /// Nothing between two commas, or at either end.
    #[error("filter must not contain empty segments (check for extra commas)")]
    EmptySegment,
    /// More text than anybody needs.
    #[error("filter must not be longer than {MAX_BYTES} bytes")]
    TooLong,
    /// More conditions than anybody needs.
    #[error("filter must not have more than {MAX_CONDITIONS} conditions")]
    TooMany,
}

/// Parses a filter; empty text is no filter.
///
/// # Errors
/// [`FilterError`] for the first segment that is wrong.
pub(crate) fn parse(text: &str) -> Result<Vec<Filter>, FilterError> {
    if text.trim().is_empty() {
        return Ok(Vec::new());
    }
    if text.len() > MAX_BYTES {
        return Err(FilterError::TooLong);
    }
    let segments = split(text);
    if segments.len() > MAX_CONDITIONS {
        return Err(FilterError::TooMany);
    }
    segments.into_iter().map(|segment| parse_segment(segment.trim())).collect()
}

/// Splits at commas that are neither in parentheses nor in quotes.
fn split(text: &str) -> Vec<&str> {
    let mut segments = Vec::new();
    let (mut start, mut depth, mut quoted, mut escaped) = (0, 0usize, false, false);
    // What came before within the segment: only after these does a quote open a quoted run.
    let mut previous = None;
    for (at, c) in text.char_indices() {
        if quoted {
            match c {
                _ if escaped => escaped = false,
                '\\' => escaped = true,
                '"' => quoted = false,
                _ => {}
            }
        } else {
            match c {
                '"' if matches!(previous, Some('.' | '(' | ',')) => quoted = true,
                '(' => depth += 1,
                ')' => depth = depth.saturating_sub(1),
                ',' if depth == 0 => {
                    segments.push(text.get(start..at).unwrap_or_default());
                    start = at + 1;
                    previous = None;
                    continue;
                }
                _ => {}
            }
        }
        previous = Some(c);
    }
    segments.push(text.get(start..).unwrap_or_default());
    segments
}

fn parse_segment(segment: &str) -> Result<Filter, FilterError> {
    if segment.is_empty() {
        return Err(FilterError::EmptySegment);
    }
    let pieces = |pieces: &[&str]| FilterError::Segment(elixir::strings(pieces.iter().copied()));
    let (column, rest) = segment.split_once('=').ok_or_else(|| pieces(&[segment]))?;
    let (rest, negate) = rest.strip_prefix("not.").map_or((rest, false), |rest| (rest, true));
    let (name, value) = rest.split_once('.').ok_or_else(|| pieces(&[rest]))?;
    let operator = Operator::parse(name).ok_or_else(|| pieces(&[name, value]))?;
    let value = match operator {
        Operator::In => {
            let body = value.strip_prefix('(').and_then(|value| value.strip_suffix(')'));
            format!("{{{}}}", body.ok_or(FilterError::InWithoutParentheses)?)
        }
        _ => unquote(value),
    };
    Ok(Filter { column: column.into(), operator, value: value.into(), negate })
}

/// Removes the quotes around a value; a backslash makes the next character plain. What is not quoted from end
/// to end stays as it is.
fn unquote(value: &str) -> String {
    let Some(inner) = value.strip_prefix('"') else { return value.to_owned() };
    let mut out = String::with_capacity(inner.len());
    let mut chars = inner.chars();
    while let Some(c) = chars.next() {
        match c {
            '\\' => match chars.next() {
                Some(next) => out.push(next),
                None => return value.to_owned(),
            },
            '"' => return if chars.as_str().is_empty() { out } else { value.to_owned() },
            c => out.push(c),
        }
    }
    value.to_owned()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn parsed(text: &str) -> Vec<(String, &'static str, String, bool)> {
        let filters = parse(text).unwrap();
        filters
            .into_iter()
            .map(|f| (f.column.into(), f.operator.as_str(), f.value.into(), f.negate))
            .collect()
    }

    fn one(text: &str) -> (String, &'static str, String, bool) {
        let mut all = parsed(text);
        assert_eq!(all.len(), 1, "{text}");
        all.remove(0)
    }

    fn f(column: &str, op: &'static str, value: &str, negate: bool) -> (String, &'static str, String, bool) {
        (column.into(), op, value.into(), negate)
    }

    /// postgres_changes 31 to 43
    #[test]
    fn the_grammar() {
        assert_eq!(parsed("id=gt.0,id=lt.100"), [f("id", "gt", "0", false), f("id", "lt", "100", false)]);
        assert_eq!(
            parsed("id=in.(1,2,3),details=eq.active"),
            [f("id", "in", "{1,2,3}", false), f("details", "eq", "active", false)]
        );
        assert_eq!(
            parsed("details=eq.active,id=in.(1,2,3)"),
            [f("details", "eq", "active", false), f("id", "in", "{1,2,3}", false)]
        );
        assert_eq!(
            parsed("a=in.(1,2),b=in.(3,4)"),
            [f("a", "in", "{1,2}", false), f("b", "in", "{3,4}", false)]
        );
        assert_eq!(
            parsed("a=eq.x),b=eq.y),c=eq.z"),
            [f("a", "eq", "x)", false), f("b", "eq", "y)", false), f("c", "eq", "z", false)]
        );
        assert_eq!(one("name=eq.O'Brien \"x\""), f("name", "eq", "O'Brien \"x\"", false));
        assert_eq!(one("name=not.neq.a'b"), f("name", "neq", "a'b", true));
        assert_eq!(
            parsed("name=eq.\"a,b\",id=gt.0"),
            [f("name", "eq", "a,b", false), f("id", "gt", "0", false)]
        );
        assert_eq!(one("name=eq.\"a.b:c(d)\""), f("name", "eq", "a.b:c(d)", false));
        assert_eq!(one(r#"name=eq."she said \"hi\"""#), f("name", "eq", "she said \"hi\"", false));
        assert_eq!(one(r#"path=eq."C:\\tmp""#), f("path", "eq", r"C:\tmp", false));
        assert_eq!(one(r#"path=eq."C:\new""#), f("path", "eq", "C:new", false));
        assert_eq!(one("name=eq.\"\""), f("name", "eq", "", false));
        assert_eq!(one("name=eq.\" a \""), f("name", "eq", " a ", false));
        assert_eq!(one("tags=in.(\"a,b\",c)"), f("tags", "in", "{\"a,b\",c}", false));
        assert_eq!(one("name=eq.\"unterminated"), f("name", "eq", "\"unterminated", false));
        assert_eq!(one("name=eq.\"ab\"cd"), f("name", "eq", "\"ab\"cd", false));
        assert_eq!(
            parsed("desc=eq.5\" tall,id=gt.0"),
            [f("desc", "eq", "5\" tall", false), f("id", "gt", "0", false)]
        );
        assert!(parsed("").is_empty() && parsed("   ").is_empty());
        assert_eq!(one("id=not.eq.5"), f("id", "eq", "5", true));
        assert_eq!(one("details=not.like.hel%"), f("details", "like", "hel%", true));
        assert_eq!(one("note=eq."), f("note", "eq", "", false));
        assert_eq!(one("a=in.()"), f("a", "in", "{}", false));
    }

    /// postgres_changes 120: what the JavaScript builder writes.
    #[test]
    fn strings_of_the_official_builder() {
        assert_eq!(
            parsed("amount=gt.100,status=not.in.(draft,archived)"),
            [f("amount", "gt", "100", false), f("status", "in", "{draft,archived}", true)]
        );
        assert_eq!(one(r#"code=match."a{1,2}""#), f("code", "match", "a{1,2}", false));
        assert_eq!(one(r#"tag=in.(a%b,c_d,"e\\f")"#), f("tag", "in", r#"{a%b,c_d,"e\\f"}"#, false));
        assert_eq!(one("deleted=eq.null"), f("deleted", "eq", "null", false));
    }

    /// postgres_changes 8 to 12
    #[test]
    fn refusals() {
        let refused = |text: &str| parse(text).unwrap_err().to_string();
        assert_eq!(refused("wrong"), r#"["wrong"]"#);
        assert_eq!(refused("undefined"), r#"["undefined"]"#);
        assert_eq!(refused("a=eq"), r#"["eq"]"#);
        assert_eq!(refused("subject=foo.hey"), r#"["foo", "hey"]"#);
        assert_eq!(refused("id=EQ.1"), r#"["EQ", "1"]"#);
        assert_eq!(refused("id=not.not.eq.1"), r#"["not", "eq.1"]"#);
        assert_eq!(refused("id = eq.5"), r#"[" eq", "5"]"#);
        assert_eq!(refused("id=in.1,2"), "`in` filter value must be wrapped by parentheses");
        for text in ["id=gt.0,", ",id=gt.0", "a=eq.1,,b=eq.2", ","] {
            assert_eq!(refused(text), "filter must not contain empty segments (check for extra commas)");
        }
    }

    #[test]
    fn length_and_count_are_limited() {
        let conditions = |count: usize| vec!["a=eq.1"; count].join(",");
        assert_eq!(parsed(&conditions(MAX_CONDITIONS)).len(), MAX_CONDITIONS);
        assert_eq!(parse(&conditions(MAX_CONDITIONS + 1)), Err(FilterError::TooMany));
        let of_length = |bytes: usize| format!("a=eq.{}", "x".repeat(bytes - 5));
        assert_eq!(parsed(&of_length(MAX_BYTES)).len(), 1);
        assert_eq!(parse(&of_length(MAX_BYTES + 1)), Err(FilterError::TooLong));
        let text = parse(&conditions(101)).unwrap_err().to_string();
        assert_eq!(text, "filter must not have more than 100 conditions");
    }

    proptest! {
        #[test]
        fn never_panics(text in "\\PC*|[a-z=.(),\"\\\\ ]{0,40}") {
            let _ = parse(&text);
        }

        /// Any value survives quoting, whatever stands around it.
        #[test]
        fn quoted_values_survive(value in "\\PC*") {
            let quoted = value.replace('\\', "\\\\").replace('"', "\\\"");
            let filters = parse(&format!("a=eq.\"{quoted}\",b=gt.1")).unwrap();
            prop_assert_eq!(filters.len(), 2);
            prop_assert_eq!(&*filters[0].value, value);
        }
    }
}
