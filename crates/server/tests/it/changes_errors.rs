//! Subscribing and what it is refused with (postgres_changes 1, cases 1 to 30).

use anyhow::Result;
use realtime_testkit::{Server, ServerOptions, Socket, TestDb, Version, sign, unix_now};
use serde_json::{Value, json};

use crate::{BINARY, server};

const TOPIC: &str = "realtime:any";
const NO_TABLE: &str = "Unable to subscribe to changes with given parameters. Please check Realtime is enabled for the given connect parameters: ";
const EXCEPTION: &str = "Unable to subscribe to changes with given parameters. An exception happened so please check your connect parameters: ";

/// Joins with subscriptions; the echoed subscriptions and the `system` payload that follows.
async fn subscribe(
    server: &Server,
    version: Version,
    subscriptions: Value,
) -> Result<(Value, Value, Socket)> {
    let mut socket = server.socket(version, "anon").await?;
    let (reply, reference) =
        socket.join(TOPIC, json!({"config": {"postgres_changes": subscriptions}})).await?;
    assert_eq!(reply["status"], "ok", "{reply}");
    let system = socket.expect(|frame| frame.event == "system").await?;
    assert_eq!(system.msg_ref, Value::Null);
    if version == Version::V2 {
        assert_eq!(system.join_ref, json!(reference));
    }
    assert_eq!(
        (&system.payload["extension"], &system.payload["channel"]),
        (&json!("postgres_changes"), &json!("any"))
    );
    Ok((reply["response"]["postgres_changes"].clone(), system.payload, socket))
}

/// The text a subscription is refused with.
async fn refused(server: &Server, subscription: Value) -> Result<String> {
    let (_, system, mut socket) = subscribe(server, Version::V2, json!([subscription])).await?;
    assert_eq!(system["status"], "error", "{system}");
    assert!(socket.settle().await?.is_empty(), "one system frame");
    Ok(system["message"].as_str().unwrap_or_default().to_owned())
}

fn test(filter: &str) -> Value {
    json!({"event": "*", "schema": "public", "table": "test", "filter": filter})
}

/// postgres_changes 1, 2, 5, 6, 7
#[tokio::test]
async fn subscriptions_are_echoed_and_confirmed() -> Result<()> {
    let (server, _db) = server().await?;
    for version in Version::BOTH {
        let subscriptions = json!([
            {"event": "INSERT", "schema": "public"},
            {"event": "DELETE", "schema": "public", "table": "test", "x": 1.50, "filter": ""},
            {"event": "DELETE", "schema": "public", "table": "test", "select": ["details"]},
            {"event": "INSERT", "schema": "public"},
        ]);
        let (echo, system, mut socket) = subscribe(&server, version, subscriptions.clone()).await?;
        assert_eq!(
            (&system["status"], &system["message"]),
            (&json!("ok"), &json!("Subscribed to PostgreSQL"))
        );
        assert!(socket.settle().await?.is_empty(), "one confirmation");
        let mut echo = echo.as_array().cloned().unwrap_or_default();
        let ids: Vec<u64> =
            echo.iter_mut().filter_map(|entry| entry.as_object_mut()?.remove("id")?.as_u64()).collect();
        assert_eq!(Value::from(echo), subscriptions);
        assert_eq!(ids.len(), 4);
        assert!(ids.iter().all(|id| *id > 0) && ids[0] == ids[3] && ids[0] != ids[1] && ids[1] != ids[2]);
        let (again, ..) = subscribe(&server, version, subscriptions).await?;
        assert_eq!(again[0]["id"], json!(ids[0]), "ids survive rejoins");
    }
    Ok(())
}

/// postgres_changes 3, 4; protocol 28
#[tokio::test]
async fn no_subscription_no_confirmation() -> Result<()> {
    let (server, _db) = server().await?;
    for config in
        [json!({"postgres_changes": [null]}), json!({"postgres_changes": null}), json!({}), Value::Null]
    {
        let mut socket = server.socket(Version::V2, "anon").await?;
        let (reply, _) = socket.join(TOPIC, json!({ "config": config })).await?;
        assert_eq!(reply, json!({"status": "ok", "response": {"postgres_changes": []}}));
        assert!(socket.settle().await?.is_empty());
    }
    Ok(())
}

/// protocol 88; postgres_changes 8 to 15
#[tokio::test]
async fn parameters_that_cannot_be_used() -> Result<()> {
    let (server, _db) = server().await?;
    let filter = "Error parsing `filter` params: ";
    for (text, detail) in [
        ("wrong", r#"["wrong"]"#),
        ("subject=foo.hey", r#"["foo", "hey"]"#),
        ("undefined", r#"["undefined"]"#),
        ("id=in.1,2", "`in` filter value must be wrapped by parentheses"),
        ("id=gt.0,", "filter must not contain empty segments (check for extra commas)"),
    ] {
        assert_eq!(refused(&server, test(text)).await?, format!("{filter}{detail}"));
    }
    let none =
        "No subscription params provided. Please provide at least a `schema` or `table` to subscribe to: ";
    assert_eq!(refused(&server, json!({})).await?, format!("{none}%{{}}"));
    let select = "Error parsing `select` params: expected a list of column name strings, e.g. select: [\"col1\", \"col2\"]";
    assert_eq!(refused(&server, json!({"schema": "public", "table": "test", "select": "id"})).await?, select);
    let wild = "Column selection is not supported for wildcard subscriptions. Provide an explicit schema and table name.";
    assert_eq!(refused(&server, json!({"schema": "public", "select": ["id"]})).await?, wild);
    Ok(())
}

/// protocol 88; postgres_changes 16, 17, 55
#[tokio::test]
async fn tables_that_are_not_published() -> Result<()> {
    let (server, db) = server().await?;
    db.sql("create table public.unpublished (id int primary key)").await?;
    for (subscription, context) in [
        (
            json!({"event": "*", "schema": "public", "table": "doesnotexist"}),
            "[event: *, schema: public, table: doesnotexist, filters: [], select: nil]",
        ),
        (
            json!({"table": "unpublished"}),
            "[event: *, schema: public, table: unpublished, filters: [], select: nil]",
        ),
        (json!({"table": "TEST"}), "[event: *, schema: public, table: TEST, filters: [], select: nil]"),
        (json!({"schema": "none"}), "[event: *, schema: none, table: *, filters: [], select: nil]"),
    ] {
        assert_eq!(refused(&server, subscription).await?, format!("{NO_TABLE}{context}"));
    }
    db.sql("drop publication supabase_realtime").await?;
    let text = refused(&server, json!({"event": "INSERT", "schema": "public"})).await?;
    assert_eq!(
        text,
        format!("{NO_TABLE}[event: INSERT, schema: public, table: *, filters: [], select: nil]")
    );
    Ok(())
}

/// protocol 88; postgres_changes 18 to 25
#[tokio::test]
async fn filters_that_the_database_refuses() -> Result<()> {
    let (server, db) = server().await?;
    db.sql(
        "create table public.kinds (id int primary key, v varchar, j json, n numeric, d date);
         create domain public.posint as int check (value > 0);
         create type public.\"Color\" as enum ('RED', 'GREEN');
         alter table public.kinds add column p public.posint, add column c public.\"Color\", add column b bytea;
         grant select on public.kinds to anon;
         alter publication supabase_realtime add table public.kinds;",
    )
    .await?;
    let many = (0..101).map(|n| n.to_string()).collect::<Vec<_>>().join(",");
    let context =
        |filters: &str| format!("[event: *, schema: public, table: test, filters: [{filters}], select: nil]");
    let exact = [
        (
            "notacolumn=eq.123",
            r#"{"notacolumn", "eq", "123", false}"#,
            "ERROR P0001 (raise_exception) invalid column for filter notacolumn",
        ),
        ("id=eq.hey", r#"{"id", "eq", "hey", false}"#, "ERROR 22P02 (invalid_text_representation)"),
        (
            "id=is.true",
            r#"{"id", "is", "true", false}"#,
            "ERROR P0001 (raise_exception) is true filter requires a boolean column, got integer",
        ),
        (
            "id=is.maybe",
            r#"{"id", "is", "maybe", false}"#,
            "ERROR P0001 (raise_exception) invalid value for is filter: must be null, true, false, or unknown",
        ),
        (
            "id=like.a%",
            r#"{"id", "like", "a%", false}"#,
            "ERROR P0001 (raise_exception) operator like requires a text-compatible column type, got integer",
        ),
        (
            "details=match.(",
            r#"{"details", "match", "(", false}"#,
            "ERROR P0001 (raise_exception) invalid regular expression for match filter: ERROR 2201B (invalid_regular_expression)",
        ),
    ];
    for (filter, filters, error) in exact {
        let text = refused(&server, test(filter)).await?;
        assert_eq!(text, format!("{EXCEPTION}{}. Exception: {error}", context(filters)));
    }
    let kinds = |filter: &str| json!({"schema": "public", "table": "kinds", "filter": filter});
    for (subscription, part) in [
        (test(&format!("id=in.({many})")), "too many values for `in` filter. Maximum 100"),
        (test("id=in.(1,{)"), "ERROR 22P02 (invalid_text_representation)"),
        (kinds("v=like.a%"), "operator like requires a text-compatible column type, got character varying"),
        (kinds("v=match.a"), "operator match requires a text-compatible column type, got character varying"),
        (kinds("c=eq.BLUE"), "ERROR 22P02 (invalid_text_representation)"),
        (kinds("p=eq.-1"), "ERROR 23514 (check_violation)"),
        (kinds("j=eq.{}"), "ERROR 42883 (undefined_function)"),
        (test(r"details=match.^(.*)(.*)\2\1x$"), "back-references are not supported by match filters"),
        (test(r"details=imatch.(a)\1"), "back-references are not supported by imatch filters"),
        (kinds("b=ilike.a%"), "operator ilike requires a text-compatible column type, got bytea"),
        (kinds("d=gt.nonsense"), "ERROR 22007 (invalid_datetime_format)"),
    ] {
        let text = refused(&server, subscription).await?;
        assert!(text.starts_with(EXCEPTION) && text.contains(part), "{text}");
        assert!(!part.starts_with("ERROR") || text.ends_with(part), "the code and its name alone: {text}");
    }
    for accepted in [
        format!("id=in.({})", &many[..many.len() - 4]),
        "details=eq.null".to_owned(),
        "id=is.null".to_owned(),
    ] {
        let (_, system, _) = subscribe(&server, Version::V2, json!([test(&accepted)])).await?;
        assert_eq!(system["status"], "ok", "{system}");
    }
    Ok(())
}

/// postgres_changes 20, 21, 29 and the role texts of 1.7
#[tokio::test]
async fn what_a_role_may_not_read() -> Result<()> {
    let (server, db) = server().await?;
    db.sql(
        "create table public.narrow (id int primary key, details text, hidden text);
         grant select (id, details) on public.narrow to anon;
         alter publication supabase_realtime add table public.narrow;",
    )
    .await?;
    let narrow = |key: &str, value: Value| {
        let mut subscription = json!({"schema": "public", "table": "narrow"});
        subscription[key] = value;
        subscription
    };
    let text = refused(&server, narrow("select", json!(["nope"]))).await?;
    assert!(text.ends_with(
        "select: [\"nope\"]]. Exception: ERROR P0001 (raise_exception) invalid column for select nope"
    ));
    let text = refused(&server, narrow("select", json!(["id", "hidden"]))).await?;
    assert!(text.contains("invalid column for select hidden"), "{text}");
    let text = refused(&server, narrow("filter", json!("hidden=eq.x"))).await?;
    assert!(text.contains("invalid column for filter hidden"), "{text}");
    let (_, system, _) = subscribe(&server, Version::V2, json!([narrow("filter", json!("id=eq.1"))])).await?;
    assert_eq!(system["status"], "ok");

    let ghost = sign(&json!({"role": "ghost", "exp": unix_now() + 100}));
    let mut socket = Socket::connect(server.port(), Version::V2, &ghost).await?;
    socket.join(TOPIC, json!({"config": {"postgres_changes": [{"schema": "public"}]}})).await?;
    let system = socket.event(TOPIC, "system").await?;
    let message = system["message"].as_str().unwrap_or_default();
    assert!(
        message.ends_with("Exception: ERROR 42704 (undefined_object) role \"ghost\" does not exist"),
        "{message}"
    );
    Ok(())
}

/// postgres_changes 26
#[tokio::test]
async fn subscriptions_of_a_channel_succeed_or_fail_together() -> Result<()> {
    let (server, db) = server().await?;
    let subscriptions = json!([{"schema": "public", "table": "test"}, {"schema": "public", "table": "nope"}]);
    let (echo, system, mut socket) = subscribe(&server, Version::V2, subscriptions).await?;
    assert_eq!(echo.as_array().map(Vec::len), Some(2));
    assert_eq!(system["status"], "error");
    let mut witness = server.socket(Version::V2, "anon").await?;
    witness.watch(TOPIC, json!([{"schema": "public"}])).await?;
    db.sql("insert into public.test (details) values ('x')").await?;
    witness.event(TOPIC, "postgres_changes").await?;
    assert!(socket.settle().await?.is_empty());
    Ok(())
}

/// postgres_changes 27: the database cannot be asked; the client is told, and it is tried again.
#[tokio::test]
async fn a_database_that_cannot_be_asked() -> Result<()> {
    let db = TestDb::with_fixture_a().await?;
    // No replication for this role: the slot cannot be made.
    db.sql("create role no_replication login password 'pw'; grant select on public.test to no_replication")
        .await?;
    let options = ServerOptions::default().env("DB_USER", "no_replication").env("DB_PASSWORD", "pw");
    let server = Server::start(BINARY, &db, options).await?;
    let text = refused(&server, json!({"schema": "public"})).await?;
    assert!(text.starts_with("{:error, \""), "{text}");
    db.sql("alter role no_replication replication").await?;
    let mut socket = server.socket(Version::V2, "anon").await?;
    socket.join(TOPIC, json!({"config": {"postgres_changes": [{"schema": "public"}]}})).await?;
    let system = socket.expect(|frame| frame.event == "system" && frame.payload["status"] == "ok").await?;
    assert_eq!(system.payload["message"], "Subscribed to PostgreSQL");
    Ok(())
}
