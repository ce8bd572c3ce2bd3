//! Sessions with the original server, replayed: the same frames in, the same statements on the database, and frame
//! by frame what it answered. Recordings are in `golden/`, one JSON object a line: `connect`, `send`, `sql`, `recv`.
//!
//! Compared as JSON values. Ids are free, but must mean the same subscriptions; times are free but for their form.
//! What differs on purpose is in [`DIFFERENCES`].

use std::collections::{HashMap, HashSet};

use anyhow::{Context as _, Result, bail};
use realtime_testkit::{Frame, Server, ServerOptions, Socket, TestDb, Version, sign, unix_now};
use serde_json::{Value, json};

use crate::BINARY;

/// A place where we differ from a recording on purpose (docs/differences.md).
struct Difference {
    name: &'static str,
    recording: &'static str,
    /// Makes of the recorded payload what we send. False if it does not concern it.
    apply: fn(&mut Value) -> bool,
}

const DIFFERENCES: [Difference; 4] = [
    Difference {
        name: "char(n) is sent whole, not cut to its first character",
        recording: "types",
        apply: |payload| replace(payload, "/data/record/ch", "c", "ch  "),
    },
    Difference {
        name: "bit(n) is sent whole, not cut to its first bit",
        recording: "types",
        apply: |payload| replace(payload, "/data/record/bt", "1", "1010"),
    },
    Difference {
        name: "errors of the database are told by code and name, without its sentence",
        recording: "errors",
        apply: |payload| {
            let Some(Value::String(message)) = payload.get_mut("message") else { return false };
            let sentence = " invalid input syntax for type integer: \"abc\"";
            let told = message.replace(sentence, "");
            let applies = told != *message;
            *message = told;
            applies
        },
    },
    Difference {
        name: "long lists in messages stay on one line: their breaks follow an 80-column printer",
        recording: "errors",
        apply: |payload| {
            let Some(Value::String(message)) = payload.get_mut("message") else { return false };
            let joined = message.replace("[\n  {", "[{").replace(",\n   ", ", ").replace("\n]", "]");
            let applies = joined != *message;
            *message = joined;
            applies
        },
    },
];

fn replace(payload: &mut Value, pointer: &str, from: &str, to: &str) -> bool {
    match payload.pointer_mut(pointer) {
        Some(value) if value == from => {
            *value = json!(to);
            true
        }
        _ => false,
    }
}

/// postgres_changes 46 to 50, 58, 64 to 66, 95, 103, 104; recording 09
#[tokio::test]
async fn types() -> Result<()> {
    let setup = "create type public.mood as enum ('sad', 'ok', 'happy');
         create table public.all_types (id bigserial primary key, i2 int2, i4 int4, i8 int8, num numeric,
            num_s numeric(12, 2), f4 float4, f8 float8, t text, vc varchar(20), ch char(4), b bool, j json, jb jsonb,
            u uuid, tstz timestamptz, ts timestamp, d date, tm time, tmtz timetz, iv interval, by bytea, ia int[],
            ta text[], ba bool[], na numeric[], ja jsonb[], e public.mood, ea public.mood[], ip inet, mny money,
            pt point, rng int4range, bt bit(4), x xml, oidc oid);
         grant select on public.all_types to anon;
         alter publication supabase_realtime add table public.all_types";
    replay("types", include_str!("golden/types.jsonl"), setup, &[]).await
}

/// postgres_changes 67 to 74, 77, 80, 91, 92; recording 10
#[tokio::test]
async fn filters() -> Result<()> {
    let setup = "create type public.mood as enum ('sad', 'ok', 'happy');
         create table public.todos_full (id serial primary key, title text, done bool default false, prio int, big bigint,
            num numeric, ts timestamptz, u uuid, mood public.mood);
         alter table public.todos_full replica identity full;
         create table public.todos (id serial primary key, title text, done bool default false, prio int, owner uuid,
            created_at timestamptz default '2026-01-02T03:04:05.678901Z');
         create schema other; grant usage on schema other to anon;
         create table other.things (id serial primary key, v text);
         create table public.no_pk (a int, b text);
         create table public.\"Mixed Case\" (id serial primary key, \"Some Col\" text);
         create table public.composite_pk (a int, b text, v text, primary key (a, b));
         grant select on all tables in schema public, other to anon;
         create table public.no_grant (id serial primary key, v text);
         alter publication supabase_realtime add table public.todos_full, public.todos, other.things, public.no_pk,
            public.\"Mixed Case\", public.composite_pk, public.no_grant";
    replay("filters", include_str!("golden/filters.jsonl"), setup, &[]).await
}

/// postgres_changes 1 to 3, 6 to 20, 22, 24, 26, 91; recordings 11
#[tokio::test]
async fn errors() -> Result<()> {
    // One row was there before.
    let setup =
        "create table public.todos (id int generated always as identity (start 2) primary key, title text,
            done bool default false, prio int, owner uuid, created_at timestamptz default now());
         create table public.not_published (id serial primary key);
         grant select on all tables in schema public to anon;
         create table public.no_grant (id serial primary key, v text);
         alter publication supabase_realtime add table public.todos, public.no_grant";
    replay("errors", include_str!("golden/errors.jsonl"), setup, &[]).await
}

/// postgres_changes 97, 99 and protocol 74; recording 12
#[tokio::test]
async fn row_level_security() -> Result<()> {
    let setup = "create schema auth; grant usage on schema auth to anon, authenticated;
         create function auth.uid() returns uuid language sql stable as
            $$ select (current_setting('request.jwt.claims', true)::jsonb ->> 'sub')::uuid $$;
         create table public.rls_notes (id serial primary key, user_id uuid, body text);
         alter table public.rls_notes enable row level security;
         create policy own on public.rls_notes to authenticated using (user_id = (select auth.uid()));
         grant select on public.rls_notes to anon, authenticated, service_role;
         alter publication supabase_realtime add table public.rls_notes";
    let subjects = [
        ("owner", "11111111-1111-1111-1111-111111111111"),
        ("other", "22222222-2222-2222-2222-222222222222"),
    ];
    replay("rls", include_str!("golden/rls.jsonl"), setup, &subjects).await
}

/// A connection of a recording, and what ids mean on it: which of the subscriptions of the last join.
struct Peer {
    socket: Socket,
    recorded: HashMap<u64, usize>,
    ours: HashMap<u64, usize>,
}

/// `subjects` are the `sub` claims of the connections that have one; the first is who tokens are renewed for.
async fn replay(name: &str, recording: &str, setup: &str, subjects: &[(&str, &str)]) -> Result<()> {
    let db = TestDb::new().await?;
    db.sql(setup).await?;
    let server = Server::start(BINARY, &db, ServerOptions::default()).await?;
    let token = |role: &str, subject: Option<&str>| {
        sign(&json!({"role": role, "sub": subject, "exp": unix_now() + 3600}))
    };
    let mut peers: HashMap<String, Peer> = HashMap::new();
    let mut applied = HashSet::new();
    for (number, line) in (1..).zip(recording.split('\n').filter(|line| !line.is_empty())) {
        let line: Value = serde_json::from_str(line).with_context(|| format!("{name}.jsonl:{number}"))?;
        let text = |key: &str| line[key].as_str();
        if let Some(statement) = text("sql") {
            db.sql(statement).await?;
        } else if let (Some(conn), Some(role), Some(vsn)) = (text("connect"), text("role"), text("vsn")) {
            if let Some(peer) = peers.get_mut(conn) {
                assert_eq!(peer.socket.settle().await?, [], "{name}: frames that were not recorded");
            }
            let version = if vsn == "1.0.0" { Version::V1 } else { Version::V2 };
            let subject = subjects.iter().find(|(of, _)| *of == conn).map(|(_, subject)| *subject);
            let socket = Socket::connect(server.port(), version, &token(role, subject)).await?;
            peers.insert(conn.to_owned(), Peer { socket, recorded: HashMap::new(), ours: HashMap::new() });
        } else if let Some(frame) = text("send") {
            let renewed = token("authenticated", subjects.first().map(|(_, subject)| *subject));
            let peer = peers.get_mut(text("conn").context("conn")?).context("not connected")?;
            peer.socket.send_text(frame.replace("<jwt role=authenticated>", &renewed)).await?;
        } else if let Some(frame) = text("recv") {
            let peer = peers.get_mut(text("conn").context("conn")?).context("not connected")?;
            let mut expected = parse(frame, peer.socket.version())?;
            let mut got = loop {
                let got =
                    peer.socket.frame().await.with_context(|| format!("{name}.jsonl:{number}: {frame}"))?;
                // The recorded server says nothing of tables that are emptied.
                if got.payload["code"] != "Truncated" {
                    break got;
                }
            };
            for difference in DIFFERENCES.iter().filter(|difference| difference.recording == name) {
                if (difference.apply)(&mut expected.payload) {
                    applied.insert(difference.name);
                }
            }
            free(&mut expected, &mut peer.recorded)?;
            free(&mut got, &mut peer.ours)?;
            let alike = (&expected.join_ref, &expected.msg_ref, &expected.topic, &expected.event)
                == (&got.join_ref, &got.msg_ref, &got.topic, &got.event);
            assert!(
                alike && same(&expected.payload, &got.payload),
                "{name}.jsonl:{number}\nrecorded {expected:?}\ngot      {got:?}"
            );
        }
    }
    for (conn, peer) in &mut peers {
        assert_eq!(peer.socket.settle().await?, [], "{name}, {conn}: frames that were not recorded");
    }
    for difference in DIFFERENCES.iter().filter(|difference| difference.recording == name) {
        assert!(applied.contains(difference.name), "no longer a difference: {}", difference.name);
    }
    Ok(())
}

fn parse(frame: &str, version: Version) -> Result<Frame> {
    let frame: Value = serde_json::from_str(frame)?;
    let field = |name: &str, at: usize| match version {
        Version::V1 => frame.get(name).cloned().unwrap_or_default(),
        Version::V2 => frame.get(at).cloned().unwrap_or_default(),
    };
    let text = |value: Value| value.as_str().map(str::to_owned).context("no text");
    Ok(Frame {
        join_ref: field("join_ref", 0),
        msg_ref: field("ref", 1),
        topic: text(field("topic", 2))?,
        event: text(field("event", 3))?,
        payload: field("payload", 4),
    })
}

/// Puts in place of what is free what it stands for: of ids, the position of the subscription; of times, their form.
fn free(frame: &mut Frame, ids: &mut HashMap<u64, usize>) -> Result<()> {
    if let Some(Value::Array(entries)) = frame.payload.pointer_mut("/response/postgres_changes") {
        ids.clear();
        for (at, entry) in entries.iter_mut().enumerate() {
            let id = entry["id"].as_u64().filter(|id| *id > 0).context("id")?;
            entry["id"] = json!(*ids.entry(id).or_insert(at));
        }
    }
    if let Some(Value::Array(served)) = frame.payload.get_mut("ids") {
        let positions: Option<Vec<usize>> = served.iter().map(|id| ids.get(&id.as_u64()?).copied()).collect();
        let Some(mut positions) = positions else { bail!("ids that no join was told: {served:?}") };
        positions.sort_unstable();
        *served = positions.into_iter().map(Value::from).collect();
    }
    // Refused rows have the time as well here (clients 3).
    if let Some(time @ Value::Null) = frame.payload.pointer_mut("/data/commit_timestamp") {
        *time = json!("0000-00-00T00:00:00.000Z");
    }
    if let Some(Value::String(time)) = frame.payload.pointer_mut("/data/commit_timestamp") {
        let digits_as_0 = |c: char| if c.is_ascii_digit() { '0' } else { c };
        *time = time.chars().map(digits_as_0).collect();
        assert_eq!(time, "0000-00-00T00:00:00.000Z");
    }
    Ok(())
}

/// Equal, but that floats may be written with an exponent or without (the reader is off by an ulp at times).
fn same(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::Number(x), Value::Number(y)) => {
            let close = |x: f64, y: f64| (x - y).abs() <= x.abs() * 1e-15;
            x == y
                || (x.is_f64() || y.is_f64()) && x.as_f64().zip(y.as_f64()).is_some_and(|(x, y)| close(x, y))
        }
        (Value::Array(x), Value::Array(y)) => x.len() == y.len() && x.iter().zip(y).all(|(x, y)| same(x, y)),
        (Value::Object(x), Value::Object(y)) => {
            x.len() == y.len() && x.iter().all(|(key, x)| y.get(key).is_some_and(|y| same(x, y)))
        }
        _ => a == b,
    }
}
