//! What a live binding asks beside its filter: the order, the limit and the key of its result.

use realtime_pgoutput::{Element, parse_array};
use serde_json::{Map, Value};

use crate::{
    filter::{Filter, Operator},
    quotes::quoted,
    tree::Tree,
};

/// Most columns of an order or a key: as many as an index of PostgreSQL has.
const MAX_COLUMNS: usize = 32;

/// Where clients in C# put keys of their own: a map of texts.
const PARAMETERS: &str = "parameters";

/// A live binding: its result is kept equal to what a query shows.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct LiveSpec {
    /// The order of the first rows, and of what `limit` keeps; empty for the order of the key.
    pub order: Vec<OrderBy>,
    /// How many rows the result has at most.
    pub limit: Option<u32>,
    /// The columns that tell rows apart, where the database does not say.
    pub key: Option<Vec<Box<str>>>,
}

/// What an entry asks.
#[derive(Debug, Default)]
pub(super) struct Asked {
    /// `None`: the binding is a plain one, unless it means a view.
    pub(super) live: Option<LiveSpec>,
    /// What its keys ask if it means a view, which is live in any case.
    pub(super) if_view: Option<Box<Result<LiveSpec, LiveError>>>,
}

/// One column of an order.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct OrderBy {
    /// Its name.
    pub column: Box<str>,
    /// The largest first.
    pub descending: bool,
    /// Where nulls stand; `None` for what PostgreSQL does with the direction.
    pub nulls_first: Option<bool>,
}

/// A live binding that cannot be used. `Display` is the detail that clients see.
#[derive(Debug, Clone, PartialEq, Eq, Hash, thiserror::Error)]
pub enum LiveError {
    /// `live` is neither true nor false.
    #[error("`live` must be true or false")]
    Live,
    /// An order that cannot be read.
    #[error("`order` must be columns like \"created_at.desc.nullslast,id\"")]
    Order,
    /// A limit that is no number of rows.
    #[error("`limit` must be a whole number from 1 to 4294967295")]
    Limit,
    /// A key that is no list of columns.
    #[error("`key` must be a list of column name strings, e.g. key: [\"id\"]")]
    Key,
    /// More columns than an index can have.
    #[error("`{0}` must not have more than {MAX_COLUMNS} columns")]
    TooMany(&'static str),
    /// One of the names that begin with `@`, with something else than `eq`.
    #[error("`{0}` takes `eq` only, e.g. {0}=eq.{example}", example = example(.0))]
    Operator(&'static str),
    /// Said twice.
    #[error("`{0}` is given more than once")]
    Twice(&'static str),
    /// An order, a limit or a key of what is not live.
    #[error("`{0}` needs `@live=eq.true`")]
    NotLive(&'static str),
    /// A name that begins with `@` and is none of those that are known, in a live binding.
    #[error("unknown name {0}: those of live bindings are @live, @order, @limit and @key")]
    Unknown(String),
}

const NAMES: [&str; 4] = ["@live", "@order", "@limit", "@key"];

fn example(name: &str) -> &'static str {
    match name {
        "@order" => "created_at.desc",
        "@limit" => "50",
        "@key" => "id",
        _ => "true",
    }
}

impl LiveSpec {
    /// Reads the keys of an entry, and takes out of its filter the conditions whose names begin with `@`.
    pub(super) fn parse(
        params: &Map<String, Value>,
        filters: &mut Vec<Tree<Filter>>,
    ) -> Result<Asked, LiveError> {
        let mut said = Said::default();
        let mut failed = None;
        filters.retain(|tree| match tree {
            Tree::Leaf(filter) => match NAMES.into_iter().find(|name| **name == *filter.column) {
                Some(name) if filter.path.is_none() => {
                    if let Err(error) = said.take(name, filter) {
                        failed.get_or_insert(error);
                    }
                    false
                }
                _ => true,
            },
            _ => true,
        });
        if let Some(error) = failed {
            return Err(error);
        }
        let inner = params.get(PARAMETERS).and_then(Value::as_object);
        let key = |name: &str| {
            let found = params.get(name).or_else(|| inner.and_then(|inner| inner.get(name)));
            found.filter(|value| !value.is_null())
        };
        let live = match key("live") {
            None => said.live,
            Some(value) => truth(value).ok_or(LiveError::Live)? || said.live,
        };
        if !live {
            let names = ["order", "limit", "key"];
            let if_view = names.iter().any(|name| key(name).is_some()).then(|| said.spec.clone().with(key));
            let plain = Asked { live: None, if_view: if_view.map(Box::new) };
            return said.first().map_or(Ok(plain), |name| Err(LiveError::NotLive(name)));
        }
        let spec = said.spec.with(key)?;
        let unknown = filters.iter().find_map(|tree| match tree {
            Tree::Leaf(filter) if filter.column.starts_with('@') => Some(filter.column_text()),
            _ => None,
        });
        match unknown {
            Some(name) => Err(LiveError::Unknown(name)),
            None => Ok(Asked { live: Some(spec), if_view: None }),
        }
    }

    /// The same with what the keys of an entry say.
    fn with<'p>(mut self, key: impl Fn(&str) -> Option<&'p Value>) -> Result<Self, LiveError> {
        let spec = &mut self;
        if let Some(value) = key("order") {
            once(spec.order.is_empty(), "order")?;
            spec.order = order(value.as_str().ok_or(LiveError::Order)?)?;
        }
        if let Some(value) = key("limit") {
            once(spec.limit.is_none(), "limit")?;
            spec.limit = Some(match value {
                Value::String(text) => limit(text)?,
                value => value.as_u64().and_then(rows).ok_or(LiveError::Limit)?,
            });
        }
        if let Some(value) = key("key") {
            once(spec.key.is_none(), "key")?;
            spec.key = Some(columns(value)?);
        }
        let longest = [("order", spec.order.len()), ("key", spec.key.as_ref().map_or(0, Vec::len))];
        match longest.into_iter().find(|(_, columns)| *columns > MAX_COLUMNS) {
            Some((name, _)) => Err(LiveError::TooMany(name)),
            None => Ok(self),
        }
    }

    /// The columns that it names.
    pub(super) fn columns(&self) -> impl Iterator<Item = &str> {
        let order = self.order.iter().map(|order| &*order.column);
        order.chain(self.key.iter().flatten().map(|column| &**column))
    }
}

const fn once(first: bool, name: &'static str) -> Result<(), LiveError> {
    if first { Ok(()) } else { Err(LiveError::Twice(name)) }
}

/// What the filter says.
#[derive(Debug, Default)]
struct Said {
    live: bool,
    spec: LiveSpec,
}

impl Said {
    /// An order may be said in several conditions: commas part those of a filter.
    fn take(&mut self, name: &'static str, filter: &Filter) -> Result<(), LiveError> {
        let lists = matches!(name, "@order" | "@key");
        let values = match filter.operator {
            _ if filter.negate => return Err(LiveError::Operator(name)),
            Operator::Eq => vec![filter.value.to_string()],
            Operator::In if lists => elements(&filter.value).ok_or(LiveError::Operator(name))?,
            _ => return Err(LiveError::Operator(name)),
        };
        for value in &values {
            match name {
                "@live" => self.live |= truth(&Value::from(&**value)).ok_or(LiveError::Live)?,
                "@order" => self.spec.order.extend(order(value)?),
                "@limit" => {
                    once(self.spec.limit.is_none(), name)?;
                    self.spec.limit = Some(limit(value)?);
                }
                _ => self.spec.key.get_or_insert_default().extend(list(value)?),
            }
        }
        Ok(())
    }

    /// The first of what only live bindings have.
    const fn first(&self) -> Option<&'static str> {
        match &self.spec {
            spec if !spec.order.is_empty() => Some("@order"),
            spec if spec.limit.is_some() => Some("@limit"),
            spec if spec.key.is_some() => Some("@key"),
            _ => None,
        }
    }
}

/// The elements of a list in a filter: an array literal.
fn elements(body: &str) -> Option<Vec<String>> {
    let text = |element: Element<'_>| match element {
        Element::Value(bytes) => String::from_utf8(bytes.into_owned()).ok(),
        Element::Null | Element::Array(_) => None,
    };
    parse_array(body.as_bytes(), b',')?.into_iter().map(text).collect()
}

fn truth(value: &Value) -> Option<bool> {
    match value {
        Value::Bool(truth) => Some(*truth),
        Value::String(text) if text.eq_ignore_ascii_case("true") => Some(true),
        Value::String(text) if text.eq_ignore_ascii_case("false") => Some(false),
        _ => None,
    }
}

fn rows(number: u64) -> Option<u32> {
    u32::try_from(number).ok().filter(|rows| *rows > 0)
}

fn limit(text: &str) -> Result<u32, LiveError> {
    text.trim().parse().ok().and_then(rows).ok_or(LiveError::Limit)
}

/// A name, in quotes if it has dots or commas, and what follows.
fn name(text: &str, ends: [char; 2]) -> Option<(Box<str>, &str)> {
    if let Some((name, rest)) = quoted(text) {
        return (!name.is_empty()).then(|| (name.into(), rest));
    }
    let (name, rest) = text.split_at_checked(text.find(ends).unwrap_or(text.len()))?;
    let name = name.trim_end();
    (!name.is_empty()).then(|| (name.into(), rest))
}

/// An order as PostgREST writes it: `created_at.desc.nullslast,id`.
fn order(text: &str) -> Result<Vec<OrderBy>, LiveError> {
    let (mut columns, mut rest) = (Vec::new(), text);
    loop {
        let (column, after) = name(rest.trim_start(), ['.', ',']).ok_or(LiveError::Order)?;
        let (words, next) = after.split_once(',').map_or((after, None), |(words, next)| (words, Some(next)));
        let mut by = OrderBy { column, descending: false, nulls_first: None };
        let mut words = words.trim();
        for (word, descending) in [(".asc", false), (".desc", true)] {
            if let Some(after) = words.strip_prefix(word) {
                (by.descending, words) = (descending, after);
                break;
            }
        }
        by.nulls_first = match words {
            "" => None,
            ".nullsfirst" => Some(true),
            ".nullslast" => Some(false),
            _ => return Err(LiveError::Order),
        };
        columns.push(by);
        match next {
            Some(next) => rest = next,
            None => return Ok(columns),
        }
    }
}

/// Names with commas between them.
fn list(text: &str) -> Result<Vec<Box<str>>, LiveError> {
    let (mut columns, mut rest) = (Vec::new(), text);
    loop {
        let (column, after) = name(rest.trim_start(), [',', ',']).ok_or(LiveError::Key)?;
        columns.push(column);
        match after.trim_start().strip_prefix(',') {
            Some(next) => rest = next,
            None if after.trim().is_empty() => return Ok(columns),
            None => return Err(LiveError::Key),
        }
    }
}

fn columns(value: &Value) -> Result<Vec<Box<str>>, LiveError> {
    let names: Vec<Box<str>> = match value {
        Value::String(text) => list(text)?,
        Value::Array(names) => {
            let name = |name: &Value| name.as_str().filter(|name| !name.is_empty()).map(Into::into);
            names.iter().map(name).collect::<Option<_>>().ok_or(LiveError::Key)?
        }
        _ => return Err(LiveError::Key),
    };
    if names.is_empty() { Err(LiveError::Key) } else { Ok(names) }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::{ParamsError, SubscriptionSpec};

    fn parse(params: Value) -> Result<SubscriptionSpec, String> {
        let Value::Object(mut params) = params else { panic!("object expected") };
        params.entry("schema").or_insert("public".into());
        params.entry("table").or_insert("t".into());
        SubscriptionSpec::parse(&params).map_err(|error| error.to_string())
    }

    fn live(params: Value) -> LiveSpec {
        parse(params).unwrap().live.unwrap()
    }

    fn refused(params: Value) -> String {
        let text = parse(params).unwrap_err();
        text.strip_prefix("Error parsing `live` params: ").unwrap_or_else(|| panic!("{text}")).to_owned()
    }

    fn by(column: &str, descending: bool, nulls_first: Option<bool>) -> OrderBy {
        OrderBy { column: column.into(), descending, nulls_first }
    }

    /// live 1
    #[test]
    fn keys_and_filter_say_the_same() {
        let expected = LiveSpec {
            order: vec![by("created_at", true, None), by("id", false, None)],
            limit: Some(50),
            key: Some(vec!["id".into(), "room".into()]),
        };
        let of = |params: Value| live(params);
        assert_eq!(
            of(json!({"live": true, "order": "created_at.desc,id", "limit": 50, "key": ["id", "room"]})),
            expected
        );
        assert_eq!(
            of(json!({"live": "true", "order": "created_at.desc, id.asc", "limit": "50", "key": "id,room"})),
            expected
        );
        let strings =
            json!({"live": "true", "order": "created_at.desc,id", "limit": "50", "key": "id, room"});
        assert_eq!(of(json!({"parameters": strings})), expected);
        for filter in [
            "@live=eq.true,@order=eq.\"created_at.desc,id\",@limit=eq.50,@key=eq.\"id,room\",a=eq.1",
            "a=eq.1,@live=eq.true,@order=eq.created_at.desc,@order=eq.id,@limit=eq.50,@key=in.(id,room)",
            "@live=eq.TRUE,a=eq.1,@order=in.(created_at.desc,id),@limit=eq.50,@key=eq.id,@key=eq.room",
        ] {
            let spec = parse(json!({"filter": filter})).unwrap();
            assert_eq!(spec.live.as_ref(), Some(&expected), "{filter}");
            assert_eq!(spec.filters, parse(json!({"filter": "a=eq.1"})).unwrap().filters);
        }
        assert_eq!(of(json!({"live": true, "filter": "@limit=eq.3"})).limit, Some(3));
        assert_eq!(of(json!({"live": true})), LiveSpec::default());
    }

    #[test]
    fn order_is_that_of_postgrest() {
        let order = |text: &str| live(json!({"live": true, "order": text})).order;
        assert_eq!(
            order("a.desc.nullslast,b.nullsfirst,c.asc"),
            [by("a", true, Some(false)), by("b", false, Some(true)), by("c", false, None)]
        );
        assert_eq!(order("\"a.b,c\".desc"), [by("a.b,c", true, None)]);
        for text in ["", "a,", ",a", "a.up", "a.desc.asc", "a.nullslast.desc"] {
            assert_eq!(refused(json!({"live": true, "order": text})), LiveError::Order.to_string(), "{text}");
        }
        assert_eq!(refused(json!({"live": true, "order": ["a"]})), LiveError::Order.to_string());
    }

    /// live 15
    #[test]
    fn a_column_named_live_is_a_column() {
        let spec = parse(json!({"filter": "live=eq.true,order=eq.1,limit=gt.3,key=eq.x"})).unwrap();
        assert_eq!((spec.live.is_none(), spec.filters.len()), (true, 4));
        let spec = parse(json!({"filter": "@live=eq.true,live=eq.true"})).unwrap();
        assert_eq!((spec.live.is_some(), spec.filters.len()), (true, 1));
        let column = json!({"live": true, "order": "live.desc", "key": ["live"]});
        assert_eq!(live(column).order, [by("live", true, None)]);
        // Where nothing is live, a name with @ is a column.
        assert_eq!(parse(json!({"filter": "@other=eq.1"})).unwrap().filters.len(), 1);
        assert_eq!(parse(json!({"live": false, "order": 5, "limit": "x", "key": 1})).unwrap().live, None);
        assert_eq!(parse(json!({"live": null, "filter": "@live=eq.false"})).unwrap().live, None);
        assert_eq!(parse(json!({"order": "a", "limit": 3})).unwrap().live, None);
    }

    /// live 1: a view is live in any case; a table is not, and what it does not know is left to others.
    #[test]
    fn a_view_is_asked_without_live() {
        let if_view = |params: Value| parse(params).unwrap().if_view.map(|asked| *asked);
        let expected = LiveSpec { order: vec![by("a", false, None)], limit: Some(3), key: None };
        assert_eq!(if_view(json!({"order": "a", "limit": 3})), Some(Ok(expected)));
        assert_eq!(if_view(json!({"limit": "x"})), Some(Err(LiveError::Limit)));
        assert_eq!(if_view(json!({})), None);
        assert_eq!(if_view(json!({"live": true, "limit": 3})), None);
    }

    #[test]
    fn what_cannot_be_live_is_refused() {
        let with = |name: &str, value: Value| {
            let mut params = json!({"live": true});
            params[name] = value;
            refused(params)
        };
        for value in [json!(0), json!(-1), json!(1.5), json!("x"), json!(4_294_967_296_u64), json!([])] {
            assert_eq!(with("limit", value), LiveError::Limit.to_string());
        }
        for value in [json!([]), json!(""), json!([1]), json!({}), json!("a,,b"), json!([""])] {
            assert_eq!(with("key", value), LiveError::Key.to_string());
        }
        assert_eq!(with("live", json!("yes")), "`live` must be true or false");
        assert_eq!(with("filter", json!("@live=neq.true")), "`@live` takes `eq` only, e.g. @live=eq.true");
        assert_eq!(with("filter", json!("@limit=not.eq.5")), "`@limit` takes `eq` only, e.g. @limit=eq.50");
        assert_eq!(with("filter", json!("@limit=eq.5,@limit=eq.6")), "`@limit` is given more than once");
        assert_eq!(refused(json!({"filter": "@order=eq.id"})), "`@order` needs `@live=eq.true`");
        assert_eq!(
            with("filter", json!("@sort=eq.id")),
            "unknown name @sort: those of live bindings are @live, @order, @limit and @key"
        );
        let columns = vec!["a"; 33].join(",");
        assert_eq!(with("order", json!(columns)), "`order` must not have more than 32 columns");
        assert_eq!(with("key", json!(columns)), "`key` must not have more than 32 columns");
        let twice = json!({"live": true, "order": "a", "filter": "@order=eq.b"});
        assert_eq!(refused(twice), "`order` is given more than once");
    }

    /// live 1: a whole schema cannot be live.
    #[test]
    fn live_needs_a_schema_and_a_table() {
        let whole = |params: Value| {
            let Value::Object(params) = params else { panic!("object expected") };
            SubscriptionSpec::parse(&params)
        };
        let wild = Err(ParamsError::LiveOnWildcard);
        assert_eq!(whole(json!({"schema": "public", "live": true})), wild);
        assert_eq!(whole(json!({"schema": "public", "table": "*", "live": true})), wild);
        assert_eq!(whole(json!({"schema": "*", "table": "t", "filter": "@live=eq.true"})), wild);
        assert!(whole(json!({"table": "t", "live": true})).is_ok());
        assert_eq!(
            ParamsError::LiveOnWildcard.to_string(),
            "Live rows are not supported for wildcard subscriptions. Provide an explicit schema and table name."
        );
        let long = "x".repeat(256);
        let too_long = Err(ParamsError::NameTooLong);
        assert_eq!(whole(json!({"table": "t", "live": true, "order": long})), too_long);
        assert_eq!(whole(json!({"table": "t", "live": true, "key": [long]})), too_long);
    }
}
