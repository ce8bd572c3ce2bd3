//! Asks parties by a block of SQL. The statements of its transaction travel together.

use std::time::Duration;

use realtime_changes::Party;
use realtime_pgoutput::Oid;
use serde::Serialize;
use tokio_postgres::{
    Error,
    types::{ToSql, Type},
};

use super::{policies, snapshot::Snapshot};
use crate::{
    claims,
    foreign::{Guest, session_columns},
};

/// Begins a transaction that sees one snapshot.
const BEGIN: &str = "begin isolation level repeatable read read only; set local search_path to default";

/// The snapshot, and the settings of a question.
const SETTINGS: &str = concat!(
    "select pg_catalog.pg_current_snapshot()::pg_catalog.text, pg_catalog.set_config('realtime.check', $1, true),
        pg_catalog.set_config('statement_timeout', $2, true), pg_catalog.set_config('lock_timeout', $3, true),
        pg_catalog.set_config('plan_cache_mode', $4, true), pg_catalog.set_config('jit', 'off', true),
        pg_catalog.set_config('role', $5, true), ",
    session_columns!()
);

/// What the block leaves.
const FOUND: &str = "select pg_catalog.current_setting('realtime.verdicts', true)";

/// A party in the setting that a block reads.
#[derive(Debug, Serialize)]
pub(super) struct JobParty<'a> {
    role: &'a str,
    claims: &'a str,
    sub: Option<String>,
    /// Numbers of images, as PostgreSQL writes an array; left out for all.
    #[serde(skip_serializing_if = "Option::is_none")]
    rows: Option<String>,
}

impl<'a> JobParty<'a> {
    pub(super) fn new(party: &'a Party, rows: Option<Vec<u32>>) -> Self {
        let rows = rows.map(|rows| {
            let rows: Vec<String> = rows.iter().map(u32::to_string).collect();
            format!("{{{}}}", rows.join(","))
        });
        Self { role: &party.role, claims: &party.claims, sub: claims::subject(&party.claims), rows }
    }
}

/// A block of SQL that asks for parties of one role.
#[derive(Debug, Clone, Copy)]
pub(super) struct Block<'a> {
    pub(super) sql: &'a str,
    /// The parties, and what else it reads, as JSON.
    pub(super) job: &'a str,
    pub(super) role: &'a str,
    /// Whether a plan may serve several parties.
    pub(super) shares_plans: bool,
    pub(super) limit: Duration,
}

/// What a block has left.
#[derive(Debug, Default)]
pub(super) struct Left {
    /// What it has seen.
    pub(super) snapshot: Snapshot,
    pub(super) found: Option<String>,
}

impl Block<'_> {
    /// Runs the block; whatever becomes of one statement, the last ends the transaction. `known`: a table, and what tells
    /// the state of its policies that the block was made for. `None`: they are in another one.
    pub(super) async fn run(&self, guest: &Guest, known: Option<(Oid, &str)>) -> Result<Option<Left>, Error> {
        // Waiting for a lock does not count as slow: this limit is reached first.
        let locks = (self.limit / 2).as_millis().to_string();
        let limit = self.limit.as_millis().to_string();
        let plans = if self.shares_plans { "force_generic_plan" } else { "force_custom_plan" };
        let settings: [(&(dyn ToSql + Sync), Type); 5] = [
            (&self.job, Type::TEXT),
            (&limit, Type::TEXT),
            (&locks, Type::TEXT),
            (&plans, Type::TEXT),
            (&self.role, Type::TEXT),
        ];
        let fingerprint = match known {
            Some((table, text)) => {
                let statement = guest.prepared(policies::FINGERPRINT, &[Type::OID]).await?;
                Some((statement, table, text))
            }
            None => None,
        };
        guest.enter();
        let (begun, given, is_known, asked, found, left) = tokio::join!(
            biased;
            guest.batch_execute(BEGIN),
            async {
                let rows = guest.query_typed(SETTINGS, &settings).await?;
                guest.begun(&rows)?;
                Ok::<_, Error>(rows)
            },
            async {
                let Some((statement, table, text)) = &fingerprint else { return Ok(true) };
                let row = guest.query_one(statement, &[table]).await?;
                Ok::<_, Error>(row.try_get::<_, String>(0)? == *text)
            },
            guest.batch_execute(self.sql),
            guest.query_typed(FOUND, &[]),
            guest.leave(),
        );
        begun?;
        let given = given?;
        if !is_known? {
            return Ok(None);
        }
        asked?;
        let found = found?;
        left?;
        let snapshot: Option<String> = given.first().map(|row| row.try_get(0)).transpose()?;
        let snapshot = snapshot.and_then(|text| Snapshot::parse(&text)).unwrap_or_default();
        let found = found.first().map(|row| row.try_get(0)).transpose()?.flatten();
        Ok(Some(Left { snapshot, found }))
    }
}
