//! Values of every type, compared with what PostgreSQL itself makes of them: `to_jsonb(row)` on the same server, but
//! for what postgres_changes 2.3 decides otherwise. The comparison runs in PostgreSQL: numbers count to the last digit.

use anyhow::{Context as _, Result};
use rand::{Rng as _, SeedableRng as _, rngs::StdRng, seq::IndexedRandom as _};
use realtime_testkit::{Server, ServerOptions, Socket, TestDb, Version};
use serde_json::{json, value::RawValue};
use tokio_tungstenite::tungstenite::Message;

use crate::BINARY;

const TOPIC: &str = "realtime:any";

/// Rows of random values for each table.
const ROWS: i64 = 40;

/// Types whose values are text to JSON, and some of their values.
const TEXTUAL: &[(&str, &[&str])] = &[
    ("uuid", &["A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11", "{a0eebc999c0b4ef8bb6d6bb9bd380a11}"]),
    ("date", &["2026-01-02", "0044-03-15 BC", "4713-01-01 BC", "5874897-12-31", "infinity", "-infinity"]),
    ("time", &["03:04:05.6", "24:00", "00:00:00.000001"]),
    ("timetz", &["03:04:05+02", "03:04:05.5-15:59", "24:00-05:30", "1:00+15:59:59"]),
    (
        "timestamp",
        &["2026-01-02 03:04:05.5", "0044-03-15 12:00:00.25 BC", "294276-12-31 23:59:59.999999", "infinity"],
    ),
    (
        "timestamptz",
        &[
            "2026-01-02 03:04:05.678901+05:45",
            "0044-03-15 12:00Z BC",
            "4714-11-24 00:00Z BC",
            "infinity",
            "-infinity",
        ],
    ),
    (
        "interval",
        &["1 mon 2 days 03:04:05", "-1 year -0.000001 sec", "P1Y2M3DT4H5M6S", "0", "178000000 years"],
    ),
    ("money", &["12.34", "-92233720368547758.08", "$1,234.50"]),
    ("inet", &["10.0.0.1", "10.1.2.3/8", "::1", "::ffff:1.2.3.4/120"]),
    ("cidr", &["10.0.0.0/8", "2001:db8::/32"]),
    ("macaddr", &["08:00:2b:01:02:03"]),
    ("macaddr8", &["08:00:2b:01:02:03:04:05"]),
    ("bit(5)", &["10101", "00000"]),
    ("varbit", &["", "1", "0101010101"]),
    ("char(5)", &["", "ab", " x", "é☃\"\\,"]),
    ("\"char\"", &["", "x", "\"", "\\", ",", "{"]),
    ("name", &["", "Some \"Name\"", "a,b\\c"]),
    ("xml", &["<a b=\"c\">\n1&amp;</a>", "x"]),
    ("tsvector", &["'a' 'b':1A,2", "'it''s' '\\\\'"]),
    ("tsquery", &["a & !b", "'it''s' <-> b:*A"]),
    ("jsonpath", &["$.a[*] ? (@ > 1)", "strict $.\"k\\\"ey\""]),
    ("point", &["(1,2)", "(1e300,-0)", "(NaN,Infinity)"]),
    ("line", &["{1,2,3}"]),
    ("lseg", &["[(1,2),(3,4)]"]),
    ("box", &["(1,2),(3,4)"]),
    ("path", &["((1,2),(3,4))", "[(1,2),(3,4)]"]),
    ("polygon", &["((1,2),(3,4),(5,6))"]),
    ("circle", &["<(1,2),3>"]),
    ("oid", &["0", "4294967295"]),
    ("xid", &["4294967295"]),
    ("xid8", &["18446744073709551615"]),
    ("cid", &["5"]),
    ("tid", &["(1,2)"]),
    ("pg_lsn", &["16/B374D848", "0/0"]),
    ("pg_snapshot", &["10:20:10,14,15"]),
    ("txid_snapshot", &["10:20:"]),
    ("regclass", &["pg_class", "12345678"]),
    ("regtype", &["timestamp with time zone", "\"char\""]),
    ("regproc", &["now"]),
    ("regrole", &["postgres"]),
    ("regnamespace", &["pg_catalog"]),
    ("refcursor", &["some cursor"]),
    ("int4range", &["[1,5)", "empty", "(,)", "[7,]"]),
    ("numrange", &["(1.50,NaN)", "[,2]"]),
    ("daterange", &["[2024-01-01,infinity)", "[0044-03-15 BC,)"]),
    ("tsrange", &["[2024-01-01 00:00,2024-01-02)"]),
    ("tstzrange", &["[\"2024-01-01 00:00+02\",)", "empty"]),
    ("int8multirange", &["{[1,5),[7,9)}", "{}"]),
    ("tstzmultirange", &["{[2024-01-01 00:00+02,2024-01-02 00:00Z),[2025-01-01,)}"]),
    ("int2vector", &["1 2 -3", ""]),
    ("oidvector", &["1 2 4294967295", ""]),
];

/// Types that are more than text to JSON.
const TELLING: &[(&str, &[&str])] = &[
    ("int2", &["-32768", "32767"]),
    ("int4", &["-2147483648", "2147483647"]),
    ("int8", &["-9223372036854775808", "9223372036854775807", "9007199254740993"]),
    ("float4", &["NaN", "Infinity", "-Infinity", "-0", "3.4028235e38", "1e-45", "16777217", "0.1"]),
    ("float8", &["NaN", "Infinity", "-Infinity", "-0", "1.7976931348623157e308", "5e-324", "1e22", "0.1"]),
    (
        "numeric",
        &[
            "NaN",
            "Infinity",
            "-Infinity",
            "1.50",
            "-0.000",
            "1e130",
            "1e-130",
            "12345678901234567890.0123456789",
        ],
    ),
    ("numeric(12,2)", &["1234567.8", "-0.1"]),
    ("bool", &["t", "f"]),
    ("bytea", &["\\x", "\\x0102ff", "\\x5c22"]),
    (
        "json",
        &[
            "null",
            "5",
            "\"str\"",
            "{\"b\": 1,  \"a\":[1,2.50,null], \"b\":2}",
            " [ ] ",
            "\"\\u00e9\\/\\n\"",
            "1E400",
        ],
    ),
    (
        "jsonb",
        &[
            "null",
            "5",
            "\"str\"",
            "{\"b\": 1,  \"a\":[1,2.50,null]}",
            "[]",
            "{\"\": \"\\\"\"}",
            "-0.00",
            "1e400",
        ],
    ),
    ("text", &["", "null", "NULL", "{}", "()", "\\", "\"", "\u{7f}\u{2028}", "\\N", "a\r\nb"]),
    ("varchar(80)", &["x", "é☃😀"]),
];

/// Made for the test: types over types, and what the columns of the third table are of.
const MADE: &str = r#"
    create type public."Mood" as enum ('sad', 'a b', 'q"uote', 'back\slash', 'com,ma', '{brace}', 'null', 'NULL', '(x)');
    create domain public.posint as int check (value > 0);
    create domain public.posint2 as public.posint;
    create domain public.stamp as timestamptz;
    create domain public.doc as jsonb;
    create domain public.hex as bytea;
    create domain public.ratio as numeric;
    create domain public.words as text[];
    create type public.pair as (n numeric, t text, "Hex" bytea, "at" timestamptz);
    create domain public.checked_pair as public.pair;
    create type public.nest as (p public.pair, ps public.pair[], w public.words, m "Mood", b bool, j json, d public.checked_pair, f float8);
    create type public.nothing as ();
    create type public.spans as range (subtype = text);
    create table public.as_row (a int, gone text, "B c" text);
    alter table public.as_row drop column gone;
"#;

/// Columns of made types with expressions of their values; `?` is a random text, `#` a random number.
const MADE_COLUMNS: &[(&str, &[&str])] = &[
    ("public.\"Mood\"", &["'sad'", "'a b'", "'q\"uote'", "'back\\slash'", "'NULL'"]),
    ("public.\"Mood\"[]", &["'{sad,\"a b\",\"NULL\",NULL}'", "enum_range(null::public.\"Mood\")"]),
    ("public.posint", &["5"]),
    ("public.posint2", &["7"]),
    ("public.posint2[]", &["array[1, null, 3]::public.posint2[]", "array[[1, 2], [3, 4]]::public.posint2[]"]),
    ("public.stamp", &["'2026-01-02 03:04+01'", "'infinity'"]),
    ("public.doc", &["'{\"a\": [1, {\"b\": null}]}'", "'\"x\"'"]),
    ("public.hex", &["'\\x00ff'", "convert_to(?, 'UTF8')"]),
    ("public.hex[]", &["array[convert_to(?, 'UTF8'), null]::public.hex[]"]),
    ("public.ratio", &["#", "'NaN'", "'-0.0'"]),
    ("public.ratio[]", &["array[#, 'NaN', null]::public.ratio[]"]),
    ("public.words", &["array[?, ?, null]", "'{}'", "array[[?, ?], [?, ?]]"]),
    ("public.words[]", &["array[array[?, ?]::public.words, array[?]::public.words]"]),
    ("public.pair", &["row(#, ?, '\\x00ff', '2026-01-02Z')", "row(null, null, null, null)", "row('NaN', '', '', 'infinity')"]),
    ("public.pair[]", &["array[row(#, ?, convert_to(?, 'UTF8'), null), null, row(null, ?, null, '0044-03-15 BC')]::public.pair[]"]),
    ("public.checked_pair", &["row(#, ?, null, '2026-01-02Z')"]),
    (
        "public.nest",
        &["row(row(#, ?, null, null), array[row(#, ?, '\\x01', null)]::public.pair[], array[?, ?], 'q\"uote', true,
               json_build_object(?, #, 'x', ?), row(#, ?, null, null), 'NaN')"],
    ),
    ("public.nest[]", &["array[row(null, array[[row(#, ?, '\\x01', null)]]::public.pair[], null, null, false, '[1]', null, -0.0)]::public.nest[]"]),
    ("public.nothing", &["row()"]),
    ("public.spans", &["public.spans(?, null)", "'empty'"]),
    ("public.spans[]", &["array[public.spans(null, ?, '[]'), 'empty']"]),
    ("public.as_row", &["row(5, ?)"]),
    ("public.as_row[]", &["array[row(5, ?), row(null, null)]::public.as_row[]"]),
    ("int[]", &["'[0:1][-1:0]={{1,2},{3,NULL}}'", "'{{{{{{1}}}}}}'", "'[5:5]={7}'", "'{}'"]),
];

struct Column {
    name: String,
    sql_type: String,
}

/// postgres_changes 2.3 and recording 09
#[tokio::test]
async fn values_are_as_postgresql_writes_them() -> Result<()> {
    let seed = std::env::var("SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or_else(rand::random);
    eprintln!("SEED={seed}");
    let mut random = StdRng::seed_from_u64(seed);
    let db = TestDb::new().await?;
    db.sql(MADE).await?;
    // However the database likes to write values.
    db.sql(&format!(
        "alter database {0} set timezone = 'Asia/Kolkata'; alter database {0} set datestyle = 'German, DMY';
         alter database {0} set intervalstyle = 'iso_8601'; alter database {0} set bytea_output = 'escape';
         alter database {0} set extra_float_digits = -5; alter database {0} set xmloption = 'content';
         set timezone = 'UTC'; set datestyle = 'ISO'; set intervalstyle = 'postgres'; set bytea_output = 'hex';
         set extra_float_digits = 1; set xmloption = 'content'",
        db.name()
    ))
    .await?;
    let mut extra: Vec<(&str, &[&str])> = Vec::new();
    for (extension, values) in [
        ("hstore", &["", "a=>1, \"b \\\"q\\\"\"=>NULL, c=>\"NULL\"", "\"\"=>\"\\\\ , => é\""][..]),
        ("citext", &["Ab", "", "\"\\"]),
        ("ltree", &["a.b.c", ""]),
    ] {
        let sql = "select from pg_available_extensions where name = $1";
        if db.client().query_opt(sql, &[&extension]).await?.is_some() {
            db.sql(&format!("create extension {extension} schema public")).await?;
            extra.push((extension, values));
        }
    }
    let server = Server::start(BINARY, &db, ServerOptions::default()).await?;
    let plain: Vec<(&str, &[&str])> = TEXTUAL.iter().chain(TELLING).copied().chain(extra).collect();

    let columns = columns(plain.iter().map(|(name, _)| (*name).to_owned()));
    let rows = |random: &mut StdRng| -> Vec<String> {
        plain.iter().map(|(name, values)| scalar(random, name, values)).collect()
    };
    compare(&db, &server, "scalars", &columns, (0..ROWS).map(|_| rows(&mut random)).collect()).await?;

    let columns = self::columns(plain.iter().map(|(name, _)| format!("{name}[]")));
    let rows = |random: &mut StdRng| -> Vec<String> {
        plain.iter().map(|(name, values)| array(random, name, values)).collect()
    };
    compare(&db, &server, "arrays", &columns, (0..ROWS).map(|_| rows(&mut random)).collect()).await?;

    let columns = self::columns(MADE_COLUMNS.iter().map(|(name, _)| (*name).to_owned()));
    let rows = |random: &mut StdRng| -> Vec<String> {
        MADE_COLUMNS.iter().map(|(name, values)| format!("{}::{name}", filled(random, values))).collect()
    };
    compare(&db, &server, "made", &columns, (0..ROWS).map(|_| rows(&mut random)).collect()).await
}

/// postgres_changes 2.3, 5.1: `json` keeps its text, also what `jsonb` could not hold and would cost others the change
#[tokio::test]
async fn json_is_passed_through() -> Result<()> {
    let (server, db) = crate::server().await?;
    db.sql(
        "create table public.texts (id int primary key, j json, a json[]); grant select on public.texts to anon;
         alter publication supabase_realtime add table public.texts",
    )
    .await?;
    let mut socket = server.socket(Version::V2, "anon").await?;
    socket.watch(TOPIC, json!([{"schema": "public", "table": "texts"}])).await?;
    let deep = format!("{}1{}", "[".repeat(2000), "]".repeat(2000));
    let texts = [
        r#"{"a": "\u0000", "a" : 1}"#,
        r#""\ud800""#,
        "1e99999",
        "[\n1\t, 2.50 ]",
        " null ",
        "\"\u{2028}\u{7f}\"",
        &deep,
    ];
    for (id, text) in (1..).zip(texts) {
        db.client()
            .execute(
                "insert into public.texts values ($1, $2::text::json, array[$2::text::json, null])",
                &[&id, &text],
            )
            .await?;
        let record = member(&mut socket, "record").await?;
        // Clients cannot read half a character.
        let text = text.replace("\\ud800", "\\ufffd");
        assert_eq!(record, format!(r#"{{"id":{id},"j":{text},"a":[{text},null]}}"#));
    }
    Ok(())
}

/// A database of another encoding: clients get UTF-8, names included.
#[tokio::test]
async fn other_encodings() -> Result<()> {
    let db = TestDb::new().await?;
    let name = format!("{}_latin1", db.name());
    db.sql(&format!("create database {name} encoding 'LATIN1' locale 'C' template template0")).await?;
    let latin = realtime_testkit::cluster().await?.connect(&name).await?;
    latin
        .batch_execute(
            "create table public.\"é\" (id int primary key, \"ü\" text, a text[]); grant select on public.\"é\" to anon;
             grant usage on schema public to anon; create publication supabase_realtime for table public.\"é\"",
        )
        .await?;
    let server = Server::start(BINARY, &db, ServerOptions::default().env("DB_NAME", &name)).await?;
    let mut socket = server.socket(Version::V2, "anon").await?;
    socket.watch(TOPIC, json!([{"schema": "public", "table": "é", "filter": "ü=eq.ß"}])).await?;
    latin.batch_execute("insert into public.\"é\" values (1, 'x', null), (2, 'ß', '{é,ÿ}')").await?;
    let payload = socket.event(TOPIC, "postgres_changes").await?;
    assert_eq!(payload["data"]["record"], json!({"id": 2, "ü": "ß", "a": ["é", "ÿ"]}));
    Ok(())
}

fn columns(types: impl Iterator<Item = String>) -> Vec<Column> {
    types.enumerate().map(|(at, sql_type)| Column { name: format!("Col {at}"), sql_type }).collect()
}

/// Inserts rows and deletes them; each record must be what `to_jsonb` makes of the row, and each old record that.
async fn compare(
    db: &TestDb,
    server: &Server,
    table: &str,
    columns: &[Column],
    rows: Vec<Vec<String>>,
) -> Result<()> {
    let definitions: Vec<_> =
        columns.iter().map(|column| format!("\"{}\" {}", column.name, column.sql_type)).collect();
    db.sql(&format!(
        "create table public.{table} (id bigint primary key, {});
         alter table public.{table} replica identity full; grant select on public.{table} to anon;
         alter publication supabase_realtime add table public.{table}",
        definitions.join(", ")
    ))
    .await?;
    let mut socket = server.socket(Version::V2, "anon").await?;
    socket.watch(TOPIC, json!([{"schema": "public", "table": table}])).await?;
    let named = |wanted: &[&str]| -> Vec<String> {
        let of = |column: &&Column| wanted.contains(&column.sql_type.split('(').next().unwrap_or_default());
        columns.iter().filter(of).map(|column| column.name.clone()).collect()
    };
    // What 2.3 decides otherwise: of columns, not of elements.
    let numbers = named(&["float4", "float8", "numeric", "public.ratio"]);
    let bytes = named(&["bytea", "public.hex"]);
    let sql = format!(
        r#"select key, ours.value::text, theirs.value::text from jsonb_each($1::text::jsonb) ours full join (
            select key, case
                when key = any($3) and value in ('"NaN"', '"Infinity"', '"-Infinity"') then 'null'
                when key = any($4) and value <> 'null' then to_jsonb(substr(value #>> '{{}}', 3))
                else value end as value
            from public.{table} t, jsonb_each(to_jsonb(t)) where t.id = $2) theirs using (key)
        where ours.value is distinct from theirs.value"#
    );
    for (id, row) in (1_i64..).zip(rows) {
        db.sql(&format!("insert into public.{table} values ({id}, {})", row.join(", "))).await?;
        let record = member(&mut socket, "record").await?;
        let wrong = db
            .client()
            .query(&sql, &[&record, &id, &numbers, &bytes])
            .await
            .with_context(|| record.clone())?;
        let wrong: Vec<String> = wrong
            .iter()
            .map(|row| {
                let name: String = row.get(0);
                let sql_type =
                    columns.iter().find(|column| column.name == name).map(|column| &column.sql_type);
                let (ours, theirs): (Option<String>, Option<String>) = (row.get(1), row.get(2));
                format!("{sql_type:?}: ours {ours:?}, PostgreSQL's {theirs:?}")
            })
            .collect();
        assert!(wrong.is_empty(), "{table} {id}: {wrong:#?}");
        db.sql(&format!("delete from public.{table} where id = {id}")).await?;
        assert_eq!(member(&mut socket, "old_record").await?, record);
    }
    Ok(())
}

/// The text of a member of the next change's data.
async fn member(socket: &mut Socket, name: &str) -> Result<String> {
    loop {
        if let Message::Text(text) = socket.message().await? {
            let frame: Vec<&RawValue> = serde_json::from_str(&text)?;
            // A channel may be told at any time that it is subscribed, to more than before.
            if frame.get(3).is_none_or(|event| event.get() != "\"postgres_changes\"") {
                continue;
            }
            let payload: std::collections::HashMap<&str, &RawValue> =
                serde_json::from_str(frame.get(4).context("payload")?.get())?;
            let data: std::collections::HashMap<&str, &RawValue> =
                serde_json::from_str(payload.get("data").with_context(|| text.to_string())?.get())?;
            return Ok(data.get(name).with_context(|| text.to_string())?.get().to_owned());
        }
    }
}

fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

/// An expression of a type: one of the given values, a random one, or null.
fn scalar(random: &mut StdRng, name: &str, values: &[&str]) -> String {
    let text = match name {
        _ if random.random_ratio(1, 8) => return format!("null::{name}"),
        "int2" => random.random::<i16>().to_string(),
        "int4" => random.random::<i32>().to_string(),
        "int8" => random.random::<i64>().to_string(),
        "float4" => f32::from_bits(random.random()).to_string(),
        "float8" => f64::from_bits(random.random()).to_string(),
        "numeric" => number(random),
        "bytea" => {
            format!(
                "\\x{}",
                (0..random.random_range(0..9))
                    .map(|_| format!("{:02x}", random.random::<u8>()))
                    .collect::<String>()
            )
        }
        "text" | "citext" | "varchar(80)" => words(random),
        "json" | "jsonb" => document(random, 0),
        "date" | "timestamp" | "timestamptz" => {
            let micros: i64 = random.random_range(-200_000_000_000_000_000..=200_000_000_000_000_000);
            return format!("('2000-01-01'::timestamptz + {micros} * '1 us'::interval)::{name}");
        }
        "interval" => {
            return format!(
                "make_interval({}, {}, 0, {}, 0, 0, {})",
                random.random_range(-99..99),
                random.random_range(-99..99),
                random.random_range(-999..999),
                random.random_range(-9_999_999..9_999_999_i32) as f64 / 1000.0
            );
        }
        _ => values.choose(random).copied().unwrap_or_default().to_owned(),
    };
    // The edges come as often as the rest.
    let edge = values.choose(random).filter(|_| random.random());
    format!("{}::{name}", quoted(edge.copied().unwrap_or(&text)))
}

/// An expression of an array of a type, of no to three dimensions.
fn array(random: &mut StdRng, name: &str, values: &[&str]) -> String {
    let mut one = || scalar(random, name, values);
    let (a, b, c, d) = (one(), one(), one(), one());
    let literal = match random.random_range(0..6) {
        0 => return "null".to_owned(),
        1 => "'{}'".to_owned(),
        2 => format!("array[{a}, {b}, {c}, {d}]"),
        3 => format!("array[[{a}, {b}], [{c}, {d}]]"),
        4 => format!("array[[[{a}]], [[{b}]], [[{c}]]]"),
        _ => format!("array_fill({a}, array[2, 1], array[-1, 5])"),
    };
    format!("{literal}::{name}[]")
}

/// One of the expressions with its marks replaced.
fn filled(random: &mut StdRng, values: &[&str]) -> String {
    if random.random_ratio(1, 8) {
        return "null".to_owned();
    }
    let mut out = String::new();
    for c in values.choose(random).copied().unwrap_or("null").chars() {
        match c {
            '?' => out.push_str(&format!("{}::text", quoted(&words(random)))),
            '#' => out.push_str(&format!("{}::numeric", quoted(&number(random)))),
            c => out.push(c),
        }
    }
    out
}

fn number(random: &mut StdRng) -> String {
    let mut digits =
        |n: usize| (0..n).map(|_| char::from(random.random_range(b'0'..=b'9'))).collect::<String>();
    let (whole, fraction) = (digits(40), digits(30));
    let (w, f) = (random.random_range(1..40), random.random_range(0..30));
    format!("{}{}.{}0", if random.random() { "-" } else { "" }, &whole[..w], &fraction[..f])
}

/// Text of characters that mean something to one of the forms that values take.
fn words(random: &mut StdRng) -> String {
    const CHARACTERS: &[char] = &[
        'a', 'N', 'U', 'L', ' ', ' ', '"', '"', '\\', '\\', ',', ';', '{', '}', '(', ')', '[', ']', '=', '>',
        '\'', ':', '\n', '\t', '\r', '\u{8}', '\u{c}', '\u{b}', '\u{1}', '\u{1f}', '\u{7f}', '\u{85}', 'é',
        '☃', '😀', '\u{2028}', '/',
    ];
    (0..random.random_range(0..20)).filter_map(|_| CHARACTERS.choose(random)).collect()
}

fn document(random: &mut StdRng, depth: usize) -> String {
    match random.random_range(0..if depth < 3 { 7 } else { 5 }) {
        0 => "null".to_owned(),
        1 => random.random::<bool>().to_string(),
        2 => format!("{}e{}", random.random::<i32>(), random.random_range(-20..20)),
        3 => random.random::<i64>().to_string(),
        4 => json!(words(random)).to_string(),
        5 => format!("[{} ,\n{}]", document(random, depth + 1), document(random, depth + 1)),
        _ => format!(
            "{{{}:{}, \"z\" : {}}}",
            json!(words(random)),
            document(random, depth + 1),
            document(random, depth + 1)
        ),
    }
}
