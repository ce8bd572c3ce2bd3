//! Filters as trees: groups, JSON paths, arrays and ranges (row_security 5).

use anyhow::Result;
use realtime_testkit::{Server, Socket, TestDb, Version};
use serde_json::{Value, json};

use crate::server;

const TOPIC: &str = "realtime:any";

async fn watching(server: &Server, table: &str, filter: &str) -> Result<Socket> {
    let mut socket = server.socket(Version::V2, "anon").await?;
    let subscription = json!({"event": "*", "schema": "public", "table": table, "filter": filter});
    socket.watch(TOPIC, json!([subscription])).await?;
    Ok(socket)
}

/// The text that a filter is refused with.
async fn refused(server: &Server, table: &str, filter: &str) -> Result<String> {
    let mut socket = server.socket(Version::V2, "anon").await?;
    let subscription = json!({"schema": "public", "table": table, "filter": filter});
    socket.join(TOPIC, json!({"config": {"postgres_changes": [subscription]}})).await?;
    let system = socket.event(TOPIC, "system").await?;
    assert_eq!(system["status"], "error", "{filter}: {system}");
    Ok(system["message"].as_str().unwrap_or_default().to_owned())
}

/// Waits until `witness`, who gets everything, has seen all that was done before.
async fn passed(witness: &mut Socket, db: &TestDb, table: &str) -> Result<()> {
    db.sql(&format!(
        "insert into public.{table} (id) values (-999); delete from public.{table} where id = -999"
    ))
    .await?;
    let is_mark = |data: &Value| data["type"] == "DELETE" && data["old_record"]["id"] == -999;
    witness.expect(|frame| is_mark(&frame.payload["data"])).await?;
    Ok(())
}

/// The types and ids of what a socket got.
async fn got(socket: &mut Socket) -> Result<Vec<(String, i64)>> {
    let frames = socket.settle().await?;
    let change = |data: &Value| {
        let kind = data["type"].as_str()?.to_owned();
        let record = if kind == "DELETE" { &data["old_record"] } else { &data["record"] };
        Some((kind, record["id"].as_i64().filter(|id| *id != -999)?))
    };
    Ok(frames.iter().filter_map(|frame| change(&frame.payload["data"])).collect())
}

fn change(kind: &str, id: i64) -> (String, i64) {
    (kind.to_owned(), id)
}

async fn kinds(db: &TestDb) -> Result<()> {
    db.sql(
        "create domain public.labels as text[] check (cardinality(value) < 5);
         create type public.mood as enum ('sad', 'happy');
         create table public.k (id int primary key, n int, tags text[], marks int[], moods public.mood[], labels public.labels,
            r int4range, period tstzrange, nr numrange, mr int4multirange, data jsonb, doc json, note text);
         grant select on public.k to anon; alter publication supabase_realtime add table public.k",
    )
    .await
}

/// row_security 24
#[tokio::test]
async fn every_operator_of_arrays_ranges_and_paths_is_postgresqls() -> Result<()> {
    let (server, db) = server().await?;
    kinds(&db).await?;
    let row = "insert into public.k values (1, 5, '{a,b}', '{1,2,NULL}', '{happy}', '{x,y}', '[1,5)', '[2024-01-01,2024-02-01)',
        '[1.5,2.5]', '{[1,3),[5,7)}', '{\"kind\": \"x\", \"n\": 3, \"in\": {\"k\": [1, \"two\"]}, \"none\": null}', '{\"kind\": \"x\", \"kind\": \"y\"}', 'n')";
    let cases = [
        ("tags=cs.{a,b}", true),
        ("tags=cs.{a,c}", false),
        ("tags=cs.{}", true),
        ("tags=cd.{a,b,c}", true),
        ("tags=cd.{a}", false),
        ("tags=ov.{b,c}", true),
        ("tags=ov.{c}", false),
        ("tags=not.ov.{c}", true),
        ("tags=cs.\"{\\\"a\\\"}\"", true),
        ("marks=cs.{1,2}", true),
        ("marks=cs.{NULL}", false),
        ("marks=cd.{1,2,NULL}", false),
        ("moods=cs.{happy}", true),
        ("moods=ov.{sad}", false),
        ("labels=cs.{x}", true),
        ("r=cs.[2,3)", true),
        ("r=cs.[4,6)", false),
        ("r=cd.[0,9]", true),
        ("r=ov.[4,9)", true),
        ("r=ov.[5,9)", false),
        ("r=sl.[5,9)", true),
        ("r=sl.[4,9)", false),
        ("r=sr.(,1)", true),
        ("r=sr.(,1]", false),
        ("r=nxl.[1,2)", true),
        ("r=nxl.[2,3)", false),
        ("r=nxr.[1,5)", true),
        ("r=nxr.[1,4)", false),
        ("r=adj.[5,7)", true),
        ("r=adj.[6,7)", false),
        ("nr=ov.[2.5,3)", true),
        ("mr=cs.{[5,6)}", true),
        ("mr=adj.{[7,9)}", true),
        ("mr=ov.{[3,5)}", false),
        ("period=ov.[2024-01-31,2024-03-01)", true),
        ("period=sl.[2024-02-01,2024-03-01)", true),
        ("data->>kind=eq.x", true),
        ("data->>kind=in.(a,x)", true),
        ("data->>kind=like.x%", true),
        ("data->n=gt.2", true),
        ("data->n=gt.3", false),
        ("data->n=eq.3.0", true),
        ("data->>n=eq.3", true),
        ("data->in->k->0=eq.1", true),
        ("data->in->k->>-1=eq.two", true),
        ("data->in=eq.\"{\\\"k\\\": [1, \\\"two\\\"]}\"", true),
        ("data->>none=is.null", true),
        ("data->none=is.null", false),
        ("data->gone=is.null", true),
        ("data->>kind=isdistinct.y", true),
        ("doc->>kind=eq.y", true),
        ("data=cs.{\"n\":3,\"in\":{}}", true),
        ("data=cs.{\"n\":4}", false),
        ("data=cd.{}", false),
        ("or=(tags.cs.{c,d},r.ov.[4,9),note.eq.x)", true),
        ("or=(tags.cs.{c,d},r.ov.[5,9),note.eq.x)", false),
        ("not.or=(tags.cs.{c},data->>kind.eq.y)", true),
        ("n=gt.1,or=(n.eq.7,and(note.eq.n,not.and(r.sl.[5,9),n.eq.6)))", true),
        ("or=(note.gt.zz,period.sr.[2020-01-01,2021-01-01))", true),
        ("not.and=(note.lt.zz,period.sr.[2020-01-01,2021-01-01))", false),
    ];
    let mut sockets = Vec::new();
    for (filter, matches) in cases {
        sockets.push((filter, matches, watching(&server, "k", filter).await?));
    }
    let mut witness = watching(&server, "k", "").await?;
    db.sql(row).await?;
    passed(&mut witness, &db, "k").await?;
    for (filter, matches, socket) in &mut sockets {
        let expected = if *matches { vec![change("INSERT", 1)] } else { Vec::new() };
        let got: Vec<_> = got(socket).await?.into_iter().filter(|(_, id)| *id == 1).collect();
        assert_eq!(got, expected, "{filter}");
    }
    Ok(())
}

#[tokio::test]
async fn a_row_that_matches_two_branches_is_sent_once() -> Result<()> {
    let (server, db) = server().await?;
    let mut socket = watching(&server, "test", "or=(id.eq.1,details.eq.x)").await?;
    let mut witness = watching(&server, "test", "").await?;
    db.sql(
        "insert into public.test (id, details) values (1, 'x'), (2, 'x'), (3, 'y'), (4, null);
         update public.test set details = 'x' where id = 3; update public.test set id = 1, details = null where id = 1",
    )
    .await?;
    passed(&mut witness, &db, "test").await?;
    let expected = [change("INSERT", 1), change("INSERT", 2), change("UPDATE", 3), change("UPDATE", 1)];
    assert_eq!(got(&mut socket).await?, expected);
    Ok(())
}

/// postgres_changes 77 for groups: what the key does not tell decides nothing.
#[tokio::test]
async fn groups_on_deletes_see_the_replica_identity() -> Result<()> {
    let (server, db) = server().await?;
    let filters = [
        ("or=(id.eq.1,details.eq.b)", vec![1], vec![1, 2]),
        ("or=(details.eq.b,details.is.null)", vec![], vec![2, 3]),
        ("not.or=(id.eq.1,details.eq.b)", vec![], vec![]),
        ("not.and=(id.eq.1,details.eq.b)", vec![2, 3], vec![1, 2, 3]),
        ("and=(id.gt.1,details.isdistinct.b)", vec![], vec![3]),
    ];
    let mut sockets = Vec::new();
    for (filter, ..) in &filters {
        sockets.push(watching(&server, "test", filter).await?);
    }
    let mut witness = watching(&server, "test", "").await?;
    let rows = "insert into public.test (id, details) values (1, 'a'), (2, 'b'), (3, null); delete from public.test where id > 0";
    for full in [false, true] {
        if full {
            db.sql("alter table public.test replica identity full").await?;
        }
        db.sql(rows).await?;
        passed(&mut witness, &db, "test").await?;
        for ((filter, by_key, whole), socket) in filters.iter().zip(&mut sockets) {
            let deleted: Vec<i64> = got(socket)
                .await?
                .into_iter()
                .filter(|(kind, _)| kind == "DELETE")
                .map(|(_, id)| id)
                .collect();
            assert_eq!(&deleted, if full { whole } else { by_key }, "{filter}, full: {full}");
        }
    }
    Ok(())
}

/// A topic of the older API may have a group too.
#[tokio::test]
async fn a_topic_may_have_a_group() -> Result<()> {
    let (server, db) = server().await?;
    let topic = "realtime:public:test:or=(id.eq.1,details.eq.a:b)";
    let mut socket = server.socket(Version::V1, "anon").await?;
    let (reply, _) = socket.join(topic, json!({})).await?;
    assert_eq!(reply["status"], "ok", "{reply}");
    let system = socket.event(topic, "system").await?;
    assert_eq!(system["status"], "ok", "{system}");
    db.sql("insert into public.test (id, details) values (3, 'c'), (2, 'a:b')").await?;
    assert_eq!(socket.event(topic, "INSERT").await?["record"]["id"], 2);
    Ok(())
}

#[tokio::test]
async fn what_is_wrong_in_a_group_is_told() -> Result<()> {
    let (server, db) = server().await?;
    kinds(&db).await?;
    let parsing = "Error parsing `filter` params: ";
    let many = vec!["id.eq.1"; 101].join(",");
    let deep = format!("or=({}id.eq.1{}", "and(id.eq.1,or(".repeat(4), ")".repeat(9));
    for (filter, detail) in [
        ("or=(id.foo.1)", r#"["foo", "1"]"#),
        ("or=(id.eq.1", "filter has a group without closing parenthesis"),
        ("or=()", "filter must not contain empty segments (check for extra commas)"),
        (
            "or=(id.eq.1)id=eq.2",
            "filter has text behind the closing parenthesis of a group (check for missing commas)",
        ),
        (&*format!("or=({many})"), "filter must not have more than 100 conditions"),
        (&*deep, "filter must not be nested deeper than 8 groups"),
        (&*format!("or=(note.eq.{})", "x".repeat(65_536)), "filter must not be longer than 65536 bytes"),
        (
            &*format!("data{}=is.null", "->a".repeat(17)),
            "filter must not have a JSON path of more than 16 steps",
        ),
    ] {
        assert_eq!(refused(&server, "k", filter).await?, format!("{parsing}{detail}"));
    }
    let raised = |error: &str| format!("Exception: ERROR P0001 (raise_exception) {error}");
    for (filter, error) in [
        ("or=(id.eq.1,nope.eq.1)", raised("invalid column for filter nope")),
        ("nope->>a=eq.1", raised("invalid column for filter nope->>a")),
        ("n->>a=eq.1", raised("a path of a filter requires a json or jsonb column, got integer for n")),
        ("n=cs.{1}", raised("operator cs requires an array, range or jsonb column type, got integer")),
        ("n=sl.5", raised("operator sl requires a range column type, got integer")),
        ("or=(tags.sl.{a},id.eq.1)", raised("operator sl requires a range column type, got text[]")),
        ("tags=cs.a", "Exception: ERROR 22P02 (invalid_text_representation)".to_owned()),
        ("r=ov.[5,1)", "Exception: ERROR 22000 (data_exception)".to_owned()),
        ("or=(id.eq.1,r.ov.5)", "Exception: ERROR 22P02 (invalid_text_representation)".to_owned()),
        ("moods=ov.{angry}", "Exception: ERROR 22P02 (invalid_text_representation)".to_owned()),
        ("labels=cs.{a,b,c,d,e}", "Exception: ERROR 23514 (check_violation)".to_owned()),
        ("data->n=gt.x", "Exception: ERROR 22P02 (invalid_text_representation)".to_owned()),
        ("doc->n=eq.1", "Exception: ERROR 42883 (undefined_function)".to_owned()),
        ("data=ov.{}", "Exception: ERROR 42883 (undefined_function)".to_owned()),
    ] {
        let text = refused(&server, "k", filter).await?;
        assert!(text.ends_with(&error), "{filter}: {text}");
    }
    let text = refused(&server, "k", "note=eq.a,not.or=(id.eq.x,and(data->>k.not.eq.b,n.in.(1,2)))").await?;
    assert!(
        text.contains(
            r#"filters: [{"note", "eq", "a", false}, {"or", [{"id", "eq", "x", false}, {"and", [{"data->>k", "eq", "b", true}, {"n", "in", "{1,2}", false}], false}], true}], select: nil]"#
        ),
        "{text}"
    );
    Ok(())
}

/// Large filters of one client hold up nobody.
#[tokio::test]
async fn a_hundred_filters_of_a_hundred_conditions_hold_up_nobody() -> Result<()> {
    let (server, db) = server().await?;
    kinds(&db).await?;
    let filter = |n: usize| {
        let conditions: Vec<String> = (0..100).map(|m| format!("data->>k{m}.eq.{n}")).collect();
        json!({"event": "*", "schema": "public", "table": "k", "filter": format!("or=({},id.gt.9)", conditions[..99].join(","))})
    };
    let mut large = server.socket(Version::V2, "anon").await?;
    let ids = large.watch(TOPIC, (0..100).map(filter).collect()).await?;
    let mut other = watching(&server, "k", "n=eq.1").await?;
    db.sql(
        "insert into public.k (id, n, data)
         select i, 1, (select jsonb_object_agg('k' || m, repeat('x', 100)) from generate_series(1, 1000) m)
            || jsonb_build_object('k7', i)
         from generate_series(1, 9) i",
    )
    .await?;
    for (id, wanted) in ids.iter().enumerate().take(10).skip(1) {
        assert_eq!(other.event(TOPIC, "postgres_changes").await?["data"]["record"]["id"], id);
        let change = large.event(TOPIC, "postgres_changes").await?;
        assert_eq!(change["ids"], json!([wanted]), "the one that wants it");
    }
    Ok(())
}
