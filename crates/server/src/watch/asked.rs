//! What is to be watched, and where.

use http::Uri;
use realtime_changes::{OrderBy, SubscriptionSpec};
use serde_json::{Map, Value, json};

use crate::{
    cli::{Tokens, WatchArgs},
    config::{ConfigError, Env},
};

/// Where the server of a project answers, below its address.
const SERVICE: &str = "/realtime/v1";

/// What is to be watched, and where.
#[derive(Debug)]
pub struct Asked {
    /// Address of the WebSocket.
    pub(super) address: Uri,
    /// The binding, as it is sent.
    pub(super) binding: Map<String, Value>,
    /// Whether lines are wanted.
    pub(super) events: bool,
    order: Vec<OrderBy>,
    title: String,
    tokens: Tokens,
}

impl Asked {
    /// Reads the options.
    ///
    /// # Errors
    /// When the address, the filter or the order cannot be read, or there is neither a token nor a secret.
    pub fn new(args: &WatchArgs, env: &Env) -> Result<Self, ConfigError> {
        let address = address(&args.url).map_err(|error| ConfigError::new("--url", error))?;
        let binding = binding(args);
        let spec = SubscriptionSpec::parse(&binding)
            .map_err(|error| ConfigError::new("the options", format!("cannot be used: {error}")))?;
        Ok(Self {
            address,
            binding,
            events: args.events,
            order: spec.live.map(|live| live.order).unwrap_or_default(),
            title: format!("{}.{}", args.schema, args.table),
            tokens: args.tokens(env)?,
        })
    }

    /// The name of what is watched.
    pub(super) fn title(&self) -> String {
        self.title.clone()
    }

    /// The order of the rows.
    pub(super) fn order(&self) -> &[OrderBy] {
        &self.order
    }

    /// A token for a new connection.
    pub(super) fn token(&self) -> Result<String, ConfigError> {
        self.tokens.token()
    }
}

fn binding(args: &WatchArgs) -> Map<String, Value> {
    let list = |names: &[String]| (!names.is_empty()).then(|| json!(names));
    let entries = [
        ("event", Some(json!("*"))),
        ("schema", Some(json!(args.schema))),
        ("table", Some(json!(args.table))),
        ("live", Some(json!(true))),
        ("filter", args.filter.as_ref().map(|filter| json!(filter))),
        ("order", args.order.as_ref().map(|order| json!(order))),
        ("limit", args.limit.map(|limit| json!(limit))),
        ("select", list(&args.select)),
        ("key", list(&args.key)),
    ];
    entries.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?))).collect()
}

/// The address of the WebSocket of a server.
fn address(url: &str) -> Result<Uri, String> {
    let wrong = || format!("{url:?} is no address like http://localhost:4000");
    let (scheme, rest) = url.trim().split_once("://").ok_or_else(wrong)?;
    let scheme = match scheme.to_ascii_lowercase().as_str() {
        "http" | "ws" => "ws",
        "https" | "wss" => "wss",
        _ => return Err(wrong()),
    };
    let rest = rest.split(['?', '#']).next().unwrap_or_default().trim_end_matches('/');
    let service = if rest.ends_with(SERVICE) { "" } else { SERVICE };
    let address: Uri =
        format!("{scheme}://{rest}{service}/websocket?vsn=2.0.0").parse().map_err(|_| wrong())?;
    if address.host().is_none_or(str::is_empty) { Err(wrong()) } else { Ok(address) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_those_of_projects_and_of_services() {
        let at = |url: &str| address(url).unwrap().to_string();
        assert_eq!(at("http://localhost:4000"), "ws://localhost:4000/realtime/v1/websocket?vsn=2.0.0");
        assert_eq!(at("https://a.example/"), "wss://a.example/realtime/v1/websocket?vsn=2.0.0");
        assert_eq!(at("wss://a.example/realtime/v1/?x=y"), "wss://a.example/realtime/v1/websocket?vsn=2.0.0");
        for wrong in ["", "localhost:4000", "ftp://a", "http://", "http:///x", "http://a b"] {
            assert!(address(wrong).is_err(), "{wrong}");
        }
    }
}
