//! What a relation reads: through views on views, the policies that decide for whoever reads, and functions. The catalog
//! keeps all of this as dependencies, but for what the text of a function names: see [`functions`](super::functions).

use deadpool_postgres::ClientWrapper as Client;
use realtime_pgoutput::{Oid, oid::FIRST_NORMAL};
use rustc_hash::FxHashSet;
use tokio_postgres::{
    Error, Row,
    types::{ToSql, Type},
};

use super::{
    functions::{self, Found},
    key::Keys,
    reached::{How, REACHED, ROOT_TYPES, Root},
};
use crate::published::published;

/// The relations among it: with their kinds, what is published of them, their keys and the rules of views. `$8` is the
/// publication, `$9` that of tables that only policies read.
const RELATIONS: &str = concat!(
    ", found (oid, by_policy, how) as (
        select f.objid, bool_and(f.by_policy), min(f.how)
        from reached f where f.classid = 'pg_class'::regclass group by f.objid
    ), told as (
        select t.oid,
            bool_or(p.pubinsert and p.pubupdate and p.pubdelete and p.pubtruncate and not t.is_filtered) as wholly
        from ",
    published!(),
    " t
        join pg_publication p on p.pubname = t.pubname
        where t.pubname = $8::text
        group by t.oid
    )
    select c.oid, concat(quote_ident(n.nspname), '.', quote_ident(c.relname)), c.relkind::text,
        c.relpersistence::text, found.by_policy,
        case when c.relispartition then array(select a.relid::oid from pg_partition_ancestors(c.oid) a where a.relid <> c.oid)
            else '{}'::oid[] end,
        coalesce((select bool_or(told.wholly) from told
             where told.oid = c.oid
                or c.relispartition and told.oid in (select a.relid from pg_partition_ancestors(c.oid) a)),
            case when found.by_policy and exists (
                    select from pg_publication_rel r join pg_publication p on p.oid = r.prpubid
                    where p.pubname = $9::text and r.prrelid = c.oid)
                then true end),
        (select i.indkey::int2[] from pg_index i
         where i.indrelid = c.oid and (i.indisprimary
            or c.relkind = 'm' and i.indisunique and i.indpred is null and i.indexprs is null and i.indisvalid
                and i.indnatts = i.indnkeyatts)
         order by i.indexrelid limit 1),
        case when c.relkind = 'v' then (
            select w.ev_action::text from pg_rewrite w
            where w.ev_class = c.oid and w.ev_type = '1' and octet_length(w.ev_action::text) <= 1000000) end,
        found.how
    from found
    join pg_class c on c.oid = found.oid
    join pg_namespace n on n.oid = c.relnamespace
    where c.relkind in ('r', 'p', 'v', 'm', 'f')
    order by c.oid"
);

/// What a relation reads.
#[derive(Debug, Default)]
pub(super) struct Closure {
    /// Tables, with the roots that stand for them in the log.
    pub(super) reads: FxHashSet<Oid>,
    /// All relations, views included.
    pub(super) relations: Vec<Oid>,
    /// What the log does not tell of.
    pub(super) untold: Vec<Untold>,
    pub(super) keys: Keys,
    pub(super) functions: Found,
}

/// Something that is read and whose changes the log does not tell.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Untold {
    pub(super) oid: Oid,
    /// As `schema.name`, quoted where need be.
    pub(super) name: String,
    /// Only policies read it.
    pub(super) by_policy: bool,
    pub(super) how: How,
    pub(super) why: Why,
}

/// Why the log does not tell of something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Why {
    /// It is not published.
    Unpublished,
    /// It is published in part.
    InPart,
    /// It never is, being what it is.
    Is(&'static str),
}

/// Finds out what a relation reads for a role. There is nothing in it if there is no such role or relation.
pub(super) async fn closure(
    client: &Client,
    relation: Oid,
    role: &str,
    (publication, along): (&str, Option<&str>),
) -> Result<Closure, Error> {
    let functions = functions::look_into(client, relation, role).await?;
    let types = [&ROOT_TYPES[..], &[Type::TEXT, Type::TEXT]].concat();
    let relations = client.prepare_typed_cached(&format!("{REACHED}{RELATIONS}"), &types).await?;
    let roots = Root::columns(&functions.roots);
    let mut parameters = roots.parameters(&relation, &role);
    parameters.extend([&publication as &(dyn ToSql + Sync), &along]);
    let mut closure = Closure { functions, ..Closure::default() };
    for row in client.query(&relations, &parameters).await? {
        closure.add(&row)?;
    }
    Ok(closure)
}

impl Closure {
    fn add(&mut self, row: &Row) -> Result<(), Error> {
        let (oid, name, kind, persistence): (Oid, String, String, String) =
            (row.try_get(0)?, row.try_get(1)?, row.try_get(2)?, row.try_get(3)?);
        let (by_policy, ancestors, wholly): (bool, Vec<Oid>, Option<bool>) =
            (row.try_get(4)?, row.try_get(5)?, row.try_get(6)?);
        let how = How::of(row.try_get(9)?);
        self.relations.push(oid);
        if let Some(key) = row.try_get(7)? {
            self.keys.put_key(oid, key);
        }
        if let Some(rule) = row.try_get(8)? {
            self.keys.put_rule(oid, rule);
        }
        let why = match (&*kind, &*persistence) {
            // A view has no rows of its own; those of a root are in its partitions.
            ("v", _) => None,
            ("m", _) => Some(Why::Is("a materialized view")),
            ("f", _) => Some(Why::Is("a foreign table")),
            (_, "u") => Some(Why::Is("an unlogged table")),
            (_, "t") => Some(Why::Is("a temporary table")),
            ("p", _) => None,
            _ if oid < FIRST_NORMAL => Some(Why::Is("a table of PostgreSQL's own catalog")),
            _ => match wholly {
                Some(true) => None,
                Some(false) => Some(Why::InPart),
                None => Some(Why::Unpublished),
            },
        };
        if matches!(&*kind, "r" | "p") {
            self.reads.insert(oid);
            self.reads.extend(ancestors);
        }
        if let Some(why) = why {
            self.untold.push(Untold { oid, name, by_policy, how, why });
        }
        Ok(())
    }
}
