//! The images that policies judge: what the log carries of a row, in the columns that the policies read.

use std::borrow::Cow;

use deadpool_postgres::Pool;
use serde_json::{Map, Value as Json, json};

use super::{
    condition::{Condition, Kind, PolicyColumn},
    inquiry::{Inquiry, Row},
    logged::{Text, place, value},
    policies::Policies,
    present::present,
    question,
};
use crate::{foreign::NoAnswer, sqlstate};

/// Why a row is withheld whose image lacks what the policies read.
const NOT_IN_THE_LOG: &str = "the log does not carry a column that the policies read";

/// The images of an inquiry, as the block of SQL reads them.
#[derive(Debug, Default)]
pub(super) struct Images {
    /// One object for each row that can be judged.
    objects: Vec<Json>,
    /// Which rows these are.
    rows: Vec<u32>,
    /// The rows that cannot be judged, in their order, and why.
    withheld: Vec<(u32, String)>,
    /// What the number of an image is called in it; `None` where images go by their order.
    number: Option<String>,
}

impl Images {
    pub(super) fn objects(&self) -> &[Json] {
        &self.objects
    }

    /// The row of an image that is counted from one.
    pub(super) fn row(&self, number: u32) -> Option<u32> {
        self.rows.get(usize::try_from(number.checked_sub(1)?).ok()?).copied()
    }

    /// The image of a row, counted from one. `None` if the row cannot be judged.
    pub(super) fn number(&self, row: u32) -> Option<u32> {
        let at = self.rows.binary_search(&row).ok()?;
        u32::try_from(at + 1).ok()
    }

    /// Those of some rows that cannot be judged, and why.
    pub(super) fn withheld<'a>(&'a self, rows: &[u32]) -> impl Iterator<Item = (u32, &'a str)> {
        let of = |(row, why): &'a (u32, String)| rows.binary_search(row).is_ok().then_some((*row, &**why));
        self.withheld.iter().filter_map(of)
    }

    /// Leaves out images that could not be brought into the types of their columns: their numbers, and SQLSTATEs.
    pub(super) fn leave_out(&mut self, broken: &[(u32, String)]) {
        let images = std::mem::take(&mut self.rows).into_iter().zip(std::mem::take(&mut self.objects));
        for (number, (row, object)) in (1u32..).zip(images) {
            match broken.iter().find(|(broken, _)| *broken == number) {
                Some((_, code)) => self.withheld.push((row, sqlstate::brief(code))),
                None => self.push(row, object),
            }
        }
        self.withheld.sort_unstable();
    }

    fn push(&mut self, row: u32, mut object: Json) {
        self.rows.push(row);
        if let (Some(name), Json::Object(object)) = (&self.number, &mut object) {
            object.insert(name.clone(), json!(self.rows.len()));
        }
        self.objects.push(object);
    }
}

/// Brings the rows into the form that the policies' question reads. What the log does not carry (an unchanged TOASTed
/// value, a generated column, a column that is not published, one of the system) is taken from the row that stands in the table, if it is
/// still the version that the change wrote.
///
/// # Errors
/// When the database cannot be asked for the rows that stand there.
pub(super) async fn images(
    pool: &Pool,
    inquiry: &Inquiry<'_>,
    policies: &Policies,
) -> Result<Images, NoAnswer> {
    let mut images = Images::default();
    let whole = match &policies.condition {
        Condition::Open => {
            images.rows = (0..).take(inquiry.rows.len()).collect();
            images.objects = vec![json!({}); inquiry.rows.len()];
            return Ok(images);
        }
        Condition::Holds { whole_row, .. } => *whole_row,
    };
    let mut values = values(inquiry, &policies.columns);
    let lacking: Vec<usize> =
        (0..inquiry.rows.len()).filter(|at| values.get(*at).is_some_and(|row| row.contains(&None))).collect();
    if !lacking.is_empty() {
        fill(pool, inquiry, policies, &lacking, &mut values).await?;
    }
    images.number = (!whole).then(|| question::number(inquiry.table));
    for (at, row) in (0u32..).zip(values) {
        if row.contains(&None) || whole && !is_exact(&policies.columns, &row) {
            images.withheld.push((at, NOT_IN_THE_LOG.to_owned()));
            continue;
        }
        images.push(at, if whole { whole_object(&policies.columns, row) } else { object(row) });
    }
    Ok(images)
}

/// What the log carries of the rows in some columns.
fn values<'a>(inquiry: &Inquiry<'a>, columns: &[PolicyColumn]) -> Vec<Vec<Option<Text<'a>>>> {
    let places: Vec<Option<usize>> =
        columns.iter().map(|column| place(inquiry.logged, column.attnum)).collect();
    // Rows of a root stand in its partitions.
    let table = (!inquiry.table.partitioned).then(|| Some(Cow::Owned(inquiry.table.oid.to_string())));
    let of = |row: &Row<'a>| {
        let columns = columns.iter().zip(&places);
        let value = |(column, place): (&PolicyColumn, &Option<usize>)| match column.is_table() {
            true => table.clone(),
            false => value(&row.change, (*place)?),
        };
        columns.map(value).collect()
    };
    inquiry.rows.iter().map(of).collect()
}

/// Fills in what images lack from the rows that stand in the table.
async fn fill(
    pool: &Pool,
    inquiry: &Inquiry<'_>,
    policies: &Policies,
    lacking: &[usize],
    values: &mut [Vec<Option<Text<'_>>>],
) -> Result<(), NoAnswer> {
    for (at, present) in present(pool, inquiry, &policies.row, lacking).await? {
        let (Some(row), Some(image)) = (inquiry.rows.get(at), values.get_mut(at)) else { continue };
        // What the log carries of the row is the same there, or it is another version.
        let differs = |(column, text): (&PolicyColumn, &Option<String>)| {
            let carried = place(inquiry.logged, column.attnum).and_then(|place| value(&row.change, place));
            carried.is_some_and(|carried| carried.as_deref() != text.as_deref())
        };
        if policies.row.iter().zip(&present).any(differs) {
            continue;
        }
        for (slot, column) in image.iter_mut().zip(&policies.columns) {
            let found = policies.row.iter().position(|known| known.attnum == column.attnum);
            if let Some(text) = found.and_then(|at| present.get(at)) {
                slot.get_or_insert(text.clone().map(Cow::Owned));
            }
        }
    }
    Ok(())
}

/// Whether the values of JSON in a row that is taken as a whole stay what they are when they travel as JSON: `null` would
/// become SQL's NULL, and a number may be longer than we can hold.
fn is_exact(columns: &[PolicyColumn], row: &[Option<Text<'_>>]) -> bool {
    fn holds(value: &Json) -> bool {
        match value {
            Json::Number(number) => !number.is_f64(),
            Json::Array(values) => values.iter().all(holds),
            Json::Object(members) => members.values().all(holds),
            _ => true,
        }
    }
    columns.iter().zip(row).filter(|(column, _)| column.kind == Kind::Json).all(|(_, text)| {
        let Some(Some(text)) = text else { return true };
        serde_json::from_str::<Json>(text).is_ok_and(|value| !value.is_null() && holds(&value))
    })
}

/// A row that is taken as a whole, as an object: columns go by their names.
fn whole_object(columns: &[PolicyColumn], row: Vec<Option<Text<'_>>>) -> Json {
    let mut object = Map::new();
    for (column, text) in columns.iter().zip(row) {
        let value = match text.flatten() {
            Some(text) if column.kind == Kind::Json => serde_json::from_str(&text).unwrap_or(Json::Null),
            Some(text) => Json::String(text.into_owned()),
            None => Json::Null,
        };
        object.insert(column.name.clone(), value);
    }
    Json::Object(object)
}

/// The columns that policies read, as an object: they go by their numbers among these.
fn object(row: Vec<Option<Text<'_>>>) -> Json {
    let mut object = Map::new();
    for (n, text) in row.into_iter().enumerate() {
        let text = text.flatten().map_or(Json::Null, |text| Json::String(text.into_owned()));
        object.insert(format!("c{n}"), text);
    }
    Json::Object(object)
}
