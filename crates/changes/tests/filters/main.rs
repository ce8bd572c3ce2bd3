//! Filters say what PostgreSQL says: random trees of conditions on random rows, on a real server. What the engine leaves
//! to the database is asked there.
#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stderr, reason = "tests")]

mod generator;

use std::sync::Arc;

use anyhow::{Context as _, Result, ensure};
use generator::{COLUMNS, filter, leaf, literal, pick};
use rand::{Rng, SeedableRng as _, rngs::StdRng, seq::IndexedRandom as _};
use realtime_changes::{
    Action, Attachment, Change, ChannelId, Column, Comparison, Engine, Form, Part, RoleAccess,
    SubscriptionSpec, Table, Tree, Truth, plan,
};
use realtime_pgoutput::message::{Relation, RelationColumn, ReplicaIdentity, Tuple, UnixMicros, Value};
use realtime_testkit::TestDb;
use serde_json::json;
use tokio_postgres::{Client, SimpleQueryMessage};

const ROWS: usize = 40;

/// Verdicts of a run at least.
const VERDICTS: usize = 20_000;

async fn texts(client: &Client, sql: &str) -> Result<Vec<Vec<Option<String>>>> {
    let messages = client.simple_query(sql).await.with_context(|| sql.to_owned())?;
    let row = |message| match message {
        SimpleQueryMessage::Row(row) => {
            Some((0..row.len()).map(|at| row.get(at).map(str::to_owned)).collect())
        }
        _ => None,
    };
    Ok(messages.into_iter().filter_map(row).collect())
}

/// What the database is asked, as SQL.
fn asked(tree: &Tree<Part>) -> String {
    let all = |parts: &[Tree<Part>], between: &str| {
        format!("({})", parts.iter().map(asked).collect::<Vec<_>>().join(between))
    };
    match tree {
        Tree::Known(Truth::TRUE) => "true".to_owned(),
        Tree::Known(Truth::FALSE) => "false".to_owned(),
        Tree::Known(_) => "null::bool".to_owned(),
        Tree::And(parts) => all(parts, " and "),
        Tree::Or(parts) => all(parts, " or "),
        Tree::Not(inner) => format!("(not {})", asked(inner)),
        Tree::Is(..) => panic!("filters have none"),
        Tree::Leaf(part) => {
            let (compare, t) = (&part.compare, &part.compare.type_name);
            let value = format!("{}::text::{t}", literal(std::str::from_utf8(&part.value).unwrap()));
            let wanted = format!("{}::text::{t}", literal(&compare.literal));
            match compare.form {
                Form::Scalar | Form::Regex => format!("({value} {} {wanted})", compare.operator),
                Form::Array => format!("({value} {} any ({wanted}[]))", compare.operator),
                Form::Distinct => format!("(({value} {} {wanted}) is not true)", compare.operator),
            }
        }
    }
}

struct World {
    db: TestDb,
    table: Arc<Table>,
    relation: Relation,
    collation_is_c: bool,
    rows: Vec<Tuple>,
}

#[derive(Debug, Default)]
struct Count {
    verdicts: usize,
    matched: usize,
    asked: usize,
}

impl World {
    async fn new() -> Result<Self> {
        let db = TestDb::new().await?;
        let columns: Vec<String> =
            COLUMNS.iter().map(|(name, type_name, _)| format!("{name} pg_catalog.{type_name}")).collect();
        db.sql(&format!(
            "set timezone = 'UTC'; set datestyle = 'ISO'; create table t (id int4 primary key, {})",
            columns.join(", ")
        ))
        .await?;
        let described = texts(
            db.client(),
            "select a.attname, a.atttypid, t.typname, pg_catalog.format_type(a.atttypid, null)
             from pg_catalog.pg_attribute a join pg_catalog.pg_type t on t.oid = a.atttypid
             where a.attrelid = 't'::regclass and a.attnum > 0 order by a.attnum",
        )
        .await?;
        let column = |row: &Vec<Option<String>>| {
            let text = |at: usize| row[at].clone().unwrap();
            let type_oid = text(1).parse().unwrap();
            Column {
                name: text(0).into(),
                type_oid,
                base_oid: type_oid,
                type_name: text(2).into(),
                sql_type: text(3).into(),
                cast_type: format!("pg_catalog.{}", text(2)).into(),
                comparison: Comparison::built_in(&text(2)),
                in_log: true,
            }
        };
        let table = Table {
            oid: 1,
            schema: "public".into(),
            name: "t".into(),
            columns: described.iter().map(column).collect(),
            primary_key: vec![0],
            row_security: false,
            plain: true,
            partitioned: false,
            replica_identity: ReplicaIdentity::Default,
        };
        let of_log = |column: &Column| RelationColumn {
            identity: false,
            name: column.name.clone(),
            type_oid: column.type_oid,
            type_modifier: -1,
        };
        let relation = Relation {
            oid: 1,
            schema: "public".into(),
            name: "t".into(),
            replica_identity: ReplicaIdentity::Default,
            columns: table.columns.iter().map(of_log).collect(),
        };
        let collation =
            texts(db.client(), "select datcollate from pg_database where datname = current_database()")
                .await?;
        let collation_is_c = matches!(collation[0][0].as_deref(), Some("C" | "POSIX" | "C.UTF-8" | "C.utf8"));
        Ok(Self { db, table: Arc::new(table), relation, collation_is_c, rows: Vec::new() })
    }

    async fn fill(&mut self, r: &mut StdRng) -> Result<()> {
        let row = |id: usize, r: &mut StdRng| {
            let value = |(_, type_name, values): &(&str, &str, &[&str]), r: &mut StdRng| {
                if r.random_bool(0.1) {
                    "null".to_owned()
                } else {
                    format!("{}::{type_name}", literal(pick(r, values)))
                }
            };
            let values: Vec<String> = COLUMNS.iter().map(|column| value(column, r)).collect();
            format!("({id}, {})", values.join(", "))
        };
        let rows: Vec<String> = (0..ROWS).map(|id| row(id, r)).collect();
        self.db.sql(&format!("truncate t; insert into t values {}", rows.join(", "))).await?;
        let value = |text: Option<String>| text.map_or(Value::Null, |text| Value::Text(text.into()));
        let rows = texts(self.db.client(), "select * from t order by id").await?;
        self.rows = rows.into_iter().map(|row| row.into_iter().map(value).collect()).collect();
        Ok(())
    }

    async fn compare(&self, (filter, sql): &(String, String), in_c: bool, count: &mut Count) -> Result<()> {
        let expected = texts(self.db.client(), &format!("select ({sql}) is true from t order by id")).await?;
        let parameters = json!({"schema": "public", "table": "t", "filter": filter});
        let spec = SubscriptionSpec::parse(parameters.as_object().unwrap())
            .map_err(|error| anyhow::anyhow!("{filter}: {error}"))?;
        let access = Arc::new(RoleAccess {
            role: "r".into(),
            bypasses_rls: false,
            selectable: vec![true; self.table.columns.len()],
        });
        let plan = plan(&spec, &self.table, &access).map_err(|error| anyhow::anyhow!("{filter}: {error}"))?;
        let cast = |check: &realtime_changes::LiteralCheck<'_>| {
            let (text, t) = (literal(check.literal), check.cast_type);
            match check.form {
                Form::Scalar | Form::Distinct => format!("{text}::text::{t}::text"),
                Form::Array => format!("{text}::text::{t}[]::text"),
                Form::Regex => format!("{text}::text"),
            }
        };
        let casts: Vec<String> = plan.checks().iter().map(cast).collect();
        let canonical = match casts.is_empty() {
            true => Vec::new(),
            false => {
                let row = texts(self.db.client(), &format!("select {}", casts.join(", "))).await?.remove(0);
                row.into_iter().map(Option::unwrap).collect()
            }
        };
        let mut engine = Engine::default();
        engine.put_table(Arc::clone(&self.table), &self.relation);
        let attachment = Attachment {
            channel: ChannelId(1),
            id: 1,
            event: spec.event,
            predicate: plan.compile(&canonical, in_c && self.collation_is_c),
            access,
            claims: "{}".into(),
            select: None,
        };
        engine.attach(1, attachment).unwrap();
        for (row, expected) in self.rows.iter().zip(expected) {
            let change = Change {
                action: Action::Insert,
                relation: &self.relation,
                new: Some(row),
                old: None,
                commit_time: UnixMicros(0),
            };
            let found = engine.match_row(&change, UnixMicros(0));
            let verdict = match found.asked.first() {
                None => found.keys().count() == 1,
                Some(asked_about) => {
                    count.asked += 1;
                    let questions: Vec<String> =
                        asked_about.questions.iter().map(|question| asked(&question.ask.parts)).collect();
                    let sql = format!("select ({}) is true", questions.join(" and "));
                    texts(self.db.client(), &sql).await?[0][0].as_deref() == Some("t")
                }
            };
            count.verdicts += 1;
            count.matched += usize::from(verdict);
            let expected = expected[0].as_deref() == Some("t");
            ensure!(
                verdict == expected,
                "PostgreSQL: {expected}\nfilter: {filter}\nsql: {sql}\nrow: {row:?}\nasked: {:?}",
                found.asked
            );
        }
        Ok(())
    }
}

/// row_security 24
#[tokio::test]
async fn filters_say_what_postgresql_says() -> Result<()> {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse().ok());
    let seed = number("FILTERS_SEED").unwrap_or_else(rand::random);
    let verdicts = number("FILTERS_VERDICTS").map_or(VERDICTS, |count| count as usize);
    eprintln!("FILTERS_SEED={seed}");
    let mut r = StdRng::seed_from_u64(seed);
    let mut world = World::new().await?;
    let mut count = Count::default();
    let mut filters = 0;
    while count.verdicts < verdicts {
        if filters % 25 == 0 {
            world.fill(&mut r).await?;
        }
        filters += 1;
        world.compare(&filter(&mut r), r.random_bool(0.5), &mut count).await?;
    }
    eprintln!("{count:?}");
    ensure!(
        count.matched * 10 > count.verdicts && count.asked * 4 < count.verdicts * 3,
        "most is decided here: {count:?}"
    );
    Ok(())
}

/// Each operator alone, in and out of groups: with few conditions each decides more often.
#[tokio::test]
async fn every_operator_says_what_postgresql_says() -> Result<()> {
    let seed =
        std::env::var("FILTERS_SEED").ok().and_then(|text| text.parse().ok()).unwrap_or_else(rand::random);
    eprintln!("FILTERS_SEED={seed}");
    let mut r = StdRng::seed_from_u64(seed);
    let mut world = World::new().await?;
    let mut count = Count::default();
    let mut seen = std::collections::BTreeSet::new();
    for n in 0..600 {
        if n % 50 == 0 {
            world.fill(&mut r).await?;
        }
        let (column, operator, sql) = leaf(&mut r);
        seen.insert(operator.split('.').next().unwrap_or_default().to_owned());
        world.compare(&(format!("{column}={operator}"), sql.clone()), true, &mut count).await?;
        world
            .compare(&(format!("or=({column}.not.{operator})"), format!("not ({sql})")), true, &mut count)
            .await?;
    }
    eprintln!("{count:?} {seen:?}");
    ensure!(seen.len() == 21, "all operators: {seen:?}");
    ensure!(count.asked * 2 < count.verdicts, "most is decided here: {count:?}");
    Ok(())
}
