//! Messages that the database sends.

use super::*;

/// A channel that is told that broadcasts from the database arrive.
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
    server.logged("UnableToBroadcastChanges: event_missing").await?;
    Ok(())
}

/// protocol 82; tenant_database 45
#[tokio::test]
async fn row_changes_by_trigger() -> Result<()> {
    let (server, db) = server().await?;
    let mut socket = listening(&server, Version::V1, "room-1", true).await?;
    db.sql(TELLING).await?;
    db.sql("insert into public.bc values (1, 'x'); update public.bc set v = 'y'; delete from public.bc")
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
    server.logged("UnableToBroadcastChanges: payload_size_exceeded").await?;
    Ok(())
}
