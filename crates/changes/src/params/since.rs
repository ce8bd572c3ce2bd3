//! Where a client that comes back wants to go on: `since`, or `@since` in the filter (resume 2).

use serde_json::{Map, Value};

use crate::{
    filter::{Filter, Operator},
    since::Since,
    tree::Tree,
};

/// `since` is no place in the stream. `Display` is the detail that clients see.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("expected a position like \"16/B374D848:3\" or the commit_timestamp of a change")]
pub struct SinceError;

/// Its name in a filter.
const NAME: &str = "@since";

/// Where clients in C# put keys of their own: a map of texts.
const PARAMETERS: &str = "parameters";

/// Reads the key of an entry, and takes the condition of that name out of its filter.
pub(super) fn parse(
    params: &Map<String, Value>,
    filters: &mut Vec<Tree<Filter>>,
) -> Result<Option<Since>, SinceError> {
    let mut found = None;
    let mut failed = false;
    filters.retain(|tree| {
        let Tree::Leaf(filter) = tree else { return true };
        if &*filter.column != NAME || filter.path.is_some() {
            return true;
        }
        let is_plain = filter.operator == Operator::Eq && !filter.negate && found.is_none();
        found = Since::parse(&filter.value).filter(|_| is_plain);
        failed |= found.is_none();
        false
    });
    let inner = params.get(PARAMETERS).and_then(Value::as_object);
    let key = params.get("since").or_else(|| inner.and_then(|inner| inner.get("since")));
    if let Some(value) = key.filter(|value| !value.is_null()) {
        failed |= found.is_some();
        found = value.as_str().and_then(Since::parse);
        failed |= found.is_none();
    }
    if failed { Err(SinceError) } else { Ok(found) }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::{ParamsError, SubscriptionSpec};

    fn spec(params: Value) -> Result<SubscriptionSpec, ParamsError> {
        SubscriptionSpec::parse(params.as_object().unwrap())
    }

    /// resume 2, case 5
    #[test]
    fn places_stand_in_the_entry_or_in_the_filter() {
        let since = |params: Value| spec(params).map(|spec| spec.since.map(|since| since.to_string()));
        let entry = |since: Value| json!({"schema": "public", "table": "t", "since": since});
        let filter = |filter: &str| json!({"schema": "public", "table": "t", "filter": filter});
        let place = Ok(Some("16/B374D848:3".to_owned()));
        assert_eq!(since(entry(json!("16/B374D848:3"))), place);
        assert_eq!(since(filter("@since=eq.16/B374D848:3")), place);
        assert_eq!(since(json!({"schema": "public", "parameters": {"since": "16/B374D848:3"}})), place);
        let both = spec(filter("@since=eq.2023-11-14T22:13:20.123Z,id=eq.1")).unwrap();
        assert_eq!(
            (both.filters.len(), both.since.unwrap().to_string()),
            (1, "2023-11-14T22:13:20.123Z".to_owned())
        );
        for none in [entry(json!(null)), filter("id=eq.1")] {
            assert_eq!(since(none), Ok(None));
        }
        for bad in [
            entry(json!("yesterday")),
            entry(json!(17)),
            filter("@since=gt.16/B374D848:3"),
            filter("@since=not.eq.16/B374D848:3"),
            filter("@since=eq.16/B374D848:3,@since=eq.16/B374D848:3"),
            json!({"schema": "public", "table": "t", "since": "1/1:1", "filter": "@since=eq.1/1:1"}),
        ] {
            assert_eq!(since(bad.clone()), Err(ParamsError::Since(SinceError)), "{bad}");
        }
    }
}
