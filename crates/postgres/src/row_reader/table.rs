//! Tables whose rows may be wanted.

use std::{
    hash::{DefaultHasher, Hash as _, Hasher as _},
    sync::Arc,
};

use deadpool_postgres::Pool;
use realtime_changes::{Attachment, Change, ChannelId, Engine, RoleAccess, SubscriptionSpec, Table, plan};
use realtime_pgoutput::{
    Oid, TypeRegistry,
    message::{OldTuple, Relation, Tuple, Value},
};

use super::sink::LostRow;
use crate::{
    catalog, pool,
    validate::{self, Refused},
    visibility,
};

/// A table whose rows may be wanted.
#[derive(Debug)]
pub(super) struct Known {
    oid: Oid,
    /// As the walsender described it, if its rows can be handed over.
    relation: Result<Arc<Relation>, LostRow>,
    /// Where its rows have the primary key. `None`: there is none, or the log does not tell its old values.
    key: Option<Vec<usize>>,
}

impl Known {
    pub(super) fn relation(&self) -> Option<&Relation> {
        self.relation.as_deref().ok()
    }

    /// Why its rows cannot be handed over.
    pub(super) fn why_lost(&self) -> LostRow {
        self.relation.as_ref().err().copied().unwrap_or(LostRow::TableGone)
    }

    /// What a change has in common with others of the same row, and with those of the row that it was. All changes of a
    /// table without a key have one thing in common.
    pub(super) fn keys(&self, change: &Change<'_>) -> (u64, Option<u64>) {
        let Some(places) = &self.key else { return (self.digest(std::iter::empty()), None) };
        let old = change.old.map(|(OldTuple::Key(tuple) | OldTuple::Full(tuple))| tuple);
        let digest = |tuple: &Tuple, other: Option<&Tuple>| {
            let value = |place: &usize| match (tuple.get(*place), other.and_then(|other| other.get(*place))) {
                // An update that leaves a large value alone does not repeat it.
                (Some(Value::Unchanged), Some(Value::Text(text)))
                | (Some(Value::Text(text) | Value::Binary(text)), _) => Some(&text[..]),
                _ => None,
            };
            self.digest(places.iter().map(value))
        };
        match (change.new, old) {
            (Some(new), Some(old)) => {
                let (new, old) = (digest(new, Some(old)), digest(old, None));
                (new, Some(old).filter(|old| *old != new))
            }
            (Some(new), None) => (digest(new, None), None),
            (None, Some(old)) => (digest(old, None), None),
            (None, None) => (self.digest(std::iter::empty()), None),
        }
    }

    fn digest<'v>(&self, values: impl Iterator<Item = Option<&'v [u8]>>) -> u64 {
        let mut hasher = DefaultHasher::new();
        self.oid.hash(&mut hasher);
        values.for_each(|value| value.hash(&mut hasher));
        hasher.finish()
    }
}

/// Where the rows of a relation have the primary key, if the log tells every change of it.
fn key(table: &Table, relation: &Relation) -> Option<Vec<usize>> {
    let places: Option<Vec<usize>> = table
        .primary_key
        .iter()
        .map(|column| {
            let name = &table.columns.get(*column)?.name;
            relation.columns.iter().position(|column| column.identity && column.name == *name)
        })
        .collect();
    places.filter(|places| !places.is_empty())
}

/// What is asked to know a table, and what has to know it.
pub(super) struct Catalog<'a> {
    pub(super) pool: &'a Pool,
    pub(super) publication: &'a str,
    pub(super) spec: &'a SubscriptionSpec,
    pub(super) engine: &'a mut Engine,
    pub(super) types: &'a mut TypeRegistry,
}

impl Catalog<'_> {
    /// Asks the catalog for a table and makes the engine know it.
    pub(super) async fn load(mut self, relation: &Arc<Relation>, xid: Option<u32>) -> Result<Known, String> {
        let oid = relation.oid;
        Ok(match self.look(relation, xid).await? {
            Ok(key) => Known { oid, relation: Ok(Arc::clone(relation)), key },
            Err(lost) => {
                self.engine.forget_table(oid);
                Known { oid, relation: Err(lost), key: None }
            }
        })
    }

    /// Where the rows of a table have its key, when the engine knows the table, or why its rows are lost.
    async fn look(
        &mut self,
        relation: &Relation,
        xid: Option<u32>,
    ) -> Result<Result<Option<Vec<usize>>, LostRow>, String> {
        let oid = relation.oid;
        let failed = |error: tokio_postgres::Error| pool::describe(&error);
        let client = pool::get(self.pool).await.map_err(|error| error.to_string())?;
        // The transaction that is being read may have altered the table.
        if let Some(xid) = xid {
            visibility::wait_until_visible(&client, xid).await.map_err(failed)?;
        }
        let collation_is_c = catalog::collation_is_c(&client).await.map_err(failed)?;
        let described = catalog::table(&client, oid, self.publication, self.types).await;
        let Some(mut table) = described.map_err(failed)?.map(|described| described.table) else {
            return Ok(Err(LostRow::TableGone));
        };
        let types = relation.columns.iter().map(|column| column.type_oid);
        catalog::load_types(&client, self.types, types).await.map_err(failed)?;
        drop(client);
        let key = key(&table, relation);
        // The operator's receiver gets whole rows: no policies, and tables without a key too.
        (table.row_security, table.partitioned) = (false, false);
        if table.primary_key.is_empty() {
            table.primary_key = (0..table.columns.len()).collect();
        }
        if table.columns.is_empty() {
            return Ok(Err(LostRow::TableGone));
        }
        let refuse = |error: String| {
            let table = format!("{}.{}", relation.schema, relation.name);
            let text = "the filter cannot be used on a table";
            tracing::warn!(code = "WebhookFilterRefused", table, error, "{text}");
            Ok(Err(LostRow::Filter))
        };
        let selectable = vec![true; table.columns.len()];
        let access = RoleAccess { role: Box::default(), bypasses_rls: true, selectable };
        let plan = match plan(self.spec, &table, &access) {
            Ok(plan) => plan,
            Err(error) => return refuse(error),
        };
        let checks = plan.checks();
        if checks.iter().any(|check| check.runs_code) {
            return refuse("comparing with its literals runs code of the application".to_owned());
        }
        let literals = match validate::canonical(self.pool, "", &checks).await {
            Ok(literals) => literals,
            Err(Refused::Literal(_, error)) => return refuse(error),
            Err(Refused::Unavailable(error)) => return Err(error.to_string()),
        };
        let attachment = Attachment {
            channel: ChannelId(0),
            id: 0,
            event: self.spec.event,
            predicate: plan.compile(&literals, collation_is_c),
            access: Arc::new(access),
            claims: "{}".into(),
            select: None,
        };
        self.engine.put_table(Arc::new(table), relation);
        // The table was made known just now.
        let _ = self.engine.attach(oid, attachment);
        Ok(Ok(key))
    }
}
