//! `realtime explain`: the options.

use clap::Args;
use secrecy::SecretString;
use serde_json::{Map, Value};

use super::pair::pair;

/// Shown below the options.
pub(super) const EXAMPLES: &str = "\
Examples:
  realtime explain --token \"$USER_TOKEN\" --table todos
  realtime explain --token \"$USER_TOKEN\" --table todos --filter room=eq.5 --key id=17

Says for each step on the way from a row to a client whether it lets the row through: token, role, publication, grants,
filter, policies. Policies are evaluated under the role and the claims of the token. Nothing is changed.
Exit code: 0 if the row is sent, or would be; 1 if not.";

/// Options of `realtime explain`.
#[derive(Debug, Args)]
pub struct ExplainArgs {
    /// Token of the user who gets nothing
    #[arg(long, env = "REALTIME_TOKEN", hide_env_values = true)]
    pub token: SecretString,
    /// Table or view
    #[arg(long)]
    pub table: String,
    /// Its schema
    #[arg(long, default_value = "public")]
    pub schema: String,
    /// Filter of the binding, e.g. room=eq.5
    #[arg(long)]
    pub filter: Option<String>,
    /// Event of the binding
    #[arg(long, default_value = "*", value_parser = ["*", "INSERT", "UPDATE", "DELETE"], ignore_case = true)]
    pub event: String,
    /// The row, by columns and values, e.g. id=17
    #[arg(long, value_name = "COLUMN=VALUE", value_parser = pair)]
    pub key: Vec<(String, String)>,
    /// Database to ask, instead of that of the settings
    #[arg(long, env = "REALTIME_DATABASE_URL", hide_env_values = true, value_name = "URL")]
    pub url: Option<SecretString>,
    /// Tenant [default: the only one]
    #[arg(long, value_name = "NAME")]
    pub tenant: Option<String>,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

impl ExplainArgs {
    /// The binding and the key as the Inspector asks for them.
    #[must_use]
    pub fn params(&self) -> Map<String, Value> {
        let mut params = Map::new();
        params.insert("schema".to_owned(), self.schema.as_str().into());
        params.insert("table".to_owned(), self.table.as_str().into());
        params.insert("event".to_owned(), self.event.as_str().into());
        if let Some(filter) = &self.filter {
            params.insert("filter".to_owned(), filter.as_str().into());
        }
        let key = self.key.iter().map(|(name, value)| (name.clone(), value.as_str().into()));
        params.insert("key".to_owned(), Value::Object(key.collect()));
        params
    }
}
