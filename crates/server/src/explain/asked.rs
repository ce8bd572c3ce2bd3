//! What is asked: a binding, and a row by its key.

use realtime_changes::SubscriptionSpec;
use serde_json::{Map, Value};

/// Columns of a key, at most: as many as an index of PostgreSQL has.
pub const MAX_KEY: usize = 32;

/// Longest value of a key, in bytes.
const MAX_VALUE: usize = 4_096;

/// A binding, and a row by its key.
#[derive(Debug, Clone)]
pub struct Asked {
    /// Schema of the table.
    pub schema: String,
    /// The table.
    pub table: String,
    /// The binding.
    pub spec: SubscriptionSpec,
    /// Columns and values that name a row; empty: no row is asked about.
    pub key: Vec<(String, String)>,
}

impl Asked {
    /// Reads a binding as clients write it, with a further member `key`: `{"id": 5}`.
    ///
    /// # Errors
    /// What is wrong with it, in words for people.
    pub fn read(params: &Map<String, Value>) -> Result<Self, String> {
        let text = |name: &str| params.get(name).and_then(Value::as_str).unwrap_or_default().to_owned();
        let (mut params, key) = (params.clone(), key(params.get("key"))?);
        params.entry("schema").or_insert_with(|| "public".into());
        // Neither is of the binding.
        params.remove("key");
        params.remove("since");
        if params.get("filter") == Some(&Value::String(String::new())) {
            params.remove("filter");
        }
        let schema = params.get("schema").and_then(Value::as_str).unwrap_or_default().to_owned();
        let spec = SubscriptionSpec::parse(&params).map_err(|error| error.to_string())?;
        let table = text("table");
        if !spec.is_exact() || table.is_empty() {
            return Err("Name a table, and its schema if that is not public".to_owned());
        }
        Ok(Self { schema, table, spec, key })
    }
}

fn key(key: Option<&Value>) -> Result<Vec<(String, String)>, String> {
    let key = match key {
        None | Some(Value::Null) => return Ok(Vec::new()),
        Some(Value::Object(key)) => key,
        Some(_) => return Err("`key` must be an object, as {\"id\": 5}".to_owned()),
    };
    if key.len() > MAX_KEY {
        return Err(format!("`key` has more than {MAX_KEY} columns"));
    }
    let value = |(name, value): (&String, &Value)| {
        let text = match value {
            Value::String(text) => text.clone(),
            Value::Number(_) | Value::Bool(_) => value.to_string(),
            _ => return Err(format!("The key's {name} must be a text or a number")),
        };
        if text.len() > MAX_VALUE || text.contains('\0') {
            return Err(format!("The key's {name} cannot be a value of a key"));
        }
        Ok((name.clone(), text))
    };
    key.iter().map(value).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read(params: Value) -> Result<Asked, String> {
        let Value::Object(params) = params else { panic!("an object expected") };
        Asked::read(&params)
    }

    #[test]
    fn bindings_with_a_key() {
        let asked = read(json!({"table": "todos", "filter": "room=eq.5", "key": {"id": 7}})).unwrap();
        assert_eq!((&*asked.schema, &*asked.table), ("public", "todos"));
        assert_eq!(asked.key, [("id".to_owned(), "7".to_owned())]);
        assert_eq!(asked.spec.filters.len(), 1);
        assert!(read(json!({"table": "todos", "filter": "", "key": null})).unwrap().key.is_empty());
    }

    #[test]
    fn what_cannot_be_asked_is_refused() {
        for bad in [
            json!({}),
            json!({"schema": "*"}),
            json!({"table": "*"}),
            json!({"table": "t", "key": [1]}),
            json!({"table": "t", "key": {"id": {}}}),
            json!({"table": "t", "key": {"id": "a\u{0}"}}),
            json!({"table": "t", "filter": "room"}),
        ] {
            assert!(read(bad.clone()).is_err(), "{bad}");
        }
    }
}
