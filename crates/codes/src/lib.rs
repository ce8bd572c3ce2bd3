//! The codes that operators know errors by: what each means, how severe it is, and what to do about it (http_and_ops 10,
//! protocol 13).
//!
//! Lines of the log, labels of metrics, refused joins and notices to channels carry a code. `docs/operations.md` is written
//! from the list.

mod entry;
mod table;

use std::fmt::{self, Write as _};

use entry::Entry;
pub use entry::Level;
pub use table::ErrorCode;

impl ErrorCode {
    /// As it is written in logs, join replies and notices.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        self.entry().name
    }

    /// The highest level that it is logged with.
    #[must_use]
    pub const fn level(self) -> Level {
        self.entry().level
    }

    /// When it is told.
    #[must_use]
    pub const fn meaning(self) -> &'static str {
        self.entry().meaning
    }

    /// What an operator can do.
    #[must_use]
    pub const fn remedy(self) -> &'static str {
        self.entry().remedy
    }
}

impl fmt::Display for ErrorCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl From<ErrorCode> for &'static str {
    fn from(code: ErrorCode) -> Self {
        code.as_str()
    }
}

/// All codes as a table in Markdown.
#[must_use]
pub fn markdown() -> String {
    let mut text = String::from("| code | level | when | what to do |\n| --- | --- | --- | --- |\n");
    for code in ErrorCode::ALL {
        let Entry { name, level, meaning, remedy } = code.entry();
        let _ = writeln!(text, "| `{name}` | {} | {meaning} | {remedy} |", level.as_str());
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_in_alphabetical_order() {
        let names: Vec<_> = ErrorCode::ALL.iter().map(|code| code.as_str()).collect();
        assert!(names.is_sorted_by(|a, b| a < b), "{names:?}");
    }

    #[test]
    fn every_code_is_explained() {
        for code in ErrorCode::ALL {
            assert!(!code.meaning().is_empty() && !code.remedy().is_empty(), "{code}");
            assert!(![code.meaning(), code.remedy()].iter().any(|text| text.ends_with('.')), "{code}");
        }
        assert_eq!(ErrorCode::ALL.len(), markdown().lines().count() - 2);
    }
}
