//! The payload of `phx_join` (protocol 4.2 to 4.5).

use std::{borrow::Cow, collections::HashMap};

use serde_json::{Map, Value, value::RawValue};

/// What a client asks for when it joins.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct JoinPayload {
    /// No `config` key: the topic says what is watched in the database (protocol 11.2).
    pub legacy: bool,
    /// Join the private room of the topic.
    pub private: bool,
    /// Answer broadcasts.
    pub ack: bool,
    /// Send the client's own broadcasts back to it.
    pub to_self: bool,
    /// Tell when broadcasts from the database arrive.
    pub replication_ready: bool,
    /// Send presence state and diffs.
    pub presence_enabled: bool,
    /// Presence key; `None` asks for a random one.
    pub presence_key: Option<String>,
    /// Missed messages to send, if asked for.
    pub replay: Option<Replay>,
    /// Subscriptions to row changes, null entries left out.
    pub postgres_changes: Vec<Map<String, Value>>,
    /// The same, as the client wrote them.
    pub postgres_changes_text: Vec<Box<str>>,
    /// Token for this channel.
    pub access_token: Option<String>,
    /// The same under its older name.
    pub user_token: Option<String>,
}

/// `config.broadcast.replay` as the client sent it; judged when it is used (protocol 10.1).
#[derive(Debug, Clone, PartialEq)]
pub struct Replay(pub Value);

/// A field of the wrong type. It is logged and its default used (protocol 4.3).
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field}: unable to parse, expected {expected}")]
pub struct FieldError {
    /// Path of the field.
    pub field: &'static str,
    /// What it should be.
    pub expected: &'static str,
}

/// The payload is not of the form that a join must have; the join is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("Join {0} must be an object")]
pub struct JoinPayloadError(&'static str);

impl JoinPayload {
    /// Reads the payload. Fields of the wrong type fall back to their defaults and are named.
    ///
    /// # Errors
    /// [`JoinPayloadError`] when the payload, `config`, `config.broadcast` or an entry of
    /// `postgres_changes` is not an object.
    pub fn parse(payload: &[u8]) -> Result<(Self, Vec<FieldError>), JoinPayloadError> {
        let mut problems = Vec::new();
        let mut join = Self::default();
        let [config, access_token, user_token] =
            members(payload, ["config", "access_token", "user_token"]).ok_or(JoinPayloadError("payload"))?;
        join.access_token = string(access_token, "access_token", &mut problems);
        join.user_token = string(user_token, "user_token", &mut problems);
        match config {
            None => join.legacy = true,
            Some(config) if config.get() == "null" => {}
            Some(config) => join.read_config(config, &mut problems)?,
        }
        Ok((join, problems))
    }

    fn read_config(
        &mut self,
        config: &RawValue,
        problems: &mut Vec<FieldError>,
    ) -> Result<(), JoinPayloadError> {
        let [private, broadcast, presence, changes] =
            members(config.get().as_bytes(), ["private", "broadcast", "presence", "postgres_changes"])
                .ok_or(JoinPayloadError("config"))?;
        self.private = flexible(private, "config.private", problems);
        if let Some(broadcast) = not_null(broadcast) {
            let [ack, to_self, ready, replay] =
                members(broadcast.get().as_bytes(), ["ack", "self", "replication_ready", "replay"])
                    .ok_or(JoinPayloadError("config.broadcast"))?;
            self.ack = flexible(ack, "config.broadcast.ack", problems);
            self.to_self = flexible(to_self, "config.broadcast.self", problems);
            self.replication_ready = flexible(ready, "config.broadcast.replication_ready", problems);
            self.replay = not_null(replay).and_then(value).map(Replay);
        }
        if let Some(presence) = not_null(presence) {
            match members(presence.get().as_bytes(), ["key", "enabled"]) {
                Some([key, enabled]) => {
                    self.presence_key = presence_key(key, problems);
                    self.presence_enabled = flexible(enabled, "config.presence.enabled", problems);
                }
                None => problems.push(FieldError { field: "config.presence", expected: "map" }),
            }
        }
        if let Some(changes) = not_null(changes) {
            match serde_json::from_str::<Vec<&RawValue>>(changes.get()) {
                Ok(entries) => self.read_changes(&entries)?,
                Err(_) => problems.push(FieldError { field: "config.postgres_changes", expected: "list" }),
            }
        }
        Ok(())
    }

    fn read_changes(&mut self, entries: &[&RawValue]) -> Result<(), JoinPayloadError> {
        for entry in entries.iter().filter(|entry| entry.get() != "null") {
            let Some(Value::Object(object)) = value(entry) else {
                return Err(JoinPayloadError("config.postgres_changes entry"));
            };
            self.postgres_changes.push(object);
            self.postgres_changes_text.push(entry.get().into());
        }
        Ok(())
    }
}

/// The members of these names of a JSON object; `None` if the text is no object. The last of a name counts.
pub(crate) fn members<'a, const N: usize>(
    object: &'a [u8],
    names: [&str; N],
) -> Option<[Option<&'a RawValue>; N]> {
    let mut all: HashMap<Cow<'a, str>, &'a RawValue> = serde_json::from_slice(object).ok()?;
    Some(names.map(|name| all.remove(name)))
}

fn not_null(raw: Option<&RawValue>) -> Option<&RawValue> {
    raw.filter(|raw| raw.get() != "null")
}

fn value(raw: &RawValue) -> Option<Value> {
    serde_json::from_str(raw.get()).ok()
}

/// A JSON boolean, or `true` or `false` as a string in any letter case; missing, null and "" are false.
fn flexible(raw: Option<&RawValue>, field: &'static str, problems: &mut Vec<FieldError>) -> bool {
    match not_null(raw).and_then(value) {
        None => false,
        Some(Value::Bool(flag)) => flag,
        Some(Value::String(text)) if text.eq_ignore_ascii_case("true") => true,
        Some(Value::String(text)) if text.is_empty() || text.eq_ignore_ascii_case("false") => false,
        Some(_) => {
            problems.push(FieldError { field, expected: "boolean" });
            false
        }
    }
}

fn string(raw: Option<&RawValue>, field: &'static str, problems: &mut Vec<FieldError>) -> Option<String> {
    match not_null(raw).and_then(value)? {
        Value::String(text) => Some(text),
        _ => {
            problems.push(FieldError { field, expected: "string" });
            None
        }
    }
}

/// Longest presence key, in bytes: a channel keeps it, and every member is told it.
const MAX_PRESENCE_KEY: usize = 4_096;

/// Any scalar, as a string; missing, null and blank ask for a random key, and so does one that is too long.
fn presence_key(raw: Option<&RawValue>, problems: &mut Vec<FieldError>) -> Option<String> {
    match not_null(raw).and_then(value)? {
        Value::String(text) if text.len() > MAX_PRESENCE_KEY => {
            let expected = "string of 4096 bytes at most";
            problems.push(FieldError { field: "config.presence.key", expected });
            None
        }
        Value::String(text) => (!text.trim().is_empty()).then_some(text),
        scalar @ (Value::Number(_) | Value::Bool(_)) => Some(scalar.to_string()),
        _ => {
            problems.push(FieldError { field: "config.presence.key", expected: "string" });
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn parsed(payload: &Value) -> JoinPayload {
        JoinPayload::parse(payload.to_string().as_bytes()).unwrap().0
    }

    fn problems(payload: &Value) -> Vec<String> {
        let (_, problems) = JoinPayload::parse(payload.to_string().as_bytes()).unwrap();
        problems.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn everything_absent() {
        let join = parsed(&json!({}));
        assert_eq!(join, JoinPayload { legacy: true, ..JoinPayload::default() });
        assert_eq!(parsed(&json!({"config": null})), JoinPayload::default());
        assert_eq!(parsed(&json!({"config": {}})), JoinPayload::default());
        assert_eq!(
            parsed(&json!({"config": {"broadcast": null, "presence": null, "private": null}})),
            JoinPayload::default()
        );
    }

    /// protocol 29
    #[test]
    fn flexible_booleans() {
        let join = parsed(&json!({"config": {
            "private": "False", "broadcast": {"ack": "True", "self": "FALSE", "replication_ready": "false"},
            "presence": {"enabled": "true"},
        }}));
        assert!(join.ack && join.presence_enabled);
        assert!(!join.to_self && !join.private && !join.replication_ready);
        let payload = json!({"config": {"broadcast": {"ack": "potato", "self": true}}});
        assert!(!parsed(&payload).ack && parsed(&payload).to_self);
        assert_eq!(problems(&payload), ["config.broadcast.ack: unable to parse, expected boolean"]);
    }

    /// Recording 03, wrong types in `config`.
    #[test]
    fn wrong_types_fall_back_to_defaults() {
        let payload = json!({"config": {
            "broadcast": {"ack": "yes", "self": 5}, "presence": {"key": 5, "enabled": "TRUE"},
            "private": "maybe", "postgres_changes": "no",
        }, "access_token": 5});
        let expected =
            JoinPayload { presence_key: Some("5".into()), presence_enabled: true, ..JoinPayload::default() };
        assert_eq!(parsed(&payload), expected);
        assert_eq!(problems(&payload).len(), 5);
    }

    /// protocol 30
    #[test]
    fn presence_keys() {
        let key = |key: Value| parsed(&json!({"config": {"presence": {"key": key}}})).presence_key;
        assert_eq!(key(json!(123)).as_deref(), Some("123"));
        assert_eq!(key(json!("user-1")).as_deref(), Some("user-1"));
        assert_eq!(key(json!(true)).as_deref(), Some("true"));
        for random in [json!(""), json!("  "), json!(null), json!({}), json!("x".repeat(4_097))] {
            assert_eq!(key(random), None);
        }
        assert_eq!(problems(&json!({"config": {"presence": {"key": "x".repeat(4_097)}}})).len(), 1);
    }

    /// protocol 28; postgres_changes 3, 4, 7
    #[test]
    fn subscriptions_keep_their_text() {
        let text = br#"{"config":{"postgres_changes":[null,{"event":"*", "x":1.50}]}}"#;
        let (join, _) = JoinPayload::parse(text).unwrap();
        assert_eq!(join.postgres_changes.len(), 1);
        assert_eq!(&*join.postgres_changes_text[0], r#"{"event":"*", "x":1.50}"#);
        assert!(parsed(&json!({"config": {"postgres_changes": [null]}})).postgres_changes.is_empty());
        assert!(parsed(&json!({"config": {"postgres_changes": null}})).postgres_changes.is_empty());
    }

    #[test]
    fn what_must_be_an_object() {
        for payload in [
            json!("x"),
            json!(null),
            json!({"config": "str"}),
            json!({"config": {"broadcast": 5}}),
            json!({"config": {"postgres_changes": [5]}}),
        ] {
            assert!(JoinPayload::parse(payload.to_string().as_bytes()).is_err(), "{payload}");
        }
    }

    #[test]
    fn replay_is_kept_as_sent() {
        let join = parsed(&json!({"config": {"broadcast": {"replay": {"since": "x"}}}}));
        assert_eq!(join.replay, Some(Replay(json!({"since": "x"}))));
        assert_eq!(parsed(&json!({"config": {"broadcast": {"replay": null}}})).replay, None);
    }
}
