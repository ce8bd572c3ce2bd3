//! The file that `CONFIGURATION_FILE` names (legacy 2.4, 6).

use serde::Deserialize;

use crate::{Event, Restrictions, Webhook, restrictions::Entry, webhook::Target};

/// The content of the file.
#[derive(Debug, Clone, Default)]
pub struct ConfigFile {
    /// What may be broadcast.
    pub restrictions: Restrictions,
    /// The endpoints that are sent transactions.
    pub webhooks: Vec<Webhook>,
}

/// Why the file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigFileError {
    /// It is not JSON of the right form.
    #[error("is not of the right form: {0}")]
    Json(#[from] serde_json::Error),
    /// A webhook has no endpoint.
    #[error("has a webhook without an endpoint")]
    NoEndpoint,
}

#[derive(Deserialize)]
struct File {
    webhooks: Option<Vec<Hook>>,
    realtime: Option<Vec<Broadcast>>,
}

#[derive(Deserialize)]
struct Hook {
    #[serde(default = "all")]
    event: String,
    #[serde(default = "all")]
    relation: String,
    config: HookConfig,
}

#[derive(Deserialize)]
struct HookConfig {
    endpoint: String,
}

#[derive(Deserialize)]
struct Broadcast {
    relation: String,
    events: Vec<String>,
}

fn all() -> String {
    "*".to_owned()
}

impl ConfigFile {
    /// Reads the text of the file. Without the key `realtime` nothing is broadcast at all.
    ///
    /// # Errors
    /// [`ConfigFileError`].
    pub fn parse(text: &str) -> Result<Self, ConfigFileError> {
        let file: File = serde_json::from_str(text)?;
        let entries = file.realtime.unwrap_or_default();
        let entries = entries.iter().map(|entry| Entry::new(&entry.relation, &entry.events)).collect();
        let webhooks =
            file.webhooks.unwrap_or_default().into_iter().map(webhook).collect::<Result<_, _>>()?;
        Ok(Self { restrictions: Restrictions::to(entries), webhooks })
    }
}

fn webhook(hook: Hook) -> Result<Webhook, ConfigFileError> {
    if hook.config.endpoint.is_empty() {
        return Err(ConfigFileError::NoEndpoint);
    }
    let event = Event::ALL.into_iter().find(|event| event.as_str() == hook.event);
    let known = event.is_some() || hook.event == "*";
    let relation = if known { Target::parse(&hook.relation) } else { Target::Nothing };
    Ok(Webhook { endpoint: hook.config.endpoint.into(), event, relation })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// legacy 29
    #[test]
    fn files() {
        let empty = ConfigFile::parse("{}").unwrap();
        assert!(empty.restrictions.allow_nothing() && empty.webhooks.is_empty());
        assert!(!ConfigFile::default().restrictions.allow_nothing());
        let file = ConfigFile::parse(
            r#"{"webhooks": [{"config": {"endpoint": "http://a"}},
                    {"event": "INSERT", "relation": "public:todos", "config": {"endpoint": "http://b"}},
                    {"event": "insert", "config": {"endpoint": "http://c"}}],
                "realtime": [{"relation": "public", "events": ["INSERT", "DANCE"]}]}"#,
        )
        .unwrap();
        let fire = |event| {
            file.webhooks.iter().map(|hook| hook.is_for("public", "todos", event)).collect::<Vec<_>>()
        };
        assert_eq!(fire(Event::Insert), [true, true, false]);
        assert_eq!(fire(Event::Delete), [true, false, false]);
        assert!(file.restrictions.schema("public", Event::Insert));
        assert!(!file.restrictions.schema("public", Event::Update));
    }

    #[test]
    fn wrong_files() {
        for text in [
            "",
            "[]",
            r#"{"webhooks": {}}"#,
            r#"{"webhooks": [{"config": {}}]}"#,
            r#"{"webhooks": [{"config": {"endpoint": ""}}]}"#,
            r#"{"realtime": [{"relation": "public"}]}"#,
            r#"{"realtime": [{"events": []}]}"#,
        ] {
            let error = ConfigFile::parse(text).unwrap_err().to_string();
            assert_eq!(error.lines().count(), 1, "{error}");
        }
    }
}
