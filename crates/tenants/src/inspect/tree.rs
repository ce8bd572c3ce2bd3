//! The relations that a statement reads and the functions that it calls, by PostgreSQL's own analysis.
//!
//! The rule of a view holds the analysed statement as text: a tree of nodes, whose fields are words that begin with a
//! colon. Names and constants of the statement are written in a way that cannot be mistaken for such fields: at worst a
//! harmless statement is refused.

use std::collections::BTreeSet;

use tokio_postgres::{Client, types::ToSql};

use super::error::{InspectError, refused, sql};

/// Fields that hold the id of a relation.
const RELATIONS: [&str; 1] = [":relid"];

/// Fields that hold the id of a function.
const FUNCTIONS: [&str; 9] = [
    ":funcid",
    ":aggfnoid",
    ":winfnoid",
    ":opfuncid",
    ":hashfuncid",
    ":negfuncid",
    ":tsmhandler",
    ":startInRangeFunc",
    ":endInRangeFunc",
];

/// Fields that hold the id of an operator, or a list of them.
const OPERATORS: [&str; 5] = [":opno", ":opnos", ":sortop", ":eqop", ":cycle_mark_neop"];

/// Objects with lower ids came with PostgreSQL.
const FIRST_OF_USERS: u32 = 16384;

/// PostgreSQL's own relations that may be looked at. Not among them: roles with their passwords and settings, statistics
/// with values of columns, settings, sessions with their statements, subscriptions and foreign servers with how to log in.
const CATALOG: &[&str] = &[
    "pg_catalog.pg_am",
    "pg_catalog.pg_attribute",
    "pg_catalog.pg_class",
    "pg_catalog.pg_constraint",
    "pg_catalog.pg_database",
    "pg_catalog.pg_depend",
    "pg_catalog.pg_enum",
    "pg_catalog.pg_extension",
    "pg_catalog.pg_index",
    "pg_catalog.pg_indexes",
    "pg_catalog.pg_inherits",
    "pg_catalog.pg_locks",
    "pg_catalog.pg_namespace",
    "pg_catalog.pg_publication",
    "pg_catalog.pg_publication_tables",
    "pg_catalog.pg_replication_slots",
    "pg_catalog.pg_sequences",
    "pg_catalog.pg_stat_all_indexes",
    "pg_catalog.pg_stat_all_tables",
    "pg_catalog.pg_stat_database",
    "pg_catalog.pg_stat_replication",
    "pg_catalog.pg_stat_replication_slots",
    "pg_catalog.pg_stat_user_indexes",
    "pg_catalog.pg_stat_user_tables",
    "pg_catalog.pg_tables",
    "pg_catalog.pg_type",
    "information_schema.columns",
    "information_schema.constraint_column_usage",
    "information_schema.key_column_usage",
    "information_schema.schemata",
    "information_schema.table_constraints",
    "information_schema.tables",
];

/// Functions that may be called although they are volatile: they only tell.
const VOLATILE: &[&str] = &[
    "clock_timestamp",
    "gen_random_uuid",
    "pg_database_size",
    "pg_indexes_size",
    "pg_postmaster_start_time",
    "pg_relation_size",
    "pg_table_size",
    "pg_tablespace_size",
    "pg_total_relation_size",
    "random",
    "timeofday",
    "uuidv4",
    "uuidv7",
];

/// Functions that run SQL they are given, or tell of settings, files, sessions and their statements, and of what somebody
/// wrote into triggers, functions and views: the keys of webhooks are arguments of triggers.
const TELLTALES: &str = "(table|schema|database|query|cursor)_to_xml|^ts_(stat|rewrite)$|^current_setting$\
    |^pg_(show_|hba_|ident_|read_|ls_|stat_file|settings|options_to|cursor$|prepared_|get_(shmem|backend|wait))\
    |^pg_get_(triggerdef|functiondef|function_sqlbody|function_arg|viewdef|ruledef)\
    |^pg_stat_get_(activity|backend|wal_receiver|subscription)|^lo_|^loread$|^inet_(client|server)_|^pg_mcv_";

/// What an analysed statement names.
#[derive(Debug, Default, PartialEq, Eq)]
struct Named {
    relations: BTreeSet<u32>,
    functions: BTreeSet<u32>,
    operators: BTreeSet<u32>,
}

/// Checks that a view looks only at `allowed` relations and harmless ones of PostgreSQL, and calls only harmless
/// functions.
pub(super) async fn check(client: &Client, view: &str, allowed: &[u32]) -> Result<(), InspectError> {
    let row = client
        .query_one(
            "select r.ev_class, r.ev_action::text from pg_catalog.pg_rewrite r
             where r.ev_class = $1::text::pg_catalog.regclass",
            &[&format!("pg_temp.{view}")],
        )
        .await
        .map_err(|error| sql(&error))?;
    let own: u32 = row.try_get(0).map_err(|error| sql(&error))?;
    let tree: String = row.try_get(1).map_err(|error| sql(&error))?;
    let named = names(&tree);
    if named.operators.iter().any(|id| *id >= FIRST_OF_USERS) {
        return Err(refused("Operators that are not PostgreSQL's own cannot be used"));
    }
    let relations: Vec<u32> =
        named.relations.iter().copied().filter(|id| *id != own && !allowed.contains(id)).collect();
    let foreign = "select pg_catalog.string_agg(n.nspname || '.' || c.relname, ', ')
        from pg_catalog.pg_class c join pg_catalog.pg_namespace n on n.oid = c.relnamespace
        where c.oid = any($1) and not (n.nspname || '.' || c.relname = any($2) and c.oid < 16384)";
    if let Some(names) = found(client, foreign, &[&relations, &CATALOG]).await? {
        return Err(refused(format!(
            "{names} cannot be looked at. Name the tables of the metadata without their schema: tenants, extensions, \
             feature_flags"
        )));
    }
    let functions: Vec<u32> = named.functions.into_iter().collect();
    let harmful = "select pg_catalog.string_agg(distinct p.proname::text, ', ')
        from pg_catalog.pg_proc p
        where p.oid = any($1) and (p.oid >= 16384 or p.pronamespace <> 'pg_catalog'::regnamespace
            or p.provolatile = 'v' and p.proname <> all($2) or p.proname ~ $3)";
    if let Some(names) = found(client, harmful, &[&functions, &VOLATILE, &TELLTALES]).await? {
        return Err(refused(format!("{names} cannot be called here")));
    }
    Ok(())
}

/// The names that a query finds, if any.
async fn found(
    client: &Client,
    query: &str,
    values: &[&(dyn ToSql + Sync)],
) -> Result<Option<String>, InspectError> {
    let row = client.query_one(query, values).await.map_err(|error| sql(&error))?;
    row.try_get(0).map_err(|error| sql(&error))
}

fn names(tree: &str) -> Named {
    let mut named = Named::default();
    let words: Vec<&str> = tree.split_ascii_whitespace().collect();
    let number =
        |word: &str| word.trim_matches(['(', ')', '{', '}']).parse::<u32>().ok().filter(|id| *id > 0);
    for (at, word) in words.iter().enumerate() {
        let set = if RELATIONS.contains(word) {
            &mut named.relations
        } else if FUNCTIONS.contains(word) {
            &mut named.functions
        } else if OPERATORS.contains(word) {
            &mut named.operators
        } else {
            continue;
        };
        let rest = words.get(at + 1..).unwrap_or_default();
        match rest.split_first() {
            // A list of ids: `(o 1 2 3)`.
            Some((&"(o", list)) => {
                for word in list {
                    set.extend(number(word));
                    if word.ends_with(')') {
                        break;
                    }
                }
            }
            Some((first, _)) => set.extend(number(first)),
            None => {}
        }
    }
    named
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_in_a_tree() {
        let tree = r"({QUERY :rtable ({RTE :eref {ALIAS :aliasname :relid :colnames (\:relid\ 7)} :relid 12 :x 1}) :t
            {OPEXPR :opno 98 :opfuncid 67 :args ({FUNCEXPR :funcid 870})} {ROWCOMPARE :opnos (o 5 6) :aggfnoid 0
            :sortop 664}})";
        let set = |ids: &[u32]| ids.iter().copied().collect::<BTreeSet<_>>();
        let expected =
            Named { relations: set(&[12]), functions: set(&[67, 870]), operators: set(&[5, 6, 98, 664]) };
        assert_eq!(names(tree), expected);
    }
}
