//! The payload of `phx_join` (protocol 4.2 to 4.5).
//!
//! Everything whose size a client chooses has a limit, which is checked before anything is built from it.

mod members;

use members::entries;
pub(crate) use members::members;
use serde_json::{Map, Value, value::RawValue};

/// Longest topic, `realtime:` included. A filter of the older API may be part of it.
pub const MAX_TOPIC_BYTES: usize = 4_096;

/// Longest `ref` and `join_ref`: channels keep them. Binary frames carry no longer ones.
pub const MAX_REF_BYTES: usize = 255;

/// Longest presence key: it is sent to everybody again and again.
const MAX_KEY_BYTES: usize = 1_024;

/// Longest token: larger than any header of a proxy lets through.
pub(crate) const MAX_TOKEN_BYTES: usize = 64 * 1_024;

/// Longest `replay`, which consists of two numbers.
const MAX_REPLAY_BYTES: usize = 1_024;

/// Longest text of all subscriptions together: it is kept, and sent back.
const MAX_CHANGES_BYTES: usize = 256 * 1_024;

/// What a client asks for when it joins.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct JoinPayload {
    /// No `config` key: the topic says what is watched in the database (protocol 11.2).
    pub legacy: bool,
    /// Join the private room of the topic.
    pub private: bool,
    /// Acknowledge broadcasts.
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
    /// Subscriptions as the client wrote them.
    pub postgres_changes_text: Vec<Box<str>>,
    /// Token for this channel.
    pub access_token: Option<String>,
    /// Token for this channel, under its older name.
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

/// Why a join is refused because of its payload.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum JoinPayloadError {
    /// A part that must be an object.
    #[error("Join {0} must be an object")]
    NoObject(&'static str),
    /// It is not clear whether the channel is private. Then it is never taken for public (spec README, decision 21).
    #[error("`{0}` must be true or false")]
    NoBoolean(&'static str),
    /// More entries than a channel may have.
    #[error("`{field}` has more than {limit} entries")]
    TooMany {
        /// The list.
        field: &'static str,
        /// How many it may have.
        limit: usize,
    },
    /// A part that is too long.
    #[error("`{field}` is longer than {limit} bytes")]
    TooLong {
        /// The part.
        field: &'static str,
        /// How long it may be.
        limit: usize,
    },
}

impl JoinPayloadError {
    /// Checks the length of a part.
    ///
    /// # Errors
    /// [`JoinPayloadError::TooLong`].
    pub const fn check_length(field: &'static str, length: usize, limit: usize) -> Result<(), Self> {
        if length > limit { Err(Self::TooLong { field, limit }) } else { Ok(()) }
    }
}

impl JoinPayload {
    /// Reads the payload, with at most `max_changes` subscriptions. Fields of the wrong type fall back to their
    /// defaults and are named.
    ///
    /// # Errors
    /// [`JoinPayloadError`] when the payload, `config`, `config.broadcast` or an entry of `postgres_changes` is not an
    /// object, when `private` is not a boolean, and when a part is too large.
    pub fn parse(payload: &[u8], max_changes: usize) -> Result<(Self, Vec<FieldError>), JoinPayloadError> {
        let mut problems = Vec::new();
        let mut join = Self::default();
        let [config, access_token, user_token] = members(payload, ["config", "access_token", "user_token"])
            .ok_or(JoinPayloadError::NoObject("payload"))?;
        join.access_token = string(access_token, "access_token", &mut problems)?;
        join.user_token = string(user_token, "user_token", &mut problems)?;
        match config {
            None => join.legacy = true,
            Some(config) if config.get() == "null" => {}
            Some(config) => join.read_config(config, max_changes, &mut problems)?,
        }
        Ok((join, problems))
    }

    fn read_config(
        &mut self,
        config: &RawValue,
        max_changes: usize,
        problems: &mut Vec<FieldError>,
    ) -> Result<(), JoinPayloadError> {
        let [private, broadcast, presence, changes] =
            members(config.get().as_bytes(), ["private", "broadcast", "presence", "postgres_changes"])
                .ok_or(JoinPayloadError::NoObject("config"))?;
        self.private = boolean(private).ok_or(JoinPayloadError::NoBoolean("config.private"))?;
        if let Some(broadcast) = not_null(broadcast) {
            let [ack, to_self, ready, replay] =
                members(broadcast.get().as_bytes(), ["ack", "self", "replication_ready", "replay"])
                    .ok_or(JoinPayloadError::NoObject("config.broadcast"))?;
            self.ack = flexible(ack, "config.broadcast.ack", problems);
            self.to_self = flexible(to_self, "config.broadcast.self", problems);
            self.replication_ready = flexible(ready, "config.broadcast.replication_ready", problems);
            if let Some(replay) = not_null(replay) {
                let length = replay.get().len();
                JoinPayloadError::check_length("config.broadcast.replay", length, MAX_REPLAY_BYTES)?;
                // A value that is nested too deeply cannot be a replay, but still asks for one.
                self.replay = Some(Replay(value(replay).unwrap_or_default()));
            }
        }
        if let Some(presence) = not_null(presence) {
            match members(presence.get().as_bytes(), ["key", "enabled"]) {
                Some([key, enabled]) => {
                    self.presence_key = presence_key(key, problems)?;
                    self.presence_enabled = flexible(enabled, "config.presence.enabled", problems);
                }
                None => problems.push(FieldError { field: "config.presence", expected: "map" }),
            }
        }
        if let Some(changes) = not_null(changes) {
            self.read_changes(changes, max_changes, problems)?;
        }
        Ok(())
    }

    fn read_changes(
        &mut self,
        changes: &RawValue,
        max: usize,
        problems: &mut Vec<FieldError>,
    ) -> Result<(), JoinPayloadError> {
        const FIELD: &str = "config.postgres_changes";
        if !changes.get().starts_with('[') {
            problems.push(FieldError { field: FIELD, expected: "list" });
            return Ok(());
        }
        let entries = entries(changes, max).ok_or(JoinPayloadError::TooMany { field: FIELD, limit: max })?;
        JoinPayloadError::check_length(FIELD, changes.get().len(), MAX_CHANGES_BYTES)?;
        for entry in entries.iter().filter(|entry| entry.get() != "null") {
            let Some(Value::Object(object)) = value(entry) else {
                return Err(JoinPayloadError::NoObject("config.postgres_changes entry"));
            };
            self.postgres_changes.push(object);
            self.postgres_changes_text.push(entry.get().into());
        }
        Ok(())
    }
}

fn not_null(raw: Option<&RawValue>) -> Option<&RawValue> {
    raw.filter(|raw| raw.get() != "null")
}

fn value(raw: &RawValue) -> Option<Value> {
    serde_json::from_str(raw.get()).ok()
}

/// A JSON boolean, or `true` or `false` as a string in any letter case; missing, null and "" are false. `None` for
/// anything else.
fn boolean(raw: Option<&RawValue>) -> Option<bool> {
    // The longest form, with each letter escaped.
    const LONGEST: usize = "\"\\u0066\\u0061\\u006c\\u0073\\u0065\"".len();
    let Some(raw) = not_null(raw) else { return Some(false) };
    match raw.get() {
        "true" => Some(true),
        "false" => Some(false),
        text if text.starts_with('"') && text.len() <= LONGEST => {
            let text: String = serde_json::from_str(text).ok()?;
            let is = |word: &str| text.eq_ignore_ascii_case(word);
            if is("true") { Some(true) } else { (is("false") || text.is_empty()).then_some(false) }
        }
        _ => None,
    }
}

/// A [`boolean`]; anything else is false and named among the problems.
fn flexible(raw: Option<&RawValue>, field: &'static str, problems: &mut Vec<FieldError>) -> bool {
    boolean(raw).unwrap_or_else(|| {
        problems.push(FieldError { field, expected: "boolean" });
        false
    })
}

/// Reads a token.
fn string(
    raw: Option<&RawValue>,
    field: &'static str,
    problems: &mut Vec<FieldError>,
) -> Result<Option<String>, JoinPayloadError> {
    let Some(raw) = not_null(raw) else { return Ok(None) };
    if raw.get().starts_with('"') {
        JoinPayloadError::check_length(field, raw.get().len(), MAX_TOKEN_BYTES)?;
        if let Ok(text) = serde_json::from_str(raw.get()) {
            return Ok(Some(text));
        }
    }
    problems.push(FieldError { field, expected: "string" });
    Ok(None)
}

/// Any scalar, as a string; missing, null and blank ask for a random key.
fn presence_key(
    raw: Option<&RawValue>,
    problems: &mut Vec<FieldError>,
) -> Result<Option<String>, JoinPayloadError> {
    const FIELD: &str = "config.presence.key";
    let Some(raw) = not_null(raw) else { return Ok(None) };
    if !raw.get().starts_with(['{', '[']) {
        JoinPayloadError::check_length(FIELD, raw.get().len(), MAX_KEY_BYTES)?;
        match value(raw) {
            Some(Value::String(text)) => return Ok((!text.trim().is_empty()).then_some(text)),
            Some(scalar) => return Ok(Some(scalar.to_string())),
            None => {}
        }
    }
    problems.push(FieldError { field: FIELD, expected: "string" });
    Ok(None)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn parsed(payload: &Value) -> JoinPayload {
        JoinPayload::parse(payload.to_string().as_bytes(), 100).unwrap().0
    }

    fn problems(payload: &Value) -> Vec<String> {
        let (_, problems) = JoinPayload::parse(payload.to_string().as_bytes(), 100).unwrap();
        problems.iter().map(ToString::to_string).collect()
    }

    fn refusal(payload: &Value) -> String {
        JoinPayload::parse(payload.to_string().as_bytes(), 100).unwrap_err().to_string()
    }

    /// spec README, decision 21
    #[test]
    fn private_is_never_taken_for_public() {
        let deep = (0..1_000).fold(json!(true), |inner, _| json!([inner]));
        for private in [json!(1), json!(0), json!("yes"), json!("maybe"), json!([true]), json!({}), deep] {
            let payload = json!({"config": {"private": private}});
            assert_eq!(refusal(&payload), "`config.private` must be true or false");
        }
        let private = |private: Value| parsed(&json!({"config": {"private": private}})).private;
        assert!(private(json!(true)) && private(json!("true")) && private(json!("TRUE")));
        assert!(!private(json!(false)) && !private(json!("False")));
        assert!(!private(json!(null)) && !private(json!("")));
    }

    /// spec README, decision 20
    #[test]
    fn what_is_too_large_is_refused() {
        let text = |length: usize| "x".repeat(length);
        let changes = |count: usize| json!({"config": {"postgres_changes": vec![json!({}); count]}});
        assert_eq!(parsed(&changes(100)).postgres_changes.len(), 100);
        for (payload, told) in [
            (changes(101), "`config.postgres_changes` has more than 100 entries"),
            (
                json!({"config": {"postgres_changes": vec![Value::Null; 101]}}),
                "`config.postgres_changes` has more than 100 entries",
            ),
            (
                json!({"config": {"postgres_changes": [{"filter": text(262_144)}]}}),
                "`config.postgres_changes` is longer than 262144 bytes",
            ),
            (
                json!({"config": {"presence": {"key": text(1_024)}}}),
                "`config.presence.key` is longer than 1024 bytes",
            ),
            (json!({"access_token": text(65_536)}), "`access_token` is longer than 65536 bytes"),
            (json!({"user_token": text(65_536)}), "`user_token` is longer than 65536 bytes"),
            (
                json!({"config": {"broadcast": {"replay": {"x": text(1_024)}}}}),
                "`config.broadcast.replay` is longer than 1024 bytes",
            ),
        ] {
            assert_eq!(refusal(&payload), told);
        }
    }

    /// What is nested too deeply is no object, and no replay that could be given.
    #[test]
    fn depth_is_bounded() {
        let deep = |levels| format!("{}1{}", "[".repeat(levels), "]".repeat(levels));
        let text = format!(r#"{{"config":{{"postgres_changes":[{{"x":{}}}]}}}}"#, deep(100_000));
        let refused = JoinPayload::parse(text.as_bytes(), 100).unwrap_err();
        assert_eq!(refused.to_string(), "Join config.postgres_changes entry must be an object");
        let text = format!(r#"{{"config":{{"broadcast":{{"replay":{}}}}}}}"#, deep(500));
        assert_eq!(JoinPayload::parse(text.as_bytes(), 100).unwrap().0.replay, Some(Replay(Value::Null)));
        let text =
            format!(r#"{{"x":{},"config":{{"presence":{{"key":{}}}}}}}"#, deep(100_000), deep(100_000));
        assert_eq!(JoinPayload::parse(text.as_bytes(), 100).unwrap().0.presence_key, None);
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
            "postgres_changes": "no",
        }, "access_token": 5});
        let expected =
            JoinPayload { presence_key: Some("5".into()), presence_enabled: true, ..JoinPayload::default() };
        assert_eq!(parsed(&payload), expected);
        assert_eq!(problems(&payload).len(), 4);
    }

    /// protocol 30
    #[test]
    fn presence_keys() {
        let key = |key: Value| parsed(&json!({"config": {"presence": {"key": key}}})).presence_key;
        assert_eq!(key(json!(123)).as_deref(), Some("123"));
        assert_eq!(key(json!("user-1")).as_deref(), Some("user-1"));
        assert_eq!(key(json!(true)).as_deref(), Some("true"));
        for random in [json!(""), json!("  "), json!(null), json!({})] {
            assert_eq!(key(random), None);
        }
    }

    /// protocol 28; postgres_changes 3, 4, 7
    #[test]
    fn subscriptions_keep_their_text() {
        let text = br#"{"config":{"postgres_changes":[null,{"event":"*", "x":1.50}]}}"#;
        let (join, _) = JoinPayload::parse(text, 100).unwrap();
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
            assert!(refusal(&payload).starts_with("Join "), "{payload}");
        }
    }

    #[test]
    fn replay_is_kept_as_sent() {
        let join = parsed(&json!({"config": {"broadcast": {"replay": {"since": "x"}}}}));
        assert_eq!(join.replay, Some(Replay(json!({"since": "x"}))));
        assert_eq!(parsed(&json!({"config": {"broadcast": {"replay": null}}})).replay, None);
    }
}
