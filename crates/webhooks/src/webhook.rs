//! What an operator sets of a webhook.

use std::{fmt, str::FromStr as _, time::Duration};

use aws_lc_rs::digest;
use http::Uri;
use realtime_changes::SubscriptionSpec;
use secrecy::{ExposeSecret as _, SecretString};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use crate::signature::{self, PREFIX};

/// Webhooks of a tenant at most: each reads the log by itself and takes a replication slot and a connection.
pub const MAX_WEBHOOKS: usize = 10;

/// Characters of a name at most.
const MAX_NAME: usize = 40;

/// Bytes of an address at most.
const MAX_URL: usize = 2_048;

/// Bytes that a secret has at least, decoded, and at most, as it is written.
const SECRET: (usize, usize) = (16, 512);

/// Milliseconds that an endpoint may take to answer.
const TIMEOUT: (u64, u64) = (100, 60_000);

/// Attempts for one change.
const ATTEMPTS: (u32, u32) = (1, 100);

/// Milliseconds before the second attempt.
const RETRY_DELAY: (u64, u64) = (10, 60_000);

/// Milliseconds until a change is given up, at most: a day.
const GIVE_UP_AFTER: u64 = 86_400_000;

/// Why a webhook cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WebhooksError {
    /// They are not what is expected as a whole.
    #[error("{0}")]
    All(String),
    /// One of them is wrong.
    #[error("webhook {which}: {problem}")]
    One {
        /// Its name, or its number if it has none.
        which: String,
        /// What is wrong with it.
        problem: String,
    },
}

/// A webhook as it is written in JSON.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    name: String,
    url: String,
    secret: String,
    schema: Option<String>,
    table: Option<String>,
    event: Option<String>,
    filter: Option<String>,
    #[serde(default = "default_timeout")]
    timeout_ms: u64,
    #[serde(default = "default_attempts")]
    attempts: u32,
    #[serde(default = "default_retry_delay")]
    retry_delay_ms: u64,
    #[serde(default = "default_give_up_after")]
    give_up_after_ms: u64,
}

const fn default_timeout() -> u64 {
    5_000
}

const fn default_retry_delay() -> u64 {
    500
}

/// With the default pauses, which double up to a minute, these are about five minutes.
const fn default_attempts() -> u32 {
    12
}

const fn default_give_up_after() -> u64 {
    900_000
}

/// A webhook: which changes are posted, and where.
#[derive(Clone)]
pub struct Webhook {
    /// Its name, unique for the tenant.
    pub name: Box<str>,
    /// The endpoint. May hold a secret.
    pub url: Box<str>,
    /// The changes it is for.
    pub spec: SubscriptionSpec,
    /// The filter as it was written.
    pub filter: Option<Box<str>>,
    /// Key of signatures.
    pub secret: SecretString,
    /// Longest time for an answer.
    pub timeout: Duration,
    /// Attempts for one change at most.
    pub attempts: u32,
    /// Pause before the second attempt; it doubles with each one, up to a minute.
    pub retry_delay: Duration,
    /// How long it is tried to post a change at most.
    pub give_up_after: Duration,
}

impl PartialEq for Webhook {
    fn eq(&self, other: &Self) -> bool {
        self.is_for_the_same(other)
            && (&self.name, &self.url) == (&other.name, &other.url)
            && self.secret.expose_secret() == other.secret.expose_secret()
            && (self.timeout, self.attempts, self.retry_delay, self.give_up_after)
                == (other.timeout, other.attempts, other.retry_delay, other.give_up_after)
    }
}

impl fmt::Debug for Webhook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Webhook")
            .field("name", &self.name)
            .field("url", &self.shown_url())
            .finish_non_exhaustive()
    }
}

impl Webhook {
    /// Whether it is for the same changes as another one.
    #[must_use]
    pub fn is_for_the_same(&self, other: &Self) -> bool {
        self.spec == other.spec && self.filter == other.filter
    }

    /// The endpoint without what may be a secret: user, password, query.
    #[must_use]
    pub fn shown_url(&self) -> String {
        let Ok(uri) = Uri::from_str(&self.url) else { return String::new() };
        let host = uri.authority().map_or("", |authority| host_and_port(authority.as_str()));
        format!("{}://{host}{}", uri.scheme_str().unwrap_or_default(), uri.path())
    }

    /// The event as it is written.
    #[must_use]
    pub const fn event(&self) -> &'static str {
        self.spec.event.as_str()
    }

    /// As JSON, without the secret; the address as it is [shown](Self::shown_url).
    #[must_use]
    pub fn shown(&self) -> Map<String, Value> {
        let mut shown = self.fields();
        shown.insert("url".to_owned(), self.shown_url().into());
        shown
    }

    fn fields(&self) -> Map<String, Value> {
        let fields = json!({
            "name": self.name,
            "url": self.url,
            "schema": self.spec.schema.as_str(),
            "table": self.spec.table.as_str(),
            "event": self.event(),
            "filter": self.filter,
            "timeout_ms": millis(self.timeout),
            "attempts": self.attempts,
            "retry_delay_ms": millis(self.retry_delay),
            "give_up_after_ms": millis(self.give_up_after),
        });
        match fields {
            Value::Object(fields) => fields,
            _ => Map::new(),
        }
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

fn host_and_port(authority: &str) -> &str {
    authority.rsplit_once('@').map_or(authority, |(_, host)| host)
}

/// Reads a list of webhooks.
///
/// # Errors
/// The first that is wrong.
pub fn parse(list: &Value) -> Result<Vec<Webhook>, WebhooksError> {
    let Value::Array(list) = list else {
        return Err(WebhooksError::All("a list of webhooks is expected".to_owned()));
    };
    if list.len() > MAX_WEBHOOKS {
        return Err(WebhooksError::All(format!("there may be {MAX_WEBHOOKS} webhooks at most")));
    }
    let mut webhooks: Vec<Webhook> = Vec::with_capacity(list.len());
    for (at, written) in list.iter().enumerate() {
        let name = written.get("name").and_then(Value::as_str);
        let wrong = |problem: String| {
            let which = name.map_or_else(|| format!("number {}", at + 1), str::to_owned);
            WebhooksError::One { which, problem }
        };
        let webhook = parse_one(written).map_err(wrong)?;
        if webhooks.iter().any(|other| other.name == webhook.name) {
            return Err(wrong("another one has this name".to_owned()));
        }
        // One in four thousand million.
        if webhooks.iter().any(|other| slot_suffix(&other.name) == slot_suffix(&webhook.name)) {
            return Err(wrong("its slot would have the name of another one's; rename it".to_owned()));
        }
        webhooks.push(webhook);
    }
    Ok(webhooks)
}

/// Reads one webhook.
///
/// # Errors
/// What is wrong with it.
pub fn parse_one(written: &Value) -> Result<Webhook, String> {
    let written = Written::deserialize(written).map_err(|error| error.to_string())?;
    check_name(&written.name)?;
    check_url(&written.url)?;
    check_secret(&written.secret)?;
    within("timeout_ms", written.timeout_ms, TIMEOUT)?;
    within("attempts", written.attempts, ATTEMPTS)?;
    within("retry_delay_ms", written.retry_delay_ms, RETRY_DELAY)?;
    within("give_up_after_ms", written.give_up_after_ms, (0, GIVE_UP_AFTER))?;
    let filter = written.filter.as_deref().filter(|filter| !filter.trim().is_empty()).map(Into::into);
    Ok(Webhook {
        spec: spec(&written)?,
        filter,
        name: written.name.into(),
        url: written.url.into(),
        secret: written.secret.into(),
        timeout: Duration::from_millis(written.timeout_ms),
        attempts: written.attempts,
        retry_delay: Duration::from_millis(written.retry_delay_ms),
        give_up_after: Duration::from_millis(written.give_up_after_ms),
    })
}

/// The webhooks as JSON, with their secrets: as they are stored, encrypted.
#[must_use]
pub fn to_json(webhooks: &[Webhook]) -> Value {
    let whole = |webhook: &Webhook| {
        let mut fields = webhook.fields();
        fields.insert("secret".to_owned(), webhook.secret.expose_secret().into());
        fields.retain(|_, value| !value.is_null());
        Value::Object(fields)
    };
    webhooks.iter().map(whole).collect()
}

/// What tells the slot of a webhook from those of others: eight hexadecimal digits, the same for the same name.
#[must_use]
pub fn slot_suffix(name: &str) -> String {
    let digest = digest::digest(&digest::SHA256, name.as_bytes());
    digest.as_ref().iter().take(4).map(|byte| format!("{byte:02x}")).collect()
}

fn check_name(name: &str) -> Result<(), String> {
    let is_valid = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-' || c == '_';
    if name.is_empty() || name.len() > MAX_NAME || !name.chars().all(is_valid) {
        return Err(format!("name must be 1 to {MAX_NAME} lower-case letters, digits, - and _"));
    }
    Ok(())
}

fn check_url(url: &str) -> Result<(), String> {
    if url.len() > MAX_URL {
        return Err(format!("url must have {MAX_URL} bytes at most"));
    }
    let uri = Uri::from_str(url).map_err(|_| "url is no valid address".to_owned())?;
    if !matches!(uri.scheme_str(), Some("http" | "https")) {
        return Err("url must begin with http:// or https://".to_owned());
    }
    if uri.host().is_none_or(str::is_empty) {
        return Err("url must name a host".to_owned());
    }
    Ok(())
}

fn check_secret(secret: &str) -> Result<(), String> {
    let (least, most) = SECRET;
    if secret.starts_with(PREFIX) && signature::decoded(secret).is_none() {
        return Err(format!("secret must be base64 after {PREFIX}"));
    }
    let bytes = signature::decoded(secret).map_or(secret.len(), |decoded| decoded.len());
    if bytes < least || secret.len() > most {
        return Err(format!("secret must have {least} bytes at least, and {most} characters at most"));
    }
    Ok(())
}

fn within<T: PartialOrd + fmt::Display>(field: &str, value: T, (least, most): (T, T)) -> Result<(), String> {
    if value < least || value > most {
        return Err(format!("{field} must be {least} to {most}"));
    }
    Ok(())
}

/// The changes that a webhook is for, in the grammar of bindings.
fn spec(written: &Written) -> Result<SubscriptionSpec, String> {
    let event = written.event.as_deref().unwrap_or("*");
    if !["*", "INSERT", "UPDATE", "DELETE"].contains(&event) {
        return Err("event must be INSERT, UPDATE, DELETE or *".to_owned());
    }
    if written.schema.is_none() && written.table.is_none() {
        return Err("schema or table must be set".to_owned());
    }
    let schema = written.schema.as_deref().unwrap_or("public");
    let table = written.table.as_deref().unwrap_or("*");
    let filter = written.filter.as_deref().unwrap_or_default();
    let params = json!({"event": event, "schema": schema, "table": table, "filter": filter});
    let Value::Object(params) = params else { return Err(String::new()) };
    let spec = SubscriptionSpec::parse(&params).map_err(|error| error.to_string())?;
    if spec.live.is_some() || spec.since.is_some() {
        return Err("filter must have conditions of rows alone".to_owned());
    }
    if !spec.filters.is_empty() && !spec.is_exact() {
        return Err("filter needs a table".to_owned());
    }
    Ok(spec)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hook(change: Value) -> Result<Webhook, String> {
        let mut hook = json!({"name": "orders", "url": "https://u:p@example.com:8443/hook?token=x",
            "secret": "0123456789abcdef", "table": "orders"});
        for (key, value) in change.as_object().unwrap() {
            hook[key] = value.clone();
        }
        parse_one(&hook)
    }

    #[test]
    fn what_is_written_is_read() {
        let orders = hook(json!({"event": "UPDATE", "filter": "total=gt.5", "schema": "shop"})).unwrap();
        assert_eq!(orders.spec.place(), "shop.orders");
        assert_eq!((orders.event(), orders.spec.conditions()), ("UPDATE", 1));
        assert_eq!((orders.attempts, orders.timeout), (12, Duration::from_secs(5)));
        assert_eq!(orders.shown_url(), "https://example.com:8443/hook");
        assert!(!format!("{orders:?}").contains("token") && !format!("{orders:?}").contains("0123"));
        assert!(!orders.shown().contains_key("secret"));
        let again = parse(&to_json(std::slice::from_ref(&orders))).unwrap();
        assert_eq!(again, [orders]);
        assert_eq!(hook(json!({"table": null, "schema": "shop"})).unwrap().spec.place(), "shop.*");
    }

    #[test]
    fn what_cannot_be_used_is_refused() {
        for (change, told) in [
            (json!({"name": "A b"}), "name must be 1 to 40 lower-case letters, digits, - and _"),
            (json!({"name": "x".repeat(41)}), "name must be 1 to 40 lower-case letters, digits, - and _"),
            (json!({"url": "ftp://x/"}), "url must begin with http:// or https://"),
            (json!({"url": "/path"}), "url must begin with http:// or https://"),
            (json!({"url": "http://a b/"}), "url is no valid address"),
            (json!({"secret": "short"}), "secret must have 16 bytes at least, and 512 characters at most"),
            (json!({"secret": "whsec_!"}), "secret must be base64 after whsec_"),
            (
                json!({"secret": "whsec_YWJj"}),
                "secret must have 16 bytes at least, and 512 characters at most",
            ),
            (json!({"event": "TRUNCATE"}), "event must be INSERT, UPDATE, DELETE or *"),
            (json!({"table": null}), "schema or table must be set"),
            (json!({"filter": "wrong"}), "Error parsing `filter` params: [\"wrong\"]"),
            (json!({"filter": "@live=eq.true"}), "filter must have conditions of rows alone"),
            (json!({"filter": "id=eq.1", "table": "*"}), "filter needs a table"),
            (json!({"attempts": 0}), "attempts must be 1 to 100"),
            (json!({"timeout_ms": 99}), "timeout_ms must be 100 to 60000"),
            (json!({"give_up_after_ms": 86_400_001}), "give_up_after_ms must be 0 to 86400000"),
        ] {
            assert_eq!(hook(change.clone()).unwrap_err(), told, "{change}");
        }
        let unknown = hook(json!({"headers": {}})).unwrap_err();
        assert!(unknown.starts_with("unknown field `headers`"), "{unknown}");
    }

    #[test]
    fn lists_are_checked_as_a_whole() {
        let list = |names: &[&str]| -> Value {
            let hook = |name: &&str| json!({"name": name, "url": "http://x/", "secret": "0123456789abcdef", "table": "t"});
            names.iter().map(hook).collect()
        };
        assert_eq!(parse(&list(&["a", "b"])).unwrap().len(), 2);
        assert_eq!(
            parse(&list(&["a", "a"])).unwrap_err().to_string(),
            "webhook a: another one has this name"
        );
        let names: Vec<String> = (0..11).map(|n| n.to_string()).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        assert_eq!(parse(&list(&names)).unwrap_err().to_string(), "there may be 10 webhooks at most");
        assert_eq!(parse(&json!({})).unwrap_err().to_string(), "a list of webhooks is expected");
        let error = parse(&json!([{"url": 1}])).unwrap_err().to_string();
        assert!(error.starts_with("webhook number 1: "), "{error}");
    }

    #[test]
    fn slots_have_names_of_their_own() {
        assert_eq!(slot_suffix("orders").len(), 8);
        assert_eq!(slot_suffix("orders"), slot_suffix("orders"));
        assert_ne!(slot_suffix("orders"), slot_suffix("order"));
    }
}
