//! The images that policies judge: what the log carries of a row, in the columns that the policies read.

use std::borrow::Cow;

use deadpool_postgres::ClientWrapper as Client;
use realtime_changes::{Change, Table};
use realtime_pgoutput::message::{OldTuple, Value};
use serde_json::{Map, Value as Json, json};
use tokio_postgres::Error;

use super::{
    Row,
    policies::{Condition, Policies},
    present::present,
    question,
};

/// The images of an inquiry, as the block of SQL reads them.
#[derive(Debug, Default)]
pub(super) struct Images {
    /// One object per row.
    pub(super) rows: Vec<Json>,
    /// The rows that lack something that the policies read: they cannot be judged.
    pub(super) incomplete: Vec<u32>,
}

/// A value that the log carries; `None` for NULL.
pub(super) type Text<'a> = Option<Cow<'a, str>>;

/// Brings the rows into the form that the policies' question reads. What the log does not carry (an unchanged TOASTed
/// value, a generated column, a column that is not published) is taken from the row that stands in the table, if it is
/// still the version that the change's transaction wrote.
///
/// # Errors
/// When the database cannot be asked for the rows that stand there.
pub(super) async fn images(
    client: &Client,
    table: &Table,
    policies: &Policies,
    rows: &[Row<'_>],
) -> Result<Images, Error> {
    let columns: Vec<&str> = match &policies.condition {
        Condition::Open => return Ok(Images { rows: vec![json!({}); rows.len()], incomplete: Vec::new() }),
        Condition::Holds { whole_row: true, .. } => {
            table.columns.iter().map(|column| &*column.name).collect()
        }
        Condition::Holds { .. } => policies.columns.iter().map(|column| &*column.name).collect(),
    };
    let mut values: Vec<Vec<Option<Text<'_>>>> =
        rows.iter().map(|row| columns.iter().map(|name| value(&row.change, name)).collect()).collect();
    let lacking: Vec<usize> =
        (0..rows.len()).filter(|at| values.get(*at).is_some_and(|row| row.contains(&None))).collect();
    if !lacking.is_empty() {
        fill(client, table, &columns, rows, &lacking, &mut values).await?;
    }
    let whole = matches!(policies.condition, Condition::Holds { whole_row: true, .. });
    let mut images = Images::default();
    for (at, row) in (0u32..).zip(values) {
        if row.contains(&None) || whole && !is_exact(table, &columns, &row) {
            images.incomplete.push(at);
        }
        images.rows.push(object(at, &columns, row, whole, table));
    }
    Ok(images)
}

/// Fills in what images lack from the rows that stand in the table. A later statement of the same transaction may have
/// written the version that stands: it is of use only if all that the log carries of the image is the same there.
async fn fill<'a>(
    client: &Client,
    table: &Table,
    columns: &[&str],
    rows: &[Row<'a>],
    lacking: &[usize],
    values: &mut [Vec<Option<Text<'a>>>],
) -> Result<(), Error> {
    let all: Vec<&str> = table.columns.iter().map(|column| &*column.name).collect();
    for (at, present) in present(client, table, &all, rows, lacking).await? {
        let (Some(row), Some(image)) = (rows.get(at), values.get_mut(at)) else { continue };
        let differs = |(name, text): (&&str, &Option<String>)| {
            value(&row.change, name).is_some_and(|carried| carried.as_deref() != text.as_deref())
        };
        if all.iter().zip(&present).any(differs) {
            continue;
        }
        for (slot, name) in image.iter_mut().zip(columns) {
            let found = all.iter().position(|known| known == name).and_then(|at| present.get(at));
            if let Some(text) = found {
                slot.get_or_insert(text.clone().map(Cow::Owned));
            }
        }
    }
    Ok(())
}

/// Whether the values of JSON in a row that is taken as a whole stay what they are when they travel as JSON: `null` would
/// become SQL's NULL, and a number may be longer than we can hold.
fn is_exact(table: &Table, columns: &[&str], row: &[Option<Text<'_>>]) -> bool {
    fn holds(value: &Json) -> bool {
        match value {
            Json::Number(number) => !number.is_f64(),
            Json::Array(values) => values.iter().all(holds),
            Json::Object(members) => members.values().all(holds),
            _ => true,
        }
    }
    columns.iter().zip(row).filter(|(name, _)| is_json(table, name)).all(|(_, text)| {
        let Some(Some(text)) = text else { return true };
        serde_json::from_str::<Json>(text).is_ok_and(|value| !value.is_null() && holds(&value))
    })
}

fn is_json(table: &Table, name: &str) -> bool {
    let column = table.column(name).and_then(|at| table.columns.get(at));
    column.is_some_and(|column| matches!(column.base_oid, JSON | JSONB))
}

/// A row as an object; columns go by their number, or by their name where the row is taken as a whole.
fn object(at: u32, columns: &[&str], row: Vec<Option<Text<'_>>>, whole: bool, table: &Table) -> Json {
    let mut object = Map::new();
    for (n, (name, text)) in columns.iter().zip(row).enumerate() {
        let text = text.flatten();
        if whole {
            let value = match text {
                Some(text) if is_json(table, name) => serde_json::from_str(&text).unwrap_or(Json::Null),
                Some(text) => Json::String(text.into_owned()),
                None => Json::Null,
            };
            object.insert((*name).to_owned(), value);
        } else {
            object.insert(format!("c{n}"), text.map_or(Json::Null, |text| Json::String(text.into_owned())));
        }
    }
    if !whole {
        object.insert(question::number(table), json!(at + 1));
    }
    Json::Object(object)
}

/// `pg_type.oid` of `json` and `jsonb`.
const JSON: u32 = 114;
const JSONB: u32 = 3802;

/// What the log carries of a column of the new row: `None` if nothing.
pub(super) fn value<'a>(change: &Change<'a>, name: &str) -> Option<Text<'a>> {
    let at = change.relation.columns.iter().position(|column| *column.name == *name)?;
    let old = || match change.old {
        Some(OldTuple::Full(old)) => old.get(at),
        _ => None,
    };
    let value = match change.new?.get(at)? {
        Value::Unchanged => old()?,
        value => value,
    };
    match value {
        Value::Null => Some(None),
        Value::Text(text) | Value::Binary(text) => Some(Some(String::from_utf8_lossy(text))),
        Value::Unchanged => None,
    }
}
