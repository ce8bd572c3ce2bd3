//! The policies of a table that decide for a role, as the database has them now (row_security 2.1).

use std::{collections::HashMap, sync::Arc};

use deadpool_postgres::ClientWrapper as Client;
use parking_lot::Mutex;
use realtime_changes::Table;
use realtime_pgoutput::Oid;
use tokio_postgres::{Error, Row, types::Type};

use super::{
    condition::{Condition, Kind, PolicyColumn},
    question,
};
use crate::quote::quoted;

/// What tells one state of a role's policies on a table from another: whether they count, which they are and how they
/// read by now (what they name may be renamed), the table's name, and its columns. `$1` is the table; to be asked as the
/// role.
///
/// Operators and functions are qualified, here and in all statements of this module: whoever may create objects in a
/// schema of the search path must not have them run with our rights.
macro_rules! fingerprint {
    () => {
        "pg_catalog.concat_ws('/', pg_catalog.row_security_active($1::pg_catalog.oid), (
            select pg_catalog.concat(c.relnamespace, ' ', c.relname)
            from pg_catalog.pg_class c where c.oid operator(pg_catalog.=) $1), (
            select pg_catalog.string_agg(pg_catalog.concat(p.oid, ':', p.xmin, ':', p.polpermissive, ':',
                pg_catalog.md5(pg_catalog.pg_get_expr(p.polqual, p.polrelid))), ',' order by p.oid)
            from pg_catalog.pg_policy p
            where p.polrelid operator(pg_catalog.=) $1 and p.polcmd::pg_catalog.text operator(pg_catalog.=) any ('{r,*}')
                and exists (select from pg_catalog.unnest(p.polroles) r (oid)
                    where r.oid operator(pg_catalog.=) 0 or pg_catalog.pg_has_role(r.oid, 'USAGE'))), (
            select pg_catalog.string_agg(pg_catalog.concat(a.attnum, ' ', a.attname, ' ',
                pg_catalog.format_type(a.atttypid, a.atttypmod), ' ', a.attcollation), ',' order by a.attnum)
            from pg_catalog.pg_attribute a
            where a.attrelid operator(pg_catalog.=) $1 and a.attnum operator(pg_catalog.>) 0 and not a.attisdropped), (
            -- The text of a policy stays as it is when a function is another one.
            select pg_catalog.string_agg(pg_catalog.concat(f.oid, ':', f.xmin), ',' order by f.oid)
            from pg_catalog.pg_proc f
            where f.oid operator(pg_catalog.=) any (array(
                select case when d.refclassid operator(pg_catalog.=) 'pg_catalog.pg_proc'::pg_catalog.regclass then d.refobjid
                    else o.oprcode::pg_catalog.oid end
                from pg_catalog.pg_policy p
                join pg_catalog.pg_depend d on d.classid operator(pg_catalog.=) 'pg_catalog.pg_policy'::pg_catalog.regclass
                    and d.objid operator(pg_catalog.=) p.oid
                left join pg_catalog.pg_operator o on o.oid operator(pg_catalog.=) d.refobjid
                    and d.refclassid operator(pg_catalog.=) 'pg_catalog.pg_operator'::pg_catalog.regclass
                where p.polrelid operator(pg_catalog.=) $1))))"
    };
}

/// The fingerprint alone.
pub(super) const FINGERPRINT: &str = concat!("select ", fingerprint!());

/// Everything that is needed to judge an image as the role.
const READ: &str = concat!(
    "with policies as (
        select p.oid, p.polpermissive, pg_catalog.pg_get_expr(p.polqual, p.polrelid) as condition
        from pg_catalog.pg_policy p
        where p.polrelid operator(pg_catalog.=) $1 and p.polcmd::pg_catalog.text operator(pg_catalog.=) any ('{r,*}')
            and p.polqual is not null
            and exists (select from pg_catalog.unnest(p.polroles) r (oid)
                where r.oid operator(pg_catalog.=) 0 or pg_catalog.pg_has_role(r.oid, 'USAGE'))),
    read as (
        select distinct d.refobjsubid
        from policies p
        join pg_catalog.pg_depend d on d.classid operator(pg_catalog.=) 'pg_catalog.pg_policy'::pg_catalog.regclass
            and d.objid operator(pg_catalog.=) p.oid
        where d.refclassid operator(pg_catalog.=) 'pg_catalog.pg_class'::pg_catalog.regclass
            and d.refobjid operator(pg_catalog.=) $1),
    columns as (
        select a.attnum, a.attname::pg_catalog.text as name,
            pg_catalog.concat(pg_catalog.quote_ident(n.nspname::pg_catalog.text), '.',
                pg_catalog.quote_ident(t.typname::pg_catalog.text)) as type,
            (with recursive below (oid, basetype, category) as (
                select t.oid, t.typbasetype, t.typcategory
                union all
                select b.oid, b.typbasetype, b.typcategory
                from below join pg_catalog.pg_type b on b.oid operator(pg_catalog.=) below.basetype)
             select case
                    when b.oid operator(pg_catalog.=) any ('{114,3802}'::pg_catalog.oid[]) then 'json'
                    when b.category operator(pg_catalog.=) 'A' then 'array'
                    else 'plain' end
             from below b where b.basetype operator(pg_catalog.=) 0) as kind,
            (select pg_catalog.concat(pg_catalog.quote_ident(cn.nspname::pg_catalog.text), '.',
                    pg_catalog.quote_ident(co.collname::pg_catalog.text))
             from pg_catalog.pg_collation co
             join pg_catalog.pg_namespace cn on cn.oid operator(pg_catalog.=) co.collnamespace
             where co.oid operator(pg_catalog.=) a.attcollation) as collation,
            exists (select from read where read.refobjsubid operator(pg_catalog.=) a.attnum) as is_read
        from pg_catalog.pg_attribute a
        join pg_catalog.pg_type t on t.oid operator(pg_catalog.=) a.atttypid
        join pg_catalog.pg_namespace n on n.oid operator(pg_catalog.=) t.typnamespace
        where a.attrelid operator(pg_catalog.=) $1 and not a.attisdropped
            and (a.attnum operator(pg_catalog.>) 0
                or exists (select from read where read.refobjsubid operator(pg_catalog.=) a.attnum)))
    select ",
    fingerprint!(),
    ", pg_catalog.row_security_active($1::pg_catalog.oid),
        array(select p.condition from policies p where p.polpermissive order by p.oid),
        array(select p.condition from policies p where not p.polpermissive order by p.oid),
        array(select c.name from columns c order by c.attnum),
        array(select c.type from columns c order by c.attnum),
        array(select c.kind from columns c order by c.attnum),
        array(select c.collation from columns c order by c.attnum),
        array(select c.attnum from columns c order by c.attnum),
        array(select c.is_read from columns c order by c.attnum),
        -- What is volatile may say something else of an equal row. The catalog does not tell of PostgreSQL's own functions,
        -- and what views, the policies of other tables and aggregates call is not looked into.
        not exists (
            select from policies p
            join pg_catalog.pg_depend d on d.classid operator(pg_catalog.=) 'pg_catalog.pg_policy'::pg_catalog.regclass
                and d.objid operator(pg_catalog.=) p.oid
            left join pg_catalog.pg_operator o on o.oid operator(pg_catalog.=) d.refobjid
                and d.refclassid operator(pg_catalog.=) 'pg_catalog.pg_operator'::pg_catalog.regclass
            left join pg_catalog.pg_type t on t.oid operator(pg_catalog.=) d.refobjid
                and d.refclassid operator(pg_catalog.=) 'pg_catalog.pg_type'::pg_catalog.regclass
            left join pg_catalog.pg_class k on k.oid operator(pg_catalog.=) d.refobjid
                and d.refclassid operator(pg_catalog.=) 'pg_catalog.pg_class'::pg_catalog.regclass
                and k.oid operator(pg_catalog.<>) $1
            left join pg_catalog.pg_proc f on f.oid operator(pg_catalog.=) case
                when d.refclassid operator(pg_catalog.=) 'pg_catalog.pg_proc'::pg_catalog.regclass then d.refobjid
                else o.oprcode::pg_catalog.oid end
            where f.provolatile operator(pg_catalog.=) 'v' or f.prokind operator(pg_catalog.=) 'a'
                or t.typtype operator(pg_catalog.=) 'd' or k.relrowsecurity
                or k.relkind::pg_catalog.text operator(pg_catalog.<>) all ('{r,p}'))
        and not exists (
            select from policies p
            join pg_catalog.pg_proc f on f.pronamespace operator(pg_catalog.=) 'pg_catalog'::pg_catalog.regnamespace
                and f.provolatile operator(pg_catalog.=) 'v'
                and pg_catalog.strpos(p.condition, pg_catalog.concat(f.proname, '(')) operator(pg_catalog.>) 0)"
);

/// A role's policies on a table.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Policies {
    /// Tells this state from any other.
    pub(super) fingerprint: String,
    pub(super) condition: Condition,
    /// Whether they say the same of rows that are equal in what they read.
    pub(super) is_settled: bool,
    /// The columns that images are made of: those that the policies read, or all where they take the row as a whole.
    pub(super) columns: Vec<PolicyColumn>,
    /// All columns, of those of the system the ones that policies read.
    pub(super) row: Vec<PolicyColumn>,
    /// The block that asks.
    pub(super) question: String,
}

/// Asks for the policies on a table that decide for a role; the session has to have taken on the role.
pub(super) async fn read(client: &Client, table: &Table) -> Result<Policies, Error> {
    let statement = client.prepare_typed_cached(READ, &[Type::OID]).await?;
    policies(&client.query_one(&statement, &[&table.oid]).await?, table)
}

fn policies(row: &Row, table: &Table) -> Result<Policies, Error> {
    let all = columns(row)?;
    let condition = if row.try_get(1)? {
        let text = condition(&row.try_get::<_, Vec<String>>(2)?, &row.try_get::<_, Vec<String>>(3)?);
        let whole_row = takes_whole_row(&text, &table.name);
        Condition::Holds { text, whole_row }
    } else {
        Condition::Open
    };
    let is_read: Vec<bool> = row.try_get(9)?;
    let columns = match &condition {
        Condition::Open => Vec::new(),
        // A row of the table's type has no columns of the system.
        Condition::Holds { whole_row: true, .. } => {
            all.iter().filter(|column| !column.is_of_system()).cloned().collect()
        }
        Condition::Holds { .. } => all
            .iter()
            .zip(is_read)
            .filter(|(_, is_read)| *is_read)
            .map(|(column, _)| column.clone())
            .collect(),
    };
    let question = question::question(table, &columns, &condition);
    let is_settled = row.try_get(10)?;
    Ok(Policies { fingerprint: row.try_get(0)?, condition, is_settled, columns, row: all, question })
}

fn columns(row: &Row) -> Result<Vec<PolicyColumn>, Error> {
    let (names, types, kinds): (Vec<String>, Vec<String>, Vec<String>) =
        (row.try_get(4)?, row.try_get(5)?, row.try_get(6)?);
    let (collations, attnums): (Vec<Option<String>>, Vec<i16>) = (row.try_get(7)?, row.try_get(8)?);
    let kind = |text: &str| match text {
        "json" => Kind::Json,
        "array" => Kind::Array,
        _ => Kind::Plain,
    };
    let all = attnums.into_iter().zip(names).zip(types).zip(&kinds).zip(collations);
    Ok(all
        .map(|((((attnum, name), type_name), text), collation)| PolicyColumn {
            attnum,
            name,
            type_name,
            kind: kind(text),
            collation,
        })
        .collect())
}

/// Whether a condition takes the row of a table as a whole, which is written `table.*`; the catalog does not tell. A
/// text that looks like it does no harm.
fn takes_whole_row(condition: &str, table: &str) -> bool {
    condition.contains(&format!("{table}.*")) || condition.contains(&format!("{}.*", quoted(table)))
}

/// One permissive policy has to show the row, and no restrictive one to hide it.
fn condition(permissive: &[String], restrictive: &[String]) -> String {
    let joined = |policies: &[String], operator: &str| {
        policies.iter().map(|policy| format!("({policy})")).collect::<Vec<_>>().join(operator)
    };
    if permissive.is_empty() {
        return "false".to_owned();
    }
    let shown = joined(permissive, " or ");
    if restrictive.is_empty() { shown } else { format!("({shown}) and {}", joined(restrictive, " and ")) }
}

/// Policies by table and role. What is out of date is noticed when it is used: see [`Policies::fingerprint`].
#[derive(Debug, Default)]
pub(crate) struct PolicyCache(Mutex<Kept>);

/// By table and role.
type Kept = HashMap<(Oid, Box<str>), Arc<Policies>>;

/// Policies kept at most. Beyond it all are read again.
const MAX_KEPT: usize = 10_000;

impl PolicyCache {
    pub(super) fn get(&self, table: Oid, role: &str) -> Option<Arc<Policies>> {
        self.0.lock().get(&(table, role.into())).map(Arc::clone)
    }

    pub(super) fn put(&self, table: Oid, role: &str, policies: Arc<Policies>) {
        let mut kept = self.0.lock();
        if kept.len() >= MAX_KEPT {
            kept.clear();
        }
        kept.insert((table, role.into()), policies);
    }

    pub(super) fn remove(&self, table: Oid, role: &str) {
        self.0.lock().remove(&(table, role.into()));
    }

    /// Forgets everything.
    pub(crate) fn clear(&self) {
        self.0.lock().clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn permissive_policies_are_alternatives_and_restrictive_ones_demands() {
        let texts = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>();
        let of =
            |permissive: &[&str], restrictive: &[&str]| condition(&texts(permissive), &texts(restrictive));
        assert_eq!(of(&[], &["r"]), "false");
        assert_eq!(of(&["a"], &[]), "(a)");
        assert_eq!(of(&["a", "b"], &["r", "s"]), "((a) or (b)) and (r) and (s)");
    }

    #[test]
    fn whole_rows_are_noticed() {
        for (condition, table, whole) in [
            ("owned(docs.*)", "docs", true),
            ("owned(\"a \"\"b\"\"\".*)", "a \"b\"", true),
            ("(docs.id * 2) = 4", "docs", false),
            ("owner = me()", "docs", false),
        ] {
            assert_eq!(takes_whole_row(condition, table), whole, "{condition}");
        }
    }
}
