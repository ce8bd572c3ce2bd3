//! From the JSON of a request to fields, with the errors that a request is refused with.

use std::collections::BTreeMap;

use secrecy::SecretString;
use serde_json::{Map, Value, json};

use super::{ExtensionFields, TenantFields};
use crate::{
    convert::MAX_SLOT_NAME,
    record::{ENCRYPTED_SETTINGS, POSTGRES_CDC_RLS, WEBHOOKS},
};

const BLANK: &str = "can't be blank";
const INVALID: &str = "is invalid";

/// Settings of the database extension that must be whole numbers, if they are there.
const INTEGER_SETTINGS: [&str; 4] =
    ["db_pool", "subcriber_pool_size", "postgres_changes_pool", "db_queue_target"];

/// What is wrong with fields, by field: the `errors` of an answer with status 422.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FieldErrors(BTreeMap<String, Value>);

impl FieldErrors {
    /// One thing that is wrong.
    #[must_use]
    pub fn of(field: &str, problem: &str) -> Self {
        let mut errors = Self::default();
        errors.add(field, problem);
        errors
    }

    /// Adds something that is wrong.
    pub fn add(&mut self, field: &str, problem: &str) {
        let problems = self.0.entry(field.to_owned()).or_insert_with(|| json!([]));
        if let Value::Array(problems) = problems {
            problems.push(problem.into());
        }
    }

    /// Whether nothing is wrong.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// `{"external_id":["can't be blank"]}`.
    #[must_use]
    pub fn to_json(&self) -> Value {
        Value::Object(self.0.iter().map(|(field, problems)| (field.clone(), problems.clone())).collect())
    }
}

impl std::fmt::Display for FieldErrors {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.to_json().fmt(f)
    }
}

impl TenantFields {
    /// Reads the object `tenant` of a request. Unknown keys are ignored; numbers and booleans may be text; empty
    /// text counts as null.
    ///
    /// # Errors
    /// All that is wrong.
    pub fn cast(tenant: &Map<String, Value>) -> Result<Self, FieldErrors> {
        let mut cast = Cast { tenant, errors: FieldErrors::default() };
        let fields = Self {
            external_id: cast.required("external_id", text),
            name: cast.optional("name", text),
            jwt_secret: cast.optional("jwt_secret", |value| text(value).map(SecretString::from)),
            jwt_jwks: cast.optional("jwt_jwks", |value| value.is_object().then(|| value.clone())),
            postgres_cdc_default: cast.optional("postgres_cdc_default", text),
            max_concurrent_users: cast.required("max_concurrent_users", integer),
            max_events_per_second: cast.required("max_events_per_second", integer),
            max_bytes_per_second: cast.required("max_bytes_per_second", integer),
            max_channels_per_client: cast.required("max_channels_per_client", integer),
            max_joins_per_second: cast.required("max_joins_per_second", integer),
            max_presence_events_per_second: cast.optional("max_presence_events_per_second", integer),
            max_payload_size_in_kb: cast.optional("max_payload_size_in_kb", integer),
            max_client_presence_events_per_window: cast
                .optional("max_client_presence_events_per_window", integer),
            client_presence_window_ms: cast.optional("client_presence_window_ms", integer),
            broadcast_history_seconds: cast.optional("broadcast_history_seconds", integer),
            broadcast_history_messages: cast.optional("broadcast_history_messages", integer),
            suspend: cast.optional("suspend", boolean).map(Option::unwrap_or_default),
            private_only: cast.required("private_only", boolean),
            presence_enabled: cast.required("presence_enabled", boolean),
            migrations_ran: cast.optional("migrations_ran", integer),
            broadcast_adapter: cast.optional("broadcast_adapter", |value| {
                text(value).filter(|name| ["phoenix", "gen_rpc"].contains(&name.as_str()))
            }),
            feature_flags: cast.required("feature_flags", |value| value.as_object().cloned()),
            extensions: cast.extensions(),
        };
        if cast.errors.is_empty() { Ok(fields) } else { Err(cast.errors) }
    }
}

struct Cast<'a> {
    tenant: &'a Map<String, Value>,
    errors: FieldErrors,
}

impl Cast<'_> {
    fn optional<T>(&mut self, field: &str, read: impl Fn(&Value) -> Option<T>) -> Option<Option<T>> {
        match self.tenant.get(field)? {
            value if is_blank(value) => Some(None),
            value => {
                let read = read(value);
                if read.is_none() {
                    self.errors.add(field, INVALID);
                }
                Some(read)
            }
        }
    }

    /// A field that may not be null if it is given.
    fn required<T>(&mut self, field: &str, read: impl Fn(&Value) -> Option<T>) -> Option<T> {
        if self.tenant.get(field).is_some_and(is_blank) {
            self.errors.add(field, BLANK);
            return None;
        }
        self.optional(field, read).flatten()
    }

    fn extensions(&mut self) -> Option<Vec<ExtensionFields>> {
        let Value::Array(given) = self.tenant.get("extensions")? else {
            self.errors.add("extensions", INVALID);
            return None;
        };
        let cast: Vec<_> = given.iter().map(ExtensionFields::cast).collect();
        if cast.iter().any(Result::is_err) {
            // An entry that is right has an empty object in the list of errors.
            let errors = cast.iter().map(|cast| cast.as_ref().err().map_or(json!({}), FieldErrors::to_json));
            self.errors.0.insert("extensions".to_owned(), errors.collect());
        }
        Some(cast.into_iter().filter_map(Result::ok).collect())
    }
}

impl ExtensionFields {
    /// Reads one entry of `extensions`, and fills in the defaults of a database.
    ///
    /// # Errors
    /// All that is wrong.
    pub fn cast(entry: &Value) -> Result<Self, FieldErrors> {
        let mut errors = FieldErrors::default();
        let kind = match entry.get("type") {
            None => None,
            Some(value) if is_blank(value) => None,
            Some(value) => {
                let kind = text(value);
                if kind.is_none() {
                    errors.add("type", INVALID);
                }
                kind
            }
        };
        if kind.is_none() && errors.is_empty() {
            errors.add("type", BLANK);
        }
        let settings = match entry.get("settings") {
            Some(Value::Object(settings)) => Some(settings.clone()),
            Some(value) if !is_blank(value) => {
                errors.add("settings", INVALID);
                None
            }
            _ => {
                errors.add("settings", BLANK);
                None
            }
        };
        let (Some(kind), Some(settings)) = (kind, settings) else { return Err(errors) };
        // The name of the only extension in the reference's first year.
        let kind = if kind == "postgres" { POSTGRES_CDC_RLS.to_owned() } else { kind };
        if kind == WEBHOOKS {
            // It would be kept unchecked, and in clear.
            return Err(FieldErrors::of("type", INVALID));
        }
        if kind != POSTGRES_CDC_RLS {
            return Ok(Self { kind, settings });
        }
        check_database(&settings, &mut errors);
        if errors.is_empty() { Ok(Self { kind, settings: with_defaults(settings) }) } else { Err(errors) }
    }
}

fn check_database(settings: &Map<String, Value>, errors: &mut FieldErrors) {
    let mut problem = |name: &str, problem: &str| errors.add("settings", &format!("{name} {problem}"));
    // The password first, as the reference lists them.
    for name in ENCRYPTED_SETTINGS.iter().rev().chain(&["region"]) {
        match settings.get(*name) {
            None | Some(Value::Null) => problem(name, BLANK),
            Some(Value::String(value)) => match *name {
                "db_password" => {}
                _ if value.is_empty() => problem(name, BLANK),
                "db_port" if value.parse::<u16>().is_err() => problem(name, INVALID),
                _ => {}
            },
            Some(_) => problem(name, INVALID),
        }
    }
    let given = |name: &str| settings.get(name).filter(|value| !value.is_null());
    if given("ssl_enforced").is_some_and(|value| !value.is_boolean()) {
        problem("ssl_enforced", INVALID);
    }
    for name in ["publication", "slot_name"] {
        let usable = |value: &Value| value.as_str().is_some_and(|text| is_usable(name, text));
        if given(name).is_some_and(|value| !usable(value)) {
            problem(name, INVALID);
        }
    }
    for name in INTEGER_SETTINGS {
        if given(name).is_some_and(|value| !value.is_i64()) {
            problem(name, INVALID);
        }
    }
}

/// Whether PostgreSQL takes a text for the name of a publication or of a slot.
fn is_usable(setting: &str, text: &str) -> bool {
    let of_slot = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
    let longest = if setting == "slot_name" { MAX_SLOT_NAME } else { 63 };
    !text.is_empty() && text.len() <= longest && (setting != "slot_name" || text.chars().all(of_slot))
}

fn with_defaults(given: Map<String, Value>) -> Map<String, Value> {
    let Value::Object(mut settings) = json!({
        "publication": "supabase_realtime",
        "slot_name": "supabase_realtime_replication_slot",
        "poll_interval_ms": 100,
        "poll_max_changes": 100,
        "poll_max_record_bytes": 1_048_576,
    }) else {
        return given;
    };
    settings.extend(given);
    if let Some(size) = settings.remove("postgres_changes_pool").filter(|size| !size.is_null()) {
        settings.insert("subcriber_pool_size".to_owned(), size);
    }
    settings
}

fn is_blank(value: &Value) -> bool {
    value.is_null() || value.as_str() == Some("")
}

fn text(value: &Value) -> Option<String> {
    value.as_str().map(str::to_owned)
}

fn integer(value: &Value) -> Option<i32> {
    match value {
        Value::String(text) => text.parse().ok(),
        _ => value.as_i64().and_then(|number| number.try_into().ok()),
    }
}

fn boolean(value: &Value) -> Option<bool> {
    match value {
        Value::Bool(value) => Some(*value),
        Value::String(text) => match text.as_str() {
            "true" | "1" => Some(true),
            "false" | "0" => Some(false),
            _ => None,
        },
        _ => None,
    }
}

#[cfg(test)]
mod tests;
