//! Who sees a row: row-level security, asked of the database itself (postgres_changes 3).
//!
//! All groups of role and claims are asked in one round trip. Each is asked in a subtransaction of its own, as its
//! role and with its claims, so that a policy that raises fails nobody else; the transaction is read only and
//! rolled back, so that nothing of a group stays on the session. One statement per group, never one for several:
//! PostgreSQL evaluates `(select auth.uid())` once per statement, and the second group would see with the eyes of
//! the first.

use std::{collections::HashMap, sync::Arc, time::Duration};

use deadpool_postgres::Object;
use realtime_changes::{Change, Guarded, Table};
use realtime_pgoutput::{Oid, message::Value};
use serde_json::json;
use tokio::time::Instant;
use tokio_postgres::{error::SqlState, types::Type};

use crate::sqlstate;

/// How long the policies of all groups may take together for one row; then each group is asked alone.
const TOGETHER: Duration = Duration::from_secs(2);

/// How long the policies of one group may take when it is asked alone.
const ALONE: Duration = Duration::from_millis(500);

/// How long a group whose policies took too long is not asked, and how long one that failed is not told again.
const BARRED: Duration = Duration::from_secs(30);

/// What a group sees.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// The row is there for it.
    Seen,
    /// It is not.
    Hidden,
    /// The policies could not be evaluated.
    Failed {
        /// The database's words.
        error: String,
        /// Whether they took too long.
        slow: bool,
    },
}

/// The texts of a new row's primary key. `None` if the change does not carry it.
pub(crate) fn key(table: &Table, change: &Change<'_>) -> Option<Vec<String>> {
    let new = change.new?;
    let text = |column: &usize| {
        let name = &table.columns.get(*column)?.name;
        let at = change.relation.columns.iter().position(|column| column.name == *name)?;
        match new.get(at)? {
            Value::Text(text) => std::str::from_utf8(text).ok().map(str::to_owned),
            _ => None,
        }
    };
    table.primary_key.iter().map(text).collect()
}

/// What each group sees of the row with this key, in the order of the groups.
///
/// # Errors
/// When the database cannot be asked at all.
pub(crate) async fn check(
    client: Object,
    table: &Table,
    key: &[String],
    groups: &[Guarded],
) -> Result<Vec<Verdict>, tokio_postgres::Error> {
    let question = question(table);
    match ask(&client, &question, key, groups, TOGETHER).await {
        Ok(verdicts) => Ok(verdicts),
        Err(error) if error.as_db_error().is_none() => Err(error),
        // One of them held up all.
        Err(_) => {
            let mut verdicts = Vec::with_capacity(groups.len());
            for group in groups {
                verdicts.push(match ask(&client, &question, key, std::slice::from_ref(group), ALONE).await {
                    Ok(mut verdict) => verdict.pop().unwrap_or(Verdict::Hidden),
                    Err(error) => match error.as_db_error() {
                        Some(db) => Verdict::Failed {
                            error: sqlstate::render(db),
                            slow: *db.code() == SqlState::QUERY_CANCELED,
                        },
                        None => return Err(error),
                    },
                });
            }
            Ok(verdicts)
        }
    }
}

/// Asks for some groups. The five statements travel together; whatever becomes of one, the last ends the
/// transaction.
async fn ask(
    client: &Object,
    question: &str,
    key: &[String],
    groups: &[Guarded],
    limit: Duration,
) -> Result<Vec<Verdict>, tokio_postgres::Error> {
    let groups_json: Vec<_> =
        groups.iter().map(|group| json!({"role": group.role, "claims": &*group.claims})).collect();
    let input = json!({"key": key, "groups": groups_json}).to_string();
    let limit = limit.as_millis().to_string();
    let parameters: [(&(dyn tokio_postgres::types::ToSql + Sync), Type); 2] =
        [(&input, Type::TEXT), (&limit, Type::TEXT)];
    let (begun, given, asked, answer, ended) = tokio::join!(
        biased;
        client.batch_execute("begin read only"),
        client.query_typed(
            "select set_config('realtime.check', $1, true), set_config('statement_timeout', $2, true)",
            &parameters,
        ),
        client.batch_execute(question),
        client.query_typed("select current_setting('realtime.verdicts', true)", &[]),
        client.batch_execute("rollback"),
    );
    begun?;
    given?;
    asked?;
    ended?;
    let verdicts: Option<String> = match answer?.first() {
        Some(row) => row.try_get(0)?,
        None => None,
    };
    let verdicts: Vec<String> = serde_json::from_str(&verdicts.unwrap_or_default()).unwrap_or_default();
    // An answer that is missing hides the row.
    let verdict = |at: usize| match verdicts.get(at).map(String::as_str) {
        Some("seen") => Verdict::Seen,
        Some("hidden") | None => Verdict::Hidden,
        Some(error) => Verdict::Failed { error: error.to_owned(), slow: false },
    };
    Ok((0..groups.len()).map(verdict).collect())
}

/// The block that asks for every group of the setting `realtime.check` and leaves what it found in
/// `realtime.verdicts`.
fn question(table: &Table) -> String {
    let conditions: Vec<String> = table
        .primary_key
        .iter()
        .enumerate()
        .filter_map(|(at, column)| {
            let column = table.columns.get(*column)?;
            Some(format!("t.{} = (job #>> '{{key,{at}}}')::{}", quoted(&column.name), column.cast_type))
        })
        .collect();
    // Without a key there is no row to look for.
    let conditions = if conditions.is_empty() { "false".to_owned() } else { conditions.join(" and ") };
    let relation = format!("{}.{}", quoted(&table.schema), quoted(&table.name));
    let body = format!(
        "
declare
    job jsonb := current_setting('realtime.check')::jsonb;
    party jsonb;
    seen boolean;
    verdict text;
    verdicts text[] := '{{}}';
begin
    for party in select value from jsonb_array_elements(job -> 'groups') with ordinality order by ordinality loop
        begin
            perform set_config('request.jwt.claims', party ->> 'claims', true);
            perform set_config('role', party ->> 'role', true);
            select exists (select from {relation} t where {conditions}) into seen;
            verdict := case when seen then 'seen' else 'hidden' end;
        exception when others then
            verdict := 'ERROR ' || sqlstate || ' ' || sqlerrm;
        end;
        perform set_config('role', 'none', true);
        verdicts := verdicts || verdict;
    end loop;
    perform set_config('realtime.verdicts', to_jsonb(verdicts)::text, true);
end
"
    );
    // Names are anybody's: none may end the quotation.
    let mut tag = String::from("$realtime$");
    while body.contains(&tag) {
        tag.insert(1, '_');
    }
    format!("do {tag}{body}{tag}")
}

/// An identifier, quoted.
fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// Groups whose policies failed a short while ago.
#[derive(Debug, Default)]
pub(crate) struct Troubled(HashMap<(Oid, Box<str>, Arc<str>), Trouble>);

#[derive(Debug)]
struct Trouble {
    until: Instant,
    barred: bool,
}

impl Troubled {
    /// Whether a group is not to be asked, because its policies took too long.
    pub(crate) fn is_barred(&self, oid: Oid, group: &Guarded) -> bool {
        let trouble = self.0.get(&(oid, group.role.clone(), Arc::clone(&group.claims)));
        trouble.is_some_and(|trouble| trouble.barred && trouble.until > Instant::now())
    }

    /// Notes a failure; whether the group's channels are to be told.
    pub(crate) fn note(&mut self, oid: Oid, group: &Guarded, slow: bool) -> bool {
        let now = Instant::now();
        self.0.retain(|_, trouble| trouble.until > now);
        let key = (oid, group.role.clone(), Arc::clone(&group.claims));
        let news = !self.0.contains_key(&key);
        if news || slow {
            self.0.insert(key, Trouble { until: now + BARRED, barred: slow });
        }
        news
    }
}

#[cfg(test)]
mod tests {
    use realtime_pgoutput::message::ReplicaIdentity;

    use super::*;

    #[test]
    fn names_cannot_end_the_quotation() {
        let table = Table {
            oid: 1,
            schema: "a\"b".into(),
            name: "x$realtime$; drop table y".into(),
            columns: Vec::new(),
            primary_key: Vec::new(),
            row_security: true,
            replica_identity: ReplicaIdentity::Default,
        };
        let text = question(&table);
        assert!(text.starts_with("do $_realtime$") && text.ends_with("$_realtime$"));
        assert_eq!(text.matches("$_realtime$").count(), 2);
        assert!(text.contains("\"a\"\"b\".\"x$realtime$; drop table y\""));
        assert!(text.contains("where false"));
    }
}
