//! `realtime tenants`: the admin API.

use reqwest::Method;
use serde_json::{Map, Value, json};

use super::ask::{address, ask};
use crate::cli::{TenantsArgs, TenantsCommand};

/// What is told to the person who asks.
///
/// # Errors
/// In words for people.
pub async fn tenants(args: &TenantsArgs, token: &str) -> Result<String, String> {
    let at = |path: &[&str]| address(&args.url, false, path);
    match &args.command {
        TenantsCommand::List => {
            let told = ask(Method::GET, at(&["api", "tenants"])?, token, None).await?;
            Ok(list(&told["data"]))
        }
        TenantsCommand::Show { name } => {
            let told = ask(Method::GET, at(&["api", "tenants", name])?, token, None).await?;
            Ok(format!("{:#}", told["data"]))
        }
        TenantsCommand::Set { name, fields } => {
            let place = at(&["api", "tenants", name])?;
            // A name that does not exist would make a tenant.
            ask(Method::GET, place.clone(), token, None).await?;
            let body = json!({ "tenant": fields_of(fields) });
            let told = ask(Method::PATCH, place, token, Some(&body)).await?;
            Ok(format!("{:#}", told["data"]))
        }
    }
}

/// Fields whose values are JSON, or else texts.
fn fields_of(fields: &[(String, String)]) -> Map<String, Value> {
    let value = |text: &str| serde_json::from_str(text).unwrap_or_else(|_| Value::String(text.to_owned()));
    fields.iter().map(|(name, text)| (name.clone(), value(text))).collect()
}

/// A line for each tenant: its name, and whether it is suspended.
fn list(tenants: &Value) -> String {
    let line = |tenant: &Value| {
        let name = tenant["external_id"].as_str().unwrap_or_default();
        let suspended = if tenant["suspend"] == true { "  suspended" } else { "" };
        format!("{name}{suspended}")
    };
    let lines: Vec<String> = tenants.as_array().into_iter().flatten().map(line).collect();
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_json_or_texts() {
        let pairs = [("suspend", "true"), ("max_joins_per_second", "5"), ("name", "The shop")];
        let pairs = pairs.map(|(name, value)| (name.to_owned(), value.to_owned()));
        let expected = json!({"suspend": true, "max_joins_per_second": 5, "name": "The shop"});
        assert_eq!(Value::Object(fields_of(&pairs)), expected);
    }

    #[test]
    fn tenants_are_listed_by_name() {
        let tenants = json!([{"external_id": "a", "suspend": false}, {"external_id": "b", "suspend": true}]);
        assert_eq!(list(&tenants), "a\nb  suspended");
    }
}
