//! The fields of an event or a span.

use std::{borrow::Cow, fmt};

use tracing::field::{Field, Visit};

/// A value of a field.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Value {
    Text(String),
    Integer(i128),
    Float(f64),
    Boolean(bool),
}

/// The fields of an event or a span. Some have places of their own.
#[derive(Debug, Default)]
pub(super) struct Fields {
    pub(super) message: String,
    pub(super) code: Option<String>,
    /// `external_id` of the tenant that it is about.
    pub(super) tenant: Option<String>,
    pub(super) request_id: Option<String>,
    pub(super) others: Vec<(&'static str, Value)>,
}

impl Fields {
    fn put(&mut self, field: &Field, value: Value) {
        let Value::Text(text) = value else {
            self.others.push((field.name(), value));
            return;
        };
        let text = mask(&text).into_owned();
        match field.name() {
            "message" => self.message = text,
            "code" => self.code = Some(text),
            "tenant" => self.tenant = Some(text),
            "request_id" => self.request_id = Some(text),
            // Fields of traces only.
            name if name.starts_with("otel.") => {}
            name => self.others.push((name, Value::Text(text))),
        }
    }
}

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.put(field, Value::Text(format!("{value:?}")));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.put(field, Value::Text(value.to_owned()));
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.put(field, Value::Integer(value.into()));
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.put(field, Value::Integer(value.into()));
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        self.put(field, Value::Float(value));
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.put(field, Value::Boolean(value));
    }
}

/// Every signed token begins with this: `{"` in base64.
const TOKEN: &str = "eyJ";

/// Shortest run of characters that counts as a token.
const SHORTEST: usize = 20;

/// The text without what looks like a token. No line should contain one. But if one does, by a mistake or because a
/// library repeats its input, it must not be usable.
pub(super) fn mask(text: &str) -> Cow<'_, str> {
    let part_of_token = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | '=');
    let mut masked = String::new();
    let mut rest = text;
    while let Some((before, from)) = rest.find(TOKEN).and_then(|at| rest.split_at_checked(at)) {
        let end = from.find(|c| !part_of_token(c)).unwrap_or(from.len());
        let (run, after) = from.split_at_checked(end).unwrap_or((from, ""));
        masked.push_str(before);
        masked.push_str(if run.len() >= SHORTEST { "[token]" } else { run });
        rest = after;
    }
    if masked.is_empty() && rest.len() == text.len() {
        return Cow::Borrowed(text);
    }
    masked.push_str(rest);
    Cow::Owned(masked)
}
