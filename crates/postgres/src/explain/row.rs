//! The row that is asked about.

use std::time::Duration;

use deadpool_postgres::{ClientWrapper as Client, Pool};
use realtime_changes::{RoleAccess, Table};
use realtime_doctor::explain::RowSeen;
use realtime_pgoutput::{
    Oid,
    message::{Tuple, Value},
    oid,
};
use tokio_postgres::{Error, types::ToSql};

use super::request::ExplainRequest;
use crate::{
    foreign::{self, NoAnswer},
    quote::quoted,
};

/// How long a question about the row may take.
pub(super) const LIMIT: Duration = Duration::from_secs(5);

/// A role that usually sees all rows.
const SEES_ALL: &str = "service_role";

/// Who reads the row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reader {
    /// The role of the token, with its claims.
    Token,
    /// A role that sees all rows.
    SeesAll,
    /// Our own role, to which row-level security does not apply.
    Own,
}

const READERS: &str = "select coalesce((select (r.rolbypassrls or r.rolsuper)
                and pg_catalog.pg_has_role(current_user, r.oid, 'MEMBER')
                and pg_catalog.has_schema_privilege(r.oid, c.relnamespace, 'USAGE')
                and pg_catalog.has_table_privilege(r.oid, c.oid, 'SELECT')
            from pg_catalog.pg_roles r where r.rolname = $2), false),
        pg_catalog.has_schema_privilege(c.relnamespace, 'USAGE')
            and pg_catalog.has_table_privilege(c.oid, 'SELECT') and not pg_catalog.row_security_active(c.oid)
    from pg_catalog.pg_class c where c.oid = $1 and c.relkind in ('r', 'p')";

impl Reader {
    /// Somebody who sees the row in any case, if an operator asks and there is one. Views run code of applications.
    pub(super) async fn choose(
        client: &Client,
        oid: Oid,
        table: &Table,
        request: &ExplainRequest,
    ) -> Result<Self, Error> {
        let runs_code = table.columns.iter().any(|column| column.comparison.runs_code);
        if !request.operator || runs_code {
            return Ok(Self::Token);
        }
        let Some(row) = client.query_opt(READERS, &[&oid, &SEES_ALL]).await? else { return Ok(Self::Token) };
        Ok(match (row.try_get(0)?, row.try_get(1)?) {
            (true, _) => Self::SeesAll,
            // Types of applications may bring code that turns them into JSON.
            (_, true) if table.columns.iter().all(|column| column.type_oid < oid::FIRST_NORMAL) => Self::Own,
            _ => Self::Token,
        })
    }
}

/// The row, as far as it was found.
pub(super) struct Found {
    pub(super) row: RowSeen,
    /// Its values by column, as the log has them.
    pub(super) values: Option<Tuple>,
    /// All of it as JSON, if its reader may read all.
    pub(super) image: Option<String>,
}

/// Looks for the row, and whether the token sees it.
pub(super) async fn find(
    pool: &Pool,
    (table, access): (&Table, &RoleAccess),
    request: &ExplainRequest,
    reader: Reader,
) -> Found {
    let unreadable = |why: String| Found { row: RowSeen::Unreadable(why), values: None, image: None };
    // A client does not learn that there is a column which it may not read.
    let is_known = |name: &str| request.operator || may_read(table, access, name);
    let known = request.key.iter().all(|(name, _)| is_known(name));
    let Some(condition) = condition(table, &request.key).filter(|_| known) else {
        return unreadable("the key names a column that the table does not have".to_owned());
    };
    let by_token = match access.selectable.contains(&true) {
        true => ask(pool, table, request, Reader::Token, &condition).await,
        false => Ok(None),
    };
    if reader == Reader::Token {
        return match by_token {
            Ok(Some((values, image))) => {
                Found { row: RowSeen::Seen, values: Some(values), image: request.operator.then_some(image) }
            }
            Ok(None) => Found { row: RowSeen::NoneSeen, values: None, image: None },
            Err(error) => unreadable(told(&error, request)),
        };
    }
    match (ask(pool, table, request, reader, &condition).await, by_token) {
        (Ok(Some((values, image))), by_token) => {
            let row = if matches!(by_token, Ok(Some(_))) { RowSeen::Seen } else { RowSeen::Hidden };
            Found { row, values: Some(values), image: Some(image) }
        }
        (Ok(None), _) => Found { row: RowSeen::Missing, values: None, image: None },
        (Err(error), _) => unreadable(told(&error, request)),
    }
}

/// Whether there is such a column, and the role may read it.
pub(super) fn may_read(table: &Table, access: &RoleAccess, column: &str) -> bool {
    table.column(column).is_some_and(|at| access.selectable.get(at) == Some(&true))
}

/// What is told of an error: its text may quote a row.
pub(super) fn told(error: &NoAnswer, request: &ExplainRequest) -> String {
    match error {
        NoAnswer::Query(query) if request.operator => query
            .as_db_error()
            .map_or_else(|| error.brief(), |error| format!("{} {}", error.code().code(), error.message())),
        _ => error.brief(),
    }
}

/// The condition that names the row. `None`: it names a column that there is not.
fn condition(table: &Table, key: &[(String, String)]) -> Option<String> {
    let mut parts = Vec::with_capacity(key.len());
    for (at, (name, _)) in key.iter().enumerate() {
        let column = table.columns.get(table.column(name)?)?;
        let comparison = &column.comparison;
        let equal = comparison.operator("=")?;
        let (name, type_name) = (quoted(&column.name), &comparison.type_name);
        parts.push(format!("t.{name}::{type_name} {equal} ${}::pg_catalog.text::{type_name}", at + 1));
    }
    Some(parts.join(" and "))
}

/// The values of the row and the row as JSON, for a reader. A reader that may not read all columns reads those that it may.
async fn ask(
    pool: &Pool,
    table: &Table,
    request: &ExplainRequest,
    reader: Reader,
    condition: &str,
) -> Result<Option<(Tuple, String)>, NoAnswer> {
    let parameters: Vec<&(dyn ToSql + Sync)> =
        request.key.iter().map(|(_, value)| value as &(dyn ToSql + Sync)).collect();
    let place = format!("{}.{}", quoted(&table.schema), quoted(&table.name));
    let may = |name: &str| match reader {
        Reader::Token => format!(
            "pg_catalog.has_column_privilege('{}', '{}', 'SELECT')",
            place.replace('\'', "''"),
            name.replace('\'', "''")
        ),
        Reader::SeesAll | Reader::Own => "true".to_owned(),
    };
    let role = match reader {
        Reader::Token => Some(&*request.role),
        Reader::SeesAll => Some(SEES_ALL),
        Reader::Own => None,
    };
    // A statement that names a column which may not be read fails as a whole: so first which ones may be.
    let mut readable = vec![true; table.columns.len()];
    if reader == Reader::Token {
        let list: Vec<String> = table.columns.iter().map(|column| may(&column.name)).collect();
        let sql = format!("select array[{}]::pg_catalog.bool[]", list.join(", "));
        let rows = foreign::ask_for(pool, role, &request.claims, LIMIT, &sql, &[]).await?;
        if let Some(row) = rows.first() {
            readable = row.try_get(0)?;
        }
    }
    let columns = table.columns.iter().zip(&readable);
    let value = |(column, readable): (&realtime_changes::Column, &bool)| {
        let name = quoted(&column.name);
        match readable {
            // As the type's output function writes it.
            true => format!("case when t.{name} is not null then pg_catalog.format('%s', t.{name}) end"),
            false => "null".to_owned(),
        }
    };
    let values: Vec<String> = columns.map(value).collect();
    let image = if readable.contains(&false) { "''" } else { "pg_catalog.to_jsonb(t)::pg_catalog.text" };
    let sql = format!(
        "select array[{}]::pg_catalog.text[], {image} from {place} as t where {condition} limit 1",
        values.join(", ")
    );
    let rows = foreign::ask_for(pool, role, &request.claims, LIMIT, &sql, &parameters).await?;
    let Some(row) = rows.first() else { return Ok(None) };
    let texts: Vec<Option<String>> = row.try_get(0)?;
    let value = |text: Option<String>| text.map_or(Value::Null, |text| Value::Text(text.into_bytes().into()));
    Ok(Some((texts.into_iter().map(value).collect(), row.try_get(1)?)))
}
