//! The engine of the second generation for channels of the first.

use anyhow::Result;
use realtime_testkit::{PATIENCE, Server, Socket, TestDb};
use serde_json::{Value, json};
use tokio::time;

use super::{SECRET, connect, now, server, token};

/// A table that shows everybody their own rows.
pub async fn notes() -> Result<TestDb> {
    let db = TestDb::new().await?;
    db.sql(
        "create table notes (id bigint primary key, owner text, details jsonb, big text);
         alter table notes enable row level security;
         create policy own on notes for select to authenticated
            using (owner = current_setting('request.jwt.claims', true)::json ->> 'sub');
         grant select on notes to authenticated;
         create table hidden (id bigint primary key);
         alter publication supabase_realtime add table notes, hidden",
    )
    .await?;
    Ok(db)
}

async fn rls(db: &TestDb) -> Result<Server> {
    let env = [
        ("SECURE_CHANNELS", "true"),
        ("JWT_SECRET", SECRET),
        ("REPLICATION_MODE", "RLS"),
        ("SLOT_NAME", "rls"),
        ("TEMPORARY_SLOT", "true"),
    ];
    server(db, &env).await
}

pub fn user(sub: &str) -> Value {
    json!({"user_token": token(&json!({"role": "authenticated", "sub": sub, "exp": now() + 1000}))})
}

pub async fn anonymous(server: &Server) -> Result<Socket> {
    let query = format!("?apikey={}", token(&json!({"role": "anon", "exp": now() + 1000})));
    Ok(connect(server, &query, &[]).await?.unwrap())
}

async fn join(socket: &mut Socket, topic: &str, payload: Value) -> Result<Value> {
    Ok(socket.join(topic, payload).await?.0)
}

/// legacy 16, 25, 36, 37
#[tokio::test]
async fn everybody_gets_what_they_may_see() -> Result<()> {
    let db = notes().await?;
    let server = rls(&db).await?;
    let ok = json!({"status": "ok", "response": {}});
    let mut ada = anonymous(&server).await?;
    let topics = [
        "realtime:*",
        "realtime:public:notes",
        "realtime:public:notes:id=eq.2",
        r#"realtime:public:notes:details=eq.{"test":true}"#,
        r#"realtime:public:notes:details=eq.[{"test":true}]"#,
        "realtime:public:notes:owner=eq.ada, with a comma",
        "realtime:nothing:at:all",
    ];
    for topic in topics {
        assert_eq!(join(&mut ada, topic, user("ada")).await?, ok, "{topic}");
    }
    let mut bob = anonymous(&server).await?;
    assert_eq!(join(&mut bob, "realtime:*", user("bob")).await?, ok);
    // A token without a role, or of one that sees nothing: silence.
    let mut nobody = anonymous(&server).await?;
    let roleless = json!({"user_token": token(&json!({"sub": "ada", "exp": now() + 1000}))});
    assert_eq!(join(&mut nobody, "realtime:*", roleless).await?, ok);

    for topic in ["realtime:public:notes:missing=eq.1", "realtime:public:notes:id=eq.x"] {
        let reason = format!("error occurred when joining {topic}");
        let refused = json!({"status": "error", "response": {"reason": reason}});
        assert_eq!(join(&mut ada, topic, user("ada")).await?, refused, "{topic}");
    }

    db.sql(r#"insert into notes values (2, 'ada', '{"test":true}'); insert into notes values (3, 'ada', '[{"test":true}]')"#).await?;
    let first = ada.event("realtime:*", "INSERT").await?;
    assert_eq!(first["record"], json!({"id": 2, "owner": "ada", "details": {"test": true}, "big": null}));
    assert_eq!(first["columns"][0], json!({"name": "id", "type": "int8"}));
    assert_eq!(first["errors"], Value::Null);
    assert_eq!(ada.event("realtime:public:notes:id=eq.2", "INSERT").await?["record"]["id"], 2);
    assert_eq!(ada.event(topics[3], "INSERT").await?["record"]["id"], 2);
    assert_eq!(ada.event(topics[4], "INSERT").await?["record"]["id"], 3);
    db.sql("insert into notes values (4, 'bob', null, repeat('x', 1100000)); insert into hidden values (1)")
        .await?;
    let large = bob.event("realtime:*", "INSERT").await?;
    assert_eq!(large["errors"], json!(["Error 413: Payload Too Large"]));
    assert_eq!(large["record"], json!({"id": 4, "owner": "bob"}));
    db.sql("delete from notes where id = 2").await?;
    for topic in ["realtime:*", "realtime:public:notes", "realtime:public:notes:id=eq.2"] {
        assert_eq!(ada.event(topic, "DELETE").await?["old_record"], json!({"id": 2}));
    }
    // What shows nobody anything is told as an error, and says no more than where it happened.
    assert_eq!(ada.event("realtime:*", "INSERT").await?["record"]["id"], 3);
    let hidden = ada.event("realtime:*", "INSERT").await?;
    assert_eq!(hidden["errors"], json!(["Error 401: Unauthorized"]));
    assert_eq!((&hidden["record"], &hidden["columns"]), (&json!({}), &json!([])));
    let left: Vec<_> = ada.settle().await?.into_iter().map(|frame| (frame.topic, frame.event)).collect();
    let more = |event: &str| ("realtime:public:notes".to_owned(), event.to_owned());
    let mut expected = vec![more("INSERT"), more("INSERT")];
    expected.sort();
    let mut sorted = left;
    sorted.sort();
    assert_eq!(sorted, expected, "no system frame, no presence");
    assert_eq!(nobody.settle().await?, []);
    server.stop().await
}

/// legacy 17, 18: a new token counts at once; one that is refused ends the channel such that it is joined again.
#[tokio::test]
async fn tokens_change() -> Result<()> {
    let db = notes().await?;
    let server = rls(&db).await?;
    let mut socket = anonymous(&server).await?;
    let topic = "realtime:public:notes";
    let (reply, join_ref) = socket.join(topic, user("ada")).await?;
    assert_eq!(reply["status"], "ok");
    let push = json!({"access_token": user("bob")["user_token"]});
    socket.send(json!(join_ref), json!("9"), topic, "access_token", push).await?;
    // The subscription is made anew: what is committed meanwhile is seen by one or the other.
    let limit = time::Instant::now() + PATIENCE;
    let mut id = 0;
    let seen = loop {
        id += 1;
        db.sql(&format!("insert into notes values ({id}, 'bob')")).await?;
        let mut frames = socket.settle().await?;
        if let Some(frame) = frames.pop() {
            break frame;
        }
        assert!(time::Instant::now() < limit, "nothing comes");
        time::sleep(time::Duration::from_millis(20)).await;
    };
    assert_eq!((&*seen.event, &seen.payload["record"]["owner"]), ("INSERT", &json!("bob")));
    socket.send(json!(join_ref), json!("10"), topic, "access_token", json!({"access_token": "x"})).await?;
    let broken = socket.expect(|frame| frame.event == "phx_error").await?;
    assert_eq!((&*broken.topic, broken.msg_ref), (topic, json!(join_ref)));
    assert_eq!(join(&mut socket, topic, user("ada")).await?["status"], "ok");
    server.stop().await
}

/// A leave right behind a token counts: nobody watches any more, and the slot ends.
#[tokio::test]
async fn a_leave_behind_a_token_leaves_no_watcher() -> Result<()> {
    let db = notes().await?;
    let env = [
        ("SECURE_CHANNELS", "true"),
        ("JWT_SECRET", SECRET),
        ("REPLICATION_MODE", "RLS"),
        ("SLOT_NAME", "rls"),
        ("TEMPORARY_SLOT", "true"),
        ("REPLICATION_IDLE_STOP_MS", "100"),
    ];
    let server = server(&db, &env).await?;
    let mut socket = anonymous(&server).await?;
    let topic = "realtime:public:notes";
    for id in 1..=5 {
        let (reply, join_ref) = socket.join(topic, user("ada")).await?;
        assert_eq!(reply["status"], "ok");
        db.sql(&format!("insert into notes values ({id}, 'ada')")).await?;
        assert_eq!(socket.event(topic, "INSERT").await?["record"]["id"], id);
        let push = json!({"access_token": user("ada")["user_token"]});
        socket.send(json!(join_ref), json!("t"), topic, "access_token", push).await?;
        let leave = format!("leave {id}");
        socket.send(json!(join_ref), json!(leave), topic, "phx_leave", json!({})).await?;
        assert_eq!(socket.reply(&leave).await?["status"], "ok");
    }
    let sql = "select count(*) from pg_replication_slots where database = current_database()";
    realtime_testkit::until("the slot ends", async || {
        Ok(db.client().query_one(sql, &[]).await?.get::<_, i64>(0) == 0)
    })
    .await?;
    server.stop().await
}

/// Nobody is asked for a token, so nobody has a role: joins succeed, and nothing is ever sent.
#[tokio::test]
async fn without_tokens_nothing_is_sent() -> Result<()> {
    let db = notes().await?;
    let server = server(&db, &[("REPLICATION_MODE", "RLS")]).await?;
    let mut socket = super::joined(&server, &["realtime:*"]).await?;
    db.sql("insert into hidden values (1)").await?;
    assert_eq!(socket.settle().await?, []);
    Ok(())
}

/// legacy 42
#[tokio::test]
async fn a_slot_is_used_again() -> Result<()> {
    let db = notes().await?;
    let env = [
        ("SECURE_CHANNELS", "true"),
        ("JWT_SECRET", SECRET),
        ("REPLICATION_MODE", "RLS"),
        ("SLOT_NAME", "rls_kept"),
    ];
    for id in 1..=2 {
        let server = server(&db, &env).await?;
        let mut socket = anonymous(&server).await?;
        assert_eq!(join(&mut socket, "realtime:public:notes", user("ada")).await?["status"], "ok");
        db.sql(&format!("insert into notes values ({id}, 'ada')")).await?;
        assert_eq!(socket.event("realtime:public:notes", "INSERT").await?["record"]["id"], id);
        server.stop().await?;
        let sql = "select count(*) from pg_replication_slots where database = current_database()";
        assert_eq!(db.client().query_one(sql, &[]).await?.get::<_, i64>(0), 1);
    }
    super::drop_slot(&db, "rls_kept").await
}
