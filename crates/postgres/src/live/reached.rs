//! All that a relation reads for a role, as the catalog's dependencies say it: the beginning of queries that say what of it
//! they want.

use realtime_pgoutput::Oid;
use tokio_postgres::types::{ToSql, Type};

/// All that a relation reads for a role. `$1` is the relation, `$2` the role; `$3` to `$7` are what functions name: where from
/// else to begin.
///
/// `userid` is whose rights and policies count: a view reads with those of its owner, unless it says otherwise; the
/// children of a table are read by the policies of the table, not by their own: nobody's (0). `how` is how it is known that
/// something is read, as a [`How`].
pub(super) const REACHED: &str =
    "with recursive reached (classid, objid, userid, by_policy, how) as (
        select 'pg_class'::regclass::oid, $1::oid, r.oid, false, 0
        from pg_roles r where r.rolname = $2::text
        union
        select root.classid, root.objid, root.userid, root.by_policy, root.how
        from unnest($3::oid[], $4::oid[], $5::oid[], $6::bool[], $7::int4[]) root (classid, objid, userid, by_policy, how)
        union
        select next.classid, next.objid, next.userid, f.by_policy or next.by_policy, f.how
        from reached f
        cross join lateral (
            select d.refclassid, d.refobjid,
                case when exists (
                        select from pg_options_to_table(c.reloptions) o
                        where o.option_name = 'security_invoker' and o.option_value::bool)
                    then f.userid else c.relowner end,
                false
            from pg_class c
            join pg_rewrite w on w.ev_class = c.oid and w.ev_type = '1'
            join pg_depend d on d.classid = 'pg_rewrite'::regclass and d.objid = w.oid
            where f.classid = 'pg_class'::regclass and c.oid = f.objid and c.relkind = 'v'
                and d.refobjid <> c.oid
            union all
            -- PostgreSQL keeps no dependencies on its own catalogs.
            select 'pg_class'::regclass::oid, own.found[1]::oid, f.userid, false
            from pg_class c
            join pg_rewrite w on w.ev_class = c.oid and w.ev_type = '1'
            cross join lateral regexp_matches(w.ev_action::text, ':relid (\\d{1,5}) ', 'g') own (found)
            where f.classid = 'pg_class'::regclass and c.oid = f.objid and c.relkind = 'v'
                and own.found[1]::int8 between 1 and 16383 and own.found[1]::oid <> c.oid
            union all
            select d.refclassid, d.refobjid, f.userid, true
            from pg_class c
            join pg_roles u on u.oid = f.userid
            join pg_policy p on p.polrelid = c.oid and p.polcmd in ('r', '*')
            join pg_depend d on d.classid = 'pg_policy'::regclass and d.objid = p.oid
            where f.classid = 'pg_class'::regclass and c.oid = f.objid and c.relrowsecurity
                and not (u.rolsuper or u.rolbypassrls
                    or not c.relforcerowsecurity and pg_has_role(u.oid, c.relowner, 'USAGE'))
                and exists (select from unnest(p.polroles) r (oid)
                    where r.oid = 0 or pg_has_role(u.oid, r.oid, 'USAGE'))
                and d.refobjid <> c.oid
            union all
            select d.refclassid, d.refobjid, case when p.prosecdef then p.proowner else f.userid end, false
            from pg_proc p
            join pg_depend d on d.classid = 'pg_proc'::regclass and d.objid = p.oid
            where f.classid = 'pg_proc'::regclass and p.oid = f.objid
            union all
            select 'pg_proc'::regclass::oid, o.oprcode::oid, f.userid, false
            from pg_operator o
            where f.classid = 'pg_operator'::regclass and o.oid = f.objid and o.oid >= 16384
            union all
            select 'pg_class'::regclass::oid, i.inhrelid, 0::oid, false
            from pg_inherits i
            where f.classid = 'pg_class'::regclass and i.inhparent = f.objid
        ) next (classid, objid, userid, by_policy)
        where next.classid in ('pg_class'::regclass, 'pg_proc'::regclass, 'pg_operator'::regclass)
    )";

/// The types of the first parameters of [`REACHED`].
pub(super) const ROOT_TYPES: [Type; 7] = [
    Type::OID,
    Type::TEXT,
    Type::OID_ARRAY,
    Type::OID_ARRAY,
    Type::OID_ARRAY,
    Type::BOOL_ARRAY,
    Type::INT4_ARRAY,
];

/// Something that the text of a function names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Root {
    pub(super) class: Oid,
    pub(super) oid: Oid,
    /// Whose rights and policies count.
    pub(super) user: Oid,
    pub(super) by_policy: bool,
    pub(super) how: How,
}

/// The columns of some.
#[derive(Debug, Default)]
pub(super) struct Roots {
    classes: Vec<Oid>,
    oids: Vec<Oid>,
    users: Vec<Oid>,
    by_policy: Vec<bool>,
    how: Vec<i32>,
}

impl Root {
    pub(super) fn columns(roots: &[Self]) -> Roots {
        let mut columns = Roots::default();
        for root in roots {
            columns.classes.push(root.class);
            columns.oids.push(root.oid);
            columns.users.push(root.user);
            columns.by_policy.push(root.by_policy);
            columns.how.push(root.how as i32);
        }
        columns
    }
}

impl Roots {
    /// The first parameters of [`REACHED`].
    pub(super) fn parameters<'a>(&'a self, relation: &'a Oid, role: &'a &str) -> Vec<&'a (dyn ToSql + Sync)> {
        vec![relation, role, &self.classes, &self.oids, &self.users, &self.by_policy, &self.how]
    }
}

/// How it is known that something is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum How {
    /// The catalog says so.
    Catalog = 0,
    /// The text of a function names it.
    Text = 1,
    /// The text of a function names it, or something else of the name.
    Perhaps = 2,
}

impl How {
    pub(super) const fn of(number: i32) -> Self {
        match number {
            0 => Self::Catalog,
            1 => Self::Text,
            _ => Self::Perhaps,
        }
    }
}
