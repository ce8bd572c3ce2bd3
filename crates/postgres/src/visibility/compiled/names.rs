//! For whom calls can be true: whom the rows of tables name that have some values.
//!
//! It is asked with our own rights. What a function of others would find with its owner's rights is at most that, given that
//! no policies hide rows from us.

use std::time::Duration;

use deadpool_postgres::Pool;
use realtime_changes::policy::Bound;
use tokio::time;

use super::{
    super::{Passed, Snapshot, pauses},
    question::{NUMBER, numbered, text},
};
use crate::{
    foreign::{self, NoAnswer},
    quote::quoted,
};

/// Names at most. More are no help.
const MAX_NAMES: usize = 20_000;

/// Whom rows name.
#[derive(Debug)]
pub(crate) enum Names {
    /// For each name the number of the values, the place of the bound, and the name.
    Told(Vec<(usize, usize, String)>),
    /// There are too many.
    TooMany,
    /// It cannot be told: policies hide rows from us.
    Hidden,
}

/// Whom rows name that have some values. `values`: for each the columns that a call has. `column`: how a column of the row is
/// called. `most`: how many names are of help.
///
/// # Errors
/// When the database does not answer.
pub(crate) async fn names(
    pool: &Pool,
    bounds: &[Bound],
    values: &[Vec<String>],
    column: impl Fn(usize) -> Option<String>,
    passed: &Passed,
    most: usize,
    limit: Duration,
) -> Result<Names, NoAnswer> {
    let most = most.min(MAX_NAMES);
    let Some(query) = query(bounds, values, column, most) else { return Ok(Names::Hidden) };
    let mut pauses = pauses();
    loop {
        let rows = foreign::ask(pool, None, limit, &query, &[]).await?;
        let (mut snapshot, mut found) = (None, Vec::new());
        for row in &rows {
            let (number, bound): (Option<&str>, Option<&str>) = (row.try_get(0)?, row.try_get(1)?);
            let told: Option<&str> = row.try_get(2)?;
            match (number.map(str::parse::<usize>), bound.map(str::parse::<usize>), told) {
                (Some(Ok(number)), Some(Ok(bound)), Some(name)) => {
                    found.push((number, bound, name.to_owned()))
                }
                (None, None, told) => snapshot = told.and_then(Snapshot::parse),
                _ => return Ok(Names::Hidden),
            }
        }
        let Some(snapshot) = snapshot else { return Ok(Names::Hidden) };
        if found.len() > most {
            return Ok(Names::TooMany);
        }
        if passed.are_in(&snapshot) {
            return Ok(Names::Told(found));
        }
        time::sleep(pauses.failed(1.0)).await;
    }
}

/// The query: its first row is what it has seen, NULL if policies hide rows.
fn query(
    bounds: &[Bound],
    values: &[Vec<String>],
    column: impl Fn(usize) -> Option<String>,
    most: usize,
) -> Option<String> {
    let mut hides = Vec::new();
    let mut all = Vec::new();
    for (at, bound) in bounds.iter().enumerate() {
        let table = format!("{}.{}", quoted(bound.schema()), quoted(bound.table()));
        let (known, named) = (quoted(bound.column()), quoted(bound.owner()));
        let value = quoted(&column(bound.argument())?);
        let or_null = if bound.or_null() { format!(" or m.{known} is null") } else { String::new() };
        hides.push(format!(
            "pg_catalog.row_security_active({}::pg_catalog.regclass::pg_catalog.oid)",
            text(&table)
        ));
        all.push(format!(
            "select given.{NUMBER}, '{at}', m.{named}::pg_catalog.text
             from given join {table} as m on m.{known} operator(pg_catalog.=) given.{value}{or_null}
             where m.{named} is not null"
        ));
    }
    Some(format!(
        "with given as ({})
         select null::pg_catalog.text, null::pg_catalog.text,
            case when {} then null else pg_catalog.pg_current_snapshot()::pg_catalog.text end
         union all (select * from ({}) as named (a, b, c) limit {most} operator(pg_catalog.+) 1)",
        numbered(values),
        hides.join(" or "),
        all.join(" union all ")
    ))
}
