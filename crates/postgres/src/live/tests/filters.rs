//! A query shows the rows that the engine lets pass.

use std::{collections::BTreeSet, sync::Arc};

use anyhow::{Context as _, Result};
use rand::{Rng as _, SeedableRng as _, rngs::StdRng, seq::IndexedRandom as _};
use realtime_changes::{Action, Attachment, Change, ChannelId, Engine, EventFilter, Question};
use realtime_pgoutput::message::{Tuple, UnixMicros, Value};
use serde_json::json;

use super::{super::Source, support::Live};
use crate::{catalog, pool, questions};

const ROWS: usize = 60;

/// Columns: name, definition, values of rows and of filters, operators beside those that all have.
type Sample = (&'static str, &'static str, &'static [&'static str], &'static [&'static str]);

const ORDERED: &[&str] = &["lt", "lte", "gt", "gte"];
const TEXTS: &[&str] = &["lt", "lte", "gt", "gte", "like", "ilike", "match", "imatch"];
const ARRAYS: &[&str] = &["cs", "cd", "ov", "lt", "gte"];
const RANGES: &[&str] = &["cs", "cd", "ov", "sl", "sr", "nxl", "nxr", "adj", "lt"];
const BOOLS: &[&str] = &["is.true", "is.false", "is.unknown", "lt"];

const COLUMNS: &[Sample] = &[
    ("b", "bool", &["t", "f"], BOOLS),
    ("i", "int4", &["-3", "0", "7", "2147483647"], ORDERED),
    ("big", "int8", &["-3", "9223372036854775807"], ORDERED),
    ("f", "float8", &["NaN", "-0", "0", "1.5", "Infinity"], ORDERED),
    ("n", "numeric(12,2)", &["1.50", "1.5", "NaN", "-0.1", "100"], ORDERED),
    ("t", "text", &["", "a", "A", "ab", "aB", "é", "É", "a%", "b_", "x y"], TEXTS),
    ("vc", "varchar(20)", &["", "a", "A", "b "], ORDERED),
    ("ch", "char(5)", &["", "a", "a  ", "ab"], &["lt", "like"]),
    ("nm", "name", &["a", "A", "b"], &["lt", "like"]),
    ("c", "text collate \"C\"", &["a", "B", "b", "é"], TEXTS),
    ("ci", "text collate public.ci", &["a", "A", "é", "É"], &["lt", "gte"]),
    ("u", "uuid", &["a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11", "A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A12"], ORDERED),
    ("h", "bytea", &["\\x", "\\x00ff", "00ff", "\\xff"], ORDERED),
    ("d", "date", &["2024-01-31", "infinity", "0044-03-15 BC"], ORDERED),
    ("ts", "timestamptz", &["2024-01-02 03:04+00", "2024-01-02 05:04+02", "-infinity"], ORDERED),
    ("iv", "interval", &["1 day", "24:00:00", "1 mon"], ORDERED),
    ("ip", "inet", &["10.0.0.1", "10.0.0.0/8"], &["lt", "sl"]),
    ("m", "public.mood", &["sad", "happy", "ok"], ORDERED),
    ("dom", "public.short", &["a", "A", "bc"], &["lt", "eq"]),
    ("doi", "public.posint", &["5", "12"], ORDERED),
    ("pr", "public.pair", &["(1,a)", "(,)", "(2,\"x y\")"], ORDERED),
    ("tags", "text[]", &["{}", "{a}", "{a,b}", "{b,NULL}", "[0:1]={a,b}"], ARRAYS),
    ("ints", "int[]", &["{1,2}", "{2}", "{{1,2},{3,4}}", "{NULL}"], ARRAYS),
    ("moods", "public.mood[]", &["{sad}", "{sad,happy}", "{}"], ARRAYS),
    ("labels", "public.labels", &["{x,y}", "{x}"], &["cs", "ov"]),
    ("r", "int4range", &["[1,5)", "empty", "(,3)", "[5,7)"], RANGES),
    ("nr", "numrange", &["[1.5,2.5]", "(,2)"], RANGES),
    ("tr", "tstzrange", &["[2024-01-01,2024-02-01)", "[2024-02-01,)"], RANGES),
    ("mr", "int4multirange", &["{[1,3),[5,7)}", "{}"], RANGES),
    ("own", "public.spans", &["[a,b)", "empty", "[b,c]"], RANGES),
    (
        "data",
        "jsonb",
        &["5", "\"a\"", "null", "{\"k\": \"a\", \"n\": 3, \"l\": [1, \"b\"]}", "[1, 2]"],
        ARRAYS,
    ),
    ("doc", "json", &["5", "{\"k\": \"a\", \"k\": \"b\"}", "[1, {\"k\": 2}]"], &["eq"]),
    ("dd", "public.doc", &["{\"k\": \"a\"}", "[7]"], &["cs"]),
];

/// What stands in documents: path, values, operators.
const PATHS: &[(&str, &[&str], &[&str])] = &[
    ("data->>k", &["a", "b", ""], TEXTS),
    ("data->k", &["\"a\"", "3", "null"], ORDERED),
    ("data->l->0", &["1", "2"], ORDERED),
    ("data->l->>-1", &["b", "1"], &["like", "match"]),
    ("data->0", &["1", "5", "\"a\""], ORDERED),
    ("data->>n", &["3", "4"], ORDERED),
    ("doc->>k", &["a", "b"], TEXTS),
    ("doc->1->>k", &["2"], ORDERED),
    ("dd->>k", &["a", "x"], TEXTS),
    ("dd->0", &["7", "8"], ORDERED),
];

const COMMON: &[&str] = &["eq", "neq", "in", "isdistinct", "is.null"];

async fn kinds(live: &Live, random: &mut StdRng) -> Result<()> {
    let definitions: Vec<String> = COLUMNS.iter().map(|(name, of, ..)| format!("{name} {of}")).collect();
    live.db
        .sql(&format!(
            "create collation public.ci (provider = icu, locale = 'und-u-ks-level2', deterministic = false);
             create type public.mood as enum ('sad', 'ok', 'happy'); create domain public.short as text check (length(value) < 9);
             create domain public.posint as int check (value > 0); create domain public.doc as jsonb;
             create domain public.labels as text[] check (cardinality(value) < 5);
             create type public.pair as (n int, t text); create type public.spans as range (subtype = text);
             create table public.k (id int primary key, {}); grant select on public.k to anon;
             alter publication supabase_realtime add table public.k",
            definitions.join(", ")
        ))
        .await?;
    for id in 0..ROWS {
        let values: Vec<String> = COLUMNS
            .iter()
            .map(|(_, of, values, _)| {
                if random.random_bool(0.15) {
                    return "null".to_owned();
                }
                let value = values.choose(random).unwrap();
                let of = of.split(" collate").next().unwrap_or_default();
                format!("E'{}'::{of}", value.replace('\\', "\\\\").replace('\'', "''"))
            })
            .collect();
        live.db.sql(&format!("insert into public.k values ({id}, {})", values.join(", "))).await?;
    }
    Ok(())
}

/// One condition, with its column, operator and value apart.
fn condition(random: &mut StdRng) -> (String, String, String) {
    let (column, values, own) = if random.random_bool(0.25) {
        *PATHS.choose(random).unwrap()
    } else {
        let (column, _, values, own) = COLUMNS.choose(random).unwrap();
        (*column, *values, *own)
    };
    let operator =
        *if random.random_bool(0.6) { own.choose(random).unwrap() } else { COMMON.choose(random).unwrap() };
    let quoted = |text: &str| format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""));
    let (operator, value) = match operator.split_once('.') {
        Some((operator, value)) => (operator.to_owned(), value.to_owned()),
        None if operator == "in" => {
            let list: Vec<String> =
                (0..random.random_range(1..4)).map(|_| quoted(values.choose(random).unwrap())).collect();
            ("in".to_owned(), format!("({})", list.join(",")))
        }
        None => (operator.to_owned(), quoted(values.choose(random).unwrap())),
    };
    let negated = if random.random_bool(0.3) { "not." } else { "" };
    (column.to_owned(), format!("{negated}{operator}"), value)
}

/// Conditions and groups of them.
fn filter(random: &mut StdRng) -> String {
    let parts: Vec<String> = (0..random.random_range(1..3))
        .map(|_| {
            if random.random_bool(0.3) {
                return group(random, 2, "=");
            }
            let (column, operator, value) = condition(random);
            format!("{column}={operator}.{value}")
        })
        .collect();
    parts.join(",")
}

fn group(random: &mut StdRng, depth: u32, mark: &str) -> String {
    let parts: Vec<String> = (0..random.random_range(1..4))
        .map(|_| {
            if depth > 0 && random.random_bool(0.3) {
                return group(random, depth - 1, "");
            }
            let (column, operator, value) = condition(random);
            format!("{column}.{operator}.{value}")
        })
        .collect();
    let name = ["or", "and", "not.or", "not.and"].choose(random).unwrap();
    format!("{name}{mark}({})", parts.join(","))
}

/// The rows that the engine lets pass, as places; `None` if the database refuses a question.
async fn judged(
    live: &Live,
    source: &Source,
    rows: &[Tuple],
    collation_is_c: bool,
) -> Result<Option<BTreeSet<usize>>> {
    let mut engine = Engine::default();
    engine.put_table(Arc::clone(&source.table), &source.relation);
    let attachment = Attachment {
        channel: ChannelId(1),
        id: 1,
        event: EventFilter::All,
        predicate: source.plan.compile(&source.literals, collation_is_c),
        access: Arc::clone(&source.access),
        claims: "{}".into(),
        select: None,
    };
    engine.attach(source.oid, attachment).context("a table")?;
    let mut passed = BTreeSet::new();
    for (at, row) in rows.iter().enumerate() {
        let change = Change {
            action: Action::Insert,
            relation: &source.relation,
            new: Some(row),
            old: None,
            commit_time: UnixMicros(0),
        };
        let found = engine.match_row(&change, UnixMicros(0));
        let mut passes = found.keys().next().is_some();
        for asked in &found.asked {
            let questions: Vec<&Question> = asked.questions.iter().collect();
            match questions::ask(&live.pool, Some("anon"), &questions).await {
                Ok(answers) => passes = answers.iter().all(|answer| *answer),
                Err(_) => return Ok(None),
            }
        }
        if passes {
            passed.insert(at);
        }
    }
    Ok(Some(passed))
}

#[tokio::test]
async fn filters_of_queries_are_those_of_the_engine() -> Result<()> {
    let seed = std::env::var("SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or_else(rand::random);
    let cases = std::env::var("CASES").ok().and_then(|cases| cases.parse().ok()).unwrap_or(400);
    eprintln!("SEED={seed}");
    let mut random = StdRng::seed_from_u64(seed);
    let live = Live::new().await?;
    kinds(&live, &mut random).await?;
    let collation_is_c = catalog::collation_is_c(&*pool::get(&live.pool).await?).await?;
    let rows = live.read(&live.look(json!({"table": "k"})).await?).await?;
    let (mut compared, mut shown, mut refused) = (0, 0, 0);
    for _ in 0..cases {
        let filter = filter(&mut random);
        let Ok(source) = live.look(json!({"table": "k", "filter": filter})).await else {
            refused += 1;
            continue;
        };
        let Some(judged) = judged(&live, &source, &rows, collation_is_c).await? else { continue };
        let read = live.read(&source).await.with_context(|| format!("{filter}: {}", source.sql))?;
        let read: BTreeSet<usize> = read
            .iter()
            .map(|row| match row.first() {
                Some(Value::Text(id)) => Ok(std::str::from_utf8(id)?.parse()?),
                other => anyhow::bail!("{other:?}"),
            })
            .collect::<Result<_>>()?;
        assert_eq!(read, judged, "{filter}\n{}", source.sql);
        compared += 1;
        shown += read.len();
    }
    eprintln!("{compared} compared, {shown} rows, {refused} refused");
    assert!(compared > cases / 3 && shown > compared, "{compared} of {cases}, {shown} rows");
    Ok(())
}
