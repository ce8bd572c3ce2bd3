//! Literals of filters, checked and brought into canonical form by the database (postgres_changes 1.6, 1.7).
//!
//! All are checked by one statement. Nothing that an application has made is found by its names; where a cast runs code of
//! an application all the same, the check of a domain, it does so under the role of the token.

use std::time::Duration;

use deadpool_postgres::Pool;
use realtime_changes::{Form, LiteralCheck};
use tokio_postgres::types::ToSql;

use crate::{
    foreign::{self, NoAnswer},
    questions, sqlstate,
};

/// How long the literals of a request may take together: a regular expression can take long to compile.
const LIMIT: Duration = Duration::from_secs(1);

/// A literal that was refused, or a database that could not be asked.
#[derive(Debug)]
pub(crate) enum Refused {
    /// The error as clients see it, and which literal it is about.
    Literal(usize, String),
    /// The database could not be asked.
    Unavailable(NoAnswer),
}

/// Checks that literals can be cast and compared as filters want; gives their canonical texts, in their order. The first
/// that is refused counts.
pub(crate) async fn canonical(
    pool: &Pool,
    role: &str,
    checks: &[LiteralCheck<'_>],
) -> Result<Vec<String>, Refused> {
    if checks.is_empty() {
        return Ok(Vec::new());
    }
    let mut error = match ask(pool, role, checks).await {
        Ok(texts) => return Ok(texts),
        Err(error) => error,
    };
    // The first `good` are good, one of the first `bad` is not.
    let (mut good, mut bad) = (0, checks.len());
    while bad - good > 1 && is_about_a_literal(&error) {
        let middle = good.midpoint(bad);
        match ask(pool, role, checks.get(good..middle).unwrap_or_default()).await {
            Ok(_) => good = middle,
            Err(earlier) => (bad, error) = (middle, earlier),
        }
    }
    let told = match error {
        // This took long already; do not ask again which literal it was.
        NoAnswer::Silent => {
            good = checks.iter().position(|check| check.runs_code).unwrap_or(good);
            error.told()
        }
        // The server goes down or is out of something: that is no literal's fault.
        error @ NoAnswer::Query(_) if !questions::is_about_the_question(&error) => {
            return Err(Refused::Unavailable(error));
        }
        NoAnswer::Query(error) if error.as_db_error().is_some() => refusal(&error, checks.get(good)),
        error => return Err(Refused::Unavailable(error)),
    };
    Err(Refused::Literal(good, told))
}

fn is_about_a_literal(error: &NoAnswer) -> bool {
    matches!(error, NoAnswer::Query(error) if error.as_db_error().is_some())
}

/// What is told of a literal that the database refuses.
fn refusal(error: &tokio_postgres::Error, check: Option<&LiteralCheck<'_>>) -> String {
    let told = sqlstate::told_of(error);
    match check {
        Some(check)
            if check.form == Form::Regex
                && error.code() == Some(&tokio_postgres::error::SqlState::INVALID_REGULAR_EXPRESSION) =>
        {
            format!(
                "ERROR P0001 (raise_exception) invalid regular expression for {} filter: {told}",
                check.name
            )
        }
        _ => told,
    }
}

async fn ask(pool: &Pool, role: &str, checks: &[LiteralCheck<'_>]) -> Result<Vec<String>, NoAnswer> {
    let role = checks.iter().any(|check| check.runs_code).then_some(role);
    let literals: Vec<&(dyn ToSql + Sync)> = checks.iter().map(|check| &check.literal as _).collect();
    let rows = foreign::ask(pool, role, LIMIT, &statement(checks), &literals).await?;
    match rows.first() {
        Some(row) => Ok(row.try_get(0)?),
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
