//! Messages as lines of JSON, for scripts.

use std::io::Write as _;

use serde::Serialize;
use tokio::sync::mpsc;

use super::{frames::Record, told::Told};

/// A line. Keys that have no meaning for its type are left out.
#[derive(Debug, Default, Serialize)]
struct Line<'a> {
    #[serde(rename = "type")]
    kind: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    commit_timestamp: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    record: Option<&'a Record>,
    #[serde(skip_serializing_if = "Option::is_none")]
    old_record: Option<&'a Record>,
    #[serde(skip_serializing_if = "Option::is_none")]
    errors: Option<&'a [String]>,
    #[serde(skip_serializing_if = "Option::is_none")]
    rows: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    status: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    message: Option<&'a str>,
    /// Milliseconds until the next attempt.
    #[serde(skip_serializing_if = "Option::is_none")]
    again_in: Option<u128>,
}

/// Prints lines until there is nothing more to tell, or nobody reads them.
pub(super) async fn show(mut told: mpsc::Receiver<Told>) {
    while let Some(message) = told.recv().await {
        if writeln!(std::io::stdout().lock(), "{}", line(&message)).is_err() {
            return;
        }
    }
}

fn line(told: &Told) -> String {
    let line = match told {
        Told::Joined => Line { kind: "joined", ..Line::default() },
        Told::Change(change) => Line {
            kind: &change.kind,
            commit_timestamp: change.commit_timestamp.as_deref(),
            record: change.record.as_ref(),
            old_record: change.old_record.as_ref(),
            errors: change.errors.as_deref(),
            ..Line::default()
        },
        Told::Complete { rows } => Line { kind: "complete", rows: *rows, ..Line::default() },
        Told::Notice { status, message } => {
            Line { kind: "notice", status: Some(status), message: Some(message), ..Line::default() }
        }
        Told::Lost { why, pause } => {
            Line { kind: "lost", message: Some(why), again_in: Some(pause.as_millis()), ..Line::default() }
        }
    };
    serde_json::to_string(&line).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn each_message_is_a_line() {
        let change = r#"{"type":"UPDATE","commit_timestamp":"t","columns":[],"record":{"id":1,"n":1.50},"old_record":{"id":1}}"#;
        let change = Told::Change(serde_json::from_str(change).unwrap());
        assert_eq!(
            line(&change),
            r#"{"type":"UPDATE","commit_timestamp":"t","record":{"id":1,"n":1.50},"old_record":{"id":1}}"#
        );
        assert_eq!(line(&Told::Joined), r#"{"type":"joined"}"#);
        assert_eq!(line(&Told::Complete { rows: Some(2) }), r#"{"type":"complete","rows":2}"#);
        let lost = Told::Lost { why: "gone".to_owned(), pause: Duration::ZERO };
        assert_eq!(line(&lost), r#"{"type":"lost","message":"gone","again_in":0}"#);
        let notice = Told::Notice { status: "warning".to_owned(), message: "slow".to_owned() };
        assert_eq!(line(&notice), r#"{"type":"notice","status":"warning","message":"slow"}"#);
    }
}
