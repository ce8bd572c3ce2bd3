//! Compiled policies say what PostgreSQL says: random policies, rows and claims, on a real server.
#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stderr, clippy::expect_used, reason = "tests")]

mod catalog;
mod generator;
mod shapes;

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use anyhow::{Result, ensure};
use bytes::Bytes;
use generator::{USERS, WORDS, pick, quoted};
use rand::{Rng, SeedableRng as _, rngs::StdRng, seq::IndexedRandom as _};
use realtime_changes::{
    Cell, Truth,
    policy::{Answer, Catalog, Compiled, NoValue, Policy, Relation, Sight, Values},
};
use realtime_pgoutput::message::UnixMicros;
use realtime_testkit::TestDb;
use shapes::{By, SHAPES};
use tokio_postgres::{Client, SimpleQueryMessage};

const ROWS: usize = 50;

/// Verdicts of a run at least.
const VERDICTS: usize = 100_000;

fn sql(r: &mut StdRng, values: &[&str]) -> String {
    if r.random_bool(0.12) { "null".into() } else { values.choose(r).unwrap().to_string() }
}

fn uuid(r: &mut StdRng) -> String {
    let user = format!("'{}'", pick(r, &USERS));
    sql(r, &[&user])
}

fn word(r: &mut StdRng) -> String {
    let user = format!("'{}'", pick(r, &USERS));
    let word = quoted(pick(r, &WORDS));
    sql(r, &[&word, &word, &word, &user])
}

fn array(r: &mut StdRng, of: &[&str]) -> String {
    let elements: Vec<&str> = (0..r.random_range(0..4)).map(|_| pick(r, of)).collect();
    let text = format!("'{{{}}}'", elements.join(","));
    sql(r, &[&text])
}

fn json(r: &mut StdRng) -> String {
    sql(
        r,
        &[
            "'{\"k\": \"a\", \"n\": 1, \"flag\": true}'",
            "'{\"k\": null}'",
            "'{\"k\": \"a\",  \"k\" : \"b\", \"in\" : {\"k\":1E2 , \"k\": \"x\"}}'",
            "'{\"k\": 1.50, \"n\": \"1\", \"in\": {\"k\": \"abc\"}}'",
            "'{\"k\": {\"x\": [1, 2]}, \"flag\": \"false\", \"in\": [1]}'",
            "'{\"k\": \"é\\u0041\", \"in\": {\"k\": true}}'",
            "'{\"k\": \"a\\\"b\", \"n\": null}'",
            "'[1, {\"k\": 2}]'",
            "'\"k\"'",
            "'null'",
            "'{}'",
        ],
    )
}

fn room(r: &mut StdRng, at: usize) -> String {
    let id = if at < USERS.len() {
        format!("'{}'", USERS[at])
    } else {
        format!("'00000000-0000-0000-0000-{at:012}'")
    };
    let numbers = ["-2", "-1", "0", "1", "2", "3"];
    let values = [
        id,
        uuid(r),
        uuid(r),
        word(r),
        word(r),
        sql(r, &numbers),
        sql(r, &numbers),
        sql(r, &["-2", "0", "1", "3000000000"]),
        sql(r, &["-2.0", "0", "1.5", "1.50", "'NaN'", "'0.000'", "1"]),
        sql(r, &["0", "'-0'", "0.5", "1", "'NaN'", "'Infinity'", "3000000000"]),
        sql(r, &["true", "false"]),
        sql(r, &["'sad'", "'ok'", "'happy'"]),
        sql(r, &["now() - interval '1 hour'", "now() + interval '1 hour'", "'infinity'", "'0044-01-01 BC'"]),
        sql(r, &["now() - interval '1 hour'", "now() + interval '1 hour'"]),
        sql(r, &["current_date - 3", "current_date + 3"]),
        json(r),
        json(r),
        array(r, &["a", "b", "NULL", "abc", USERS[0], USERS[1]]),
        array(r, &[USERS[0], USERS[1], "NULL"]),
        sql(r, &["'abc'", "'I'", "'a'", "''"]),
        sql(r, &["0", "1", "2"]),
        word(r),
        word(r),
        word(r),
        word(r),
        word(r),
        sql(r, &["0", "1", "2"]),
    ];
    format!("insert into public.rooms values ({});", values.join(", "))
}

fn fill(r: &mut StdRng) -> String {
    let mut text = String::new();
    for _ in 0..30 {
        let role = sql(r, &["'a'", "'b'"]);
        let values = [
            uuid(r),
            uuid(r),
            role,
            sql(r, &["0", "1", "2"]),
            sql(r, &["'sad'", "'ok'"]),
            word(r),
            sql(r, &["now()"]),
        ];
        text += &format!("insert into public.members values ({});", values.join(", "));
    }
    for _ in 0..6 {
        let values = [uuid(r), uuid(r), sql(r, &["0", "1", "2"]), word(r), array(r, &["a", "b"])];
        text += &format!("insert into public.profiles values ({});", values.join(", "));
        text += &format!("insert into public.hidden values ({}, {});", uuid(r), uuid(r));
    }
    text += &format!("insert into public.admins values ('{}');", USERS[0]);
    for at in 0..ROWS {
        text += &room(r, at);
    }
    text + "create schema copy; create table copy.rooms as table public.rooms;
            grant usage on schema copy to authenticated; grant select on copy.rooms to authenticated;
            alter table public.rooms enable row level security;"
}

/// What stands in `request.jwt.claims`; `None`: it is not set.
fn parties() -> Vec<Option<String>> {
    let user =
        |user: &str, more: &str| Some(format!("{{\"sub\": \"{user}\", \"role\": \"authenticated\"{more}}}"));
    vec![
        user(USERS[0], ", \"email\": \"a\", \"n\": 1"),
        user(
            USERS[1],
            &format!(
                ", \"email\": \"ABC\", \"app_metadata\": {{\"org\": \"{}\", \"word\": \"I\", \"words\": [\"a\", \"é\", null]}}",
                USERS[2]
            ),
        ),
        user(USERS[2], ", \"n\": \"2\", \"app_metadata\": {\"word\": null, \"words\": []}"),
        user(USERS[3], ", \"n\": null, \"email\": \"it's\""),
        Some("{\"role\": \"authenticated\"}".into()),
        Some("{\"sub\": \"nobody\", \"role\": \"authenticated\", \"n\": \"x\"}".into()),
        Some("{\"sub\": null}".into()),
        Some(String::new()),
        Some("no json".into()),
        None,
    ]
}

/// Runs a statement as a party. `Err` if it raises.
async fn as_party(client: &Client, claims: Option<&str>, statement: &str) -> Result<Answer> {
    let claims = claims.map_or(String::new(), |claims| {
        format!("select set_config('request.jwt.claims', {}, true);", quoted(claims))
    });
    // The claims are set by a statement of its own: its row is not among the answer's.
    let script = format!("begin; set local role authenticated; {claims}");
    client.batch_execute(&script).await?;
    let found = client.simple_query(statement).await;
    client.batch_execute("rollback").await?;
    Ok(found.map_err(|_| NoValue::Failed).map(|messages| {
        let row = |message: &SimpleQueryMessage| match message {
            SimpleQueryMessage::Row(row) => {
                Some((0..row.len()).map(|at| row.get(at).map(str::to_owned)).collect())
            }
            _ => None,
        };
        messages.iter().filter_map(row).collect()
    }))
}

/// A difference, or what else was found.
#[derive(Debug, Default)]
struct Count {
    verdicts: usize,
    decided: usize,
    shown: usize,
    asked: usize,
}

/// A row as the log has it.
type Row = Vec<Option<Bytes>>;

/// What a party was asked.
struct Prepared {
    values: Values,
    /// For each call: by row, `None` where it failed.
    calls: Vec<HashMap<String, Option<Truth>>>,
}

fn id(row: &Row) -> String {
    String::from_utf8(row[0].clone().unwrap().to_vec()).unwrap()
}

fn cell(row: &Row, at: usize) -> Cell<'_> {
    row[at].as_ref().map_or(Cell::Null, Cell::Text)
}

struct World {
    db: TestDb,
    own: Relation,
    rows: Vec<Row>,
    parties: Vec<Option<String>>,
    catalog: Catalog,
    now: i64,
}

impl World {
    async fn new(r: &mut StdRng) -> Result<Self> {
        let db = TestDb::new().await?;
        db.sql(&std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/policies/schema.sql"))?)
            .await?;
        db.sql(&fill(r)).await?;
        let own = catalog::relations(db.client(), "rooms").await?;
        let own = own.into_iter().find(|relation| &*relation.schema == "public").unwrap();
        let found = db.client().simple_query("select * from copy.rooms order by id").await?;
        let row = |message: &SimpleQueryMessage| match message {
            SimpleQueryMessage::Row(row) => Some(
                (0..row.len())
                    .map(|at| row.get(at).map(|text| Bytes::copy_from_slice(text.as_bytes())))
                    .collect(),
            ),
            _ => None,
        };
        let rows = found.iter().filter_map(row).collect();
        let now =
            db.client().query_one("select (extract(epoch from now()) * 1000000)::int8", &[]).await?.get(0);
        Ok(Self { db, own, rows, parties: parties(), catalog: Catalog::default(), now })
    }

    /// One permissive policy.
    async fn compiled(&mut self, using: &str) -> Result<Compiled> {
        let printed = catalog::printed(self.db.client(), &[(true, using.to_owned())]).await?;
        let policy = [Policy { permissive: true, using: &printed[0].1 }];
        catalog::compile(self.db.client(), &mut self.catalog, &self.own, &policy).await
    }

    /// Asks for all that a party needs.
    async fn prepare(&self, compiled: &Compiled, claims: Option<&str>) -> Result<Prepared> {
        let client = self.db.client();
        let mut answers: Vec<Answer> = Vec::new();
        for term in compiled.terms() {
            answers.push(as_party(client, claims, term.sql()).await?);
        }
        let mut calls: Vec<HashMap<String, Option<Truth>>> = Vec::new();
        for call in compiled.calls() {
            let statement =
                format!("select rooms.id, ({})::text from copy.rooms order by rooms.id", call.sql());
            let found = as_party(client, claims, &statement).await?.unwrap_or_default();
            let truth = |text: &Option<String>| Truth::known(text.as_deref().map(|text| text == "true"));
            calls.push(found.iter().map(|row| (row[0].clone().unwrap(), Some(truth(&row[1])))).collect());
        }
        Ok(Prepared { values: compiled.values(&answers), calls })
    }

    fn judge(&self, compiled: &Compiled, party: &Prepared, row: &Row) -> Truth {
        let id = id(row);
        compiled.judge(
            |at| cell(row, at),
            &party.values,
            UnixMicros(self.now),
            |call| party.calls[call.index()].get(&id).copied().flatten().unwrap_or(Truth::OPEN),
        )
    }

    /// What the index finds, by row and party: what judging every party finds, or more.
    fn look(&self, compiled: &Compiled, parties: &[Prepared]) -> Result<Vec<Vec<Truth>>> {
        let mut found = Vec::new();
        let mut sight = Sight::new(Arc::new(compiled.clone()));
        for (name, party) in parties.iter().enumerate() {
            // Coming, changing and going leaves nothing behind.
            sight.insert(name, parties[(name + 1) % parties.len()].values.clone());
            sight.update(name, party.values.clone());
            sight.insert(name + 100, party.values.clone());
        }
        (0..parties.len()).for_each(|name| sight.remove(name + 100));
        for row in &self.rows {
            let (mut shown, mut open) = (Vec::new(), Vec::new());
            for (name, party) in parties.iter().enumerate() {
                let truth = self.judge(compiled, party, row);
                if truth.holds() {
                    shown.push(name);
                } else if truth.may_hold() {
                    open.push(name);
                }
            }
            let mut rounds = 0;
            let seen = loop {
                let seen = sight.look(|at| cell(row, at), UnixMicros(self.now));
                if seen.needs.is_empty() {
                    break seen;
                }
                rounds += 1;
                ensure!(rounds < 20, "asks without end: {compiled:#?}");
                for need in &seen.needs {
                    let answer = |name: &usize| {
                        parties[*name].calls[need.call.index()].get(&id(row)).copied().flatten()
                    };
                    let answers: Vec<_> = need.parties.iter().map(answer).collect();
                    sight.answer(need, &answers);
                }
            };
            // A failed call leaves more to the database, a key that cannot be equal less.
            let fits = seen.shown.iter().all(|party| shown.contains(party))
                && shown.iter().all(|party| seen.shown.contains(party) || seen.open.contains(party))
                && seen.open.iter().all(|party| open.contains(party) || shown.contains(party));
            ensure!(fits, "{seen:?}, {shown:?}, {open:?}: {compiled:#?}");
            let verdict = |name| match name {
                name if seen.shown.contains(&name) => Truth::TRUE,
                name if seen.open.contains(&name) => Truth::OPEN,
                _ => Truth::FALSE,
            };
            found.push((0..parties.len()).map(verdict).collect());
        }
        Ok(found)
    }

    /// Compares for all rows and parties.
    async fn compare(&mut self, policies: &[(bool, String)], count: &mut Count) -> Result<()> {
        let printed = catalog::printed(self.db.client(), policies).await?;
        let texts: Vec<Policy<'_>> =
            printed.iter().map(|(permissive, using)| Policy { permissive: *permissive, using }).collect();
        let compiled = catalog::compile(self.db.client(), &mut self.catalog, &self.own, &texts).await?;
        let mut prepared = Vec::new();
        for claims in &self.parties {
            prepared.push(self.prepare(&compiled, claims.as_deref()).await?);
        }
        let verdicts = self.look(&compiled, &prepared)?;
        for (party, claims) in self.parties.iter().enumerate() {
            let shown = as_party(self.db.client(), claims.as_deref(), "select id from public.rooms").await?;
            for (row, verdicts) in self.rows.iter().zip(&verdicts) {
                let verdict = verdicts[party];
                count.verdicts += 1;
                let id = id(row);
                let shown = match &shown {
                    Ok(rows) => rows.iter().any(|shown| shown[0].as_deref() == Some(&id)),
                    Err(_) if verdict.holds() => {
                        let one = format!("select id from public.rooms where id = '{id}'");
                        match as_party(self.db.client(), claims.as_deref(), &one).await? {
                            Ok(rows) => !rows.is_empty(),
                            Err(_) => false,
                        }
                    }
                    Err(_) => false,
                };
                if verdict.may_hold() && !verdict.holds() {
                    count.asked += 1;
                    continue;
                }
                count.decided += 1;
                count.shown += usize::from(shown);
                ensure!(
                    verdict.holds() == shown,
                    "PostgreSQL: {shown}, compiled: {verdict:?}\npolicies: {policies:#?}\nprinted: {printed:#?}\n\
                     claims: {claims:?}\nrow: {row:?}\ncompiled: {compiled:#?}"
                );
            }
        }
        Ok(())
    }
}

#[tokio::test]
async fn compiled_policies_say_what_postgresql_says() -> Result<()> {
    let seed =
        std::env::var("POLICIES_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or_else(rand::random);
    let verdicts =
        std::env::var("POLICIES_VERDICTS").ok().and_then(|text| text.parse().ok()).unwrap_or(VERDICTS);
    eprintln!("POLICIES_SEED={seed}");
    let mut r = StdRng::seed_from_u64(seed);
    let mut world = World::new(&mut r).await?;
    let mut count = Count::default();
    while count.verdicts < verdicts {
        let policies = generator::policies(&mut r);
        world.compare(&policies, &mut count).await?;
    }
    eprintln!("{count:?}");
    ensure!(count.shown * 10 > count.verdicts && count.decided * 2 > count.verdicts, "most is decided here");
    Ok(())
}

/// Without a query per row: all but what is asked about rows or values each time.
fn by(compiled: &Compiled) -> By {
    if !compiled.asked().is_empty() || compiled.calls().iter().any(|call| !call.reads().can_be_kept()) {
        By::Asked
    } else if compiled.calls().is_empty() {
        By::Compiled
    } else {
        By::Call
    }
}

#[tokio::test]
async fn most_that_people_write_costs_no_query_per_row() -> Result<()> {
    let mut world = World::new(&mut StdRng::seed_from_u64(7)).await?;
    let (mut all, mut published) = ((0.0, 0.0), (0.0, 0.0));
    let mut wrong = Vec::new();
    for shape in SHAPES {
        let mut compiled_ones = 0;
        for (using, expected) in shape.policies {
            let compiled = world.compiled(using).await?;
            let found = by(&compiled);
            compiled_ones += usize::from(found != By::Asked);
            if found != *expected {
                wrong.push(format!("{using}: {found:?}, {compiled:#?}"));
            }
        }
        let part = compiled_ones as f64 / shape.policies.len() as f64;
        eprintln!("{:30} {:.0} %", shape.name, part * 100.0);
        all = (all.0 + shape.all * part, all.1 + shape.all);
        published = (published.0 + shape.published * part, published.1 + shape.published);
    }
    let (all, published) = (all.0 / all.1, published.0 / published.1);
    eprintln!("of all {:.1} %, of published tables {:.1} %", all * 100.0, published * 100.0);
    ensure!(wrong.is_empty(), "{}", wrong.join("\n"));
    ensure!(all >= 0.85 && published >= 0.85, "{all}, {published}");
    Ok(())
}

/// What becomes of everything that the random policies are made of: with `POLICIES_SHOW`, to be read.
#[tokio::test]
async fn every_part_of_a_random_policy_is_accepted() -> Result<()> {
    let mut r = StdRng::seed_from_u64(7);
    let mut world = World::new(&mut r).await?;
    let mut seen: BTreeMap<String, String> = BTreeMap::new();
    for _ in 0..3_000 {
        let atom = generator::atom(&mut r);
        if seen.contains_key(&atom) {
            continue;
        }
        let compiled = world.compiled(&atom).await?;
        let asked: Vec<String> =
            compiled.asked().iter().map(|asked| format!("{} <- {}", asked.why, asked.text)).collect();
        let calls: Vec<&str> = compiled.calls().iter().map(|call| call.sql()).collect();
        let terms: Vec<&str> = compiled.terms().iter().map(|term| term.sql()).collect();
        seen.insert(
            atom,
            format!("{:?}\n    asked {asked:#?}\n    calls {calls:?}\n    terms {terms:#?}", by(&compiled)),
        );
    }
    ensure!(seen.len() > 300);
    if std::env::var_os("POLICIES_SHOW").is_some() {
        for (atom, what) in seen {
            eprintln!("{atom}\n    {what}");
        }
    }
    Ok(())
}
