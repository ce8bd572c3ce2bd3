//! Literals of filters, checked and brought into canonical form by the database (postgres_changes 1.6, 1.7).

use realtime_changes::{LiteralCheck, LiteralKind};
use tokio_postgres::{Client, types::Type};

use crate::sqlstate;

/// A literal that was refused, or a database that could not be asked.
#[derive(Debug)]
pub(crate) enum Refused {
    /// The error as clients see it.
    Literal(String),
    /// The database could not be asked.
    Unavailable(tokio_postgres::Error),
}

/// Checks that a literal can be cast and compared as the filter wants; gives its canonical text.
pub(crate) async fn canonical(client: &Client, check: &LiteralCheck<'_>) -> Result<String, Refused> {
    let LiteralCheck { cast_type: t, operator: op, literal, kind } = check;
    // The comparison with NULL only makes the server look the operator up.
    let sql = match kind {
        LiteralKind::Scalar => format!("select $1::text::{t}::text, null::{t} {op} $1::text::{t}"),
        LiteralKind::Array => format!("select $1::text::{t}[]::text, null::{t} {op} ($1::text::{t}[])"),
        LiteralKind::Regex => format!("select $1::text, ''::text::{t} {op} $1::text::{t}"),
    };
    let rows = client.query_typed(&sql, &[(literal, Type::TEXT)]).await;
    match rows {
        Ok(rows) => match rows.first().map(|row| row.try_get::<_, String>(0)) {
            Some(Ok(text)) => Ok(text),
            Some(Err(error)) => Err(Refused::Unavailable(error)),
            None => Ok((*literal).to_owned()),
        },
        Err(error) => match error.as_db_error() {
            Some(db) if *kind == LiteralKind::Regex && db.code().code() == "2201B" => {
                let filter = if *op == "~" { "match" } else { "imatch" };
                let text = format!("invalid regular expression for {filter} filter: {}", db.message());
                Err(Refused::Literal(format!("ERROR P0001 (raise_exception) {text}")))
            }
            Some(db) => Err(Refused::Literal(sqlstate::render(db))),
            None => Err(Refused::Unavailable(error)),
        },
    }
}
