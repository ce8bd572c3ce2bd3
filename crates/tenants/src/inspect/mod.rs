//! Questions of operators to the metadata database (http_and_ops 3.1, SQL inspector).
//!
//! The guarantee: a statement never computes with a secret. It does not see the tables, only temporary views of them in
//! which secrets are already `***`; so no alias, expression, whole row, condition or error can reveal one. That it reads
//! nothing else does not depend on how it is written: PostgreSQL itself analyses it (it becomes a view, which is not used
//! before it has passed the check), and everything that the analysis names is compared with what may be named: relations
//! one by one, functions by what they can do. Names of columns and of keys in JSON tell what is secret ([`mask`]).
//!
//! Nothing can be changed: the transaction is read-only when the statement runs, and always rolled back.

mod error;
mod mask;
mod tree;

use std::{sync::Arc, time::Duration};

use deadpool_postgres::Object;
pub use error::InspectError;
use error::{refused, sql};
use tokio_postgres::{Client, Row};

use crate::store::Store;

/// Rows that are shown.
pub const ROWS: usize = 1000;

/// Longest statement, in bytes.
pub const MAX_STATEMENT: usize = 100_000;

/// How long a statement may take.
const TIMEOUT: Duration = Duration::from_secs(30);

/// Longest text of a value that is shown, in characters.
const MAX_VALUE: usize = 4000;

/// The statement, once PostgreSQL has read it.
const INSPECTED: &str = "realtime_inspected";

/// The answer to a statement.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Inspected {
    /// Names of its columns.
    pub columns: Vec<String>,
    /// Rows of values as text; `None` for NULL.
    pub rows: Vec<Vec<Option<String>>>,
    /// Whether there are more rows than [`ROWS`].
    pub more: bool,
}

/// The order of the rows: by a column, counted from 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Order {
    /// The column.
    pub column: usize,
    /// The largest first.
    pub descending: bool,
}

impl Store {
    /// Asks one question, a SELECT or a WITH, on a connection of its own. Tables are named without their schema.
    ///
    /// # Errors
    /// [`InspectError`], whose text is for the operator.
    pub async fn inspect(&self, statement: &str, order: Option<Order>) -> Result<Inspected, InspectError> {
        let statement = checked(statement)?.to_owned();
        let Ok(permit) = Arc::clone(self.inspections()).try_acquire_owned() else {
            return Err(refused("Others are being answered: wait a moment"));
        };
        let store = self.clone();
        // PostgreSQL goes on when nobody waits for the answer any more, and so does the permit.
        let asked = tokio::spawn(async move {
            let _permit = permit;
            // Taken out of the pool: whatever becomes of the session ends with it.
            let client = Object::take(store.client().await?);
            let outcome = run(&client, &statement, order).await;
            // A connection that is closed is rolled back as well.
            let _ = client.batch_execute("rollback").await;
            outcome
        });
        asked.await.unwrap_or_else(|error| Err(InspectError::Sql(error.to_string())))
    }
}

/// The statement without white space and semicolon at its ends, if it looks like a question at all.
fn checked(statement: &str) -> Result<&str, InspectError> {
    let statement = statement.trim().trim_end_matches(';').trim_end();
    let word: String = statement.chars().take_while(char::is_ascii_alphabetic).collect();
    if !word.eq_ignore_ascii_case("select") && !word.eq_ignore_ascii_case("with") {
        return Err(refused("Only one SELECT or WITH can be asked"));
    }
    if statement.len() > MAX_STATEMENT || statement.contains('\0') {
        return Err(refused("The statement is too long"));
    }
    Ok(statement)
}

async fn run(client: &Client, statement: &str, order: Option<Order>) -> Result<Inspected, InspectError> {
    let timeout = TIMEOUT.as_millis();
    client
        .batch_execute(&format!(
            "begin; set local statement_timeout = {timeout}; set local lock_timeout = '5s'"
        ))
        .await
        .map_err(|error| sql(&error))?;
    let masked = mask::make_views(client).await.map_err(|error| sql(&error))?;
    // The schema of the tables is left out: a name means a view, or what is PostgreSQL's own.
    client.batch_execute("set local search_path = pg_catalog, pg_temp").await.map_err(|error| sql(&error))?;
    // Read, not run; and read alone: whoever wants to smuggle a second statement in fails here.
    let prepared = client.prepare(statement).await.map_err(|error| sql(&error))?;
    if !prepared.params().is_empty() {
        return Err(refused("The statement has parameters, and there is nothing to give it for them"));
    }
    let columns: Vec<String> = prepared.columns().iter().map(|column| column.name().to_owned()).collect();
    if columns.is_empty() {
        return Err(refused("The statement has no columns"));
    }
    if order.is_some_and(|order| order.column >= columns.len()) {
        return Err(refused("There is no such column to put rows in order by"));
    }
    let names: Vec<String> = (0..columns.len()).map(|at| format!("c{at}")).collect();
    let view = format!("create temporary view {INSPECTED} ({}) as {statement}", names.join(", "));
    client.execute(&view, &[]).await.map_err(|error| sql(&error))?;
    tree::check(client, INSPECTED, &masked).await?;
    client.batch_execute("set transaction read only").await.map_err(|error| sql(&error))?;
    let rows = client.query(&question(&names, order), &[]).await.map_err(|error| sql(&error))?;
    let hidden: Vec<bool> = prepared.columns().iter().map(mask::is_secret_output).collect();
    let more = rows.len() > ROWS;
    let rows = rows.iter().take(ROWS).map(|row| values(row, &hidden)).collect::<Result<_, _>>();
    Ok(Inspected { columns, rows: rows.map_err(|error| sql(&error))?, more })
}

fn question(names: &[String], order: Option<Order>) -> String {
    let values: Vec<String> =
        names.iter().map(|name| format!("pg_catalog.left({name}::text, {MAX_VALUE})")).collect();
    let order = order.map(|order| {
        format!(" order by c{}{} nulls last", order.column, if order.descending { " desc" } else { "" })
    });
    let limit = ROWS + 1;
    format!("select {} from {INSPECTED}{} limit {limit}", values.join(", "), order.unwrap_or_default())
}

fn values(row: &Row, hidden: &[bool]) -> Result<Vec<Option<String>>, tokio_postgres::Error> {
    let value = |(at, hidden): (usize, &bool)| {
        let value: Option<String> = row.try_get(at)?;
        Ok(value.map(|value| if *hidden { mask::MASK.to_owned() } else { value }))
    };
    hidden.iter().enumerate().map(value).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_questions() {
        assert_eq!(checked(" select 1 ; ").unwrap(), "select 1");
        assert_eq!(checked("WITH a AS (select 1) table a ;;").unwrap(), "WITH a AS (select 1) table a");
        let long = format!("select '{}'", "x".repeat(MAX_STATEMENT));
        for bad in [
            "",
            ";",
            "delete from tenants",
            "selection",
            "explain select 1",
            "(select 1)",
            "/**/ select 1",
            &long,
            "select '\0'",
        ] {
            assert!(checked(bad).is_err(), "{bad}");
        }
    }
}
