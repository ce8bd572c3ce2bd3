//! Frames of serializer 2.0.0, as far as this client needs them. Pure.

use std::fmt;

use realtime_codes::ErrorCode;
use serde::{
    Deserialize, Deserializer, Serialize, Serializer,
    de::{MapAccess, Visitor},
};
use serde_json::{Map, Value, json, value::RawValue};

/// The channel. Nobody else uses its name for anything.
pub(super) const TOPIC: &str = "realtime:watch";

/// The reference of the join.
const JOIN: &str = "1";

/// A row: its columns, in their order, as JSON texts. Numbers keep all their digits.
#[derive(Debug, Default)]
pub(super) struct Record(Vec<(String, Box<RawValue>)>);

impl Record {
    /// The text of a column.
    pub(super) fn get(&self, column: &str) -> Option<&str> {
        self.columns().find(|(name, _)| *name == column).map(|(_, value)| value)
    }

    /// Names and texts.
    pub(super) fn columns(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(name, value)| (&**name, value.get()))
    }

    pub(super) const fn len(&self) -> usize {
        self.0.len()
    }

    pub(super) const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl<'de> Deserialize<'de> for Record {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Columns;
        impl<'de> Visitor<'de> for Columns {
            type Value = Record;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Record, A::Error> {
                let mut columns = Vec::new();
                while let Some(column) = map.next_entry()? {
                    columns.push(column);
                }
                Ok(Record(columns))
            }
        }
        deserializer.deserialize_map(Columns)
    }
}

impl Serialize for Record {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().map(|(name, value)| (name, value)))
    }
}

/// What the server says.
#[derive(Debug)]
pub(super) enum Incoming {
    /// The answer to the join: done, or why not.
    Joined(Result<(), String>),
    /// A heartbeat was answered.
    Alive,
    /// A row has entered, changed or left.
    Change(Box<Change>),
    /// Something about the channel.
    System(System),
    /// The channel has ended.
    Closed,
    /// Nothing that matters here.
    Other,
}

/// A row that has entered, changed or left.
#[derive(Debug, Deserialize)]
pub(super) struct Change {
    #[serde(rename = "type")]
    pub kind: String,
    #[serde(default)]
    pub commit_timestamp: Option<String>,
    #[serde(default)]
    columns: Vec<Column>,
    #[serde(default)]
    pub record: Option<Record>,
    #[serde(default)]
    pub old_record: Option<Record>,
    #[serde(default)]
    pub errors: Option<Vec<String>>,
}

#[derive(Debug, Deserialize)]
struct Column {
    name: String,
}

impl Change {
    /// The names of the columns, in their order.
    pub(super) fn columns(&self) -> impl Iterator<Item = &str> {
        self.columns.iter().map(|column| &*column.name)
    }
}

/// Something about the channel.
#[derive(Debug, Default, Deserialize)]
pub(super) struct System {
    #[serde(default)]
    pub extension: String,
    #[serde(default)]
    pub status: String,
    #[serde(default)]
    pub message: String,
    #[serde(default)]
    pub code: Option<String>,
    #[serde(default)]
    pub rows: Option<u64>,
}

/// Codes of results that are ended for good.
const ENDED: [&str; 2] = [ErrorCode::LiveResultTooLarge.as_str(), ErrorCode::LiveKeyNotUnique.as_str()];

impl System {
    /// Whether no more rows will come, whatever happens.
    pub(super) fn is_end(&self) -> bool {
        self.code.as_deref().is_some_and(|code| ENDED.contains(&code))
    }

    /// Whether all rows of the result were sent.
    pub(super) fn is_complete(&self) -> bool {
        self.status == "ok"
            && self.extension == "postgres_changes"
            && self.message == "Live rows are complete"
    }
}

/// The join of a channel with this binding.
pub(super) fn join(binding: &Map<String, Value>) -> String {
    let config = json!({
        "broadcast": {"ack": false, "self": false}, "presence": {"enabled": false}, "private": false,
        "postgres_changes": [binding],
    });
    json!([JOIN, JOIN, TOPIC, "phx_join", {"config": config}]).to_string()
}

/// A heartbeat.
pub(super) fn heartbeat() -> String {
    json!([null, "0", "phoenix", "heartbeat", {}]).to_string()
}

/// Reads a text frame.
pub(super) fn read(text: &str) -> Result<Incoming, serde_json::Error> {
    type Frame = (Option<String>, Option<String>, String, String, Box<RawValue>);
    let (_, reference, topic, event, payload): Frame = serde_json::from_str(text)?;
    Ok(match (&*topic, &*event) {
        ("phoenix", "phx_reply") => Incoming::Alive,
        (TOPIC, "phx_reply") if reference.as_deref() == Some(JOIN) => {
            let reply: Value = serde_json::from_str(payload.get())?;
            Incoming::Joined(if reply["status"] == "ok" { Ok(()) } else { Err(reason(&reply["response"])) })
        }
        (TOPIC, "postgres_changes") => {
            #[derive(Deserialize)]
            struct Payload {
                data: Change,
            }
            Incoming::Change(Box::new(serde_json::from_str::<Payload>(payload.get())?.data))
        }
        (TOPIC, "system") => Incoming::System(serde_json::from_str(payload.get())?),
        (TOPIC, "phx_close" | "phx_error") => Incoming::Closed,
        _ => Incoming::Other,
    })
}

/// Why a join was refused.
fn reason(response: &Value) -> String {
    response["reason"].as_str().map_or_else(|| response.to_string(), str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_keep_the_digits_of_numbers() {
        let text = r#"["1",null,"realtime:watch","postgres_changes",{"ids":[7],"data":{"type":"UPDATE","schema":"public",
            "table":"t","columns":[{"name":"id","type":"int8"},{"name":"n","type":"numeric"}],"errors":null,
            "commit_timestamp":"2026-01-01T00:00:00Z","record":{"id":9007199254740993,"n":1.50},"old_record":{"id":1}}}]"#;
        let Ok(Incoming::Change(change)) = read(text) else { panic!("a change") };
        assert_eq!(change.columns().collect::<Vec<_>>(), ["id", "n"]);
        let record = change.record.unwrap();
        assert_eq!((record.get("id"), record.get("n")), (Some("9007199254740993"), Some("1.50")));
    }

    #[test]
    fn answers_and_notices() {
        let of = |text: &str| format!("{:?}", read(text));
        assert_eq!(
            of(r#"["1","1","realtime:watch","phx_reply",{"status":"error","response":{"reason":"no"}}]"#),
            r#"Ok(Joined(Err("no")))"#
        );
        assert_eq!(
            of(r#"["1","1","realtime:watch","phx_reply",{"status":"ok","response":{}}]"#),
            "Ok(Joined(Ok(())))"
        );
        assert_eq!(of(r#"[null,"0","phoenix","phx_reply",{"status":"ok","response":{}}]"#), "Ok(Alive)");
        assert_eq!(of(r#"["1",null,"realtime:watch","presence_state",{}]"#), "Ok(Other)");
        assert_eq!(of(r#"["1",null,"realtime:watch","phx_close",{}]"#), "Ok(Closed)");
        assert!(read("[1]").is_err());
        let complete = r#"["1",null,"realtime:watch","system",{"message":"Live rows are complete","status":"ok",
            "extension":"postgres_changes","channel":"watch","rows":3,"bindings":[7]}]"#;
        let Ok(Incoming::System(system)) = read(complete) else { panic!("a system message") };
        assert!(system.is_complete() && system.rows == Some(3));
    }
}
