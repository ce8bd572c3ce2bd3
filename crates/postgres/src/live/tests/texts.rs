//! Values that are read are the texts that the log has.

use anyhow::{Context as _, Result, bail};
use bytes::Bytes;
use rand::{Rng as _, SeedableRng as _, rngs::StdRng, seq::IndexedRandom as _};
use realtime_pgoutput::{
    Decoder,
    message::{Message, Relation, Tuple},
};
use realtime_testkit::TestDb;
use serde_json::json;
use std::sync::Arc;
use tokio_postgres::{Client, NoTls};

use super::support::Live;
use crate::pool;

const ROWS: usize = 60;

/// Types and some of their values.
const TYPES: &[(&str, &[&str])] = &[
    ("bool", &["t", "f"]),
    ("int2", &["-32768", "7"]),
    ("int4", &["-2147483648", "2147483647"]),
    ("int8", &["9223372036854775807", "-1"]),
    ("float4", &["NaN", "Infinity", "-0", "3.4028235e38", "1e-45", "16777217", "0.1"]),
    ("float8", &["NaN", "-Infinity", "-0", "1.7976931348623157e308", "5e-324", "1e22", "0.1"]),
    ("numeric", &["NaN", "Infinity", "1.50", "-0.000", "1e130", "12345678901234567890.0123456789"]),
    ("numeric(12,2)", &["1234567.8", "-0.1"]),
    ("text", &["", "null", "NULL", "{}", "\\N", "\\", "\"", "a\r\nb\tc", "\u{7f}\u{2028}", "é☃😀"]),
    ("varchar(80)", &["x", "é☃😀 "]),
    ("char(5)", &["", "ab", " x", "é☃\"\\,"]),
    ("\"char\"", &["", "x", "\\", ","]),
    ("name", &["", "Some \"Name\"", "a,b\\c"]),
    ("bytea", &["\\x", "\\x0102ff", "\\x5c22"]),
    ("uuid", &["A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11"]),
    ("date", &["2026-01-02", "0044-03-15 BC", "infinity", "-infinity"]),
    ("time", &["03:04:05.6", "24:00"]),
    ("timetz", &["03:04:05+02", "24:00-05:30"]),
    ("timestamp", &["2026-01-02 03:04:05.5", "0044-03-15 12:00:00.25 BC", "infinity"]),
    ("timestamptz", &["2026-01-02 03:04:05.678901+05:45", "4714-11-24 00:00Z BC", "-infinity"]),
    ("interval", &["1 mon 2 days 03:04:05", "-1 year -0.000001 sec", "P1Y2M3DT4H5M6S", "0"]),
    ("money", &["12.34", "$1,234.50"]),
    ("inet", &["10.0.0.1", "10.1.2.3/8", "::1"]),
    ("cidr", &["10.0.0.0/8"]),
    ("macaddr", &["08:00:2b:01:02:03"]),
    ("macaddr8", &["08:00:2b:01:02:03:04:05"]),
    ("bit(5)", &["10101"]),
    ("varbit", &["", "0101010101"]),
    ("xml", &["<a b=\"c\">\n1&amp;</a>", "x"]),
    ("tsvector", &["'a' 'b':1A,2", "'it''s' '\\\\'"]),
    ("tsquery", &["a & !b", "'it''s' <-> b:*A"]),
    ("json", &["null", "{\"b\": 1,  \"a\":[1,2.50,null], \"b\":2}", " [ ] ", "\"\\u0000\"", "1E400"]),
    ("jsonb", &["null", "{\"b\": 1,  \"a\":[1,2.50,null]}", "\"\\u00e9\\/\\n\"", "-0.00"]),
    ("jsonpath", &["$.a[*] ? (@ > 1)"]),
    ("point", &["(1,2)", "(1e300,-0)", "(NaN,Infinity)"]),
    ("line", &["{1,2,3}"]),
    ("lseg", &["[(1,2),(3,4)]"]),
    ("box", &["(1,2),(3,4)"]),
    ("path", &["((1,2),(3,4))", "[(1,2),(3,4)]"]),
    ("polygon", &["((1,2),(3,4),(5,6))"]),
    ("circle", &["<(1,2),3>"]),
    ("oid", &["0", "4294967295"]),
    ("xid", &["4294967295"]),
    ("tid", &["(1,2)"]),
    ("pg_lsn", &["16/B374D848"]),
    ("regclass", &["pg_class", "public.listed", "12345678"]),
    ("regtype", &["timestamp with time zone", "public.\"Mood\""]),
    ("regproc", &["now"]),
    ("regrole", &["anon"]),
    ("int4range", &["[1,5)", "empty", "(,)"]),
    ("numrange", &["(1.50,NaN)"]),
    ("daterange", &["[2024-01-01,infinity)"]),
    ("tstzrange", &["[\"2024-01-01 00:00+02\",)"]),
    ("int2vector", &["1 2 -3"]),
    ("oidvector", &["1 2 4294967295"]),
    ("public.\"Mood\"", &["sad", "q\"uote", "back\\slash", "NULL"]),
    ("public.posint", &["5"]),
    ("public.stamp", &["2026-01-02 03:04+01"]),
    ("public.words", &["{a,\"b c\",NULL}"]),
    ("public.pair", &["(1.50,\"a,\"\"b\",\"\\\\x00ff\",2026-01-02Z)", "(,,,)", "(NaN,\"\",,infinity)"]),
    ("public.spans", &["empty", "[a,b)", "[\"a,b\",)"]),
];

const MADE: &str = r#"
    create type public."Mood" as enum ('sad', 'q"uote', 'back\slash', 'NULL');
    create domain public.posint as int check (value > 0);
    create domain public.stamp as timestamptz;
    create domain public.words as text[];
    create type public.pair as (n numeric, t text, "Hex" bytea, "at" timestamptz);
    create type public.spans as range (subtype = text);
    create table public.listed (id int)"#;

/// A session like a walsender's.
async fn session(live: &Live) -> Result<Client> {
    let (client, connection) = pool::settings(&live.config, "walsender").connect(NoTls).await?;
    tokio::spawn(connection);
    Ok(client)
}

/// What the log has: the last description, and the new rows of inserts.
async fn logged(client: &Client) -> Result<(Arc<Relation>, Vec<Tuple>)> {
    let sql = "select data from pg_logical_slot_get_binary_changes('log', null, null,
        'proto_version', '1', 'publication_names', 'supabase_realtime')";
    let (mut decoder, mut described, mut rows) = (Decoder::new(1), None, Vec::new());
    for row in client.query(sql, &[]).await? {
        let bytes: &[u8] = row.try_get(0)?;
        match decoder.decode(Bytes::copy_from_slice(bytes))? {
            Message::Relation { relation, .. } => described = Some(relation),
            Message::Insert { new, .. } => rows.push(new),
            _ => {}
        }
    }
    Ok((described.context("a table")?, rows))
}

fn literal(random: &mut StdRng, of: &str, values: &[&str]) -> String {
    if random.random_bool(0.1) {
        return "null".to_owned();
    }
    let mut text = (*values.choose(random).unwrap()).to_owned();
    if of == "text" && random.random_bool(0.5) {
        let letters = ["a", "\\", "\"", "'", "\t", "\n", "é", "\u{1}", "{", ",", " ", "😀"];
        text = (0..random.random_range(0..200)).map(|_| *letters.choose(random).unwrap()).collect();
    }
    format!("E'{}'::{of}", text.replace('\\', "\\\\").replace('\'', "''"))
}

fn array(random: &mut StdRng, of: &str, values: &[&str]) -> String {
    let elements: Vec<String> = (0..random.random_range(0..4)).map(|_| literal(random, of, values)).collect();
    format!("array[{}]::{of}[]", elements.join(", "))
}

async fn same(
    live: &Live,
    client: &Client,
    table: &str,
    types: &[String],
    rows: &[Vec<String>],
) -> Result<()> {
    let columns: Vec<String> = types.iter().enumerate().map(|(n, of)| format!("\"C {n}\" {of}")).collect();
    live.db
        .sql(&format!(
            "create table public.{table} (id int primary key, {}, gone int, late text default 'x');
             alter table public.{table} drop column gone; grant select on public.{table} to anon;
             alter publication supabase_realtime add table public.{table}",
            columns.join(", ")
        ))
        .await?;
    client.execute("select pg_create_logical_replication_slot('log', 'pgoutput')", &[]).await?;
    for (id, row) in rows.iter().enumerate() {
        live.db.sql(&format!("insert into public.{table} values ({id}, {})", row.join(", "))).await?;
    }
    let (relation, logged) = logged(client).await?;
    client.execute("select pg_drop_replication_slot('log')", &[]).await?;
    let source = live.look(json!({"table": table})).await?;
    let names = |relation: &Relation| -> Vec<(Box<str>, u32, bool)> {
        relation
            .columns
            .iter()
            .map(|column| (column.name.clone(), column.type_oid, column.identity))
            .collect()
    };
    assert_eq!(names(&source.relation), names(&relation), "described as the log does");
    let read = live.read(&source).await?;
    assert_eq!(read.len(), logged.len());
    for (read, logged) in read.iter().zip(&logged) {
        for ((read, logged), of) in read.iter().skip(1).zip(logged.iter().skip(1)).zip(types) {
            assert_eq!(read, logged, "{table}: {of}");
        }
        if read != logged {
            bail!("{read:?} and {logged:?}");
        }
    }
    Ok(())
}

#[tokio::test]
async fn rows_that_are_read_are_the_rows_of_the_log() -> Result<()> {
    let seed = std::env::var("SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or_else(rand::random);
    eprintln!("SEED={seed}");
    let mut random = StdRng::seed_from_u64(seed);
    let live = Live::new().await?;
    // However the database likes to write values.
    live.db
        .sql(&format!(
            "{MADE}; alter database {0} set timezone = 'Asia/Kolkata'; alter database {0} set datestyle = 'German, DMY';
             alter database {0} set intervalstyle = 'iso_8601'; alter database {0} set bytea_output = 'escape';
             alter database {0} set extra_float_digits = -5; alter database {0} set standard_conforming_strings = off;
             alter database {0} set search_path = public, pg_catalog;
             set timezone = 'UTC'; set datestyle = 'ISO'; set xmloption = 'content'",
            live.db.name()
        ))
        .await?;
    let client = session(&live).await?;
    let types: Vec<String> = TYPES.iter().map(|(of, _)| (*of).to_owned()).collect();
    let rows: Vec<Vec<String>> = (0..ROWS)
        .map(|_| TYPES.iter().map(|(of, values)| literal(&mut random, of, values)).collect())
        .collect();
    same(&live, &client, "scalars", &types, &rows).await?;
    let types: Vec<String> = TYPES.iter().map(|(of, _)| format!("{of}[]")).collect();
    let rows: Vec<Vec<String>> = (0..ROWS)
        .map(|_| TYPES.iter().map(|(of, values)| array(&mut random, of, values)).collect())
        .collect();
    same(&live, &client, "arrays", &types, &rows).await
}

/// A database of another encoding: what is read is UTF-8.
#[tokio::test]
async fn other_encodings() -> Result<()> {
    let live = Live::new().await?;
    let name = format!("{}_latin1", live.db.name());
    live.db.sql(&format!("create database {name} encoding 'LATIN1' locale 'C' template template0")).await?;
    let latin = realtime_testkit::cluster().await?.connect(&name).await?;
    latin
        .batch_execute(
            "create table public.\"é\" (id int primary key, \"ü\" text); grant select on public.\"é\" to anon;
             grant usage on schema public to anon; create publication supabase_realtime for table public.\"é\";
             insert into public.\"é\" values (1, 'x'), (2, 'ß')",
        )
        .await?;
    let mut config = live.config.clone();
    config.name = name;
    let pool = pool::make(&config)?;
    let live = Live { db: TestDb::new().await?, config, pool };
    assert_eq!(live.texts(json!({"table": "é", "filter": "ü=eq.ß"})).await?, ["2|ß"]);
    Ok(())
}
