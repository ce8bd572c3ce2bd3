//! Live rows of clients that come back and keep what they have (resume 2, with `live`).

use std::collections::BTreeSet;

use anyhow::{Context as _, Result};
use realtime_testkit::{SECRET, Server, ServerOptions, TestDb, Version, sign, unix_now, until};
use serde_json::{Value, json};

use crate::{
    BINARY,
    live_client::{LiveClient, Map, Rows, live, select, tasks},
};

const ALL: &str = "select * from public.tasks";

async fn server_with(db: &TestDb, options: ServerOptions) -> Result<Server> {
    Server::start(BINARY, db, options.env("METRICS_JWT_SECRET", SECRET)).await
}

async fn server() -> Result<(Server, TestDb)> {
    let db = TestDb::with_fixture_a().await?;
    let server = server_with(&db, ServerOptions::default()).await?;
    Ok((server, db))
}

/// What tells a client that has not had all rows: its times are cut to the second.
fn is_whole(rows: &Rows) -> bool {
    rows.since.as_deref().is_some_and(|since| !since.ends_with(".000Z"))
}

/// A client of one binding that has all rows and a time with which it may come back. Once in a thousand times that of a
/// reading is a whole second, which is no place: then it joins once more.
async fn first(server: &Server, binding: &Value, key: &[&str], token: Option<&str>) -> Result<LiveClient> {
    loop {
        let socket = server.socket(Version::V2, "anon").await?;
        let mut client = LiveClient::join(socket, json!([binding]), &[key], token).await?;
        client.complete().await?;
        if is_whole(&client.rows[0]) {
            return Ok(client);
        }
    }
}

/// Comes back with what a client had.
async fn back(
    server: &Server,
    binding: &Value,
    before: Vec<Rows>,
    token: Option<&str>,
) -> Result<LiveClient> {
    let socket = server.socket(Version::V1, "anon").await?;
    let mut client = LiveClient::back(socket, json!([binding]), before, token).await?;
    client.complete().await?;
    Ok(client)
}

/// Waits until all clients have gone.
async fn gone(server: &Server) -> Result<()> {
    until("the results rest", async || Ok(server.metric("realtime_live_results").await? == 0.0)).await
}

fn sorted(client: &mut LiveClient) -> Vec<String> {
    let mut told = std::mem::take(&mut client.rows[0].told);
    told.sort_unstable();
    told
}

/// Tables by row, with `limit`, and views: what has changed comes, and nothing else; the map is what `select` shows.
#[tokio::test]
async fn only_what_has_changed_comes_to_who_comes_back() -> Result<()> {
    let (server, db) = server().await?;
    tasks(&db).await?;
    db.sql(
        "create view public.rooms as select room, count(*) as n from public.tasks group by room;
         grant select on public.rooms to anon",
    )
    .await?;
    for stays in [true, false] {
        // What happens while the client is away, and what it is told when it comes back.
        for (binding, key, query, change, told) in [
            (
                live(json!({})),
                "id",
                ALL,
                "delete from tasks where id = 1; update tasks set title = 'x' where id = 2;
                 update tasks set title = 'y' where id = 2; insert into tasks values (9, 'new', false, 1);
                 insert into tasks values (8); delete from tasks where id = 8",
                vec!["DELETE 1", "INSERT 9", "UPDATE 2"],
            ),
            (
                live(json!({"filter": "room=eq.1"})),
                "id",
                "select * from tasks where room = 1",
                "update tasks set room = 2 where id = 1; update tasks set room = 1 where id = 2",
                vec!["DELETE 1", "INSERT 2"],
            ),
            (
                live(json!({"order": "id.desc", "limit": 3})),
                "id",
                "select * from tasks order by id desc limit 3",
                "insert into tasks values (7, 'seven'); delete from tasks where id = 6; delete from tasks where id = 1",
                vec!["DELETE 6", "INSERT 7"],
            ),
            (
                json!({"event": "*", "schema": "public", "table": "rooms", "key": ["room"]}),
                "room",
                "select * from rooms",
                "delete from tasks where room = 0; insert into tasks values (9, 'x', true, 7)",
                vec!["DELETE 0", "INSERT 7"],
            ),
        ] {
            let case = format!("{binding}, another stays: {stays}");
            db.sql("delete from tasks; insert into tasks select n, 'task ' || n, false, n % 3 from generate_series(1, 6) n").await?;
            let client = first(&server, &binding, &[key], None).await?;
            let mut other = match stays {
                true => Some(first(&server, &binding, &[key], None).await?),
                false => None,
            };
            let rows = client.rows.clone();
            drop(client);
            if !stays {
                gone(&server).await?;
            }
            for statement in change.split(';') {
                db.sql(statement).await?;
            }
            let expected = select(&db, query, &[key]).await?;
            if let Some(other) = &mut other {
                other.has(&expected).await?;
            }
            // Without others what the log has told of last may still be on its way to the result that rests.
            let mut client = back(&server, &binding, rows, None).await?;
            client.has(&expected).await?;
            assert!(!client.was_warned(), "{case}: {:?}", client.systems);
            // What a view shows may be read anew meanwhile, with another time.
            if client.rows[0].is_anew && binding["table"] == "rooms" {
                continue;
            }
            assert!(!client.rows[0].is_anew, "{case}: {:?}", client.systems);
            let news = sorted(&mut client);
            // Rows that came and went may be told once more; one that the client may have is an UPDATE.
            let again = ["DELETE 8", "UPDATE 4"];
            let news: BTreeSet<String> = news
                .iter()
                .filter(|news| !again.contains(&news.as_str()))
                .map(|news| news.replace("UPDATE", "INSERT"))
                .collect();
            let told: BTreeSet<String> =
                told.into_iter().map(|told| told.replace("UPDATE", "INSERT")).collect();
            // What nobody has had meanwhile may be told with a time of later: then it comes once more.
            if stays {
                assert_eq!(news, told, "{case}");
            } else {
                assert!(news.is_superset(&told), "{case}: {news:?}");
            }
            drop((client, other));
            gone(&server).await?;
        }
    }
    Ok(())
}

/// Who may see a row is looked at as of now; what was told to nobody else is told to nobody.
#[tokio::test]
async fn rows_that_were_hidden_meanwhile_leave() -> Result<()> {
    let (server, db) = server().await?;
    db.sql(
        "create table public.members (room int, member text, primary key (room, member));
         create table public.notes (id int primary key, room int);
         alter table public.notes enable row level security;
         create policy own on public.notes for select to authenticated using (room in (select m.room
            from public.members m where m.member = current_setting('request.jwt.claims', true)::json ->> 'sub'));
         grant select on public.notes, public.members to authenticated;
         alter publication supabase_realtime add table public.notes, public.members;
         insert into public.members values (1, 'ann'), (2, 'ann'), (3, 'bob');
         insert into public.notes values (1, 1), (2, 2), (3, 3)",
    )
    .await?;
    let token = sign(&json!({"role": "authenticated", "sub": "ann", "exp": unix_now() + 3_600}));
    let binding = json!({"event": "*", "schema": "public", "table": "notes", "live": true});
    let client = first(&server, &binding, &["id"], Some(&token)).await?;
    let rows = client.rows.clone();
    drop(client);
    gone(&server).await?;
    db.sql("delete from members where room = 1").await?;
    db.sql("insert into members values (3, 'ann')").await?;
    db.sql("insert into notes values (4, 4), (5, 2); delete from notes where id = 4").await?;
    let mut client = back(&server, &binding, rows.clone(), Some(&token)).await?;
    client.has(&select(&db, "select * from notes where id in (2, 3, 5)", &["id"]).await?).await?;
    assert_eq!(sorted(&mut client), ["DELETE 1", "INSERT 3", "INSERT 5"]);
    assert!(!client.rows[0].is_anew);
    // Whoever comes with other claims may have had other rows.
    let other = sign(&json!({"role": "authenticated", "sub": "ann", "exp": unix_now() + 4_000}));
    let mut client = back(&server, &binding, rows, Some(&other)).await?;
    client.has(&select(&db, "select * from notes where id in (2, 3, 5)", &["id"]).await?).await?;
    assert!(client.rows[0].is_anew);
    Ok(())
}

/// What is not known is told: the rows come whole.
#[tokio::test]
async fn rows_begin_anew_where_it_is_not_known_what_a_client_has() -> Result<()> {
    let (server, db) = server().await?;
    tasks(&db).await?;
    let binding = live(json!({}));
    let client = first(&server, &binding, &["id"], None).await?;
    let rows = client.rows.clone();
    let expected = select(&db, ALL, &["id"]).await?;
    let had = |since: &str| {
        let mut rows = rows.clone();
        // A row that is not there, as whoever has missed its end has it.
        rows[0].map.insert("77".to_owned(), json!({"id": 77}));
        rows[0].since = Some(since.to_owned());
        rows
    };
    for since in [
        "2001-01-01T00:00:00.001Z",
        "2099-01-01T00:00:00.001Z",
        "9999-12-31T23:59:59.999Z",
        "0/1:1",
        "FFFFFFFF/0:1",
        // Of a message before the last of the first rows.
        &format!("{}.000Z", &rows[0].since.as_deref().context("since")?[..19]),
    ] {
        let mut back = back(&server, &binding, had(since), None).await?;
        assert!(back.rows[0].is_anew, "{since}");
        assert_eq!(back.rows[0].map, expected, "{since}");
        assert_eq!(back.rows[0].told.len(), 6);
        let told = back.told("Live rows begin anew").await?;
        assert_eq!((&told["status"], &told["extension"]), (&json!("ok"), &json!("postgres_changes")));
        assert_eq!(told["bindings"], json!([back.rows[0].id]));
    }
    // Who asks for a part of the messages keeps no map.
    let inserts = live(json!({"event": "INSERT"}));
    assert!(back(&server, &inserts, rows.clone(), None).await?.rows[0].is_anew);
    let mut refused = server.socket(Version::V2, "anon").await?;
    let entry = live(json!({"since": "yesterday"}));
    refused.join("realtime:rows", json!({"config": {"postgres_changes": [entry]}})).await?;
    let told = refused.event("realtime:rows", "system").await?;
    assert!(
        told["message"].as_str().unwrap_or_default().starts_with("Error parsing `since` params"),
        "{told}"
    );
    Ok(())
}

/// Without a journal nothing is kept; with one a result is forgotten in its time, and before others are refused.
#[tokio::test]
async fn results_that_nobody_has_are_bounded() -> Result<()> {
    for (name, value, is_anew) in [
        ("CHANGES_JOURNAL_MB", "0", true),
        ("CHANGES_JOURNAL_SECONDS", "0", true),
        ("LIVE_MAX_RESULTS", "2", false),
    ] {
        let db = TestDb::with_fixture_a().await?;
        tasks(&db).await?;
        let server = server_with(&db, ServerOptions::default().env(name, value)).await?;
        let binding = live(json!({}));
        let client = first(&server, &binding, &["id"], None).await?;
        let rows = client.rows.clone();
        drop(client);
        gone(&server).await?;
        let came = back(&server, &binding, rows.clone(), None).await?;
        assert_eq!(came.rows[0].is_anew, is_anew, "{name}");
        drop(came);
        gone(&server).await?;
        // Others take its place.
        let one = first(&server, &live(json!({"filter": "id=eq.1"})), &["id"], None).await?;
        let two = first(&server, &live(json!({"filter": "id=eq.2"})), &["id"], None).await?;
        drop((one, two));
        gone(&server).await?;
        assert!(back(&server, &binding, rows, None).await?.rows[0].is_anew, "{name}");
    }
    Ok(())
}

/// A client whose rows were taken away does not go on with them.
#[tokio::test]
async fn a_place_counts_once() -> Result<()> {
    let (server, db) = server().await?;
    tasks(&db).await?;
    db.sql("revoke select on tasks from authenticated").await?;
    let binding = live(json!({}));
    let client = first(&server, &binding, &["id"], None).await?;
    let rows = client.rows.clone();
    let mut back = back(&server, &binding, rows, None).await?;
    assert!(!back.rows[0].is_anew && back.rows[0].told.len() <= 6);
    let token = |role: &str| sign(&json!({"role": role, "exp": unix_now() + 3_000}));
    let renew = async |client: &mut LiveClient, role: &str| {
        let payload = json!({"access_token": token(role)});
        client.socket.send(json!("1"), json!("9"), crate::live_client::TOPIC, "access_token", payload).await
    };
    renew(&mut back, "authenticated").await?;
    back.has(&Map::new()).await?;
    renew(&mut back, "anon").await?;
    back.has(&select(&db, ALL, &["id"]).await?).await
}
