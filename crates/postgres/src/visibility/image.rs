//! The images that policies judge: what the log carries of a row, in the columns that the policies read.

use std::{borrow::Cow, collections::HashMap};

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
    /// The rows that can be judged, as objects. Those that the policies cannot tell apart are one.
    objects: Vec<Json>,
    /// Which rows these are, in their order.
    rows: Vec<Vec<u32>>,
    /// By row: its image, counted from one.
    numbers: HashMap<u32, u32>,
    /// By object, where equal ones are one.
    known: Option<HashMap<String, u32>>,
    /// The rows that cannot be judged, in their order, and why.
    withheld: Vec<(u32, String)>,
    /// What the number of an image is called in it; `None` where images go by their order.
    number: Option<String>,
}

impl Images {
    pub(super) fn objects(&self) -> &[Json] {
        &self.objects
    }

    /// The rows of an image that is counted from one.
    pub(super) fn rows(&self, number: u32) -> &[u32] {
        let at = number.checked_sub(1).and_then(|at| usize::try_from(at).ok());
        at.and_then(|at| self.rows.get(at)).map(Vec::as_slice).unwrap_or_default()
    }

    /// The images of some rows, counted from one, each once and in order. Rows that cannot be judged have none.
    pub(super) fn numbers(&self, rows: &[u32]) -> Vec<u32> {
        let mut numbers: Vec<u32> = rows.iter().filter_map(|row| self.numbers.get(row)).copied().collect();
        numbers.sort_unstable();
        numbers.dedup();
        numbers
    }

    /// Those of some rows that cannot be judged, and why.
    pub(super) fn withheld<'a>(&'a self, rows: &[u32]) -> impl Iterator<Item = (u32, &'a str)> {
        let of = |(row, why): &'a (u32, String)| rows.binary_search(row).is_ok().then_some((*row, &**why));
        self.withheld.iter().filter_map(of)
    }

    /// Leaves out images that could not be brought into the types of their columns: their numbers, and SQLSTATEs.
    pub(super) fn leave_out(&mut self, broken: &[(u32, String)]) {
        let images = std::mem::take(&mut self.rows).into_iter().zip(std::mem::take(&mut self.objects));
        self.numbers.clear();
        for (number, (rows, object)) in (1u32..).zip(images) {
            match broken.iter().find(|(broken, _)| *broken == number) {
                Some((_, code)) => {
                    self.withheld.extend(rows.into_iter().map(|row| (row, sqlstate::brief(code))))
                }
                None => self.put(rows, object),
            }
        }
        self.withheld.sort_unstable();
    }

    /// Takes a row, as an image that is known or as a new one.
    fn push(&mut self, row: u32, object: Json) {
        let Some(known) = &mut self.known else { return self.put(vec![row], object) };
        let next = u32::try_from(self.rows.len() + 1).unwrap_or(u32::MAX);
        let number = *known.entry(object.to_string()).or_insert(next);
        let at = usize::try_from(number - 1).unwrap_or(usize::MAX);
        match self.rows.get_mut(at) {
            Some(rows) => {
                rows.push(row);
                self.numbers.insert(row, number);
            }
            None => self.put(vec![row], object),
        }
    }

    fn put(&mut self, rows: Vec<u32>, mut object: Json) {
        let number = u32::try_from(self.rows.len() + 1).unwrap_or(u32::MAX);
        self.numbers.extend(rows.iter().map(|row| (*row, number)));
        self.rows.push(rows);
        if let (Some(name), Json::Object(object)) = (&self.number, &mut object) {
            object.insert(name.clone(), json!(number));
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
            (0..).take(inquiry.rows.len()).for_each(|row| images.put(vec![row], json!({})));
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
    images.known = policies.is_settled.then(HashMap::new);
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

#[cfg(test)]
mod tests {
    use super::*;

    fn images(shares: bool) -> Images {
        let known = shares.then(HashMap::new);
        let mut images = Images { number: Some("number".to_owned()), known, ..Images::default() };
        for row in 0..100u32 {
            images.push(row, json!({ "c0": (row % 3).to_string() }));
        }
        images
    }

    #[test]
    fn rows_that_the_policies_cannot_tell_apart_are_judged_once() {
        let mut images = images(true);
        assert_eq!(images.objects().len(), 3);
        assert_eq!(images.objects()[2], json!({"c0": "2", "number": 3}));
        assert_eq!(images.rows(1), (0..100).step_by(3).collect::<Vec<u32>>());
        assert_eq!(images.numbers(&[0, 3, 5, 6, 200]), [1, 3]);
        assert!(images.rows(0).is_empty() && images.rows(4).is_empty());
        images.leave_out(&[(2, "22P02".to_owned())]);
        assert_eq!((images.objects().len(), images.rows(2)[0], images.numbers(&[1, 2])), (2, 2, vec![2]));
        assert_eq!(images.objects()[1]["number"], 2);
        assert_eq!(images.withheld(&[0, 1, 4]).map(|(row, _)| row).collect::<Vec<_>>(), [1, 4]);
    }

    #[test]
    fn what_may_differ_from_call_to_call_is_judged_for_each_row() {
        let images = images(false);
        assert_eq!((images.objects().len(), images.numbers(&[7, 9])), (100, vec![8, 10]));
    }
}
