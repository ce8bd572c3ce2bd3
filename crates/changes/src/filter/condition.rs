//! Conditions, and what is wrong with those that are none.

use crate::{
    elixir,
    path::{JsonPath, PathTooLong},
};

/// Longest filter in bytes: a hundred lists of long values, and nothing that costs others.
pub(super) const MAX_BYTES: usize = 64 * 1024;

/// Most conditions of a filter: each is looked at for every row.
pub(super) const MAX_CONDITIONS: usize = 100;

/// Deepest nesting of groups: deeper ones say what flatter ones say as well.
pub(super) const MAX_DEPTH: usize = 8;

/// One condition of a filter.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Filter {
    /// Column name, verbatim, without the path.
    pub column: Box<str>,
    /// What of a JSON column is meant.
    pub path: Option<JsonPath>,
    /// Operator.
    pub operator: Operator,
    /// Value, unquoted; for `in` the body of an array literal with its braces.
    pub value: Box<str>,
    /// Written with `not.`.
    pub negate: bool,
}

impl Filter {
    /// A column has a value.
    #[must_use]
    pub fn equal(column: &str, value: &str) -> Self {
        Self { column: column.into(), path: None, operator: Operator::Eq, value: value.into(), negate: false }
    }

    /// The column with its path, as clients write it.
    #[must_use]
    pub fn column_text(&self) -> String {
        self.path.as_ref().map_or_else(|| self.column.to_string(), |path| format!("{}{path}", self.column))
    }
}

/// What a condition compares with (postgres_changes 1.6, row_security 5).
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
    Cs,
    Cd,
    Ov,
    Sl,
    Sr,
    Nxl,
    Nxr,
    Adj,
}

impl Operator {
    pub(super) const ALL: [(&'static str, Self); 21] = [
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
        ("cs", Self::Cs),
        ("cd", Self::Cd),
        ("ov", Self::Ov),
        ("sl", Self::Sl),
        ("sr", Self::Sr),
        ("nxl", Self::Nxl),
        ("nxr", Self::Nxr),
        ("adj", Self::Adj),
    ];

    /// As clients write it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        Self::ALL.iter().find(|(_, operator)| *operator == self).map_or("", |(name, _)| name)
    }

    pub(super) fn parse(name: &str) -> Option<Self> {
        Self::ALL.iter().find(|(known, _)| *known == name).map(|(_, operator)| *operator)
    }

    /// Whether a value is an array, a range or a document: commas in its brackets are its own.
    pub(super) const fn takes_brackets(self) -> bool {
        matches!(
            self,
            Self::Cs | Self::Cd | Self::Ov | Self::Sl | Self::Sr | Self::Nxl | Self::Nxr | Self::Adj
        )
    }

    /// Whether only ranges have it.
    pub(crate) const fn is_of_ranges(self) -> bool {
        matches!(self, Self::Sl | Self::Sr | Self::Nxl | Self::Nxr | Self::Adj)
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
    /// Groups in groups, more than anybody needs.
    #[error("filter must not be nested deeper than {MAX_DEPTH} groups")]
    TooDeep,
    /// The text ends in a group.
    #[error("filter has a group without closing parenthesis")]
    Unclosed,
    /// Something stands between a group and the next comma.
    #[error("filter has text behind the closing parenthesis of a group (check for missing commas)")]
    BehindGroup,
    /// A JSON path that is longer than anybody needs.
    #[error("{0}")]
    PathTooLong(#[from] PathTooLong),
}

impl FilterError {
    pub(super) fn pieces(pieces: &[&str]) -> Self {
        Self::Segment(elixir::strings(pieces.iter().copied()))
    }
}
