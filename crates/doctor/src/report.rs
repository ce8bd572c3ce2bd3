//! The report: one page for people, JSON for scripts.

use std::fmt::Write as _;

use serde_json::{Value, json};

use crate::{Finding, Severity};

/// What was looked at, and what was found there.
#[derive(Debug, Clone, Default)]
pub struct Part {
    /// What was looked at.
    pub title: String,
    /// What is right, each a short statement.
    pub right: Vec<String>,
    /// What is not.
    pub findings: Vec<Finding>,
}

/// All that was looked at.
#[derive(Debug, Clone, Default)]
pub struct Report {
    /// Its parts.
    pub parts: Vec<Part>,
}

impl Report {
    /// How many findings of a severity there are.
    #[must_use]
    pub fn count(&self, severity: Severity) -> usize {
        let all = self.parts.iter().flat_map(|part| &part.findings);
        all.filter(|finding| finding.severity == severity).count()
    }

    /// Whether everything that clients need works. `strict`: and nothing is a warning.
    #[must_use]
    pub fn is_right(&self, strict: bool) -> bool {
        self.count(Severity::Error) == 0 && !(strict && self.count(Severity::Warning) > 0)
    }

    /// One page for people. Notes are shown if `all`, and counted otherwise.
    #[must_use]
    pub fn text(&self, all: bool, colours: bool) -> String {
        let mut text = String::new();
        for part in &self.parts {
            let _ = writeln!(text, "{}", bold(&part.title, colours));
            if !part.right.is_empty() {
                let _ = writeln!(text, "  {}  {}", coloured("ok", "32", colours), part.right.join(", "));
            }
            for finding in part.findings.iter().filter(|finding| all || finding.severity != Severity::Note) {
                write_finding(&mut text, finding, colours);
            }
            text.push('\n');
        }
        let _ = writeln!(text, "{}", self.summary(all));
        text
    }

    fn summary(&self, all: bool) -> String {
        let counted = |severity, one: &str| match self.count(severity) {
            1 => format!("1 {one}"),
            many => format!("{many} {one}s"),
        };
        let (errors, warnings) = (counted(Severity::Error, "error"), counted(Severity::Warning, "warning"));
        let notes = counted(Severity::Note, "note");
        let hidden = if all || self.count(Severity::Note) == 0 { "" } else { " (shown with --all)" };
        let right =
            if self.is_right(true) { "Everything is right" } else { "What the codes mean: docs/doctor.md" };
        format!("{right}: {errors}, {warnings}, {notes}{hidden}")
    }

    /// The same for scripts.
    #[must_use]
    pub fn json(&self) -> Value {
        let parts = self.parts.iter().map(|part| {
            json!({
                "title": part.title,
                "right": part.right,
                "findings": part.findings.iter().map(finding).collect::<Vec<_>>(),
            })
        });
        json!({
            "errors": self.count(Severity::Error),
            "warnings": self.count(Severity::Warning),
            "notes": self.count(Severity::Note),
            "parts": parts.collect::<Vec<_>>(),
        })
    }
}

fn finding(finding: &Finding) -> Value {
    json!({
        "code": finding.code.as_str(),
        "severity": finding.severity,
        "text": finding.text,
        "mend": finding.mend,
    })
}

fn write_finding(text: &mut String, finding: &Finding, colours: bool) {
    let (word, colour) = match finding.severity {
        Severity::Error => ("error", "31"),
        Severity::Warning => ("warning", "33"),
        Severity::Note => ("note", "36"),
    };
    let word = coloured(word, colour, colours);
    let _ = writeln!(text, "  {word}  {}: {}", finding.code.as_str(), plain(&finding.text));
    for step in &finding.mend {
        let _ = writeln!(text, "      {}", plain(&step.line()));
    }
}

/// A text of a database, without what would move the cursor of a terminal.
fn plain(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

fn coloured(text: &str, colour: &str, colours: bool) -> String {
    if colours { format!("\x1b[{colour}m{text}\x1b[0m") } else { text.to_owned() }
}

fn bold(text: &str, colours: bool) -> String {
    coloured(&plain(text), "1", colours)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Code, Step};

    fn report() -> Report {
        let missing = Finding::new(
            Code::PublicationMissing,
            "There is no publication p\u{1b}[2J",
            vec![Step::Sql("create publication p".to_owned())],
        );
        let note = Finding::new(Code::Standby, "It is a standby", Vec::new());
        let part = Part {
            title: "Database app".to_owned(),
            right: vec!["wal_level".to_owned()],
            findings: vec![missing, note],
        };
        Report { parts: vec![part] }
    }

    #[test]
    fn one_page_for_people() {
        let text = report().text(false, false);
        let expected = "Database app\n  ok  wal_level\n  error  PublicationMissing: There is no publication p [2J\n      \
             psql -c 'create publication p'\n\nWhat the codes mean: docs/doctor.md: 1 error, 0 warnings, 1 note (shown with --all)\n";
        assert_eq!(text, expected);
        assert!(report().text(true, true).contains("\u{1b}[36mnote\u{1b}[0m  Standby"));
    }

    #[test]
    fn json_for_scripts() {
        let json = report().json();
        assert_eq!(json["errors"], 1);
        assert_eq!(
            json["parts"][0]["findings"][0]["mend"][0],
            json!({"kind": "sql", "text": "create publication p"})
        );
        assert!(!report().is_right(false) && Report::default().is_right(true));
    }
}
