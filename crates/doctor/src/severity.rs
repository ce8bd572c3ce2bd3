//! How severe a finding is.

use serde::Serialize;

/// How severe a finding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// Something that clients need does not work.
    Error,
    /// Something is likely to fail, or to surprise.
    Warning,
    /// Worth knowing.
    Note,
}

impl Severity {
    /// The word that reports show.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Warning => "warning",
            Self::Note => "note",
        }
    }
}
