//! What functions read whose bodies are texts: their texts are scanned for names, these are looked up, and what they mean is
//! looked into in turn, until nothing new comes. All of it is bounded; where a bound is reached, or a text is not understood,
//! that is told: see [`Found::doubts`].

use std::collections::{BTreeSet, HashSet};

use deadpool_postgres::ClientWrapper as Client;
use realtime_changes::policy::{Mention, Named, mentions};
use realtime_pgoutput::Oid;
use tokio_postgres::{Error, Row};

use super::{
    meaning::{self, Wanted},
    reached::{How, REACHED, ROOT_TYPES, Root},
};

/// How deep functions may call each other by names in their texts.
const MAX_ROUNDS: usize = 8;

/// How many functions are looked into for a relation. Each is parsed.
const MAX_FUNCTIONS: usize = 200;

/// Bytes of their texts, all together: parsing takes some 10 ns for each.
const MAX_BYTES: usize = 128 << 10;

/// Names in them.
const MAX_NAMES: usize = 1_000;

/// What they mean, overloads included.
const MAX_ROOTS: usize = 2_000;

/// Doubts that are kept.
const MAX_DOUBTS: usize = 20;

/// The functions among what a relation reads: whose rights count inside of each, and its text, if that alone says what it reads.
const FUNCTIONS: &str = ", called as (
        select distinct f.objid, f.userid, f.by_policy, f.how
        from reached f
        where f.classid = 'pg_proc'::regclass and f.objid >= 16384
    )
    select p.oid, case when p.prosecdef then p.proowner else called.userid end, called.by_policy, called.how,
        concat(quote_ident(n.nspname), '.', quote_ident(p.proname)), l.lanname::text,
        l.lanname not in ('c', 'internal') and to_jsonb(p) ->> 'prosqlbody' is null,
        case when octet_length(p.prosrc) <= 65536 then p.prosrc end, p.provolatile = 'i',
        (select substr(own.setting, 13) from unnest(p.proconfig) own (setting) where own.setting ~ '^search_path='),
        exists (select from pg_operator o
            join pg_proc f on f.oid = o.oprcode
            join pg_language ol on ol.oid = f.prolang
            where o.oid >= 16384 and ol.lanname not in ('c', 'internal')),
        exists (select from pg_cast c
            join pg_proc f on f.oid = c.castfunc
            join pg_language cl on cl.oid = f.prolang
            where c.oid >= 16384 and cl.lanname not in ('c', 'internal'))
    from called
    join pg_proc p on p.oid = called.objid
    join pg_namespace n on n.oid = p.pronamespace
    join pg_language l on l.oid = p.prolang
    order by p.oid";

/// What was found out about the functions that a relation calls.
#[derive(Debug, Default)]
pub(super) struct Found {
    /// What their texts name.
    pub(super) roots: Vec<Root>,
    /// Why it is not known all that they read, in words for people. Empty: it is.
    pub(super) doubts: BTreeSet<String>,
}

/// A function that is called.
struct Called {
    oid: Oid,
    /// Whose rights count inside of it.
    user: Oid,
    by_policy: bool,
    how: How,
    name: String,
    language: String,
    /// Whether its text alone says what it reads.
    is_text: bool,
    /// None if it is too long.
    text: Option<String>,
    is_immutable: bool,
    path: Option<String>,
    has_operators: bool,
    has_casts: bool,
}

impl Called {
    fn of(row: &Row) -> Result<Self, Error> {
        Ok(Self {
            oid: row.try_get(0)?,
            user: row.try_get(1)?,
            by_policy: row.try_get(2)?,
            how: How::of(row.try_get(3)?),
            name: row.try_get(4)?,
            language: row.try_get(5)?,
            is_text: row.try_get(6)?,
            text: row.try_get(7)?,
            is_immutable: row.try_get(8)?,
            path: row.try_get(9)?,
            has_operators: row.try_get(10)?,
            has_casts: row.try_get(11)?,
        })
    }
}

/// What one look may still cost.
struct Budget {
    functions: usize,
    bytes: usize,
    names: usize,
}

/// Looks into the functions that a relation calls for a role: those of views, of policies, and those that they call.
pub(super) async fn look_into(client: &Client, relation: Oid, role: &str) -> Result<Found, Error> {
    let statement = client.prepare_typed_cached(&format!("{REACHED}{FUNCTIONS}"), &ROOT_TYPES).await?;
    let mut found = Found::default();
    let (mut seen, mut known) = (HashSet::new(), HashSet::new());
    let mut budget = Budget { functions: MAX_FUNCTIONS, bytes: MAX_BYTES, names: MAX_NAMES };
    for round in 0..=MAX_ROUNDS {
        let roots = Root::columns(&found.roots);
        let rows = client.query(&statement, &roots.parameters(&relation, &role)).await?;
        let mut wanted = Vec::new();
        for row in &rows {
            let called = Called::of(row)?;
            if !seen.insert((called.oid, called.user, called.by_policy, called.how)) {
                continue;
            }
            if round < MAX_ROUNDS {
                found.scan(&called, &mut budget, &mut wanted);
            } else if called.is_text {
                found.doubt("functions call each other too deeply".to_owned());
            }
        }
        let before = found.roots.len();
        let new = meaning::of(client, &wanted).await?.into_iter().filter(|root| known.insert(*root));
        found.roots.extend(new);
        if found.roots.len() == before {
            return Ok(found);
        }
        if found.roots.len() > MAX_ROOTS {
            found.roots.truncate(MAX_ROOTS);
            found.doubt("functions name too many tables and functions".to_owned());
            return Ok(found);
        }
    }
    Ok(found)
}

impl Found {
    pub(super) fn doubt(&mut self, doubt: String) {
        if self.doubts.len() < MAX_DOUBTS {
            self.doubts.insert(doubt);
        }
    }

    /// Finds the names in the text of a function.
    fn scan(&mut self, called: &Called, budget: &mut Budget, wanted: &mut Vec<Wanted>) {
        let Called { name, language, .. } = called;
        if !called.is_text {
            return;
        }
        if !matches!(&**language, "sql" | "plpgsql") {
            // What is immutable reads nothing, if that is true.
            if !called.is_immutable {
                self.doubt(format!("{name}() is written in {language}"));
            }
            return;
        }
        let bytes = called.text.as_ref().map_or(usize::MAX, String::len);
        if budget.functions == 0 || budget.bytes < bytes {
            return self.doubt(format!("{name}() is too long, or there are too many functions"));
        }
        budget.functions -= 1;
        budget.bytes -= bytes;
        let mentions = mentions(language, called.text.as_deref().unwrap_or_default());
        if !mentions.are_all && !called.is_immutable {
            self.doubt(format!("{name}() is not understood as a whole, or builds statements as it runs"));
        }
        let is_of_use = |mention: &Mention| mention.what != Named::Operator || called.has_operators;
        let names: Vec<Mention> = mentions.names.into_iter().filter(is_of_use).collect();
        if budget.names < names.len() {
            return self.doubt(format!("{name}() has too many names"));
        }
        budget.names -= names.len();
        wanted.push(Wanted {
            user: called.user,
            by_policy: called.by_policy,
            how: called.how,
            path: called.path.as_deref().and_then(meaning::path),
            names,
            casts: called.has_casts,
        });
    }
}
