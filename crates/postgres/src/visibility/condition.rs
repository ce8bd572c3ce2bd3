//! What has to hold for a row to be visible, and the columns that it is about.

/// The number of `tableoid` in every table.
const TABLE_OID: i16 = -6;

/// How the value of a column is brought from its text into its type.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// By the type's input function.
    Plain,
    /// Cast from a text: a JSON string would be taken for the value.
    Json,
    /// Cast when it is compared: an array of arrays cannot be taken apart into its arrays.
    Array,
}

/// A column of a table with policies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct PolicyColumn {
    /// What it is told apart by: names change.
    pub(super) attnum: i16,
    pub(super) name: String,
    /// Schema-qualified and quoted.
    pub(super) type_name: String,
    pub(super) kind: Kind,
    /// Of the column, schema-qualified and quoted, if its type has any.
    pub(super) collation: Option<String>,
}

impl PolicyColumn {
    /// Whether it is one that every table has, such as `ctid`: the log does not carry it.
    pub(super) const fn is_of_system(&self) -> bool {
        self.attnum < 0
    }

    /// Whether it is the table that a row stands in.
    pub(super) const fn is_table(&self) -> bool {
        self.attnum == TABLE_OID
    }
}

/// What has to hold for a row to be visible.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Condition {
    /// Row-level security does not count for the role.
    Open,
    /// An SQL expression over the columns of the table.
    Holds {
        /// The expression.
        text: String,
        /// Whether it takes the row as a whole.
        whole_row: bool,
    },
}
