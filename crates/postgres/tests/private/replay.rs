//! Replay (tenant_database 6).

use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::Result;
use realtime_postgres::{MessageBody, ReplayError, ReplayParams, ReplayedMessage, TenantDatabase};
use serde_json::json;

use crate::support::{config, open, ready};

fn params(since: i64, limit: i64) -> ReplayParams {
    ReplayParams::parse(&json!({"since": since, "limit": limit})).unwrap().unwrap()
}

/// Milliseconds since 1970, some minutes ago.
fn minutes_ago(minutes: u64) -> i64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    i64::try_from(now.as_millis()).unwrap() - i64::try_from(minutes).unwrap() * 60_000
}

async fn events(database: &TenantDatabase, params: ReplayParams) -> Result<Vec<String>> {
    let messages = database.replay("T", params).await?;
    Ok(messages.into_iter().map(|message| message.event.unwrap_or_default().into()).collect())
}

/// tenant_database 63, 64
#[tokio::test]
async fn the_newest_of_the_topic() -> Result<()> {
    let (db, database) = ready().await?;
    assert_eq!(database.replay("T", params(minutes_ago(600), 25)).await?, []);
    db.sql(
        "insert into realtime.messages (topic, extension, private, event, payload, inserted_at)
         select topic, extension, private, event, '{}', now() at time zone 'utc' - ago::interval
         from (values ('T', 'broadcast', true, 'old', '30 min'), ('T', 'broadcast', true, 'b', '9 min'),
            ('T', 'broadcast', true, 'a', '10 min'), ('T', 'broadcast', false, 'public', '1 min'),
            ('T', 'presence', true, 'presence', '1 min'), ('U', 'broadcast', true, 'other', '1 min'),
            ('T', 'broadcast', true, 'future', '-2 min'), ('T', 'broadcast', true, 'ahead', '-30 s'))
            as v (topic, extension, private, event, ago)",
    )
    .await?;
    assert_eq!(events(&database, params(minutes_ago(20), 25)).await?, ["a", "b", "ahead"]);
    assert_eq!(events(&database, params(minutes_ago(60), 25)).await?, ["old", "a", "b", "ahead"]);
    assert_eq!(events(&database, params(minutes_ago(60), 1)).await?, ["ahead"]);
    assert_eq!(events(&database, params(minutes_ago(60), 2)).await?, ["b", "ahead"]);
    assert_eq!(events(&database, params(0, 25)).await?.len(), 4);
    assert_eq!(events(&database, params(253_402_300_799_999, 25)).await?, Vec::<String>::new());
    assert_eq!(events(&database, params(-62_167_219_200_000, 25)).await?.len(), 4);
    Ok(())
}

/// tenant_database 65
#[tokio::test]
async fn at_most_twenty_five() -> Result<()> {
    let (db, database) = ready().await?;
    db.sql(
        "insert into realtime.messages (topic, extension, private, event, payload, inserted_at)
         select 'T', 'broadcast', true, n, '{}', now() at time zone 'utc' - (100 - n) * interval '1 second'
         from generate_series(1, 30) n",
    )
    .await?;
    let expected: Vec<_> = (6..=30).map(|n| n.to_string()).collect();
    assert_eq!(events(&database, params(minutes_ago(60), 30)).await?, expected);
    assert_eq!(events(&database, params(minutes_ago(60), 0)).await?, ["30"]);
    Ok(())
}

/// Binary and JSON rows, and rows of other origin that lack something.
///
/// tenant_database 66
#[tokio::test]
async fn bodies() -> Result<()> {
    let (db, database) = ready().await?;
    for sql in [
        r#"select realtime.send('{"id": "x", "n": 1.50}', 'a', 'T')"#,
        r"select realtime.send_binary('\x00ff', 'b', 'T')",
        r"select realtime.send_binary('\x', 'c', 'T')",
        "insert into realtime.messages (topic, extension, private) values ('T', 'broadcast', true)",
    ] {
        db.sql(sql).await?;
    }
    let messages = database.replay("T", params(minutes_ago(60), 25)).await?;
    let bodies: Vec<_> =
        messages.iter().map(|ReplayedMessage { event, body, .. }| (event.as_deref(), body.clone())).collect();
    assert_eq!(
        bodies,
        [
            (Some("a"), MessageBody::Json(r#"{"n": 1.50, "id": "x"}"#.into())),
            (Some("b"), MessageBody::Binary(vec![0, 255].into())),
            (Some("c"), MessageBody::Binary(vec![].into())),
            (None, MessageBody::Json("null".into())),
        ]
    );
    let ids =
        crate::support::all::<String>(&db, "select id::text from realtime.messages order by inserted_at")
            .await?;
    assert_eq!(messages.iter().map(|message| String::from(&*message.id)).collect::<Vec<_>>(), ids);
    Ok(())
}

/// Databases of before binary payloads can be replayed from.
#[tokio::test]
async fn without_the_binary_column() -> Result<()> {
    let (db, database) = ready().await?;
    db.sql("select realtime.send('{}', 'a', 'T'); alter table realtime.messages drop column binary_payload")
        .await?;
    assert_eq!(events(&database, params(0, 25)).await?, ["a"]);
    Ok(())
}

/// tenant_database 67
#[tokio::test]
async fn a_database_that_does_not_answer() -> Result<()> {
    let (db, database) = ready().await?;
    db.sql("alter table realtime.messages rename to elsewhere").await?;
    let unreachable = open(realtime_postgres::DatabaseConfig { port: 1, ..config(&db).await? });
    for database in [database, unreachable] {
        let error = database.replay("T", params(0, 25)).await.unwrap_err();
        assert!(matches!(&error, ReplayError::Failed(_)), "{error:?}");
        assert_eq!(error.to_string(), "UnableToReplayMessages: Realtime was unable to replay messages");
    }
    Ok(())
}
