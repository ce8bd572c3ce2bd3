//! Literals of filters, checked and brought into canonical form by the database (postgres_changes 1.6, 1.7).
//!
//! All are checked by one statement. Nothing that an application has made is found by its names; where a cast runs code of
//! an application all the same, the check of a domain, it does so under the role of the token.

use std::time::Duration;

use realtime_changes::{Form, LiteralCheck};
use tokio_postgres::{Client, Error, types::ToSql};

use crate::{foreign, sqlstate};

/// How long the literals of a request may take together: a regular expression can take long to compile.
const LIMIT: Duration = Duration::from_secs(1);

/// A literal that was refused, or a database that could not be asked.
#[derive(Debug)]
pub(crate) enum Refused {
    /// The error as clients see it, and which literal it is about.
    Literal(usize, String),
    /// The database could not be asked.
    Unavailable(Error),
}

/// Checks that literals can be cast and compared as filters want; gives their canonical texts, in their order. The first
/// that is refused counts.
pub(crate) async fn canonical(
    client: &Client,
    role: &str,
    checks: &[LiteralCheck<'_>],
) -> Result<Vec<String>, Refused> {
    if checks.is_empty() {
        return Ok(Vec::new());
    }
    let mut error = match ask(client, role, checks).await {
        Ok(texts) => return Ok(texts),
        Err(error) => error,
    };
    // The first `good` are good, one of the first `bad` is not.
    let (mut good, mut bad) = (0, checks.len());
    while bad - good > 1 && error.as_db_error().is_some() {
        let middle = good.midpoint(bad);
        match ask(client, role, checks.get(good..middle).unwrap_or_default()).await {
            Ok(_) => good = middle,
            Err(earlier) => (bad, error) = (middle, earlier),
        }
    }
    let Some(db) = error.as_db_error() else { return Err(Refused::Unavailable(error)) };
    let told = sqlstate::told(db);
    let text = match checks.get(good) {
        Some(check) if check.form == Form::Regex && db.code().code() == "2201B" => {
            format!(
                "ERROR P0001 (raise_exception) invalid regular expression for {} filter: {told}",
                check.name
            )
        }
        _ => told,
    };
    Err(Refused::Literal(good, text))
}

async fn ask(client: &Client, role: &str, checks: &[LiteralCheck<'_>]) -> Result<Vec<String>, Error> {
    let role = checks.iter().any(|check| check.runs_code).then_some(role);
    let literals: Vec<&(dyn ToSql + Sync)> = checks.iter().map(|check| &check.literal as _).collect();
    let rows = foreign::ask(client, role, LIMIT, &statement(checks), &literals).await?;
    match rows.first() {
        Some(row) => row.try_get(0),
        None => Ok(Vec::new()),
    }
}

/// One statement for all: the canonical texts, and what makes the server look the operators up.
fn statement(checks: &[LiteralCheck<'_>]) -> String {
    let (mut texts, mut probes) = (String::new(), String::new());
    for (at, check) in checks.iter().enumerate() {
        let LiteralCheck { cast_type: t, operator: op, form, .. } = check;
        let comma = if at > 0 { "," } else { "" };
        let literal = format!("${}::pg_catalog.text", at + 1);
        // The comparison with NULL is looked up, not made. A regular expression has to be compiled.
        let (text, probe) = match form {
            Form::Scalar | Form::Distinct => {
                (format!("{literal}::{t}::pg_catalog.text"), format!("null::{t} {op} {literal}::{t}"))
            }
            Form::Array => (
                format!("{literal}::{t}[]::pg_catalog.text"),
                format!("null::{t} {op} any ({literal}::{t}[])"),
            ),
            Form::Regex => (literal.clone(), format!("''::pg_catalog.text::{t} {op} {literal}::{t}")),
        };
        texts.push_str(&format!("{comma}{text}"));
        probes.push_str(&format!("{comma}{probe}"));
    }
    format!("select array[{texts}]::pg_catalog.text[], array[{probes}]::pg_catalog.bool[]")
}
