//! Column selection, seen frame by frame (postgres_changes 8.5).

use anyhow::Result;
use realtime_testkit::{Socket, Version};
use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::Message;

use crate::server;

const TOPIC: &str = "realtime:any";

fn table(select: Option<Value>) -> Value {
    let mut table = json!({"schema": "public", "table": "notes"});
    if let Some(select) = select {
        table["select"] = select;
    }
    table
}

/// How long the frame of the next change is, and its payload.
async fn text(socket: &mut Socket) -> Result<(usize, Value)> {
    loop {
        if let Message::Text(text) = socket.message().await? {
            let frame: Value = serde_json::from_str(&text)?;
            // A channel may be told at any time that it is subscribed, to more than before.
            if frame[3] == "postgres_changes" {
                return Ok((text.len(), frame[4].clone()));
            }
        }
    }
}

/// postgres_changes 84, 89, 90: what is not selected is in no frame, in no old row; the order of names is free
#[tokio::test]
async fn what_is_not_selected_is_not_sent() -> Result<()> {
    let (server, db) = server().await?;
    db.sql(
        "create table public.notes (id int primary key, body text, extra text);
         alter table public.notes replica identity full;
         grant select on public.notes to anon; alter publication supabase_realtime add table public.notes",
    )
    .await?;
    let mut whole = server.socket(Version::V2, "anon").await?;
    whole.watch(TOPIC, json!([table(None)])).await?;
    let mut part = server.socket(Version::V2, "anon").await?;
    let selections = [json!(["body", "id"]), json!(["id", "body"]), json!(["body"]), json!(["id"])];
    let ids = part.watch(TOPIC, selections.map(|select| table(Some(select))).into_iter().collect()).await?;
    assert!((1..4).all(|n| !ids[..n].contains(&ids[n])), "each has an id of its own: {ids:?}");

    db.sql(
        "insert into public.notes values (1, 'take out trash', repeat('x', 2048)); delete from public.notes",
    )
    .await?;
    let (long, inserted) = text(&mut whole).await?;
    assert_eq!(inserted["data"]["record"]["extra"].as_str().map(str::len), Some(2048));
    let (_, deleted) = text(&mut whole).await?;
    assert_eq!(deleted["data"]["old_record"]["extra"].as_str().map(str::len), Some(2048));

    // One frame for equal columns, whatever their order and whether the key is named, another for other columns.
    let id_and_body = json!([{"name": "id", "type": "int4"}, {"name": "body", "type": "text"}]);
    for (key, columns) in [("record", &id_and_body), ("old_record", &id_and_body)] {
        let (short, body) = text(&mut part).await?;
        assert!(short + 2048 <= long, "{short} of {long}");
        assert_eq!((&body["ids"], &body["data"]["columns"]), (&json!(ids[..3]), columns));
        assert_eq!(body["data"][key], json!({"id": 1, "body": "take out trash"}));
        let (_, id) = text(&mut part).await?;
        assert_eq!((&id["ids"], &id["data"][key]), (&json!(ids[3..]), &json!({"id": 1})));
    }
    Ok(())
}
