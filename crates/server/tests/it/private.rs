//! Private topics with real policies (protocol 6, 8, 10; tenant_database 3, 4, 6).

use anyhow::{Context as _, Result, ensure};
use realtime_testkit::{PATIENCE, Server, ServerOptions, Socket, TestDb, Version, sign, token, unix_now};
use serde_json::{Value, json};
use tokio::{process::Command, time};

use crate::BINARY;

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
    assert!(server.log().contains("RlsPolicyError"), "operators are told");
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

/// A channel that is told that broadcasts from the database arrive.
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

/// protocol 81, 83; tenant_database 42, 43, 44, 46, 50
#[tokio::test]
async fn broadcasts_from_the_database() -> Result<()> {
    let (server, db) = server().await?;
    let topic = "room-sixteen-byt";
    let name = format!("realtime:{topic}");
    let mut v1 = listening(&server, Version::V1, topic, true).await?;
    let mut v2 = listening(&server, Version::V2, topic, true).await?;
    let mut public = listening(&server, Version::V2, topic, false).await?;

    db.sql(&format!("select realtime.send('{{\"n\": 1}}', 'e', '{topic}', true)")).await?;
    for socket in [&mut v1, &mut v2] {
        let payload = socket.event(&name, "broadcast").await?;
        let id = &payload["meta"]["id"];
        assert_eq!((&payload["event"], &payload["payload"]), (&json!("e"), &json!({"n": 1, "id": id})));
        assert!(payload["meta"].get("replayed").is_none());
    }
    db.sql(&format!("select realtime.send('{{\"id\": \"mine\"}}', 'own', '{topic}', false)")).await?;
    let payload = public.event(&name, "broadcast").await?;
    assert_eq!(payload["payload"], json!({"id": "mine"}));
    assert_eq!(payload["encoding"], 1, "kind 4");

    db.sql(&format!(
        "select realtime.send_binary('\\x00ff', 'bytes', '{topic}', true); select realtime.send_binary('', 'none', '{topic}', true)"
    ))
    .await?;
    for (event, bytes) in [("bytes", json!([0, 255])), ("none", json!([]))] {
        let payload = v2.event(&name, "broadcast").await?;
        let shown = (&payload["event"], &payload["payload"], &payload["encoding"]);
        assert_eq!(shown, (&json!(event), &bytes, &json!(0)));
        assert!(payload["meta"]["id"].is_string());
    }
    // Rows that are not messages do no harm; five by one and five at once come in order.
    db.sql(&format!(
        "insert into realtime.messages (topic, extension, private, payload) values ('{topic}', 'broadcast', true, '{{}}');
         insert into realtime.messages (topic, extension, event, private, payload)
            select '{topic}', 'broadcast', 'bulk', true, jsonb_build_object('n', n) from generate_series(0, 4) n"
    ))
    .await?;
    for n in 5..10 {
        db.sql(&format!(
            "insert into realtime.messages (topic, extension, event, private, payload)
             values ('{topic}', 'broadcast', 'bulk', true, '{{\"n\": {n}}}')"
        ))
        .await?;
    }
    for socket in [&mut v1, &mut v2] {
        for n in 0..10 {
            let payload = socket.event(&name, "broadcast").await?;
            assert_eq!((&payload["event"], &payload["payload"]["n"]), (&json!("bulk"), &json!(n)));
        }
        assert!(socket.settle().await?.is_empty());
    }
    assert!(public.settle().await?.is_empty());
    assert!(server.log().contains("UnableToBroadcastChanges: event_missing"));
    Ok(())
}

/// protocol 82; tenant_database 45
#[tokio::test]
async fn row_changes_by_trigger() -> Result<()> {
    let (server, db) = server().await?;
    let mut socket = listening(&server, Version::V1, "room-1", true).await?;
    db.sql(
        "create table public.bc (id int primary key, v text);
         create function public.tell() returns trigger language plpgsql security definer as $$ begin
            perform realtime.broadcast_changes('room-1', tg_op, tg_op, tg_table_name, tg_table_schema, new, old);
            return null; end $$;
         create trigger t after insert or update or delete on public.bc
            for each row execute function public.tell();
         insert into public.bc values (1, 'x'); update public.bc set v = 'y'; delete from public.bc",
    )
    .await?;
    let (x, y) = (json!({"id": 1, "v": "x"}), json!({"id": 1, "v": "y"}));
    for (operation, record, old) in
        [("INSERT", &x, &Value::Null), ("UPDATE", &y, &x), ("DELETE", &Value::Null, &y)]
    {
        let payload = socket.event("realtime:room-1", "broadcast").await?;
        assert_eq!((&payload["type"], &payload["event"]), (&json!("broadcast"), &json!(operation)));
        let expected = json!({"id": payload["meta"]["id"], "operation": operation, "schema": "public",
            "table": "bc", "record": record, "old_record": old});
        assert_eq!(payload["payload"], expected);
    }
    Ok(())
}

/// protocol 79, 80; tenant_database 64, 65, 66
#[tokio::test]
async fn missed_messages() -> Result<()> {
    let (server, db) = server().await?;
    let at = |age: i64, n: i64| {
        format!(
            "insert into realtime.messages (topic, extension, event, private, payload, inserted_at)
             values ('room-1', 'broadcast', 'old', true, '{{\"n\": {n}}}', now() at time zone 'utc' - interval '{age} s');"
        )
    };
    db.sql(&[at(100, 1), at(50, 2), at(40, 3), at(30, 4)].concat()).await?;
    db.sql("select realtime.send_binary('\\x07', 'bytes', 'room-1', true)").await?;
    let since = |age: u64| (unix_now() - age) * 1000;
    let replay = |replay: Value| private(json!({ "replay": replay }), false);
    let numbers = async |version, parameters: Value| -> Result<Vec<Value>> {
        let (mut socket, join_ref) =
            joined(&server, version, "authenticated", "room-1", replay(parameters)).await?;
        let mut seen = Vec::new();
        for frame in socket.settle().await? {
            assert_eq!((frame.event.as_str(), &frame.msg_ref), ("broadcast", &Value::Null));
            assert_eq!(frame.payload["meta"]["replayed"], true);
            if version == Version::V2 {
                let binary = frame.payload["event"] == "bytes";
                assert_eq!(frame.join_ref, if binary { Value::Null } else { json!(join_ref) });
            }
            let n = &frame.payload["payload"]["n"];
            seen.push(if n.is_null() { frame.payload["payload"].clone() } else { n.clone() });
        }
        Ok(seen)
    };
    let all = numbers(Version::V2, json!({"since": since(70), "limit": 10})).await?;
    assert_eq!(all, [json!(2), json!(3), json!(4), json!([7])], "older ones never come");
    let latest = numbers(Version::V1, json!({"since": since(70), "limit": 2})).await?;
    assert_eq!(latest, [json!(4)], "the newest, of which serializer 1 cannot carry bytes");
    assert_eq!(numbers(Version::V2, json!({"since": since(70), "limit": 0})).await?, [json!([7])]);
    assert!(numbers(Version::V2, json!({"since": since(0) + 50_000})).await?.is_empty());

    let mut socket = server.socket(Version::V2, "authenticated").await?;
    for parameters in [json!({"since": "x"}), json!({"since": since(9), "limit": "x"}), json!({})] {
        let reason = refusal(&mut socket, "room-1", replay(parameters)).await?;
        assert_eq!(reason, "UnableToReplayMessages: Replay params are not valid");
    }
    let public = json!({"config": {"broadcast": {"replay": {"since": 1}}}});
    assert_eq!(
        refusal(&mut socket, "room-1", public).await?,
        "UnableToReplayMessages: Replay is not allowed for public channels"
    );
    let blind = private(json!({"replay": {"since": 1}}), true);
    assert_eq!(refusal(&mut socket, "presence-1", blind).await?, unauthorized("presence-1"));
    Ok(())
}

/// tenant_database 57, 58, 75: one connection for everything, while somebody is there; made anew when it is lost.
#[tokio::test]
async fn the_connection_lives_with_its_listeners() -> Result<()> {
    let db = database().await?;
    let options = ServerOptions::default().env("REPLICATION_IDLE_STOP_MS", "300");
    let server = Server::start(BINARY, &db, options).await?;
    let walsenders = async |wanted: i64| -> Result<()> {
        const SQL: &str = "select count(*) from pg_stat_replication r join pg_stat_activity a using (pid)
            where a.datname = current_database()";
        let reached = async {
            while db.client().query_one(SQL, &[]).await?.get::<_, i64>(0) != wanted {
                time::sleep(time::Duration::from_millis(20)).await;
            }
            anyhow::Ok(())
        };
        time::timeout(PATIENCE, reached).await.with_context(|| format!("never {wanted} walsenders"))?
    };
    walsenders(0).await?;
    let mut listener = listening(&server, Version::V2, "room-1", true).await?;
    db.sql(
        "create table public.t (id int primary key); grant select on public.t to authenticated;
            alter publication supabase_realtime add table public.t",
    )
    .await?;
    listener.watch("realtime:any", json!([{"schema": "*"}])).await?;
    walsenders(1).await?;
    db.sql("insert into public.t values (1); select realtime.send('{}', 'e', 'room-1')").await?;
    let change = listener.event("realtime:any", "postgres_changes").await?;
    assert_eq!(change["data"]["record"]["id"], 1);
    listener.event("realtime:room-1", "broadcast").await?;
    assert!(listener.settle().await?.is_empty(), "messages are no row changes");

    db.sql(
        "select pg_terminate_backend(pid) from pg_stat_replication join pg_stat_activity using (pid)
            where datname = current_database()",
    )
    .await?;
    for topic in ["realtime:any", "realtime:room-1"] {
        assert_eq!(listener.event(topic, "system").await?["status"], "error", "{topic}");
        assert_eq!(listener.event(topic, "system").await?["status"], "ok", "{topic}");
    }
    db.sql("select realtime.send('{\"n\": 2}', 'e', 'room-1')").await?;
    assert_eq!(listener.event("realtime:room-1", "broadcast").await?["payload"]["n"], 2);
    drop(listener);
    walsenders(0).await
}

/// tenant_database 47, 56: too large is dropped, the rest goes on
#[tokio::test]
async fn large_messages() -> Result<()> {
    let (server, db) = server().await?;
    let mut socket = listening(&server, Version::V2, "room-1", true).await?;
    db.sql(
        "select realtime.send(jsonb_build_object('x', repeat('x', 10000000)), 'huge', 'room-1') from generate_series(1, 5);
         select realtime.send(jsonb_build_object('x', repeat('x', 3000600)), 'large', 'room-1');
         select realtime.send(jsonb_build_object('x', repeat('x', 2000000)), 'fits', 'room-1');",
    )
    .await?;
    assert_eq!(socket.event("realtime:room-1", "broadcast").await?["event"], "fits");
    assert!(server.log().contains("UnableToBroadcastChanges: payload_size_exceeded"));
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

/// tenant_database 70, 71: a server sets a fresh database up by itself, or leaves it alone if told so.
#[tokio::test]
async fn the_first_use_sets_the_database_up() -> Result<()> {
    let db = TestDb::new().await?;
    let server = Server::start(BINARY, &db, ServerOptions::default()).await?;
    let (mut socket, _) = joined(
        &server,
        Version::V2,
        "service_role",
        "room-1",
        private(json!({"replication_ready": true}), false),
    )
    .await?;
    socket.event("realtime:room-1", "system").await?;
    db.sql("select realtime.send('{}', 'e', 'room-1')").await?;
    assert_eq!(socket.event("realtime:room-1", "broadcast").await?["event"], "e");

    let untouched = TestDb::new().await?;
    let options = ServerOptions::default().env("PREPARE_DATABASES", "false");
    let server = Server::start(BINARY, &untouched, options).await?;
    let (mut socket, join_ref) =
        joined(&server, Version::V2, "anon", "a", json!({"config": {"broadcast": loud()}})).await?;
    assert_eq!(push(&mut socket, &join_ref, "a", "broadcast", hello(1)).await?["status"], "ok");
    let mut service = server.socket(Version::V2, "service_role").await?;
    assert_eq!(refusal(&mut service, "a", private(json!({}), false)).await?, unauthorized("a"));
    let schemas: i64 = untouched
        .client()
        .query_one("select count(*) from pg_namespace where nspname = 'realtime'", &[])
        .await?
        .get(0);
    assert_eq!(schemas, 0);
    Ok(())
}

/// tenant_database 49, 51; postgres_changes 107: publications come and go while one connection reads both
#[tokio::test]
async fn publications_come_and_go() -> Result<()> {
    let (server, db) = server().await?;
    db.sql(
        "create table public.t (id int primary key); grant select on public.t to authenticated;
         create table public.foreign (id int primary key); grant select on public.foreign to authenticated;
         alter publication supabase_realtime add table public.t",
    )
    .await?;
    let mut socket = listening(&server, Version::V2, "room-1", true).await?;
    socket.watch("realtime:any", json!([{"schema": "public"}])).await?;
    let told = async |socket: &mut Socket| -> Result<String> {
        let system = socket.event("realtime:any", "system").await?;
        Ok(format!("{}: {}", system["status"].as_str().unwrap_or_default(), system["message"]))
    };
    let send = async |n: i32| db.sql(&format!("select realtime.send('{{\"n\": {n}}}', 'e', 'room-1')")).await;

    // A table that is none of messages is of no interest, to watchers of row changes neither.
    db.sql(
        "alter publication supabase_realtime_messages_publication add table public.foreign;
         insert into public.foreign values (1); insert into public.t values (1)",
    )
    .await?;
    send(1).await?;
    assert_eq!(socket.event("realtime:room-1", "broadcast").await?["payload"]["n"], 1);
    let change = socket.event("realtime:any", "postgres_changes").await?;
    assert_eq!((&change["data"]["table"], socket.settle().await?.len()), (&json!("t"), 0));
    assert!(server.log().contains("Unexpected relation on schema 'public' and table 'foreign'"));

    // The connection that is made anew reads what is left.
    db.sql("drop publication supabase_realtime").await?;
    assert!(told(&mut socket).await?.starts_with("error: \"Unable to subscribe"));
    let heard = async |socket: &mut Socket, n: i32| {
        let limit = time::Instant::now() + PATIENCE;
        while time::Instant::now() < limit {
            send(n).await?;
            if socket.settle().await?.iter().any(|frame| frame.payload["payload"]["n"] == n) {
                return Ok(());
            }
        }
        anyhow::bail!("broadcasts do not come")
    };
    heard(&mut socket, 2).await?;
    db.sql("create publication supabase_realtime for table public.t").await?;
    assert_eq!(told(&mut socket).await?, "ok: \"Subscribed to PostgreSQL\"");
    db.sql("insert into public.t values (2)").await?;
    send(3).await?;
    socket.event("realtime:any", "postgres_changes").await?;
    socket.expect(|frame| frame.payload["payload"]["n"] == 3).await?;

    // Without the publication of messages rows go on; who watches them is told of the gap.
    db.sql("drop publication supabase_realtime_messages_publication").await?;
    assert!(told(&mut socket).await?.starts_with("error: \"The connection to the database was lost"));
    assert!(told(&mut socket).await?.starts_with("ok"));
    db.sql("insert into public.t values (3)").await?;
    socket.event("realtime:any", "postgres_changes").await?;
    Ok(())
}

/// protocol 50; tenant_database 25, 67: without the database public topics go on, private ones wait for better times
#[tokio::test]
async fn the_database_is_away() -> Result<()> {
    let (server, db) = server().await?;
    let (mut public, public_ref) =
        joined(&server, Version::V2, "anon", "a", json!({"config": {"broadcast": loud()}})).await?;
    let (mut asked, asked_ref) = member(&server, "authenticated", "room-1").await?;
    assert_eq!(push(&mut asked, &asked_ref, "room-1", "broadcast", hello(1)).await?["status"], "ok");
    let (mut fresh, fresh_ref) = member(&server, "authenticated", "room-2").await?;
    let admin = realtime_testkit::cluster().await?.connect("postgres").await?;
    let away = format!(
        "alter database {0} with allow_connections false;
         select pg_terminate_backend(pid) from pg_stat_activity where datname = '{0}' and application_name like 'realtime%'",
        db.name()
    );
    admin.batch_execute(&away).await?;

    assert_eq!(push(&mut public, &public_ref, "a", "broadcast", hello(2)).await?["status"], "ok");
    let track = json!({"type": "presence", "event": "track", "payload": {}});
    let refused = json!({"status": "error", "response": {}});
    fresh.send(json!(fresh_ref), json!("x"), "realtime:room-2", "broadcast", hello(3)).await?;
    // Its answer follows the broadcast's, if there is one.
    assert_eq!(push(&mut fresh, &fresh_ref, "room-2", "presence", track).await?, refused);
    assert!(fresh.settle().await?.is_empty(), "neither delivered nor answered");
    assert!(server.log().contains("UnableToHandleBroadcast"));
    let reason = refusal(&mut fresh, "room-3", private(json!({}), false)).await?;
    let unreachable = "UnableToConnectToProject: Realtime was unable to connect to the project database";
    let limited = "DatabaseConnectionRateLimitReached: Too many database connections attempts per second";
    assert!(reason == unreachable || reason == limited, "{reason}");
    assert_eq!(push(&mut asked, &asked_ref, "room-1", "broadcast", hello(4)).await?["status"], "ok");

    admin.batch_execute(&format!("alter database {} with allow_connections true", db.name())).await?;
    let back = async {
        let mut n = 10;
        loop {
            n += 1;
            fresh.send(json!(fresh_ref), Value::Null, "realtime:room-2", "broadcast", hello(n)).await?;
            if !fresh.settle().await?.is_empty() {
                return anyhow::Ok(());
            }
            time::sleep(time::Duration::from_millis(100)).await;
        }
    };
    time::timeout(PATIENCE, back).await.context("never delivered again")?
}
