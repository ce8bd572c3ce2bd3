//! Which transactions a webhook is sent, and with which headers (legacy 6).

use crate::Event;

/// A webhook of the configuration file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Webhook {
    /// The endpoint.
    pub endpoint: Box<str>,
    /// The event it is for; `None` for all.
    pub event: Option<Event>,
    /// The changes it is for.
    pub relation: Target,
}

/// The tables that a webhook is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// All tables.
    All,
    /// The tables of a schema.
    Schema(Box<str>),
    /// One table.
    Table(Box<str>, Box<str>),
    /// No table: the relation has more parts than a table, or the event does not exist.
    Nothing,
}

impl Target {
    /// The tables of a relation of the configuration file.
    pub(crate) fn parse(relation: &str) -> Self {
        let parts: Vec<&str> = relation.split(':').collect();
        match parts[..] {
            ["" | "*"] => Self::All,
            [schema] => Self::Schema(schema.into()),
            [schema, table] => Self::Table(schema.into(), table.into()),
            _ => Self::Nothing,
        }
    }
}

impl Webhook {
    /// Whether a change makes it fire.
    #[must_use]
    pub fn is_for(&self, schema: &str, table: &str, event: Event) -> bool {
        if self.event.is_some_and(|wanted| wanted != event) {
            return false;
        }
        match &self.relation {
            Target::All => true,
            Target::Schema(wanted) => **wanted == *schema,
            Target::Table(wanted, name) => **wanted == *schema && **name == *table,
            Target::Nothing => false,
        }
    }
}

/// Reads `WEBHOOK_HEADERS`, `key=value:key2=value2`. `None` if a pair is malformed: then all are left out.
#[must_use]
pub fn parse_headers(text: &str) -> Option<Vec<(String, String)>> {
    let pair = |pair: &str| pair.split_once('=').map(|(key, value)| (key.to_owned(), value.to_owned()));
    text.split(':').map(pair).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fires(event: Option<Event>, relation: &str) -> [bool; 3] {
        let hook = Webhook { endpoint: "http://x".into(), event, relation: Target::parse(relation) };
        [
            ("public", "todos", Event::Insert),
            ("public", "users", Event::Update),
            ("auth", "users", Event::Delete),
        ]
        .map(|(schema, table, event)| hook.is_for(schema, table, event))
    }

    /// legacy 43, 46
    #[test]
    fn what_a_webhook_is_for() {
        assert_eq!(fires(None, "*"), [true; 3]);
        assert_eq!(fires(None, ""), [true; 3]);
        assert_eq!(fires(Some(Event::Insert), "public:todos"), [true, false, false]);
        assert_eq!(fires(Some(Event::Update), "public:todos"), [false; 3]);
        assert_eq!(fires(None, "public"), [true, true, false]);
        for never in ["public:users:x", "public:users.id=eq.2", "public:*", "*:users"] {
            assert_eq!(fires(None, never), [false; 3], "{never}");
        }
    }

    /// legacy 45
    #[test]
    fn headers() {
        let pairs = |text| {
            parse_headers(text).map(|pairs| {
                let pairs: Vec<_> = pairs.iter().map(|(key, value)| format!("{key}: {value}")).collect();
                pairs.join(", ")
            })
        };
        assert_eq!(pairs("key=value1:header2=value2").as_deref(), Some("key: value1, header2: value2"));
        assert_eq!(pairs("key=value1:broken"), None);
        assert_eq!(pairs("a=b=c").as_deref(), Some("a: b=c"));
    }
}
