//! A finding: what is wrong, and the steps that mend it.

use serde::Serialize;

use crate::{Code, Severity};

/// A step that mends something.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase", tag = "kind", content = "text")]
pub enum Step {
    /// A statement for the database, by a role that may run it.
    Sql(String),
    /// A command for a shell.
    Shell(String),
    /// A setting of this server: `NAME=value`.
    Set(String),
    /// Something that a person has to do.
    Do(String),
}

impl Step {
    /// The step as a line that can be pasted, or that says what to do.
    #[must_use]
    pub fn line(&self) -> String {
        match self {
            Self::Sql(sql) => format!("psql -c {}", shell_quoted(sql)),
            Self::Shell(command) | Self::Set(command) => command.clone(),
            Self::Do(what) => format!("# {what}"),
        }
    }
}

/// A word of a shell's command line.
fn shell_quoted(text: &str) -> String {
    if text.contains('\'') && !text.contains(['"', '$', '`', '\\', '!']) {
        format!("\"{text}\"")
    } else {
        format!("'{}'", text.replace('\'', r"'\''"))
    }
}

/// Something that was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// Which it is.
    pub code: Code,
    /// How severe it is here.
    pub severity: Severity,
    /// One sentence, without its full stop.
    pub text: String,
    /// What mends it, in this order. Of alternatives only the safest is told.
    pub mend: Vec<Step>,
}

impl Finding {
    /// A finding of its code's severity.
    #[must_use]
    pub fn new(code: Code, text: impl Into<String>, mend: Vec<Step>) -> Self {
        Self { code, severity: code.severity(), text: text.into(), mend }
    }

    /// The same, of another severity.
    #[must_use]
    pub const fn of(mut self, severity: Severity) -> Self {
        self.severity = severity;
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_can_be_pasted_into_a_shell() {
        for (sql, line) in [
            ("create publication p", "psql -c 'create publication p'"),
            ("alter system set a = 'b'", "psql -c \"alter system set a = 'b'\""),
            ("grant select on \"T\" to a", "psql -c 'grant select on \"T\" to a'"),
            ("x 'a' \"$T\"", r#"psql -c 'x '\''a'\'' "$T"'"#),
        ] {
            assert_eq!(Step::Sql(sql.to_owned()).line(), line);
        }
    }
}
