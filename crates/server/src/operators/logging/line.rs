//! A log line.

use std::fmt::Write as _;

use jiff::Timestamp;
use realtime_codes::ErrorCode;
use serde_json::{Map, Number};
use tracing::Level;

use super::fields::{Fields, Value};

/// The format of lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Format {
    /// A JSON object.
    Json,
    /// For people.
    Text {
        /// Whether levels are coloured.
        color: bool,
    },
}

/// Labels that every line has.
pub(super) type Common = Vec<(&'static str, String)>;

/// The reference's name for a level, and its colour.
fn level_name(level: Level) -> (&'static str, &'static str) {
    match level {
        Level::ERROR => ("error", "31"),
        Level::WARN => ("warning", "33"),
        Level::INFO => ("info", "32"),
        Level::DEBUG => ("debug", "34"),
        Level::TRACE => ("trace", "35"),
    }
}

/// The message, with the code first, so that people see it and searches find it.
fn message(fields: &Fields) -> String {
    match &fields.code {
        Some(code) if !fields.message.starts_with(code.as_str()) => format!("{code}: {}", fields.message),
        _ => fields.message.clone(),
    }
}

/// Writes the line with its line break.
pub(super) fn write(
    format: Format,
    now: Timestamp,
    level: Level,
    fields: &Fields,
    common: &Common,
) -> String {
    match format {
        Format::Json => json(now, level, fields, common),
        Format::Text { color } => text(now, level, fields, common, color),
    }
}

/// What an operator can do about a warning or an error: the last field of its line.
fn remedy(level: Level, fields: &Fields) -> Option<&'static str> {
    let code = fields.code.as_deref().filter(|_| level <= Level::WARN)?;
    let known = ErrorCode::ALL.iter().find(|known| known.as_str() == code)?;
    Some(known.remedy()).filter(|remedy| *remedy != NONE && !remedy.starts_with("None:"))
}

/// The remedy where an operator can do nothing; a reason may follow.
const NONE: &str = "None";

fn json(now: Timestamp, level: Level, fields: &Fields, common: &Common) -> String {
    let mut line = Map::new();
    let mut put = |name: &str, value: serde_json::Value| {
        line.entry(name).or_insert(value);
    };
    put("timestamp", format!("{now:.3}").into());
    put("level", level_name(level).0.into());
    put("message", message(fields).into());
    if let Some(tenant) = &fields.tenant {
        put("project", tenant.as_str().into());
        put("external_id", tenant.as_str().into());
    }
    for (name, value) in [("request_id", &fields.request_id), ("error_code", &fields.code)] {
        if let Some(value) = value {
            put(name, value.as_str().into());
        }
    }
    for (name, value) in common {
        put(name, value.as_str().into());
    }
    for (name, value) in &fields.others {
        let value = match value {
            Value::Text(text) => text.as_str().into(),
            Value::Integer(n) => Number::from_i128(*n).map_or_else(|| n.to_string().into(), Into::into),
            Value::Float(x) => (*x).into(),
            Value::Boolean(b) => (*b).into(),
        };
        put(name, value);
    }
    if let Some(remedy) = remedy(level, fields) {
        put("remedy", remedy.into());
    }
    let mut line = serde_json::Value::Object(line).to_string();
    line.push('\n');
    line
}

fn text(now: Timestamp, level: Level, fields: &Fields, common: &Common, color: bool) -> String {
    let (name, code) = level_name(level);
    let message = one_line(&message(fields));
    // Writing to a string does not fail.
    let mut line = String::new();
    let _ = match color {
        true => write!(line, "{now:.3} \u{1b}[{code}m{name}\u{1b}[0m {message}"),
        false => write!(line, "{now:.3} {name} {message}"),
    };
    for (name, value) in &fields.others {
        let _ = match value {
            Value::Text(text) => write!(line, " {name}={}", one_line(text)),
            Value::Integer(n) => write!(line, " {name}={n}"),
            Value::Float(x) => write!(line, " {name}={x}"),
            Value::Boolean(b) => write!(line, " {name}={b}"),
        };
    }
    let known = [("tenant", &fields.tenant), ("request_id", &fields.request_id)];
    for (name, value) in known {
        if let Some(value) = value {
            let _ = write!(line, " {name}={value}");
        }
    }
    for (name, value) in common {
        let _ = write!(line, " {name}={value}");
    }
    if let Some(remedy) = remedy(level, fields) {
        let _ = write!(line, " remedy={remedy}");
    }
    line.push('\n');
    line
}

/// The text without control characters: a line break in a value must not look like another line, nor move the cursor.
fn one_line(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}
