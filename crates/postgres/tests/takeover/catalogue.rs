//! Everything that a database's catalog says, as lines that can be compared.

use std::collections::BTreeSet;

use anyhow::{Context as _, Result};
use realtime_testkit::TestDb;

/// Queries of one column each; every line begins with the kind of the object.
const QUERIES: &[&str] = &[
    "select format('schema %s %s %s', nspname, pg_get_userbyid(nspowner), nspacl) from pg_namespace
     where nspname !~ '^pg_(toast|temp)'",
    "select format('relation %s %s %s %s %s %s %s %s', oid::regclass, relkind, pg_get_userbyid(relowner), relacl,
        relrowsecurity, relforcerowsecurity, relreplident, reloptions)
     from pg_class where relnamespace in ('realtime'::regnamespace, 'public'::regnamespace)",
    "select format('column %s %s %s %s %s %s %s %s %s', attrelid::regclass, attnum, attname,
        format_type(atttypid, atttypmod), attnotnull, attidentity, attgenerated, attacl,
        (select pg_get_expr(adbin, adrelid) from pg_attrdef where adrelid = attrelid and adnum = attnum))
     from pg_attribute join pg_class c on c.oid = attrelid
     where c.relnamespace in ('realtime'::regnamespace, 'public'::regnamespace) and attnum > 0",
    "select format('constraint %s %s %s %s', conrelid::regclass, conname, convalidated, pg_get_constraintdef(oid))
     from pg_constraint where connamespace in ('realtime'::regnamespace, 'public'::regnamespace)",
    "select format('index %s', pg_get_indexdef(indexrelid)) from pg_index join pg_class c on c.oid = indrelid
     where c.relnamespace in ('realtime'::regnamespace, 'public'::regnamespace)",
    "select format('trigger %s %s %s', tgrelid::regclass, tgenabled, pg_get_triggerdef(oid)) from pg_trigger
     where not tgisinternal",
    "select format('function %s %s %s %s', oid::regprocedure, pg_get_userbyid(proowner), proacl,
        pg_get_functiondef(oid))
     from pg_proc where pronamespace in ('realtime'::regnamespace, 'public'::regnamespace)",
    "select format('type %s %s %s %s', oid::regtype, pg_get_userbyid(typowner), typacl,
        array(select enumlabel from pg_enum where enumtypid = t.oid order by enumsortorder))
     from pg_type t where typnamespace in ('realtime'::regnamespace, 'public'::regnamespace)",
    "select format('policy %s', p) from pg_policies p",
    "select format('default privileges %s %s %s %s', pg_get_userbyid(defaclrole),
        (select nspname from pg_namespace n where n.oid = defaclnamespace), defaclobjtype, defaclacl)
     from pg_default_acl",
    "select format('publication %s %s %s %s %s', pubname, pg_get_userbyid(pubowner), puballtables, pubviaroot,
        array(select format('%I.%I', schemaname, tablename) from pg_publication_tables t
              where t.pubname = p.pubname order by 1))
     from pg_publication p",
    "select format('role %s %s %s %s %s %s %s %s', rolname, rolsuper, rolinherit, rolcreaterole, rolcreatedb,
        rolcanlogin, rolreplication, rolbypassrls) from pg_roles",
    "select format('member %s %s %s', pg_get_userbyid(roleid), pg_get_userbyid(member), admin_option)
     from pg_auth_members",
    "select format('setting %s %s %s', setdatabase, setrole, setconfig) from pg_db_role_setting",
    "select format('comment %s %s %s %s', classoid::regclass, objoid, objsubid, description) from pg_description
     where objoid >= 16384",
    "select format('extension %s', extname) from pg_extension",
    "select format('event trigger %s', evtname) from pg_event_trigger",
    "select format('migration %s %s', version, inserted_at) from realtime.schema_migrations",
    "select format('subscription %s', s) from realtime.subscription s",
    "select format('sequence %s %s', last_value, is_called) from realtime.subscription_id_seq",
];

/// All lines.
pub async fn of(db: &TestDb) -> Result<BTreeSet<String>> {
    let mut lines = BTreeSet::new();
    for query in QUERIES {
        for row in db.client().query(*query, &[]).await.context(*query)? {
            lines.insert(row.try_get(0)?);
        }
    }
    Ok(lines)
}

/// The lines of either that the other lacks.
pub fn difference(before: &BTreeSet<String>, after: &BTreeSet<String>) -> Vec<String> {
    before.symmetric_difference(after).cloned().collect()
}
