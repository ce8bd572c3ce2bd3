//! Who sees a row: row-level security, asked of the database itself (postgres_changes 3).
//!
//! All groups of role and claims are asked for all rows in one round trip. Each group is asked in a subtransaction
//! of its own, as its role and with its claims, so that a policy that raises fails nobody else; the transaction is
//! read only and rolled back, so that nothing of a group stays on the session. One statement per group, never one
//! for several: PostgreSQL evaluates `(select auth.uid())` once per statement, and the second group would see with
//! the eyes of the first.

use std::{collections::HashMap, sync::Arc, time::Duration};

use realtime_changes::{Change, Party, Table};
use realtime_pgoutput::{Oid, message::Value};
use serde_json::json;
use tokio::time::Instant;
use tokio_postgres::{
    Client,
    error::SqlState,
    types::{ToSql, Type},
};

use crate::sqlstate;

/// How long the policies of all groups may take together for some rows; then each group is asked alone.
const TOGETHER: Duration = Duration::from_secs(2);

/// How long the policies of one group may take when it is asked alone.
const ALONE: Duration = Duration::from_millis(500);

/// How long a group whose policies took too long is not asked, and how long one that failed is not told again.
const BARRED: Duration = Duration::from_secs(30);

/// Groups that failed on several rows and are asked again for each row, at most: it may be one row's fault.
const ASK_BY_ROW: usize = 4;

/// What a group sees.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// For each row, whether it is there for the group.
    Rows(Vec<bool>),
    /// The policies could not be evaluated.
    Failed(Failure),
}

/// Why policies could not be evaluated.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Failure {
    /// The database's words.
    pub(crate) error: String,
    /// Whether they took too long.
    pub(crate) slow: bool,
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

/// What each group sees of the rows with these keys, in the order of the groups.
///
/// # Errors
/// When the database cannot be asked at all.
pub(crate) async fn check(
    client: &Client,
    table: &Table,
    keys: &[Vec<String>],
    parties: &[Arc<Party>],
) -> Result<Vec<Verdict>, tokio_postgres::Error> {
    let question = question(table);
    let mut verdicts = match ask(client, &question, keys, parties, TOGETHER).await {
        Ok(verdicts) => verdicts,
        Err(error) if error.as_db_error().is_none() => return Err(error),
        // One of them held up all.
        Err(_) => {
            let mut verdicts = Vec::with_capacity(parties.len());
            for party in parties {
                verdicts.push(ask_alone(client, &question, keys, party).await?);
            }
            verdicts
        }
    };
    let raising = |verdict: &Verdict| matches!(verdict, Verdict::Failed(failure) if !failure.slow);
    if keys.len() > 1 && verdicts.iter().filter(|verdict| raising(verdict)).count() <= ASK_BY_ROW {
        for (party, verdict) in parties.iter().zip(&mut verdicts).filter(|(_, verdict)| raising(verdict)) {
            *verdict = ask_by_row(client, &question, keys, party).await?;
        }
    }
    Ok(verdicts)
}

/// Asks for one group, so that only it can be held up.
async fn ask_alone(
    client: &Client,
    question: &str,
    keys: &[Vec<String>],
    party: &Arc<Party>,
) -> Result<Verdict, tokio_postgres::Error> {
    match ask(client, question, keys, std::slice::from_ref(party), ALONE).await {
        Ok(mut verdicts) => Ok(verdicts.pop().unwrap_or(Verdict::Rows(Vec::new()))),
        Err(error) => match error.as_db_error() {
            Some(db) => {
                let slow = *db.code() == SqlState::QUERY_CANCELED;
                Ok(Verdict::Failed(Failure { error: sqlstate::render(db), slow }))
            }
            None => Err(error),
        },
    }
}

/// Asks for one group row by row. It has failed only if it fails on every row.
async fn ask_by_row(
    client: &Client,
    question: &str,
    keys: &[Vec<String>],
    party: &Arc<Party>,
) -> Result<Verdict, tokio_postgres::Error> {
    let (mut seen, mut failure, mut failures) = (Vec::with_capacity(keys.len()), None, 0);
    for key in keys {
        match ask_alone(client, question, std::slice::from_ref(key), party).await? {
            Verdict::Rows(row) => seen.push(row.contains(&true)),
            Verdict::Failed(failed) => {
                seen.push(false);
                failures += 1;
                failure = Some(failed);
            }
        }
    }
    Ok(match failure {
        Some(failure) if failures == keys.len() => Verdict::Failed(failure),
        _ => Verdict::Rows(seen),
    })
}

/// Asks for some groups. The five statements travel together; whatever becomes of one, the last ends the
/// transaction.
async fn ask(
    client: &Client,
    question: &str,
    keys: &[Vec<String>],
    parties: &[Arc<Party>],
    limit: Duration,
) -> Result<Vec<Verdict>, tokio_postgres::Error> {
    let parties_json: Vec<_> =
        parties.iter().map(|party| json!({"role": party.role, "claims": &*party.claims})).collect();
    let input = json!({"keys": keys, "parties": parties_json}).to_string();
    let limit = limit.as_millis().to_string();
    let parameters: [(&(dyn ToSql + Sync), Type); 2] = [(&input, Type::TEXT), (&limit, Type::TEXT)];
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
    // An answer that is missing hides the rows.
    let verdict = |at: usize| match verdicts.get(at).map(|verdict| verdict.strip_prefix('=').ok_or(verdict)) {
        Some(Ok(rows)) => Verdict::Rows(rows.bytes().map(|row| row == b'1').collect()),
        Some(Err(error)) => Verdict::Failed(Failure { error: error.clone(), slow: false }),
        None => Verdict::Rows(Vec::new()),
    };
    Ok((0..parties.len()).map(verdict).collect())
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
            Some(format!("t.{} = (k.value ->> {at})::{}", quoted(&column.name), column.cast_type))
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
    verdict text;
    verdicts text[] := '{{}}';
begin
    for party in select value from jsonb_array_elements(job -> 'parties') with ordinality order by ordinality loop
        begin
            perform set_config('request.jwt.claims', party ->> 'claims', true);
            perform set_config('role', party ->> 'role', true);
            select '=' || string_agg(
                    case when exists (select from {relation} t where {conditions}) then '1' else '0' end,
                    '' order by k.ordinality)
                into verdict
                from jsonb_array_elements(job -> 'keys') with ordinality k;
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
pub(crate) struct Troubled(HashMap<(Oid, Arc<Party>), Trouble>);

#[derive(Debug)]
struct Trouble {
    until: Instant,
    barred: bool,
}

impl Troubled {
    /// Whether a group is not to be asked, because its policies took too long.
    pub(crate) fn is_barred(&self, oid: Oid, party: &Arc<Party>) -> bool {
        !self.0.is_empty()
            && self
                .0
                .get(&(oid, Arc::clone(party)))
                .is_some_and(|trouble| trouble.barred && trouble.until > Instant::now())
    }

    /// Notes a failure; whether the group's channels are to be told.
    pub(crate) fn note(&mut self, oid: Oid, party: &Arc<Party>, slow: bool) -> bool {
        let now = Instant::now();
        self.0.retain(|_, trouble| trouble.until > now);
        let key = (oid, Arc::clone(party));
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
