//! What a client asks to watch (postgres_changes 1.1 to 1.4, 1.7).

mod live;
mod since;

pub use live::{LiveError, LiveSpec, OrderBy};
use realtime_pgoutput::OWN_SCHEMAS;
use serde_json::{Map, Value};
pub use since::SinceError;

use crate::{
    elixir,
    filter::{self, Filter, FilterError},
    since::Since,
    tree::Tree,
};

/// Longest name of a schema, table or column. Those of PostgreSQL have 63 bytes, unless it was built for longer ones.
const MAX_NAME_BYTES: usize = 255;

/// Most columns that may be selected: as many as a table can have.
const MAX_SELECT: usize = 1_600;

/// Which changes are wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum EventFilter {
    /// All.
    All,
    /// Inserts.
    Insert,
    /// Updates.
    Update,
    /// Deletes.
    Delete,
}

impl EventFilter {
    /// As it is shown in messages.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::All => "*",
            Self::Insert => "INSERT",
            Self::Update => "UPDATE",
            Self::Delete => "DELETE",
        }
    }
}

/// A schema or table name: exact, or any (spec README, decision 5).
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum NamePattern {
    /// `*`.
    Any,
    /// This name.
    Exact(Box<str>),
}

impl NamePattern {
    fn of(name: &str) -> Self {
        if name == "*" { Self::Any } else { Self::Exact(name.into()) }
    }

    fn matches(&self, name: &str) -> bool {
        match self {
            Self::Any => true,
            Self::Exact(exact) => &**exact == name,
        }
    }

    /// As it is written.
    #[must_use]
    pub fn as_str(&self) -> &str {
        match self {
            Self::Any => "*",
            Self::Exact(name) => name,
        }
    }
}

/// What a client asked to watch.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct SubscriptionSpec {
    /// Which changes.
    pub event: EventFilter,
    /// Schema.
    pub schema: NamePattern,
    /// Table.
    pub table: NamePattern,
    /// Conditions, all of which must hold.
    pub filters: Vec<Tree<Filter>>,
    /// Columns to send, in the order of the request; `None` for all.
    pub select: Option<Vec<Box<str>>>,
    /// What keeps a result, where rows are wanted and not events.
    pub live: Option<LiveSpec>,
    /// What it asks of a result if it means a view, which is live in any case. `None`: nothing.
    pub if_view: Option<Box<Result<LiveSpec, LiveError>>>,
    /// Where a client that comes back wants to go on.
    pub since: Option<Since>,
}

/// Parameters that cannot be used. `Display` is what the client is told (E2a to E2d).
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ParamsError {
    /// The filter cannot be parsed.
    #[error("Error parsing `filter` params: {0}")]
    Filter(#[from] FilterError),
    /// Neither schema nor table, or one that is no string. Holds the rendered parameters.
    #[error(
        "No subscription params provided. Please provide at least a `schema` or `table` to subscribe to: {0}"
    )]
    NoTarget(String),
    /// `select` is a string.
    #[error(
        "Error parsing `select` params: expected a list of column name strings, e.g. select: [\"col1\", \"col2\"]"
    )]
    SelectIsAString,
    /// `select` with more columns than a table can have.
    #[error("Error parsing `select` params: more than {MAX_SELECT} columns")]
    SelectTooLong,
    /// A schema, table or column that no database can have.
    #[error("Names of schemas, tables and columns have at most {MAX_NAME_BYTES} bytes")]
    NameTooLong,
    /// `select` with a wildcard.
    #[error(
        "Column selection is not supported for wildcard subscriptions. Provide an explicit schema and table name."
    )]
    SelectOnWildcard,
    /// The order, limit or key of a live binding cannot be used.
    #[error("Error parsing `live` params: {0}")]
    Live(#[from] LiveError),
    /// `live` with a wildcard.
    #[error(
        "Live rows are not supported for wildcard subscriptions. Provide an explicit schema and table name."
    )]
    LiveOnWildcard,
    /// `since` is no place in the stream.
    #[error("Error parsing `since` params: {0}")]
    Since(#[from] SinceError),
}

impl SubscriptionSpec {
    /// Reads the parameters, by the rules of 1.3 in their order.
    ///
    /// # Errors
    /// [`ParamsError`] for the first rule that is broken.
    pub fn parse(params: &Map<String, Value>) -> Result<Self, ParamsError> {
        let select = match params.get("select") {
            Some(Value::Array(columns)) => {
                if columns.len() > MAX_SELECT {
                    return Err(ParamsError::SelectTooLong);
                }
                let columns: Vec<Box<str>> =
                    columns.iter().filter_map(Value::as_str).map(Into::into).collect();
                (!columns.is_empty()).then_some(columns)
            }
            Some(Value::String(_)) => return Err(ParamsError::SelectIsAString),
            _ => None,
        };
        let event = match params.get("event").and_then(Value::as_str).map(str::to_ascii_uppercase).as_deref()
        {
            Some("INSERT") => EventFilter::Insert,
            Some("UPDATE") => EventFilter::Update,
            Some("DELETE") => EventFilter::Delete,
            _ => EventFilter::All,
        };
        // Clients in C# write null for the table of a whole schema (clients 4). A filter that is null is refused, as by
        // the reference: no client sends one.
        let name = |key| params.get(key).filter(|value| !value.is_null());
        let (schema, table, filter) = (name("schema"), name("table"), params.get("filter"));
        let (schema, table, filter) = match (schema, table, filter) {
            (Some(Value::String(schema)), Some(Value::String(table)), Some(Value::String(filter))) => {
                (&**schema, &**table, &**filter)
            }
            (Some(Value::String(schema)), Some(Value::String(table)), None) => (&**schema, &**table, ""),
            (Some(Value::String(schema)), None, None) => (&**schema, "*", ""),
            (None, Some(Value::String(table)), None) => ("public", &**table, ""),
            _ => return Err(ParamsError::NoTarget(rendered(params))),
        };
        let mut filters = filter::parse(filter)?;
        let since = since::parse(params, &mut filters)?;
        let live::Asked { live, if_view } = LiveSpec::parse(params, &mut filters)?;
        let too_long = |name: &str| name.len() > MAX_NAME_BYTES;
        if too_long(schema)
            || too_long(table)
            || select.iter().flatten().any(|column| too_long(column))
            || filters.iter().flat_map(Tree::leaves).any(|filter| too_long(&filter.column))
            || live.iter().flat_map(LiveSpec::columns).any(too_long)
        {
            return Err(ParamsError::NameTooLong);
        }
        let (schema, table) = (NamePattern::of(schema), NamePattern::of(table));
        if select.is_some() && (schema == NamePattern::Any || table == NamePattern::Any) {
            return Err(ParamsError::SelectOnWildcard);
        }
        if live.is_some() && (schema == NamePattern::Any || table == NamePattern::Any) {
            return Err(ParamsError::LiveOnWildcard);
        }
        Ok(Self { event, schema, table, filters, select, live, if_view, since })
    }

    /// Whether a table of this name is meant. The server's own schema must be named.
    #[must_use]
    pub fn matches_name(&self, schema: &str, table: &str) -> bool {
        self.schema.matches(schema)
            && self.table.matches(table)
            && (self.is_exact() || !OWN_SCHEMAS.contains(&schema))
    }

    /// How many conditions its filter has.
    #[must_use]
    pub fn conditions(&self) -> usize {
        self.filters.iter().map(|tree| tree.leaves().len()).sum()
    }

    /// Whether one table is named, with its schema.
    #[must_use]
    pub fn is_exact(&self) -> bool {
        self.schema != NamePattern::Any && self.table != NamePattern::Any
    }

    /// The table, with its schema; `*` for any.
    #[must_use]
    pub fn place(&self) -> String {
        format!("{}.{}", self.schema.as_str(), self.table.as_str())
    }

    /// The parameters as messages show them, in brackets.
    #[must_use]
    pub fn context(&self) -> String {
        let filters: Vec<String> = self.filters.iter().map(|tree| shown(tree, false)).collect();
        let select = match &self.select {
            Some(columns) => elixir::strings(columns.iter().map(|column| &**column)),
            None => "nil".to_owned(),
        };
        format!(
            "[event: {}, schema: {}, table: {}, filters: [{}], select: {select}]",
            self.event.as_str(),
            self.schema.as_str(),
            self.table.as_str(),
            filters.join(", "),
        )
    }
}

/// A condition or a group as messages show it; the last element says whether it is negated. Nesting is bounded.
fn shown(tree: &Tree<Filter>, negate: bool) -> String {
    let (name, parts) = match tree {
        Tree::Leaf(filter) => {
            let texts =
                [&*filter.column_text(), filter.operator.as_str(), &*filter.value].map(elixir::string);
            return format!("{{{}, {}}}", texts.join(", "), filter.negate != negate);
        }
        Tree::Not(inner) => return shown(inner, !negate),
        Tree::And(parts) => ("and", &**parts),
        Tree::Or(parts) => ("or", &**parts),
        // Filters have none of these.
        Tree::Known(_) | Tree::Is(..) => return String::new(),
    };
    let parts: Vec<String> = parts.iter().map(|part| shown(part, false)).collect();
    format!("{{\"{name}\", [{}], {negate}}}", parts.join(", "))
}

/// Parameters in messages; a token that slipped in is not repeated.
fn rendered(params: &Map<String, Value>) -> String {
    if params.contains_key("user_token") || params.contains_key("auth_token") {
        return "<redacted>".to_owned();
    }
    elixir::map(params)
}

/// What a join without `config` watches: `schema`, `schema:table` or `schema:table:filter` (1.2).
#[must_use]
pub fn legacy_params(sub_topic: &str) -> Map<String, Value> {
    ["schema", "table", "filter"]
        .into_iter()
        .zip(sub_topic.splitn(3, ':'))
        .map(|(name, value)| (name.to_owned(), value.into()))
        .collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn parse(params: Value) -> Result<SubscriptionSpec, String> {
        let Value::Object(params) = params else { panic!("object expected") };
        SubscriptionSpec::parse(&params).map_err(|error| error.to_string())
    }

    fn shape(params: Value) -> String {
        parse(params).unwrap().context()
    }

    /// postgres_changes 45
    #[test]
    fn shapes_and_events() {
        let context = "filters: [], select: nil]";
        assert_eq!(
            shape(json!({"schema": "public"})),
            format!("[event: *, schema: public, table: *, {context}")
        );
        assert_eq!(shape(json!({"table": "t"})), format!("[event: *, schema: public, table: t, {context}"));
        assert_eq!(
            shape(json!({"event": "insert", "schema": "s", "table": "t", "filter": " "})),
            format!("[event: INSERT, schema: s, table: t, {context}")
        );
        for event in [json!("foo"), json!("TRUNCATE"), json!(5), json!(null)] {
            assert_eq!(parse(json!({"event": event, "schema": "s"})).unwrap().event, EventFilter::All);
        }
    }

    /// postgres_changes 18, 44
    #[test]
    fn context_shows_filters_and_select() {
        let params = json!({"event": "UPDATE", "schema": "public", "table": "test",
            "filter": "id=in.(1,2),name=not.eq.\"a\\\"b\"", "select": ["id", 123, "details", null]});
        assert_eq!(
            shape(params),
            r#"[event: UPDATE, schema: public, table: test, filters: [{"id", "in", "{1,2}", false}, {"name", "eq", "a\"b", true}], select: ["id", "details"]]"#
        );
        assert_eq!(parse(json!({"schema": "s", "table": "t", "select": []})).unwrap().select, None);
        assert_eq!(parse(json!({"schema": "s", "table": "t", "select": {}})).unwrap().select, None);
    }

    /// postgres_changes 13
    #[test]
    fn no_target() {
        let text = "No subscription params provided. Please provide at least a `schema` or `table` to subscribe to: ";
        assert_eq!(parse(json!({})).unwrap_err(), format!("{text}%{{}}"));
        assert_eq!(parse(json!({"event": "*"})).unwrap_err(), format!("{text}%{{\"event\" => \"*\"}}"));
        assert_eq!(
            parse(json!({"event": "*", "schema": "public", "table": "todos", "filter": null})).unwrap_err(),
            format!(
                r#"{text}%{{"event" => "*", "filter" => nil, "schema" => "public", "table" => "todos"}}"#
            )
        );
        for params in [
            json!({"schema": "s", "table": "t", "filter": [123]}),
            json!({"schema": {}, "table": "t"}),
            json!({"schema": null, "table": null}),
            json!({"schema": "s", "filter": "id=eq.1"}),
            json!({"table": "t", "filter": "id=eq.1"}),
        ] {
            assert!(parse(params).unwrap_err().starts_with(text));
        }
        assert_eq!(parse(json!({"user_token": "secret"})).unwrap_err(), format!("{text}<redacted>"));
    }

    /// clients 4
    #[test]
    fn names_that_are_null_are_absent() {
        let absent = parse(json!({"schema": "s", "table": "t"})).unwrap();
        let nulls = json!({"event": null, "schema": "s", "table": "t", "select": null});
        assert_eq!(parse(nulls).unwrap(), absent);
        let table = json!({"schema": null, "table": "t"});
        assert_eq!(parse(table).unwrap(), parse(json!({"table": "t"})).unwrap());
        let whole = json!({"event": "*", "schema": "public", "table": null, "parameters": null});
        assert_eq!(parse(whole).unwrap(), parse(json!({"schema": "public"})).unwrap());
    }

    /// postgres_changes 8, 14, 15
    #[test]
    fn filter_and_select_refusals() {
        let t = |key: &str, value: Value| {
            let mut params = json!({"schema": "public", "table": "t"});
            params[key] = value;
            parse(params).unwrap_err()
        };
        assert_eq!(t("filter", json!("wrong")), "Error parsing `filter` params: [\"wrong\"]");
        let select = "Error parsing `select` params: expected a list of column name strings, e.g. select: [\"col1\", \"col2\"]";
        assert_eq!(t("select", json!("id,details")), select);
        assert_eq!(t("select", json!("")), select);
        let wild = "Column selection is not supported for wildcard subscriptions. Provide an explicit schema and table name.";
        assert_eq!(parse(json!({"schema": "public", "select": ["id"]})).unwrap_err(), wild);
        assert_eq!(parse(json!({"schema": "public", "table": "*", "select": ["id"]})).unwrap_err(), wild);
    }

    /// spec README, decision 20
    #[test]
    fn sizes_are_bounded() {
        let t = |key: &str, value: Value| {
            let mut params = json!({"schema": "public", "table": "t"});
            params[key] = value;
            parse(params).map(drop)
        };
        let filter = |conditions: usize| json!(vec!["a=eq.1"; conditions].join(","));
        assert_eq!(t("filter", filter(100)), Ok(()));
        let told = "Error parsing `filter` params: filter must not have more than 100 conditions";
        assert_eq!(t("filter", filter(101)), Err(told.to_owned()));
        assert_eq!(t("select", json!(vec!["a"; 1_600])), Ok(()));
        let told = "Error parsing `select` params: more than 1600 columns";
        assert_eq!(t("select", json!(vec!["a"; 1_601])), Err(told.to_owned()));
        let (long, longer) = ("é".repeat(127), "é".repeat(128));
        let told = "Names of schemas, tables and columns have at most 255 bytes";
        for key in ["schema", "table"] {
            assert_eq!(t(key, json!(long)), Ok(()));
            assert_eq!(t(key, json!(longer)), Err(told.to_owned()));
        }
        assert_eq!(t("select", json!([longer])), Err(told.to_owned()));
        assert_eq!(t("filter", json!(format!("{longer}=eq.1"))), Err(told.to_owned()));
    }

    /// spec README, decision 5
    #[test]
    fn names_are_exact_or_any() {
        let spec = |schema: &str, table: &str| parse(json!({"schema": schema, "table": table})).unwrap();
        assert!(spec("public", "a_b").matches_name("public", "a_b"));
        assert!(!spec("public", "a_b").matches_name("public", "axb"));
        assert!(spec("*", "t").matches_name("any", "t"));
        assert!(spec("public", "*").matches_name("public", "T t"));
        assert!(!spec("*", "*").matches_name("realtime", "messages"));
        assert!(!spec("realtime", "*").matches_name("realtime", "messages"));
        assert!(spec("realtime", "messages").matches_name("realtime", "messages"));
        assert!(!spec("*", "tenants").matches_name("_realtime", "tenants"));
        assert!(spec("_realtime", "tenants").matches_name("_realtime", "tenants"));
    }

    #[test]
    fn legacy_topics() {
        let params = |topic: &str| Value::Object(legacy_params(topic));
        assert_eq!(params("*"), json!({"schema": "*"}));
        assert_eq!(params("public:todos"), json!({"schema": "public", "table": "todos"}));
        assert_eq!(
            params("public:todos:at=eq.1:2"),
            json!({"schema": "public", "table": "todos", "filter": "at=eq.1:2"})
        );
    }
}
