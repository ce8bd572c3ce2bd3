//! Names as SQL writes them.

/// Words that need quotes though they look like names. Not all: the usual names of tables and columns.
const RESERVED: &[&str] = &[
    "all",
    "analyse",
    "analyze",
    "and",
    "any",
    "array",
    "as",
    "asc",
    "both",
    "case",
    "cast",
    "check",
    "collate",
    "column",
    "constraint",
    "create",
    "current_date",
    "current_role",
    "current_time",
    "current_user",
    "default",
    "desc",
    "distinct",
    "do",
    "else",
    "end",
    "except",
    "false",
    "fetch",
    "for",
    "foreign",
    "from",
    "grant",
    "group",
    "having",
    "in",
    "initially",
    "intersect",
    "into",
    "lateral",
    "leading",
    "limit",
    "not",
    "null",
    "offset",
    "on",
    "only",
    "or",
    "order",
    "placing",
    "primary",
    "references",
    "returning",
    "select",
    "session_user",
    "some",
    "symmetric",
    "table",
    "then",
    "to",
    "trailing",
    "true",
    "union",
    "unique",
    "user",
    "using",
    "variadic",
    "when",
    "where",
    "window",
    "with",
];

/// A name, in quotes where it needs them.
pub(crate) fn name(text: &str) -> String {
    let first = text.starts_with(|c: char| c.is_ascii_lowercase() || c == '_');
    let plain = text.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_');
    if first && plain && !RESERVED.contains(&text) {
        text.to_owned()
    } else {
        format!("\"{}\"", text.replace('"', "\"\""))
    }
}

/// A name with its schema.
pub(crate) fn qualified(schema: &str, table: &str) -> String {
    format!("{}.{}", name(schema), name(table))
}

/// A text.
pub(crate) fn literal(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

/// Names with commas between.
pub(crate) fn names<S: AsRef<str>>(all: &[S]) -> String {
    all.iter().map(|one| name(one.as_ref())).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_quoted_where_they_need_it() {
        assert_eq!(qualified("public", "orders"), "public.orders");
        assert_eq!(qualified("Public", "a\"b"), "\"Public\".\"a\"\"b\"");
        assert_eq!(names(&["order", "_x1", "1x", ""]), "\"order\", _x1, \"1x\", \"\"");
        assert_eq!(literal("it's"), "'it''s'");
    }
}
