//! `realtime.send`, `send_binary` and `broadcast_changes` (tenant_database 1.7).

use std::future::poll_fn;

use anyhow::Result;
use realtime_testkit::TestDb;
use serde_json::{Value, json};
use tokio_postgres::{AsyncMessage, NoTls, error::SqlState};

use crate::support::{all, one, ready};

/// Runs statements as a role, in a transaction that is committed.
async fn as_role(db: &TestDb, role: &str, sql: &str) -> Result<()> {
    db.sql(&format!("begin; set local role {role}; {sql}; commit")).await
}

async fn topics(db: &TestDb) -> Result<Vec<String>> {
    all(db, "select topic from realtime.messages order by topic, binary_payload nulls first").await
}

/// The stored payloads, as JSON text, in the order they were sent.
async fn payloads(db: &TestDb) -> Result<Vec<Value>> {
    let texts: Vec<String> =
        all(db, "select coalesce(payload::text, 'null') from realtime.messages order by inserted_at, event")
            .await?;
    Ok(texts.iter().map(|text| serde_json::from_str(text)).collect::<Result<_, _>>()?)
}

/// tenant_database 32
#[tokio::test]
async fn insert_policies_see_the_topic() -> Result<()> {
    let (db, _database) = ready().await?;
    db.sql(
        "create policy w on realtime.messages for insert to authenticated
         with check (realtime.topic() = 'allowed-topic')",
    )
    .await?;
    for topic in ["allowed-topic", "other"] {
        let sql = format!(
            "select realtime.send('{{}}', 'e', '{topic}'); select realtime.send_binary('\\x00', 'e', '{topic}')"
        );
        as_role(&db, "authenticated", &sql).await?;
    }
    assert_eq!(topics(&db).await?, ["allowed-topic", "allowed-topic"]);
    Ok(())
}

/// What would be stored and never sent is told to the caller, whose transaction goes on.
#[tokio::test]
async fn a_null_is_told_to_the_caller() -> Result<()> {
    let (db, _database) = ready().await?;
    let (client, mut connection) = tokio_postgres::connect(&db.url().await?, NoTls).await?;
    let (notices, mut told) = tokio::sync::mpsc::unbounded_channel();
    tokio::spawn(async move {
        while let Some(Ok(message)) = poll_fn(|context| connection.poll_message(context)).await {
            if let AsyncMessage::Notice(notice) = message {
                let _ = notices.send(format!("{} {}", notice.severity(), notice.message()));
            }
        }
    });
    let kept = "the message is stored and not sent, for this is NULL";
    let topic = "null value in column \"topic\" of relation";
    for (call, text) in [
        ("send(null, 'e', 't')", format!("{kept}: payload")),
        ("send('{}', null, 't')", format!("{kept}: event")),
        ("send('{}', 'e', null)", topic.to_owned()),
        ("send('{}', 'e', 't', null)", format!("{kept}: private")),
        ("send(null, null, 't')", format!("{kept}: payload, event")),
        ("send_binary(null, 'e', 't')", format!("{kept}: payload")),
        ("send_binary('\\x00', null, 't')", format!("{kept}: event")),
        ("send_binary('\\x00', 'e', null)", topic.to_owned()),
        ("broadcast_changes(null, 'e', 'INSERT', 'a', 'b', null, null)", topic.to_owned()),
        ("broadcast_changes('t', null, 'INSERT', 'a', 'b', null, null)", format!("{kept}: event")),
    ] {
        client.batch_execute(&format!("select realtime.{call}")).await?;
        let notice = told.recv().await.unwrap_or_default();
        assert!(
            notice.starts_with(&format!("WARNING WarnSendingBroadcastMessage: {text}")),
            "{call}: {notice}"
        );
    }
    Ok(())
}

/// tenant_database 33, 34
#[tokio::test]
async fn policies_deny_without_raising() -> Result<()> {
    let (db, _database) = ready().await?;
    let send = "select realtime.send('{}', 'e', 'T'), realtime.send_binary('\\x', 'e', 'T')";
    db.sql("create policy w on realtime.messages for insert to authenticated with check (true)").await?;
    as_role(&db, "anon", send).await?;
    assert_eq!(topics(&db).await?, Vec::<String>::new());
    db.sql("create policy no on realtime.messages as restrictive for insert with check (false)").await?;
    for role in ["anon", "authenticated"] {
        as_role(&db, role, send).await?;
    }
    assert_eq!(topics(&db).await?, Vec::<String>::new());
    db.sql("drop policy no on realtime.messages").await?;
    as_role(&db, "authenticated", send).await?;
    assert_eq!(topics(&db).await?, ["T", "T"]);
    Ok(())
}

/// tenant_database 35, 36
#[tokio::test]
async fn policies_see_topic_and_claims() -> Result<()> {
    let (db, _database) = ready().await?;
    db.sql(
        "create function public.topic_is_mine() returns boolean language sql as
            $$ select current_setting('realtime.topic', true) = 'mine' $$;
         create policy w on realtime.messages for insert to authenticated with check (
            public.topic_is_mine() and current_setting('request.jwt.claims', true)::jsonb ->> 'sub' = 'u1')",
    )
    .await?;
    for (sub, topic) in [("u1", "mine"), ("u1", "yours"), ("u2", "mine")] {
        let sql = format!(
            "set local request.jwt.claims = '{{\"sub\":\"{sub}\"}}'; select realtime.send('{{}}', 'e', '{topic}')"
        );
        as_role(&db, "authenticated", &sql).await?;
    }
    assert_eq!(topics(&db).await?, ["mine"]);
    Ok(())
}

/// tenant_database 37, 45
#[tokio::test]
async fn a_trigger_of_the_owner_broadcasts_whatever_policies_say() -> Result<()> {
    let (db, _database) = ready().await?;
    db.sql(
        "create policy no on realtime.messages as restrictive for all with check (false);
         create table public.bc (id int primary key, v text);
         grant all on public.bc to authenticated;
         create function public.tell() returns trigger language plpgsql security definer as $$ begin
            perform realtime.broadcast_changes('room', tg_op, tg_op, tg_table_name, tg_table_schema, new, old);
            return null;
         end $$;
         create trigger t after insert or update or delete on public.bc
            for each row execute function public.tell();",
    )
    .await?;
    for sql in
        ["insert into public.bc values (1, 'x')", "update public.bc set v = 'y'", "delete from public.bc"]
    {
        as_role(&db, "authenticated", sql).await?;
    }
    let change = |operation: &str, record: Value, old_record: Value| json!({"operation": operation, "schema": "public", "table": "bc", "record": record, "old_record": old_record});
    let mut stored = payloads(&db).await?;
    for payload in &mut stored {
        payload.as_object_mut().unwrap().remove("id").unwrap();
    }
    let (x, y) = (json!({"id": 1, "v": "x"}), json!({"id": 1, "v": "y"}));
    assert_eq!(
        stored,
        [
            change("INSERT", x.clone(), Value::Null),
            change("UPDATE", y.clone(), x),
            change("DELETE", Value::Null, y)
        ]
    );
    let events: Vec<String> =
        all(&db, "select event from realtime.messages where private order by inserted_at").await?;
    assert_eq!(events, ["INSERT", "UPDATE", "DELETE"]);
    Ok(())
}

/// tenant_database 38
#[tokio::test]
async fn functions_run_as_their_callers() -> Result<()> {
    let (db, _database) = ready().await?;
    let attached = "select count(*) from pg_proc where pronamespace = 'realtime'::regnamespace
        and (prosecdef or proconfig is not null)";
    assert_eq!(one::<i64>(&db, attached).await?, 0);
    db.sql(
        "create policy w on realtime.messages for insert to authenticated with check (true);
         create table public.seen (who name);
         grant insert on public.seen to authenticated;
         create function public.note() returns trigger language plpgsql as
            $$ begin insert into public.seen values (current_user); return new; end $$;
         create trigger t before insert on realtime.messages for each row execute function public.note();",
    )
    .await?;
    as_role(&db, "authenticated", "select realtime.send('{}', 'e', 'T')").await?;
    assert_eq!(one::<String>(&db, "select who::text from public.seen").await?, "authenticated");
    Ok(())
}

/// tenant_database 39
#[tokio::test]
async fn a_row_has_one_payload() -> Result<()> {
    let (db, _database) = ready().await?;
    let sql = "insert into realtime.messages (topic, extension, payload, binary_payload)
        values ('T', 'broadcast', '{}', '\\x')";
    let error = db.client().batch_execute(sql).await.unwrap_err();
    let error = error.as_db_error().unwrap();
    assert_eq!(*error.code(), SqlState::CHECK_VIOLATION);
    assert_eq!(error.constraint(), Some("messages_payload_exclusive"));
    Ok(())
}

/// tenant_database 43, 44
#[tokio::test]
async fn payloads_get_the_id_of_their_row() -> Result<()> {
    let (db, _database) = ready().await?;
    db.sql(
        r#"select realtime.send('{"value": 1}', 'a', 'T');
         select realtime.send('{"id": "123456"}', 'b', 'T', false);
         select realtime.send('["id"]', 'c', 'T');
         select realtime.send(null, 'd', 'T');
         select realtime.send_binary('\x00ff', 'e', 'T');
         select realtime.send_binary('\x', 'f', 'T', false);"#,
    )
    .await?;
    let rows = db
        .client()
        .query(
            "select id::text, payload::text, binary_payload, private, extension from realtime.messages order by event",
            &[],
        )
        .await?;
    let id: String = rows[0].get(0);
    let payload = |at: usize| rows[at].get::<_, Option<String>>(1);
    let parsed: Value = serde_json::from_str(&payload(0).unwrap())?;
    assert_eq!(parsed, json!({"value": 1, "id": id}));
    assert_eq!(payload(1).as_deref(), Some(r#"{"id": "123456"}"#));
    assert_eq!((payload(2).as_deref(), payload(3)), (Some(r#"["id"]"#), None));
    let binary: Vec<Option<Vec<u8>>> = rows.iter().map(|row| row.get(2)).collect();
    assert_eq!(binary, [None, None, None, None, Some(vec![0, 255]), Some(vec![])]);
    let private: Vec<bool> = rows.iter().map(|row| row.get(3)).collect();
    assert_eq!(private, [true, false, true, true, true, false]);
    assert!(rows.iter().all(|row| row.get::<_, &str>(4) == "broadcast"));
    Ok(())
}

/// What cannot be sent is a warning of the caller's session and nothing else.
#[tokio::test]
async fn failures_are_warnings() -> Result<()> {
    let (db, _database) = ready().await?;
    db.sql(
        "select realtime.send('1', 'e', 'T'), realtime.send('[1]', 'e', 'T'), realtime.send('{}', 'e', null),
            realtime.send_binary('\\x', 'e', null)",
    )
    .await?;
    assert_eq!(topics(&db).await?, Vec::<String>::new());
    // The topic stays for the rest of the transaction, and not longer.
    db.sql("begin; select realtime.send('{}', 'e', 'T')").await?;
    assert_eq!(one::<Option<String>>(&db, "select realtime.topic()").await?.as_deref(), Some("T"));
    db.sql("commit").await?;
    assert_eq!(one::<Option<String>>(&db, "select realtime.topic()").await?, None);
    Ok(())
}

/// A caller's search path leads nowhere else.
#[tokio::test]
async fn search_paths_do_not_matter() -> Result<()> {
    let (db, _database) = ready().await?;
    db.sql(
        "create schema evil;
         create function evil.jsonb_set(jsonb, text[], jsonb) returns jsonb language sql as $$ select '{}'::jsonb $$;
         create function evil.set_config(text, text, boolean) returns text language sql as $$ select 'evil' $$;
         create function evil.gen_random_uuid() returns uuid language sql as $$ select null::uuid $$;
         create function evil.has(jsonb, text) returns boolean language sql as $$ select true $$;
         create operator evil.? (leftarg = jsonb, rightarg = text, function = evil.has);
         begin; set local search_path = evil, pg_catalog;
         select realtime.broadcast_changes('T', 'e', 'INSERT', 't', 's', row(1), null); commit;",
    )
    .await?;
    let has_id = "select payload ->> 'id' = id::text from realtime.messages";
    assert!(one::<bool>(&db, has_id).await?);
    Ok(())
}

#[tokio::test]
async fn broadcast_changes_raises_for_misuse() -> Result<()> {
    let (db, _database) = ready().await?;
    for (operation, level, expected) in [
        ("TRUNCATE", "ROW", "Unexpected operation type: TRUNCATE"),
        ("INSERT", "STATEMENT", "function can only be triggered for each row, not for each statement"),
    ] {
        let sql = format!(
            "select realtime.broadcast_changes('T', 'e', '{operation}', 't', 's', null::record, null::record, '{level}')"
        );
        let error = db.client().batch_execute(&sql).await.unwrap_err();
        let message = error.as_db_error().unwrap().message();
        assert_eq!(message, format!("Failed to process the row: {expected}"));
    }
    Ok(())
}
