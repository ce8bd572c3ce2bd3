//! Rows of `realtime.messages` as the log carries them (tenant_database 4.2).

use anyhow::Result;
use realtime_pgoutput::{Decoder, message::Message};
use realtime_postgres::{DatabaseBroadcast, MessageBody, MessageColumns, NotBroadcast};
use realtime_testkit::TestDb;

use crate::support::{all, one, ready};

const LIMIT: usize = 3_000_500;

type Outcome = Result<DatabaseBroadcast, NotBroadcast>;

/// A slot of the test's own; it must not outlive the test, or it would hold back the log of the cluster.
async fn slot(db: &TestDb) -> Result<()> {
    let name = db.name();
    db.sql(&format!("select pg_create_logical_replication_slot('{name}', 'pgoutput', true)")).await
}

/// What was committed since the last call, through the publication of messages. `binary` asks for the binary form.
async fn committed(db: &TestDb, binary: bool) -> Result<(Vec<Outcome>, Vec<String>)> {
    let changes: Vec<Vec<u8>> = all(
        db,
        &format!(
            "select data from pg_logical_slot_get_binary_changes('{}', null, null, 'proto_version', '1',
                'publication_names', 'supabase_realtime_messages_publication', 'binary', '{binary}')",
            db.name()
        ),
    )
    .await?;
    let mut decoder = Decoder::new(1);
    let mut relations = std::collections::HashMap::new();
    let (mut outcomes, mut foreign) = (Vec::new(), Vec::new());
    for change in changes {
        match decoder.decode(change.into())? {
            Message::Relation { relation, .. } => {
                let columns = MessageColumns::of(&relation);
                if columns.is_none() {
                    foreign.push(format!("{}.{}", relation.schema, relation.name));
                }
                relations.insert(relation.oid, columns);
            }
            Message::Insert { relation, new, .. } => {
                if let Some(columns) = &relations[&relation] {
                    outcomes.push(columns.message(&new, LIMIT));
                }
            }
            _ => {}
        }
    }
    Ok((outcomes, foreign))
}

/// tenant_database 42 to 44
#[tokio::test]
async fn rows_are_messages() -> Result<()> {
    let (db, _database) = ready().await?;
    slot(&db).await?;
    for binary in [false, true] {
        db.sql(
            r#"delete from realtime.messages;
             select realtime.send('{"b": 1.50, "a": "ä"}', 'json', 'room', false);
             select realtime.send('{"id": "123456"}', 'own id', 'room');
             select realtime.send_binary('\x00ff', 'binary', 'room');
             select realtime.send_binary('\x', 'empty', 'sixteen-bytes-ok');
             insert into realtime.messages (topic, extension, event, private, payload)
                select 'room', 'presence', n, true, '[1, 2]' from generate_series(1, 5) n;
             update realtime.messages set payload = '{}' where event = 'own id';"#,
        )
        .await?;
        let (outcomes, foreign) = committed(&db, binary).await?;
        assert_eq!(foreign, Vec::<String>::new());
        let messages: Vec<_> = outcomes.into_iter().collect::<Result<_, _>>()?;
        let events: Vec<_> = messages.iter().map(|message| &*message.event).collect();
        assert_eq!(events, ["json", "own id", "binary", "empty", "1", "2", "3", "4", "5"]);
        let ids: Vec<String> = all(
            &db,
            "select id::text from realtime.messages where event in ('json', 'empty') order by event desc",
        )
        .await?;
        assert_eq!((&*messages[0].id, &*messages[3].id), (&*ids[0], &*ids[1]));
        let json = |text: &str| MessageBody::Json(text.to_owned().into());
        assert_eq!(messages[0].body, json(&format!(r#"{{"a": "ä", "b": 1.50, "id": "{}"}}"#, ids[0])));
        assert_eq!(messages[1].body, json(r#"{"id": "123456"}"#));
        assert_eq!(messages[2].body, MessageBody::Binary(vec![0, 255].into()));
        assert_eq!(messages[3].body, MessageBody::Binary(vec![].into()));
        assert_eq!(messages[8].body, json("[1, 2]"));
        assert_eq!((messages[0].private, messages[1].private), (false, true));
        assert_eq!((&*messages[3].topic, &*messages[4].topic), ("sixteen-bytes-ok", "room"));
        let micros: i64 = one(
            &db,
            "select (extract(epoch from inserted_at) * 1000000)::bigint from realtime.messages where event = 'json'",
        )
        .await?;
        assert_eq!(messages[0].inserted_at.0, micros);
    }
    Ok(())
}

/// What a trigger tells, as the log carries it.
///
/// tenant_database 45
#[tokio::test]
async fn changes_are_messages() -> Result<()> {
    let (db, _database) = ready().await?;
    slot(&db).await?;
    db.sql(
        "select realtime.broadcast_changes('room', 'INSERT', 'INSERT', 'bc', 'public', row(1, 'x'), null);
         select realtime.broadcast_changes('room', 'DELETE', 'DELETE', 'bc', 'public', null, row(1, 'x'));",
    )
    .await?;
    let (outcomes, _) = committed(&db, false).await?;
    let messages: Vec<_> = outcomes.into_iter().collect::<Result<_, _>>()?;
    let payloads: Vec<serde_json::Value> = messages
        .iter()
        .map(|message| match &message.body {
            MessageBody::Json(json) => Ok(serde_json::from_slice(json)?),
            MessageBody::Binary(_) => anyhow::bail!("JSON expected"),
        })
        .collect::<Result<_>>()?;
    for (message, payload) in messages.iter().zip(&payloads) {
        assert!(message.private);
        assert_eq!(payload["id"], *message.id);
        assert_eq!(payload["operation"], *message.event);
        assert_eq!((&payload["schema"], &payload["table"]), (&"public".into(), &"bc".into()));
    }
    assert!(payloads[0]["old_record"].is_null() && payloads[0]["record"]["f2"] == "x");
    assert!(payloads[1]["record"].is_null() && payloads[1]["old_record"]["f2"] == "x");
    Ok(())
}

/// Rows that are no messages are told apart; tables that are none are recognised; columns of any type are ignored.
///
/// tenant_database 46, 49
#[tokio::test]
async fn what_is_not_a_message() -> Result<()> {
    let (db, _database) = ready().await?;
    slot(&db).await?;
    db.sql(
        "create table public.test (id int);
         alter publication supabase_realtime_messages_publication add table public.test;
         alter table realtime.messages add column place point default '(1,2)', add column tags text[] default '{a}';
         insert into public.test values (1);
         insert into realtime.messages (topic, extension, private, payload) values ('T', 'broadcast', true, '{}');
         insert into realtime.messages (topic, extension, private, event, payload)
            values ('T', 'broadcast', null, 'e', '{}');
         select realtime.send(null, 'e', 'T');
         select realtime.send('{\"id\": 1}', 'last', 'T');",
    )
    .await?;
    let (outcomes, foreign) = committed(&db, true).await?;
    assert_eq!(foreign, ["public.test"]);
    let events: Vec<_> =
        outcomes.into_iter().map(|outcome| outcome.map(|message| String::from(message.event))).collect();
    assert_eq!(
        events,
        [
            Err(NotBroadcast::EventMissing),
            Err(NotBroadcast::PrivateMissing),
            Err(NotBroadcast::PayloadMissing),
            Ok("last".to_owned()),
        ]
    );
    Ok(())
}
