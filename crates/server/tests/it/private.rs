//! Private topics with real policies (protocol 6, 8, 10; tenant_database 3, 4, 6).

use anyhow::{Context as _, Result, ensure};
use realtime_testkit::{PATIENCE, Server, ServerOptions, Socket, TestDb, Version, sign, token, unix_now};
use serde_json::{Value, json};
use tokio::{process::Command, time};

use crate::BINARY;

mod from_database;
mod life;

/// Policies of the tests: what `authenticated` may do depends on the beginning of the topic.
const POLICIES: &str = "
    create policy reads on realtime.messages for select to authenticated using (
        case split_part(realtime.topic(), '-', 1)
            when 'room' then true
            when 'ro' then true
            when 'presence' then extension = 'presence'
            when 'blind' then extension = 'broadcast'
            when 'own' then realtime.topic() = 'own-' || current_setting('request.jwt.claim.sub', true)
            when 'header' then current_setting('request.headers', true)::json ->> 'x-door' = 'open'
            when 'raise' then 1 / (select 0) = 1
            else false
        end);
    create policy writes on realtime.messages for insert to authenticated with check (
        split_part(realtime.topic(), '-', 1) in ('room', 'blind', 'own')
        or (split_part(realtime.topic(), '-', 1) = 'presence' and extension = 'presence'));
    create policy service_reads on realtime.messages for select to service_role using (true);";

/// A table whose changes are told in `room-1` by a trigger.
pub const TELLING: &str = "
    create table public.bc (id int primary key, v text);
    create function public.tell() returns trigger language plpgsql security definer as $$ begin
        perform realtime.broadcast_changes('room-1', tg_op, tg_op, tg_table_name, tg_table_schema, new, old);
        return null; end $$;
    create trigger t after insert or update or delete on public.bc
        for each row execute function public.tell();";

/// A database that is set up, with policies.
pub async fn database() -> Result<TestDb> {
    let db = TestDb::new().await?;
    let output = Command::new(BINARY).arg("migrate").env_clear().envs(db.env().await?).output().await?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    db.sql(POLICIES).await?;
    Ok(db)
}

pub async fn server() -> Result<(Server, TestDb)> {
    let db = database().await?;
    let server = Server::start(BINARY, &db, ServerOptions::default()).await?;
    Ok((server, db))
}

fn private(broadcast: Value, presence: bool) -> Value {
    json!({"config": {"private": true, "broadcast": broadcast, "presence": {"enabled": presence, "key": "k"}}})
}

fn loud() -> Value {
    json!({"ack": true, "self": true})
}

/// A socket of a role that has joined a private topic, with its join_ref.
async fn joined(
    server: &Server,
    version: Version,
    role: &str,
    topic: &str,
    payload: Value,
) -> Result<(Socket, String)> {
    let mut socket = server.socket(version, role).await?;
    let (reply, join_ref) = socket.join(&format!("realtime:{topic}"), payload).await?;
    ensure!(reply["status"] == "ok", "{reply}");
    Ok((socket, join_ref))
}

async fn member(server: &Server, role: &str, topic: &str) -> Result<(Socket, String)> {
    joined(server, Version::V2, role, topic, private(loud(), false)).await
}

/// The reason a join is refused with.
async fn refusal(socket: &mut Socket, topic: &str, payload: Value) -> Result<String> {
    let (reply, _) = socket.join(&format!("realtime:{topic}"), payload).await?;
    ensure!(reply["status"] == "error", "{reply}");
    Ok(reply["response"]["reason"].as_str().context("reason")?.to_owned())
}

fn unauthorized(topic: &str) -> String {
    format!("Unauthorized: You do not have permissions to read from this Channel topic: {topic}")
}

/// Pushes, and gives the reply.
async fn push(
    socket: &mut Socket,
    join_ref: &str,
    topic: &str,
    event: &str,
    payload: Value,
) -> Result<Value> {
    let reference = socket.next_ref();
    socket.send(json!(join_ref), json!(reference), &format!("realtime:{topic}"), event, payload).await?;
    socket.reply(&reference).await
}

fn hello(n: u32) -> Value {
    json!({"type": "broadcast", "event": "hello", "payload": {"n": n}})
}

async fn listening(server: &Server, version: Version, topic: &str, private: bool) -> Result<Socket> {
    let payload = json!({"config": {"private": private, "broadcast": {"replication_ready": true}}});
    let (mut socket, _) = joined(server, version, "authenticated", topic, payload).await?;
    let ready = socket.event(&format!("realtime:{topic}"), "system").await?;
    assert_eq!(
        ready,
        json!({"extension": "system", "status": "ok", "message": "Replication connection established", "channel": topic})
    );
    Ok(socket)
}

/// protocol 51, 26, 41; tenant_database 23: those of a private topic hear each other, in both serializers, and nobody
/// of the public topic of the same name does.
#[tokio::test]
async fn members_hear_each_other() -> Result<()> {
    let (server, _db) = server().await?;
    let (mut a, a_ref) = member(&server, "authenticated", "room-1").await?;
    let (mut b, _) =
        joined(&server, Version::V1, "authenticated", "room-1", private(json!({}), false)).await?;
    let mut public = Vec::new();
    for topic in ["room-1", "private:room-1"] {
        let payload = json!({"config": {"broadcast": {"self": true}}});
        public.push(joined(&server, Version::V2, "anon", topic, payload).await?.0);
    }
    assert_eq!(push(&mut a, &a_ref, "room-1", "broadcast", hello(1)).await?["status"], "ok");
    assert_eq!(a.event("realtime:room-1", "broadcast").await?, hello(1));
    assert_eq!(b.event("realtime:room-1", "broadcast").await?, hello(1));
    for socket in &mut public {
        assert!(socket.settle().await?.is_empty());
    }
    let (mut c, c_ref) = joined(&server, Version::V2, "anon", "room-1", json!({"config": {}})).await?;
    c.send(json!(c_ref), Value::Null, "realtime:room-1", "broadcast", hello(2)).await?;
    assert_eq!(public[0].event("realtime:room-1", "broadcast").await?, hello(2));
    assert!(b.settle().await?.is_empty() && a.settle().await?.is_empty());
    Ok(())
}

/// protocol 53, 54, 55, 27; tenant_database 8, 9, 17, 18, 21
#[tokio::test]
async fn who_may_join() -> Result<()> {
    let (server, _db) = server().await?;
    let quiet = || private(json!({}), true);
    let mut socket = server.socket(Version::V2, "authenticated").await?;
    assert_eq!(refusal(&mut socket, "other", quiet()).await?, unauthorized("other"));
    assert_eq!(refusal(&mut socket, "raise-1", quiet()).await?, unauthorized("raise-1"));
    assert!(socket.settle().await?.is_empty(), "one reply each and no presence_state");
    server.logged("RlsPolicyError").await.context("operators are told")?;
    let mut anon = server.socket(Version::V1, "anon").await?;
    assert_eq!(refusal(&mut anon, "room-1", quiet()).await?, unauthorized("room-1"));
    let mut unknown = server.socket(Version::V2, "potato").await?;
    assert_eq!(refusal(&mut unknown, "room-1", quiet()).await?, unauthorized("room-1"));

    for (sub, may) in [("me", true), ("you", false)] {
        let claims = json!({"role": "authenticated", "sub": sub, "exp": unix_now() + 3600});
        let mut socket = Socket::connect(server.port(), Version::V2, &sign(&claims)).await?;
        let (reply, _) = socket.join("realtime:own-me", private(json!({}), false)).await?;
        assert_eq!(reply["status"] == "ok", may, "{sub}: {reply}");
    }
    // The headers of the handshake that begin with x- are for policies to see.
    for (door, may) in [("open", true), ("shut", false)] {
        let url = format!(
            "ws://127.0.0.1:{}/socket/websocket?apikey={}&vsn=2.0.0",
            server.port(),
            token("authenticated")
        );
        let headers = [("x-door", door)];
        let Ok(mut socket) = Socket::try_connect(&url, &headers, Version::V2).await? else {
            anyhow::bail!("refused")
        };
        let (reply, _) = socket.join("realtime:header-1", private(json!({}), false)).await?;
        assert_eq!(reply["status"] == "ok", may, "{door}: {reply}");
    }
    Ok(())
}

/// protocol 52, 56, 66; tenant_database 20: reading without writing. Told, where the reference is silent.
#[tokio::test]
async fn readers_may_not_write() -> Result<()> {
    let (server, db) = server().await?;
    let (mut reader, join_ref) =
        joined(&server, Version::V2, "authenticated", "ro-1", private(loud(), true)).await?;
    assert_eq!(reader.event("realtime:ro-1", "presence_state").await?, json!({}));
    let (mut service, service_ref) =
        joined(&server, Version::V2, "service_role", "ro-1", private(loud(), true)).await?;
    let denied = json!({"status": "error", "response": {"reason": "unauthorized"}});
    for n in 0..3 {
        assert_eq!(push(&mut reader, &join_ref, "ro-1", "broadcast", hello(n)).await?, denied);
    }
    let track = json!({"type": "presence", "event": "track", "payload": {"n": 1}});
    let refused = json!({"status": "error", "response": {}});
    assert_eq!(push(&mut reader, &join_ref, "ro-1", "presence", track.clone()).await?, refused);
    // service_role bypasses policies.
    assert_eq!(push(&mut service, &service_ref, "ro-1", "broadcast", hello(9)).await?["status"], "ok");
    assert_eq!(reader.event("realtime:ro-1", "broadcast").await?, hello(9));
    assert_eq!(push(&mut service, &service_ref, "ro-1", "presence", track).await?["status"], "ok");
    let diff = reader.event("realtime:ro-1", "presence_diff").await?;
    assert_eq!(diff["joins"]["k"]["metas"][0]["n"], 1);
    assert_eq!(
        service.event("realtime:ro-1", "broadcast").await?,
        hello(9),
        "the denied ones came to nobody"
    );
    let stored: i64 = db.client().query_one("select count(*) from realtime.messages", &[]).await?.get(0);
    assert_eq!(stored, 0, "nothing of what was asked is kept");
    Ok(())
}

/// protocol 57, 67; tenant_database 30, 31
#[tokio::test]
async fn presence_without_broadcasts_and_broadcasts_without_presence() -> Result<()> {
    let (server, db) = server().await?;
    db.sql("create policy all_blind on realtime.messages for select to anon using (realtime.topic() = 'presence-1')")
        .await?;
    let join = |role, topic| joined(&server, Version::V2, role, topic, private(loud(), true));
    let track = json!({"type": "presence", "event": "track", "payload": {"n": 1}});
    let (mut only, only_ref) = join("authenticated", "presence-1").await?;
    let (mut anon, _) = join("anon", "presence-1").await?;
    assert_eq!(push(&mut only, &only_ref, "presence-1", "presence", track.clone()).await?["status"], "ok");
    only.event("realtime:presence-1", "presence_diff").await?;
    let denied = push(&mut only, &only_ref, "presence-1", "broadcast", hello(1)).await?;
    assert_eq!(denied["status"], "error");
    let (mut service, service_ref) = join("service_role", "presence-1").await?;
    push(&mut service, &service_ref, "presence-1", "broadcast", hello(2)).await?;
    assert_eq!(anon.event("realtime:presence-1", "broadcast").await?, hello(2));
    let seen = only.settle().await?;
    assert!(seen.iter().all(|frame| frame.event == "presence_state"), "{seen:?}");

    let (mut blind, blind_ref) = join("authenticated", "blind-1").await?;
    assert_eq!(push(&mut blind, &blind_ref, "blind-1", "presence", track).await?["status"], "ok");
    assert_eq!(push(&mut blind, &blind_ref, "blind-1", "broadcast", hello(3)).await?["status"], "ok");
    let seen = blind.settle().await?;
    let events: Vec<_> = seen.iter().map(|frame| frame.event.as_str()).collect();
    assert_eq!(events, ["broadcast"], "neither state nor diff, of its own presence either");
    Ok(())
}

/// protocol 70, 71, 72, 73, 74; tenant_database 26 to 29
#[tokio::test]
async fn tokens_are_judged_anew() -> Result<()> {
    let (server, db) = server().await?;
    let renewed = |n: u64| json!({"role": "authenticated", "exp": unix_now() + 1000 + n});
    let renew = async |socket: &mut Socket, join_ref: &str, topic: &str, token: String| {
        let payload = json!({"access_token": token});
        socket.send(json!(join_ref), Value::Null, &format!("realtime:{topic}"), "access_token", payload).await
    };
    let (mut a, a_ref) = member(&server, "authenticated", "room-1").await?;
    assert_eq!(push(&mut a, &a_ref, "room-1", "broadcast", hello(1)).await?["status"], "ok");
    db.sql("drop policy writes on realtime.messages").await?;
    assert_eq!(
        push(&mut a, &a_ref, "room-1", "broadcast", hello(2)).await?["status"],
        "ok",
        "still the verdict"
    );
    renew(&mut a, &a_ref, "room-1", sign(&renewed(1))).await?;
    let denied = push(&mut a, &a_ref, "room-1", "broadcast", hello(3)).await?;
    assert_eq!(denied["response"]["reason"], "unauthorized", "writes are judged anew");

    renew(&mut a, &a_ref, "room-1", token("anon")).await?;
    let told = a.event("realtime:room-1", "system").await?;
    let text = "You do not have permissions to read from this Channel topic: room-1";
    assert_eq!(told, json!({"extension": "system", "status": "error", "message": text, "channel": "room-1"}));
    a.event("realtime:room-1", "phx_close").await?;

    let (mut b, b_ref) =
        joined(&server, Version::V1, "authenticated", "ro-1", private(json!({}), true)).await?;
    db.sql("create policy no_presence on realtime.messages as restrictive for select using (extension <> 'presence')")
        .await?;
    renew(&mut b, &b_ref, "ro-1", sign(&renewed(2))).await?;
    let told = b.event("realtime:ro-1", "system").await?;
    assert_eq!(told["message"], "You no longer have permission to read from this Channel topic: ro-1");
    b.event("realtime:ro-1", "phx_close").await?;

    // A gain counts without joining again.
    db.sql("drop policy no_presence on realtime.messages").await?;
    let (mut c, c_ref) =
        joined(&server, Version::V2, "authenticated", "presence-1", private(json!({}), true)).await?;
    renew(&mut c, &c_ref, "presence-1", token("service_role")).await?;
    let (mut service, service_ref) = member(&server, "service_role", "presence-1").await?;
    c.settle().await?;
    // The token is judged when a question that came after it is answered.
    let payload = json!({"event": "untrack"});
    push(&mut c, &c_ref, "presence-1", "presence", payload).await?;
    push(&mut service, &service_ref, "presence-1", "broadcast", hello(4)).await?;
    assert_eq!(c.event("realtime:presence-1", "broadcast").await?, hello(4));

    let (mut public, public_ref) =
        joined(&server, Version::V2, "authenticated", "x", json!({"config": {}})).await?;
    renew(&mut public, &public_ref, "x", token("anon")).await?;
    assert!(public.settle().await?.is_empty());
    Ok(())
}

/// http_and_ops 44, 46, 52; tenant_database 3.5: private broadcasts over HTTP
#[tokio::test]
async fn over_http() -> Result<()> {
    let (server, _db) = server().await?;
    let (mut socket, _) = member(&server, "authenticated", "room-1").await?;
    let post = async |path: &str, role: &str, body: Value| -> Result<(u16, String)> {
        let bearer = format!("Bearer {}", token(role));
        let headers = [("authorization", bearer.as_str()), ("content-type", "application/json")];
        let answer = server.http("POST", path, &headers, body.to_string().as_bytes()).await?;
        Ok((answer.status, answer.body))
    };
    let batch = |event: &str| {
        json!({"messages": [
            {"topic": "room-1", "event": event, "payload": {"n": 1}, "private": true},
            {"topic": "other", "event": event, "payload": {}, "private": true}]})
    };
    for role in ["anon", "potato", "authenticated", "service_role"] {
        assert_eq!(post("/api/broadcast", role, batch(role)).await?, (202, String::new()), "{role}");
    }
    for role in ["authenticated", "service_role"] {
        assert_eq!(
            socket.event("realtime:room-1", "broadcast").await?,
            json!({"type": "broadcast", "event": role, "payload": {"n": 1}})
        );
    }
    let single = |topic: &str| format!("/api/broadcast/{topic}/events/e?private=true");
    assert_eq!(post(&single("room-1"), "authenticated", json!({"n": 2})).await?, (202, String::new()));
    assert_eq!(socket.event("realtime:room-1", "broadcast").await?["payload"], json!({"n": 2}));
    let told = |text: &str| json!({ "message": text }).to_string();
    assert_eq!(post(&single("room-1"), "anon", json!({})).await?, (403, told("Unauthorized")));
    assert_eq!(post(&single("room-1"), "potato", json!({})).await?, (422, told("RLS policy error")));
    assert!(socket.settle().await?.is_empty());
    Ok(())
}
