//! What a request for a stream asks for. Pure.

use http::{HeaderMap, header};
use realtime_changes::SubscriptionSpec;
use serde_json::{Map, Value, json};

/// The header with which a browser comes back.
const LAST_EVENT_ID: &str = "last-event-id";

/// Topic of streams of row changes. It is in the messages of the server; nobody meets there.
const CHANGES: &str = "changes";

/// Why a request cannot be served. `Display` is what the client is told.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Unusable {
    #[error("There is no parameter `{0}`")]
    Unknown(String),
    #[error("`{0}` is given more than once")]
    Twice(&'static str),
    #[error("`{0}` must be {1}")]
    Wrong(&'static str, &'static str),
    #[error("{0}")]
    Spec(String),
}

/// What a stream sends, and to whom.
#[derive(Debug, PartialEq)]
pub(super) struct Asked {
    /// The topic, without `realtime:`.
    pub(super) topic: String,
    /// The payload of the join.
    pub(super) join: Value,
    /// The event of the broadcasts that are wanted, if not all are.
    pub(super) event: Option<String>,
    /// Whether it is about row changes.
    pub(super) rows: bool,
}

/// The token of a request: of `Authorization`, of `access_token`, or else an `apikey`.
pub(super) fn token(headers: &HeaderMap, query: &str) -> Option<String> {
    let text = |name: &str| headers.get(name)?.to_str().ok().map(str::to_owned);
    let bearer = headers.get(header::AUTHORIZATION).and_then(|value| {
        let (scheme, token) = value.to_str().ok()?.split_once(' ')?;
        let token = token.trim();
        (scheme.eq_ignore_ascii_case("bearer") && !token.is_empty()).then(|| token.to_owned())
    });
    let parameter = |wanted: &str| {
        let mut all = form_urlencoded::parse(query.as_bytes());
        all.find(|(name, value)| name == wanted && !value.is_empty()).map(|(_, value)| value.into_owned())
    };
    bearer
        .or_else(|| parameter("access_token"))
        .or_else(|| text("apikey"))
        .or_else(|| text("x-api-key"))
        .or_else(|| parameter("apikey"))
}

/// The parameters of a request, each once.
struct Parameters<const N: usize>([(&'static str, Option<String>); N]);

impl<const N: usize> Parameters<N> {
    /// # Errors
    /// A parameter that has no meaning: what it was to leave out would be sent.
    fn read(query: &str, names: [&'static str; N]) -> Result<Self, Unusable> {
        let mut all = names.map(|name| (name, None));
        for (name, value) in form_urlencoded::parse(query.as_bytes()) {
            if matches!(&*name, "apikey" | "access_token") {
                continue;
            }
            match all.iter_mut().find(|(known, _)| *known == name) {
                Some((_, found)) if found.is_none() => *found = Some(value.into_owned()),
                Some((known, _)) => return Err(Unusable::Twice(known)),
                None => return Err(Unusable::Unknown(name.into_owned())),
            }
        }
        Ok(Self(all))
    }

    fn take(&mut self, name: &str) -> Option<String> {
        let found = self.0.iter_mut().find(|(known, _)| *known == name)?;
        found.1.take().filter(|value| !value.is_empty())
    }

    fn truth(&mut self, name: &'static str) -> Result<bool, Unusable> {
        match self.take(name).as_deref() {
            None | Some("false" | "0") => Ok(false),
            Some("true" | "1") => Ok(true),
            Some(_) => Err(Unusable::Wrong(name, "true or false")),
        }
    }
}

/// Where the client goes on. What it says when it comes back is newer than its address.
fn since(headers: &HeaderMap, parameter: Option<String>) -> Result<Option<String>, Unusable> {
    match headers.get(LAST_EVENT_ID).map(|value| value.to_str()) {
        None => Ok(parameter),
        Some(Ok("")) => Ok(parameter),
        Some(Ok(id)) => Ok(Some(id.to_owned())),
        Some(Err(_)) => Err(Unusable::Wrong("Last-Event-ID", "an id of an event")),
    }
}

/// Reads a request for row changes.
///
/// # Errors
/// [`Unusable`].
pub(super) fn changes(headers: &HeaderMap, query: &str) -> Result<Asked, Unusable> {
    const NAMES: [&str; 10] =
        ["schema", "table", "event", "filter", "select", "live", "order", "limit", "key", "since"];
    let mut all = Parameters::read(query, NAMES)?;
    let mut entry = Map::new();
    let event = all.take("event").unwrap_or_else(|| "*".to_owned()).to_ascii_uppercase();
    if !matches!(&*event, "*" | "INSERT" | "UPDATE" | "DELETE") {
        return Err(Unusable::Wrong("event", "*, INSERT, UPDATE or DELETE"));
    }
    entry.insert("event".into(), event.into());
    for name in ["schema", "table", "filter", "order"] {
        entry.extend(all.take(name).map(|value| (name.to_owned(), value.into())));
    }
    if entry.contains_key("table") {
        entry.entry("schema").or_insert_with(|| "public".into());
    }
    for name in ["select", "key"] {
        let list = all.take(name).map(|list| list.split(',').map(|name| Value::from(name.trim())).collect());
        entry.extend(list.map(|list: Value| (name.to_owned(), list)));
    }
    if let Some(limit) = all.take("limit") {
        let limit: u32 = limit.parse().map_err(|_| Unusable::Wrong("limit", "a number of rows"))?;
        entry.insert("limit".into(), limit.into());
    }
    if all.truth("live")? {
        entry.insert("live".into(), true.into());
    }
    let since = since(headers, all.take("since"))?;
    entry.extend(since.map(|since| ("since".to_owned(), since.into())));
    SubscriptionSpec::parse(&entry).map_err(|error| Unusable::Spec(error.to_string()))?;
    let join = json!({"config": {"postgres_changes": [entry]}});
    Ok(Asked { topic: CHANGES.to_owned(), join, event: None, rows: true })
}

/// Reads a request for the broadcasts of a topic.
///
/// # Errors
/// [`Unusable`].
pub(super) fn broadcasts(
    topic: String,
    headers: &HeaderMap,
    query: &str,
    has_history: bool,
) -> Result<Asked, Unusable> {
    let mut all = Parameters::read(query, ["event", "private", "since"])?;
    let private = all.truth("private")?;
    let mut join = json!({"config": {"private": private}});
    let parameter = all.take("since");
    // Browsers send the id of a stored message also where nothing is kept; that is no reason to refuse them.
    let since = if has_history { since(headers, parameter)? } else { parameter };
    if let Some(since) = since
        && let Some(config) = join.get_mut("config").and_then(Value::as_object_mut)
    {
        config.insert("broadcast".to_owned(), json!({"replay": {"since": place(&since, has_history)}}));
    }
    Ok(Asked { topic, join, event: all.take("event"), rows: false })
}

/// A moment, in milliseconds, or the id of a message. What is neither is an id that nobody knows, so that the client is told
/// of a gap: a browser does not come back after an error.
fn place(since: &str, has_history: bool) -> Value {
    match since.parse::<i64>() {
        Ok(moment) => moment.into(),
        Err(_) if has_history && uuid::Uuid::try_parse(since).is_err() => {
            uuid::Uuid::nil().to_string().into()
        }
        Err(_) => since.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        pairs.iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap())).collect()
    }

    fn entry(headers: &HeaderMap, query: &str) -> Result<Value, String> {
        let asked = changes(headers, query).map_err(|error| error.to_string())?;
        Ok(asked.join["config"]["postgres_changes"][0].clone())
    }

    #[test]
    fn parameters_are_those_of_a_binding() {
        let none = HeaderMap::new();
        let plain = entry(&none, "table=todos&apikey=k&access_token=t&filter=id%3Deq.1&select=id,%20task");
        let expected = json!({"event": "*", "schema": "public", "table": "todos", "filter": "id=eq.1", "select": ["id", "task"]});
        assert_eq!(plain.unwrap(), expected);
        let live =
            entry(&none, "schema=s&table=t&event=insert&live=true&order=id.desc&limit=5&key=id&since=0/1:1");
        let expected = json!({"event": "INSERT", "schema": "s", "table": "t", "live": true, "order": "id.desc",
            "limit": 5, "key": ["id"], "since": "0/1:1"});
        assert_eq!(live.unwrap(), expected);
    }

    /// resume 5: `Last-Event-ID` is `since`
    #[test]
    fn who_comes_back_says_where_it_was() {
        let back = headers(&[("last-event-id", "0/2:1")]);
        assert_eq!(entry(&back, "table=t&since=0/1:1").unwrap()["since"], "0/2:1");
        let first = headers(&[("last-event-id", "")]);
        assert_eq!(entry(&first, "table=t&since=0/1:1").unwrap()["since"], "0/1:1");
    }

    /// resume 5: of broadcasts it is the id of a message; it is no reason to refuse somebody
    #[test]
    fn streams_of_broadcasts_go_on_after_a_message() {
        const ID: &str = "1f6ac5a0-27a9-4d4c-9d5c-0c1d0c8f6f10";
        let since = |headers: &HeaderMap, query: &str, kept| {
            let asked = broadcasts("a".into(), headers, query, kept).unwrap();
            asked.join["config"]["broadcast"]["replay"]["since"].clone()
        };
        let (none, back) = (HeaderMap::new(), headers(&[("last-event-id", ID)]));
        assert_eq!(since(&none, "", true), Value::Null);
        assert_eq!(since(&back, "since=5", true), ID);
        assert_eq!(since(&none, "since=5", true), 5);
        assert_eq!(since(&headers(&[("last-event-id", "0/1:1")]), "", true), uuid::Uuid::nil().to_string());
        assert_eq!(since(&back, "", false), Value::Null, "nothing is kept");
        assert_eq!(since(&back, "since=5", false), 5);
    }

    #[test]
    fn what_has_no_meaning_is_refused() {
        let none = HeaderMap::new();
        for (query, told) in [
            ("", "No subscription params provided"),
            ("table=t&filtr=id%3Deq.1", "There is no parameter `filtr`"),
            ("table=t&table=u", "`table` is given more than once"),
            ("table=t&event=TRUNCATE", "`event` must be *, INSERT, UPDATE or DELETE"),
            ("table=t&live=perhaps", "`live` must be true or false"),
            ("table=t&live=true&limit=x", "`limit` must be a number of rows"),
            ("table=t&filter=id", "Error parsing `filter` params"),
            ("table=t&since=yesterday", "Error parsing `since` params"),
        ] {
            let refused = entry(&none, query).unwrap_err();
            assert!(refused.starts_with(told), "{query}: {refused}");
        }
        let refused = broadcasts("a".into(), &none, "private=maybe", false).unwrap_err();
        assert_eq!(refused, Unusable::Wrong("private", "true or false"));
    }

    #[test]
    fn tokens_come_from_where_clients_can_put_them() {
        let of = |pairs: &[(&'static str, &'static str)], query: &str| token(&headers(pairs), query);
        assert_eq!(of(&[("authorization", "Bearer a"), ("apikey", "b")], "apikey=c").as_deref(), Some("a"));
        assert_eq!(of(&[("apikey", "b")], "access_token=d&apikey=c").as_deref(), Some("d"));
        assert_eq!(of(&[("authorization", "Basic x"), ("apikey", "b")], "apikey=c").as_deref(), Some("b"));
        assert_eq!(of(&[("x-api-key", "b")], "").as_deref(), Some("b"));
        assert_eq!(of(&[], "apikey=c").as_deref(), Some("c"));
        assert_eq!(of(&[], "apikey="), None);
    }
}
