//! The body of a request that makes or changes a tenant: `{"tenant":{…}}` (http_and_ops 0, 1.3).

use axum::{extract::Request, response::Response};
use http::StatusCode;
use realtime_auth::Jwks;
use realtime_codes::ErrorCode;
use realtime_tenants::FieldErrors;
use serde_json::{Map, Value, json};

use super::super::broadcast::{is_json, media_type, read_body};
use crate::answers::{bad_request, json as answer};

/// Longest texts and structures that are stored, in bytes. Real ones are far smaller.
const LIMITS: [(&str, usize); 6] = [
    ("external_id", 255),
    ("name", 255),
    ("jwt_secret", 8192),
    ("postgres_cdc_default", 255),
    ("jwt_jwks", 65_536),
    ("feature_flags", 65_536),
];

/// Extensions of a tenant, and bytes of the settings of one.
const MAX_EXTENSIONS: usize = 16;
const MAX_SETTINGS: usize = 65_536;

/// Largest number in settings and keys. Real ones are far smaller.
const LARGEST: f64 = 1e300;

/// Reads the object `tenant`. As in the reference, a body is read only if its content type is JSON.
pub(super) async fn tenant(request: Request) -> Result<Map<String, Value>, Response> {
    let json = media_type(request.headers()).is_some_and(|kind| is_json(&kind));
    let (parts, body) = request.into_parts();
    let body = read_body(&parts, body).await?;
    let unreadable = || bad_request(&parts.headers);
    if !json {
        return Err(unreadable());
    }
    let mut body: Map<String, Value> = serde_json::from_slice(&body).map_err(|_| unreadable())?;
    match body.remove("tenant") {
        Some(Value::Object(tenant)) => Ok(tenant),
        _ => Err(unreadable()),
    }
}

/// Whether a tenant can have this name. Other names are not looked for.
pub(super) fn is_name(external_id: &str) -> bool {
    !external_id.trim().is_empty() && external_id.len() <= 255 && !external_id.contains('\0')
}

/// Refuses what is too large, what PostgreSQL's text cannot hold, and keys that cannot verify any token: a tenant with
/// such fields could not be served any more.
pub(super) fn check(tenant: &Map<String, Value>) -> Result<(), FieldErrors> {
    let mut errors = FieldErrors::default();
    for (field, limit) in LIMITS {
        if let Some(value) = tenant.get(field) {
            if size(value) > limit {
                errors.add(field, &format!("should be at most {limit} byte(s)"));
            } else if is_unstorable(value) {
                errors.add(field, "is invalid");
            }
        }
    }
    if let Some(jwks @ Value::Object(_)) = tenant.get("jwt_jwks")
        && !errors.to_json().as_object().is_some_and(|told| told.contains_key("jwt_jwks"))
        && Jwks::parse(&jwks.to_string()).is_err()
    {
        errors.add("jwt_jwks", "is invalid");
    }
    if tenant
        .get("external_id")
        .and_then(Value::as_str)
        .is_some_and(|name| !name.is_empty() && name.trim().is_empty())
    {
        errors.add("external_id", "can't be blank");
    }
    if let Some(Value::Array(extensions)) = tenant.get("extensions") {
        let too_large = extensions.len() > MAX_EXTENSIONS
            || extensions.iter().any(|extension| size(extension) > MAX_SETTINGS);
        if too_large {
            errors.add(
                "extensions",
                &format!("should be at most {MAX_EXTENSIONS} item(s) of {MAX_SETTINGS} byte(s)"),
            );
        } else if extensions.iter().any(is_unstorable) {
            errors.add("extensions", "is invalid");
        }
    }
    if errors.is_empty() { Ok(()) } else { Err(errors) }
}

fn size(value: &Value) -> usize {
    match value {
        Value::String(text) => text.len(),
        other => other.to_string().len(),
    }
}

/// Whether PostgreSQL's text cannot hold it, or a number could not be read again, because PostgreSQL writes all its
/// digits.
fn is_unstorable(value: &Value) -> bool {
    match value {
        Value::String(text) => text.contains('\0'),
        Value::Number(number) => number.as_f64().is_none_or(|number| number.abs() >= LARGEST),
        Value::Array(items) => items.iter().any(is_unstorable),
        Value::Object(map) => map.iter().any(|(key, value)| key.contains('\0') || is_unstorable(value)),
        _ => false,
    }
}

/// Drops entries without a type or settings, as the reference does when a tenant is made (http_and_ops 1.4).
pub(super) fn drop_incomplete_extensions(tenant: &mut Map<String, Value>) {
    if let Some(Value::Array(extensions)) = tenant.get_mut("extensions") {
        let complete = |entry: &Value| {
            ["type", "settings"].iter().all(|key| entry.get(key).is_some_and(|value| !value.is_null()))
        };
        extensions.retain(|entry| !entry.is_object() || complete(entry));
    }
}

/// 422 with the problems.
pub(super) fn unprocessable(errors: &FieldErrors) -> Response {
    // The errors contain names of fields and fixed texts, but no values.
    tracing::warn!(code = ErrorCode::UnprocessableEntity.as_str(), %errors, "request refused");
    answer(StatusCode::UNPROCESSABLE_ENTITY, &json!({ "errors": errors.to_json() }))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use realtime_tenants::TenantFields;

    use super::*;

    fn object(value: Value) -> Map<String, Value> {
        value.as_object().cloned().unwrap()
    }

    #[test]
    fn sizes_are_limited() {
        let refused = |tenant: Value| check(&object(tenant)).unwrap_err().to_json();
        assert_eq!(
            refused(json!({"name": "x".repeat(256), "external_id": "a\0", "jwt_jwks": {"a": [1.797e308]}})),
            json!({
                "name": ["should be at most 255 byte(s)"],
                "external_id": ["is invalid"],
                "jwt_jwks": ["is invalid"],
            })
        );
        assert_eq!(refused(json!({"jwt_jwks": {"a\0": 1}})), json!({"jwt_jwks": ["is invalid"]}));
        assert_eq!(
            refused(json!({"external_id": " ", "jwt_jwks": {"keys": {}}})),
            json!({"external_id": ["can't be blank"], "jwt_jwks": ["is invalid"]})
        );
        assert!(check(&object(json!({"jwt_jwks": {"keys": []}}))).is_ok());
        assert!(refused(json!({"extensions": vec![json!({}); 17]}))["extensions"].is_array());
        assert!(refused(json!({"extensions": [{"x": "y".repeat(70_000)}]}))["extensions"].is_array());
        assert!(check(&object(json!({"name": "x".repeat(255), "extensions": [1, {"a": null}]}))).is_ok());
    }

    #[test]
    fn incomplete_extensions() {
        let mut tenant = object(json!({"extensions": [
            {"type": "a"}, {"settings": {}}, {"type": "b", "settings": {}}, 1, {"type": null, "settings": {}},
        ]}));
        drop_incomplete_extensions(&mut tenant);
        assert_eq!(tenant["extensions"], json!([{"type": "b", "settings": {}}, 1]));
    }

    fn any_json() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            any::<f64>().prop_map(Value::from),
            ".{0,12}".prop_map(Value::from),
            prop_oneof!["true", "0", "12", "postgres", "5432"].prop_map(Value::from),
        ];
        leaf.prop_recursive(4, 64, 6, |inner| {
            prop_oneof![
                proptest::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                proptest::collection::vec((key(), inner), 0..6)
                    .prop_map(|pairs| Value::Object(pairs.into_iter().collect())),
            ]
        })
    }

    /// Keys that mean something, more often than not.
    fn key() -> impl Strategy<Value = String> {
        prop_oneof![
            proptest::sample::select(vec![
                "external_id",
                "name",
                "jwt_secret",
                "jwt_jwks",
                "max_events_per_second",
                "suspend",
                "extensions",
                "type",
                "settings",
                "db_port",
                "db_host",
                "feature_flags",
                "broadcast_adapter",
            ])
            .prop_map(str::to_owned),
            ".{0,5}",
        ]
    }

    proptest! {
        /// No body is worth a panic, and what is refused says why.
        #[test]
        fn any_body_is_read_or_refused(pairs in proptest::collection::vec((key(), any_json()), 0..8)) {
            let mut tenant: Map<String, Value> = pairs.into_iter().collect();
            drop_incomplete_extensions(&mut tenant);
            if let Err(errors) = check(&tenant) {
                prop_assert!(!errors.is_empty());
            }
            if let Err(errors) = TenantFields::cast(&tenant) {
                prop_assert!(!errors.is_empty());
            }
        }
    }
}
