//! Histories of broadcasts (resume 4, its cases 9 and 10).

use anyhow::{Context as _, Result, ensure};
use realtime_testkit::{
    Answer, Server, ServerOptions, Socket, TestDb, Version, sign, token, unix_now, until,
};
use serde_json::{Value, json};

use crate::{
    BINARY,
    admin::{Admin, TENANT_SECRET},
    private,
    sse::Curl,
};

const TOPIC: &str = "realtime:room";

/// Settings of a server that keeps broadcasts for a minute.
pub(crate) const ON: [(&str, &str); 2] =
    [("BROADCAST_HISTORY_SECONDS", "60"), ("BROADCAST_HISTORY_MESSAGES", "100")];

fn options(env: &[(&str, &str)]) -> ServerOptions {
    let all = ON.iter().chain(env);
    all.fold(ServerOptions::default(), |options, (name, value)| options.env(name, value))
}

async fn server_with(env: &[(&str, &str)]) -> Result<(Server, TestDb)> {
    let db = TestDb::with_fixture_a().await?;
    let server = Server::start(BINARY, &db, options(env)).await?;
    Ok((server, db))
}

/// A moment ago, by the clock of the machine, in milliseconds.
pub(crate) fn moment() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    u64::try_from(since.unwrap_or_default().as_millis()).unwrap_or_default()
}

/// A join that wants what was missed.
pub(crate) fn back(since: impl Into<Value>) -> Value {
    json!({"config": {"broadcast": {"ack": true, "replay": {"since": since.into()}}}})
}

async fn joined(server: &Server, version: Version, topic: &str, payload: Value) -> Result<Socket> {
    let mut socket = server.socket(version, "anon").await?;
    let (reply, _) = socket.join(topic, payload).await?;
    ensure!(reply["status"] == "ok", "{reply}");
    Ok(socket)
}

/// Says something, and waits until the server has taken it.
pub(crate) async fn say(socket: &mut Socket, topic: &str, n: u32) -> Result<()> {
    let reference = socket.next_ref();
    let payload = json!({"type": "broadcast", "event": "e", "payload": {"n": n}});
    socket.send(json!("1"), json!(reference), topic, "broadcast", payload).await?;
    let reply = socket.reply(&reference).await?;
    ensure!(reply["status"] == "ok", "{reply}");
    Ok(())
}

/// What comes up to the message with this number: whether each was replayed, and its number; and what was told of gaps.
pub(crate) async fn until_number(socket: &mut Socket, last: u32) -> Result<(Vec<(bool, u32)>, Vec<Value>)> {
    let (mut came, mut gaps) = (Vec::new(), Vec::new());
    loop {
        let frame = socket.frame().await?;
        match &*frame.event {
            "broadcast" => {
                let payload = &frame.payload;
                ensure!(payload["meta"]["id"].as_str().is_some_and(|id| id.len() == 36), "{payload}");
                let n = payload["payload"]["n"].as_u64().context("number")? as u32;
                came.push((payload["meta"]["replayed"] == true, n));
                if n == last {
                    return Ok((came, gaps));
                }
            }
            "system" if frame.payload["status"] == "gap" => gaps.push(frame.payload),
            _ => {}
        }
    }
}

async fn post(server: &Server, topic: &str, n: u32) -> Result<()> {
    let bearer = format!("Bearer {}", token("anon"));
    let headers = [("Authorization", &*bearer), ("Content-Type", "application/json")];
    let path = format!("/api/broadcast/{topic}/events/e");
    let answer = server.http("POST", &path, &headers, json!({ "n": n }).to_string().as_bytes()).await?;
    ensure!(answer.status == 202, "{answer:?}");
    Ok(())
}

async fn get(server: &Server, bearer: &str, path: &str) -> Result<Answer> {
    server.http("GET", path, &[("Authorization", &format!("Bearer {bearer}"))], b"").await
}

/// The numbers of an answer over HTTP, and whether it is whole.
fn numbers(answer: &Answer) -> Result<(Vec<Value>, String)> {
    ensure!(answer.status == 200, "{answer:?}");
    let messages: Vec<Value> = serde_json::from_str(&answer.body).with_context(|| answer.body.clone())?;
    let numbers = messages.iter().map(|message| message["payload"]["n"].clone()).collect();
    Ok((numbers, answer.header("x-history").to_owned()))
}

/// resume, case 9: who joins a public channel late gets what clients, HTTP and the database have said, then what comes live
#[tokio::test]
async fn late_joiners_of_a_public_channel_get_what_was_said() -> Result<()> {
    let (server, db) = server_with(&[]).await?;
    let ready = json!({"config": {"broadcast": {"ack": true, "replication_ready": true}}});
    let mut early = joined(&server, Version::V2, TOPIC, ready).await?;
    early.expect(|frame| frame.payload["message"] == "Replication connection established").await?;
    let since = moment();
    say(&mut early, TOPIC, 1).await?;
    post(&server, "room", 2).await?;
    db.sql("select realtime.send('{\"n\": 3}', 'e', 'room', false)").await?;
    assert_eq!(until_number(&mut early, 3).await?, (vec![(false, 2), (false, 3)], vec![]));

    for (next, version) in [(4, Version::V1), (5, Version::V2)] {
        let mut late = joined(&server, version, TOPIC, back(since)).await?;
        say(&mut early, TOPIC, next).await?;
        let (came, gaps) = until_number(&mut late, next).await?;
        let expected: Vec<_> = (1..=next).map(|n| (n < next, n)).collect();
        assert_eq!((came, gaps), (expected, vec![]));
    }

    // By its id the place is exact, also after all members have left.
    let mut late = joined(&server, Version::V2, TOPIC, back(since)).await?;
    let second = late.expect(|frame| frame.payload["payload"]["n"] == 2).await?;
    let id = second.payload["meta"]["id"].clone();
    drop((early, late));
    post(&server, "room", 6).await?;
    let mut late = joined(&server, Version::V2, TOPIC, back(id)).await?;
    let (came, gaps) = until_number(&mut late, 6).await?;
    assert_eq!(came.iter().map(|(_, n)| *n).collect::<Vec<_>>(), [3, 4, 5, 6]);
    assert!(came.iter().all(|(replayed, _)| *replayed) && gaps.is_empty(), "{gaps:?}");

    // What was before the server began to keep is told.
    let mut late = joined(&server, Version::V2, TOPIC, back(1_000)).await?;
    let (_, gaps) = until_number(&mut late, 6).await?;
    let told = json!({"extension": "system", "status": "gap", "code": "MessagesNotKept", "channel": "room",
        "message": "Messages after 1000 are not kept any more"});
    assert_eq!(gaps, [told]);
    let refused = server.socket(Version::V2, "anon").await?.join(TOPIC, back("x")).await?.0;
    assert_eq!(refused["response"]["reason"], "UnableToReplayMessages: Replay params are not valid");
    Ok(())
}

/// resume, case 9: limits in number and in bytes, and a limit of the client's own
#[tokio::test]
async fn what_is_over_the_bounds_is_dropped_and_told() -> Result<()> {
    let env = [("BROADCAST_HISTORY_MESSAGES", "3"), ("BROADCAST_HISTORY_MB", "1")];
    let (server, db) = server_with(&env).await?;
    let since = moment();
    for n in 1..=5 {
        post(&server, "room", n).await?;
    }
    let history = |query: &str| format!("/api/broadcast/room/history?{query}");
    let anon = token("anon");
    let (all, whole) = numbers(&get(&server, &anon, &history(&format!("since={since}"))).await?)?;
    assert_eq!((all, &*whole), (vec![json!(3), json!(4), json!(5)], "gap"));
    let (two, _) = numbers(&get(&server, &anon, &history("limit=2")).await?)?;
    assert_eq!(two, [4, 5]);
    let mut late = joined(&server, Version::V2, TOPIC, back(since)).await?;
    let (came, gaps) = until_number(&mut late, 5).await?;
    assert_eq!((came.len(), gaps.len()), (3, 1));

    // A large message of another topic makes the oldest go, and one that is too large costs no other.
    let headers =
        [("Authorization", &*format!("Bearer {anon}")), ("Content-Type", "application/octet-stream")];
    let path = "/api/broadcast/other/events/e";
    for (size, kept) in [(2_000_000, vec![3, 4, 5]), (1_047_400, vec![5])] {
        let answer = server.http("POST", path, &headers, &vec![7; size]).await?;
        ensure!(answer.status == 202, "{answer:?}");
        let (left, _) = numbers(&get(&server, &anon, &history("")).await?)?;
        assert_eq!(left, kept, "{size}");
    }
    drop(db);
    Ok(())
}

/// With histories off nothing changes: no ids, no replays of public channels.
#[tokio::test]
async fn nothing_changes_while_histories_are_off() -> Result<()> {
    let (server, db) = server_with(&[("BROADCAST_HISTORY_MESSAGES", "0")]).await?;
    let mut first =
        joined(&server, Version::V2, TOPIC, json!({"config": {"broadcast": {"ack": true}}})).await?;
    let mut second = joined(&server, Version::V1, TOPIC, json!({"config": {}})).await?;
    say(&mut first, TOPIC, 1).await?;
    let plain = json!({"type": "broadcast", "event": "e", "payload": {"n": 1}});
    assert_eq!(second.event(TOPIC, "broadcast").await?, plain);
    let (refused, _) = second.join("realtime:b", back(1)).await?;
    assert_eq!(
        refused["response"]["reason"],
        "UnableToReplayMessages: Replay is not allowed for public channels"
    );
    assert_eq!(get(&server, &token("anon"), "/api/broadcast/room/history").await?.status, 404);
    drop(db);
    Ok(())
}

/// resume, case 9: the setting of a tenant changes while the server runs; at zero all is freed
#[tokio::test]
async fn the_setting_of_a_tenant_changes() -> Result<()> {
    let admin =
        Admin::start_with(ServerOptions::default().env("METRICS_JWT_SECRET", realtime_testkit::SECRET))
            .await?;
    let db = TestDb::with_fixture_a().await?;
    admin.make("t1", &db).await?;
    let mut socket = admin.socket("t1", TENANT_SECRET).await?;
    socket.join(TOPIC, json!({"config": {"broadcast": {"ack": true, "self": true}}})).await?;
    say(&mut socket, TOPIC, 1).await?;
    let seen = socket.event(TOPIC, "broadcast").await?;
    ensure!(seen.get("meta").is_none(), "{seen}");

    let on = json!({"broadcast_history_seconds": 60, "broadcast_history_messages": "100"});
    admin.change("t1", on).await?;
    let kept = async || admin.server.metric("realtime_broadcast_history_messages").await;
    let mut n = 1;
    while kept().await? == 0.0 {
        n += 1;
        say(&mut socket, TOPIC, n).await?;
    }
    let mut late = admin.socket("t1", TENANT_SECRET).await?;
    late.join(TOPIC, back(moment() - 50_000)).await?;
    let (came, gaps) = until_number(&mut late, n).await?;
    ensure!(came.iter().all(|(replayed, _)| *replayed) && gaps.len() == 1, "{came:?} {gaps:?}");

    admin.change("t1", json!({"broadcast_history_messages": 0})).await?;
    until("all is freed", async || Ok(kept().await? == 0.0)).await?;
    let mut late = admin.socket("t1", TENANT_SECRET).await?;
    let (refused, _) = late.join(TOPIC, back(1)).await?;
    ensure!(refused["status"] == "error", "{refused}");
    Ok(())
}

/// With other keys it may be another tenant of that name: what was said under the old ones is freed, and told to nobody.
#[tokio::test]
async fn a_history_ends_with_the_keys_of_its_tenant() -> Result<()> {
    let admin = Admin::start_with(options(&[("METRICS_JWT_SECRET", realtime_testkit::SECRET)])).await?;
    let db = TestDb::with_fixture_a().await?;
    admin.make("t1", &db).await?;
    let since = moment();
    let mut socket = admin.socket("t1", TENANT_SECRET).await?;
    socket.join(TOPIC, json!({"config": {"broadcast": {"ack": true}}})).await?;
    say(&mut socket, TOPIC, 1).await?;
    let kept = async || admin.server.metric("realtime_broadcast_history_messages").await;
    assert_eq!(kept().await?, 1.0);
    admin.change("t1", json!({"jwt_secret": "of-somebody-else"})).await?;
    until("all is freed", async || Ok(kept().await? == 0.0)).await?;
    let mut other = admin.socket("t1", "of-somebody-else").await?;
    let (reply, _) = other.join(TOPIC, back(since)).await?;
    ensure!(reply["status"] == "ok", "{reply}");
    say(&mut other, TOPIC, 2).await?;
    let mut late = admin.socket("t1", "of-somebody-else").await?;
    late.join(TOPIC, back(since)).await?;
    let (came, gaps) = until_number(&mut late, 2).await?;
    assert_eq!(
        (came, gaps.len()),
        (vec![(true, 2)], 1),
        "that something was said before is told, and no more"
    );
    Ok(())
}

/// resume, case 9: a private topic's history is only for those who may read it, and never that of the public one
#[tokio::test]
async fn a_private_history_is_for_those_who_may_read() -> Result<()> {
    let db = private::database().await?;
    let server = Server::start(BINARY, &db, options(&[])).await?;
    let config = |replay: Value| {
        let broadcast = json!({"ack": true, "replay": replay});
        json!({"config": {"private": true, "broadcast": broadcast}})
    };
    let since = moment();
    let topic = "realtime:room-1";
    // One that is only stored: nobody reads the log yet.
    db.sql("select realtime.send('{\"n\": 1}', 'e', 'room-1', true)").await?;
    let mut early = server.socket(Version::V2, "authenticated").await?;
    let (reply, _) = early.join(topic, config(Value::Null)).await?;
    ensure!(reply["status"] == "ok", "{reply}");
    say(&mut early, topic, 2).await?;
    post(&server, "room-1", 9).await?;
    let mut late = server.socket(Version::V2, "authenticated").await?;
    let (reply, _) = late.join(topic, config(json!({ "since": since - 1_000 }))).await?;
    ensure!(reply["status"] == "ok", "{reply}");
    say(&mut early, topic, 3).await?;
    let (came, _) = until_number(&mut late, 3).await?;
    assert_eq!(came, [(true, 1), (true, 2), (false, 3)], "stored and kept, each once");

    let path = "/api/broadcast/room-1/history?private=true";
    let (read, _) = numbers(&get(&server, &token("authenticated"), path).await?)?;
    assert_eq!(read, [1, 2, 3]);
    assert_eq!(get(&server, &token("anon"), path).await?.status, 403);
    let (public, _) = numbers(&get(&server, &token("anon"), "/api/broadcast/room-1/history").await?)?;
    assert_eq!(public, [9]);
    let (refused, _) =
        server.socket(Version::V2, "anon").await?.join(topic, config(json!({"since": 1}))).await?;
    ensure!(refused["status"] == "error", "{refused}");
    Ok(())
}

/// resume 4: errors of the history over HTTP
#[tokio::test]
async fn requests_for_a_history_are_checked() -> Result<()> {
    let (server, db) = server_with(&[]).await?;
    post(&server, "room%2F1", 1).await?;
    let anon = token("anon");
    let path = "/realtime/v1/api/broadcast/room%2F1/history";
    let answer = get(&server, &anon, path).await?;
    assert_eq!(numbers(&answer)?, (vec![json!(1)], "whole".to_owned()));
    assert_eq!(answer.header("content-type"), "application/json; charset=utf-8");
    for (query, field) in [("since=x", "since"), ("limit=x", "limit"), ("private=maybe", "private")] {
        let answer = get(&server, &anon, &format!("{path}?{query}")).await?;
        assert_eq!(
            (answer.status, &*answer.body),
            (422, &*format!("{{\"errors\":{{\"{field}\":[\"is invalid\"]}}}}"))
        );
    }
    let expired = sign(&json!({"role": "anon", "exp": unix_now() - 100}));
    assert_eq!(get(&server, &expired, path).await?.status, 401);
    drop(db);
    Ok(())
}

/// resume 5: `Last-Event-ID` is the id of a message; nothing is missing across a dropped connection
#[tokio::test]
async fn streams_of_broadcasts_go_on_where_they_were() -> Result<()> {
    let (server, db) = server_with(&[]).await?;
    let path = format!("/sse/broadcast/room?apikey={}", token("anon"));
    let mut curl = Curl::open(&server, &path, &[]).await?;
    post(&server, "room", 1).await?;
    assert_eq!(curl.next().await?.context("ended")?.data["payload"]["n"], 1);
    let last = curl.kill().await?;
    post(&server, "room", 2).await?;
    post(&server, "room", 3).await?;
    let mut curl = Curl::open(&server, &path, &[&format!("Last-Event-ID: {last}")]).await?;
    for n in [2, 3] {
        let event = curl.next().await?.context("ended")?;
        assert_eq!((&*event.name, &event.data["payload"]["n"]), ("e", &json!(n)));
        assert_eq!(
            (event.data["meta"]["id"].as_str(), &event.data["meta"]["replayed"]),
            (Some(&*event.id), &json!(true))
        );
    }
    post(&server, "room", 4).await?;
    let live = curl.next().await?.context("ended")?;
    assert_eq!((live.data["payload"]["n"].as_u64(), live.data["meta"].get("replayed")), (Some(4), None));
    let mut curl =
        Curl::open(&server, &format!("{path}&event=other"), &[&format!("Last-Event-ID: {last}")]).await?;
    let mut socket = joined(&server, Version::V2, TOPIC, json!({"config": {}})).await?;
    let other = json!({"type": "broadcast", "event": "other", "payload": {"n": 5}});
    socket.send(json!("1"), Value::Null, TOPIC, "broadcast", other).await?;
    assert_eq!(curl.next().await?.context("ended")?.data["payload"]["n"], 5, "of the event that is wanted");
    for unknown in ["0/1:1", "1f6ac5a0-27a9-4d4c-9d5c-0c1d0c8f6f10"] {
        let mut curl = Curl::open(&server, &path, &[&format!("Last-Event-ID: {unknown}")]).await?;
        assert_eq!(curl.next().await?.context("ended")?.data["code"], "MessagesNotKept");
    }
    drop(db);
    Ok(())
}
