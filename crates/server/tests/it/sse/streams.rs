//! What streams send.

use anyhow::{Context as _, Result, ensure};
use realtime_testkit::{Version, token};
use serde_json::{Value, json};

use super::{Curl, bearer, insert};
use crate::{changes_images::server, server as fixture};

/// resume 5: changes come as they come over a WebSocket, with their positions; who comes back misses none
#[tokio::test]
async fn changes_come_and_go_on_where_a_client_was() -> Result<()> {
    let (server, db) = server("").await?;
    let (path, ann) = ("/realtime/v1/sse/changes?schema=public&table=docs", bearer("ann"));
    let mut curl = Curl::open(&server, path, &[&ann]).await?;
    assert_eq!(curl.status, 200);
    for line in ["content-type: text/event-stream", "transfer-encoding: chunked", "x-accel-buffering: no"] {
        ensure!(curl.head.iter().any(|known| known == line), "{line}: {:?}", curl.head);
    }
    assert_eq!(curl.expect("subscribed").await?.data["status"], "ok");
    ensure!(curl.last_id.contains('/'), "it is told where it begins: {:?}", curl.last_id);
    db.sql("insert into docs values (1, 'ann', E'two\\nlines'), (2, 'bob', 'hidden')").await?;
    let first = curl.next().await?.context("ended")?;
    assert_eq!((&*first.name, &first.data["record"]["body"]), ("INSERT", &json!("two\nlines")));
    assert_eq!(first.data["table"], "docs");
    ensure!(first.data.get("ids").is_none(), "no envelope: {}", first.data);
    db.sql("begin; update docs set body = 'b' where id = 1; update docs set body = 'c' where id = 1; commit")
        .await?;
    let (second, third) = (curl.next().await?.context("ended")?, curl.next().await?.context("ended")?);
    assert_eq!((&*second.name, &second.data["record"]["body"]), ("UPDATE", &json!("b")));
    let place = |id: &str| {
        let (commit, number) = id.split_once(':').unwrap();
        (commit.to_owned(), number.parse::<u64>().unwrap())
    };
    assert_eq!(place(&second.id).0, place(&third.id).0, "one transaction");
    assert!(place(&second.id).1 < place(&third.id).1);
    curl.kill().await?;

    // Within a transaction, too.
    db.sql("insert into docs values (3, 'ann', 'missed'), (4, 'bob', 'hidden'), (5, 'ann', 'missed')")
        .await?;
    let back = format!("Last-Event-ID: {}", second.id);
    let mut curl = Curl::open(&server, path, &[&ann, &back]).await?;
    assert_eq!(curl.rows(1).await?, [("UPDATE".to_owned(), 1)]);
    assert_eq!(curl.rows(2).await?, [insert(3), insert(5)]);
    curl.expect("caught_up").await?;
    db.sql("insert into docs values (6, 'ann', 'live')").await?;
    assert_eq!(curl.rows(1).await?, [insert(6)]);
    let since = curl.kill().await?;

    // The address can say it, too; then what the browser says is newer.
    db.sql("insert into docs values (7, 'ann', '')").await?;
    for (header, expected) in
        [(String::new(), vec![7]), (format!("Last-Event-ID: {}", third.id), vec![3, 5, 6, 7])]
    {
        let headers: Vec<&str> = [&*ann, &*header].into_iter().filter(|text| !text.is_empty()).collect();
        let mut curl = Curl::open(&server, &format!("{path}&since={since}"), &headers).await?;
        let rows = curl.rows(expected.len()).await?;
        assert_eq!(rows, expected.into_iter().map(insert).collect::<Vec<_>>());
    }

    // What is not kept is told, and live changes come all the same.
    let mut curl = Curl::open(&server, path, &[&ann, "Last-Event-ID: 0/1:1"]).await?;
    let gap = curl.expect("gap").await?;
    assert_eq!(gap.data["code"], "ChangesNotKept");
    db.sql("insert into docs values (8, 'ann', '')").await?;
    assert_eq!(curl.rows(1).await?, [insert(8)]);
    Ok(())
}

/// A stream on which nothing matches knows how far it is all the same.
#[tokio::test]
async fn who_gets_nothing_goes_on_all_the_same() -> Result<()> {
    let (server, db) = server("").await?;
    let (path, ann) = ("/sse/changes?table=docs", bearer("ann"));
    let mut curl = Curl::open(&server, path, &[&ann]).await?;
    curl.expect("subscribed").await?;
    let begun = curl.kill().await?;
    db.sql("insert into docs values (1, 'ann', '')").await?;
    let mut curl = Curl::open(&server, path, &[&ann, &format!("Last-Event-ID: {begun}")]).await?;
    assert_eq!(curl.rows(1).await?, [insert(1)], "also of before the first event");
    Ok(())
}

/// resume 5: filter, columns, event, and live rows
#[tokio::test]
async fn parameters_mean_what_they_mean_in_a_binding() -> Result<()> {
    let (server, db) = server("").await?;
    let ann = bearer("ann");
    let filter = "/sse/changes?schema=public&table=docs&event=insert&filter=id%3Dgt.5&select=id,body";
    let mut filtered = Curl::open(&server, filter, &[&ann]).await?;
    filtered.expect("subscribed").await?;
    db.sql(
        "insert into docs values (1, 'ann', ''), (7, 'ann', 'b'); update docs set body = 'c' where id = 7",
    )
    .await?;
    db.sql("insert into docs values (8, 'ann', '')").await?;
    let seven = filtered.next().await?.context("ended")?;
    assert_eq!(seven.data["record"], json!({"id": 7, "body": "b"}));
    assert_eq!(filtered.rows(1).await?, [insert(8)]);

    let live = "/sse/changes?table=docs&live=true&order=id.desc&limit=2";
    let mut live = Curl::open(&server, live, &[&ann]).await?;
    assert_eq!(live.rows(2).await?, [insert(8), insert(7)]);
    assert_eq!(live.expect("complete").await?.data["rows"], 2);
    db.sql("insert into docs values (9, 'ann', '')").await?;
    let mut came = live.rows(2).await?;
    came.sort();
    assert_eq!(came, [("DELETE".to_owned(), 7), insert(9)]);
    Ok(())
}

/// resume 5: broadcasts, of clients, of HTTP and of the database
#[tokio::test]
async fn broadcasts_come() -> Result<()> {
    let (server, db) = fixture().await?;
    let key = format!("apikey={}", token("anon"));
    let mut all = Curl::open(&server, &format!("/realtime/v1/sse/broadcast/room%3A1/a?{key}"), &[]).await?;
    let mut some = Curl::open(&server, &format!("/sse/broadcast/room:1/a?event=move&{key}"), &[]).await?;
    assert_eq!((all.status, some.status), (200, 200));
    let topic = "realtime:room:1/a";
    let mut socket = server.socket(Version::V2, "anon").await?;
    socket.join(topic, json!({"config": {"broadcast": {"ack": true}}})).await?;
    for (event, n) in [("other", 1), ("move", 2), ("error", 3)] {
        let payload = json!({"type": "broadcast", "event": event, "payload": {"n": n}});
        let reference = socket.next_ref();
        socket.send(json!("1"), json!(reference), topic, "broadcast", payload).await?;
        socket.reply(&reference).await?;
    }
    let body = json!({"n": 4}).to_string();
    let bearer = format!("Bearer {}", token("anon"));
    let headers = [("Authorization", &*bearer), ("Content-Type", "application/json")];
    let path = "/api/broadcast/room:1%2Fa/events/move";
    assert_eq!(server.http("POST", path, &headers, body.as_bytes()).await?.status, 202);
    let mut told: Vec<(String, Value, Value)> = Vec::new();
    for _ in 0..4 {
        let event = all.next().await?.context("ended")?;
        told.push((event.name, event.data["event"].clone(), event.data["payload"]["n"].clone()));
    }
    let said = |name: &str, event: &str, n: i32| (name.to_owned(), json!(event), json!(n));
    // What only the server says cannot be forged.
    let expected = [
        said("other", "other", 1),
        said("move", "move", 2),
        said("broadcast", "error", 3),
        said("move", "move", 4),
    ];
    assert_eq!(told, expected);
    for n in [2, 4] {
        assert_eq!(some.next().await?.context("ended")?.data["payload"]["n"], n);
    }
    drop(db);
    Ok(())
}
