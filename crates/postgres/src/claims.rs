//! What the settings that policies read are made of.

use serde::Deserialize;
use serde_json::Value;

/// The claim that has a setting of its own.
#[derive(Deserialize)]
struct Subject {
    #[serde(default)]
    sub: Value,
}

/// Whose settings they are. A subject that is no text is given as JSON.
pub(crate) fn subject(claims: &str) -> Option<String> {
    match serde_json::from_str::<Subject>(claims).map(|claims| claims.sub) {
        // No setting can hold a NUL.
        Ok(Value::String(text)) => Some(text).filter(|text| !text.contains('\0')),
        Ok(Value::Null) | Err(_) => None,
        Ok(other) => Some(other.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn subjects() {
        assert_eq!(subject(r#"{"sub":"u1","role":"x"}"#).as_deref(), Some("u1"));
        assert_eq!(subject(r#"{"role":"x"}"#), None);
        assert_eq!(subject(r#"{"sub":null}"#), None);
        assert_eq!(subject(r#"{"sub":17}"#).as_deref(), Some("17"));
        assert_eq!(subject("nonsense"), None);
        assert_eq!(subject(r#"{"sub":"a\u0000"}"#), None);
    }
}
