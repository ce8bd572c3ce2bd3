//! What names in the text of a function mean.
//!
//! A name without a schema is looked up on the path that the function has of itself, or on the one that queries are run with.
//! A function without a path of its own may be called by one that has one; what is not on the path may be meant then.

use std::collections::BTreeMap;

use deadpool_postgres::ClientWrapper as Client;
use realtime_changes::policy::{Mention, Named};
use realtime_pgoutput::{Oid, oid::FIRST_NORMAL};
use tokio_postgres::{
    Error,
    types::{ToSql, Type},
};

use super::reached::{How, Root};

/// OIDs of catalogs, which are what they are in every database.
const PG_PROC: Oid = 1255;
const PG_CLASS: Oid = 1259;
const PG_OPERATOR: Oid = 2617;

/// Where PostgreSQL's own are.
const BUILT_IN: &str = "pg_catalog";

/// All that some names can mean: `$1` are their numbers, `$2` what they name, `$3` schemas, `$4` the names, `$5` how many
/// arguments are given.
const MEANINGS: &str = "with named (at, what, schema, name, given) as (
        select * from unnest($1::int4[], $2::text[], $3::text[], $4::text[], $5::int4[])
    )
    select w.at, c.oid, n.nspname::text
    from named w
    join pg_class c on c.relname = w.name::name
    join pg_namespace n on n.oid = c.relnamespace
    where w.what = 'relation' and c.relkind in ('r', 'p', 'v', 'm', 'f') and c.relpersistence <> 't'
        and (w.schema is null or n.nspname = w.schema::name)
    union all
    select w.at, p.oid, n.nspname::text
    from named w
    join pg_proc p on p.proname = w.name::name
    join pg_namespace n on n.oid = p.pronamespace
    where (w.schema is null or n.nspname = w.schema::name) and (
        w.what = 'function' and (p.provariadic <> 0 or w.given between p.pronargs - p.pronargdefaults and p.pronargs)
        or w.what = 'attribute' and p.oid >= 16384 and (p.provariadic <> 0 or p.pronargs - p.pronargdefaults <= 1)
            and exists (select from pg_type t where t.oid = p.proargtypes[0] and t.typrelid <> 0))
    union all
    select w.at, o.oid, n.nspname::text
    from named w
    join pg_operator o on o.oprname = w.name::name
    join pg_namespace n on n.oid = o.oprnamespace
    where w.what = 'operator' and o.oid >= 16384
    union all
    select w.at, p.oid, n.nspname::text
    from named w
    join pg_cast c on c.oid >= 16384
    join pg_proc p on p.oid = c.castfunc and p.oid >= 16384
    join pg_language l on l.oid = p.prolang and l.lanname not in ('c', 'internal')
    join pg_namespace n on n.oid = p.pronamespace
    where w.what = 'cast'";

/// The path of schemas that queries are run with.
const PATH: &str = "select reset_val from pg_settings where name = 'search_path'";

/// The names in the text of a function, and what counts inside of it.
pub(super) struct Wanted {
    pub(super) user: Oid,
    pub(super) by_policy: bool,
    pub(super) how: How,
    /// The path that it has of itself.
    pub(super) path: Option<Vec<String>>,
    pub(super) names: Vec<Mention>,
    /// Whether the database has casts whose functions may do anything. Texts do not show where they are applied.
    pub(super) casts: bool,
}

/// A name that is looked up. Without one: all casts.
struct Sought<'a> {
    of: &'a Wanted,
    mention: Option<&'a Mention>,
}

/// Something that a name can mean.
struct Meaning {
    oid: Oid,
    schema: String,
}

/// What the names mean.
pub(super) async fn of(client: &Client, wanted: &[Wanted]) -> Result<Vec<Root>, Error> {
    let sought: Vec<Sought<'_>> = wanted
        .iter()
        .flat_map(|of| {
            let casts = of.casts.then_some(Sought { of, mention: None });
            of.names.iter().map(move |mention| Sought { of, mention: Some(mention) }).chain(casts)
        })
        .collect();
    if sought.is_empty() {
        return Ok(Vec::new());
    }
    let found = meanings(client, &sought).await?;
    let is_unclear = |(at, found): (&usize, &Vec<Meaning>)| {
        sought.get(*at).is_some_and(Sought::follows_the_path)
            && found.iter().any(|other| found.first().is_some_and(|first| first.schema != other.schema))
    };
    let own = match found.iter().any(is_unclear) {
        true => {
            client.query_one(PATH, &[]).await?.try_get::<_, Option<String>>(0)?.and_then(|text| path(&text))
        }
        false => None,
    };
    let mut roots = Vec::new();
    for (at, found) in found {
        if let Some(sought) = sought.get(at) {
            sought.roots(&found, own.as_deref(), &mut roots);
        }
    }
    Ok(roots)
}

/// All that the names can mean, by their places.
async fn meanings(client: &Client, sought: &[Sought<'_>]) -> Result<BTreeMap<usize, Vec<Meaning>>, Error> {
    let statement = client
        .prepare_typed_cached(
            MEANINGS,
            &[Type::INT4_ARRAY, Type::TEXT_ARRAY, Type::TEXT_ARRAY, Type::TEXT_ARRAY, Type::INT4_ARRAY],
        )
        .await?;
    let numbers: Vec<i32> = (0..).take(sought.len()).collect();
    let what: Vec<&str> = sought.iter().map(Sought::what).collect();
    let schemas: Vec<Option<&str>> =
        sought.iter().map(|sought| sought.mention.and_then(|mention| mention.schema.as_deref())).collect();
    let names: Vec<&str> =
        sought.iter().map(|sought| sought.mention.map_or("", |mention| &*mention.name)).collect();
    let given: Vec<i32> = sought.iter().map(Sought::given).collect();
    let parameters: [&(dyn ToSql + Sync); 5] = [&numbers, &what, &schemas, &names, &given];
    let mut found: BTreeMap<usize, Vec<Meaning>> = BTreeMap::new();
    for row in client.query(&statement, &parameters).await? {
        let at: i32 = row.try_get(0)?;
        let meaning = Meaning { oid: row.try_get(1)?, schema: row.try_get(2)? };
        found.entry(usize::try_from(at).unwrap_or_default()).or_default().push(meaning);
    }
    Ok(found)
}

impl Sought<'_> {
    fn what(&self) -> &'static str {
        match self.mention.map(|mention| mention.what) {
            None => "cast",
            Some(Named::Relation) => "relation",
            Some(Named::Function(_)) => "function",
            Some(Named::Attribute) => "attribute",
            Some(Named::Operator) => "operator",
        }
    }

    fn given(&self) -> i32 {
        match self.mention.map(|mention| mention.what) {
            Some(Named::Function(given)) => i32::try_from(given).unwrap_or(i32::MAX),
            _ => 0,
        }
    }

    /// Whether the path with which queries are run decides what it means.
    fn follows_the_path(&self) -> bool {
        let is_named = |mention: &Mention| {
            mention.schema.is_none() && matches!(mention.what, Named::Relation | Named::Function(_))
        };
        self.mention.is_some_and(is_named) && self.of.path.is_none()
    }

    /// What it means, of what was found. `own`: the path that queries are run with, if it is needed.
    fn roots(&self, found: &[Meaning], own: Option<&[String]>, roots: &mut Vec<Root>) {
        let of = self.of;
        let what = self.mention.map(|mention| mention.what);
        let is_bare = self.mention.is_some_and(|mention| mention.schema.is_none());
        let meant = match of.path.as_deref().or(own).filter(|_| is_bare) {
            Some(path) if what == Some(Named::Relation) => first_on(path, found),
            Some(path) if matches!(what, Some(Named::Function(_))) => all_on(path, found),
            _ => found.iter().collect(),
        };
        let is_certain = meant.len() == 1 && matches!(what, Some(Named::Relation | Named::Function(_)));
        let how = if is_certain { of.how.max(How::Text) } else { How::Perhaps };
        let class = match what {
            Some(Named::Relation) => PG_CLASS,
            Some(Named::Operator) => PG_OPERATOR,
            Some(Named::Function(_) | Named::Attribute) | None => PG_PROC,
        };
        // PostgreSQL's own functions read nothing, but its catalogs.
        let is_of_use = |meaning: &&Meaning| class == PG_CLASS || meaning.oid >= FIRST_NORMAL;
        let root =
            |meaning: &Meaning| Root { class, oid: meaning.oid, user: of.user, by_policy: of.by_policy, how };
        roots.extend(meant.into_iter().filter(is_of_use).map(root));
    }
}

/// The place of a schema on a path.
fn place(path: &[String], schema: &str) -> Option<usize> {
    let named = path.iter().position(|known| known == schema).map(|at| at + 1);
    named.or_else(|| (schema == BUILT_IN).then_some(0))
}

/// What stands on a path, or all if nothing does.
fn all_on<'f>(path: &[String], found: &'f [Meaning]) -> Vec<&'f Meaning> {
    let on: Vec<&Meaning> = found.iter().filter(|meaning| place(path, &meaning.schema).is_some()).collect();
    if on.is_empty() { found.iter().collect() } else { on }
}

/// What stands first on a path, or all if nothing does.
fn first_on<'f>(path: &[String], found: &'f [Meaning]) -> Vec<&'f Meaning> {
    let on = found.iter().filter_map(|meaning| Some((place(path, &meaning.schema)?, meaning)));
    match on.min_by_key(|(at, _)| *at) {
        Some((_, first)) => vec![first],
        None => found.iter().collect(),
    }
}

/// The schemas of a path as it is written in a setting. `None`: it depends on who asks.
pub(super) fn path(text: &str) -> Option<Vec<String>> {
    let (mut schemas, mut rest) = (Vec::new(), text.trim());
    while !rest.is_empty() {
        let (name, behind) = match rest.strip_prefix('"') {
            Some(quoted) => {
                let mut name = String::new();
                let mut left = quoted;
                loop {
                    let (part, behind) = left.split_once('"')?;
                    name.push_str(part);
                    match behind.strip_prefix('"') {
                        Some(more) => {
                            name.push('"');
                            left = more;
                        }
                        None => break (name, behind),
                    }
                }
            }
            None => {
                let end = rest.find(',').unwrap_or(rest.len());
                let (name, behind) = rest.split_at_checked(end)?;
                (name.trim().to_ascii_lowercase(), behind)
            }
        };
        // A schema that is called as the role is hardly ever there.
        if name != "$user" {
            schemas.push(name);
        }
        rest = behind.trim_start().strip_prefix(',').unwrap_or_default().trim_start();
    }
    Some(schemas)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_read_as_they_are_written() {
        for (text, expected) in [
            ("", &[][..]),
            ("\"\"", &[""]),
            ("public", &["public"]),
            ("\"$user\", public, Extensions", &["public", "extensions"]),
            ("\"S \"\"x\"\"\" ,a", &["S \"x\"", "a"]),
        ] {
            assert_eq!(path(text).unwrap(), expected, "{text}");
        }
        assert_eq!(path("\"a"), None);
    }

    #[test]
    fn names_are_looked_up_on_the_path() {
        let meaning = |(oid, schema): (Oid, &str)| Meaning { oid, schema: schema.to_owned() };
        let found: Vec<Meaning> = [(7, "auth"), (8, "public"), (9, "x")].map(meaning).into();
        let oids = |found: Vec<&Meaning>| found.iter().map(|meaning| meaning.oid).collect::<Vec<_>>();
        let path = |path: &[&str]| path.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        assert_eq!(oids(first_on(&path(&["x", "public"]), &found)), [9]);
        assert_eq!(oids(all_on(&path(&["x", "public"]), &found)), [8, 9]);
        assert_eq!(oids(first_on(&path(&["other"]), &found)), [7, 8, 9]);
        assert_eq!(place(&path(&["a", "b"]), BUILT_IN), Some(0));
        assert_eq!(place(&path(&["a", BUILT_IN]), BUILT_IN), Some(2));
    }
}
