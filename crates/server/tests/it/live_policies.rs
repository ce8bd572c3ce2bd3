//! Live rows under row-level security, and with new tokens (live 3, case 4).

use anyhow::Result;
use realtime_testkit::{Server, TestDb, Version, sign, unix_now};
use serde_json::{Value, json};

use crate::{
    live_client::{LiveClient, TOPIC, select},
    server,
};

fn token(user: &str, exp: u64) -> String {
    sign(&json!({"role": "authenticated", "sub": user, "exp": unix_now() + exp}))
}

async fn notes(db: &TestDb) -> Result<()> {
    db.sql(
        "create table public.members (room int, member text, primary key (room, member));
         create table public.notes (id int primary key, owner text, room int, body text);
         alter table public.notes enable row level security;
         create policy own on public.notes for select to authenticated using (
            owner = current_setting('request.jwt.claims', true)::json ->> 'sub'
            or exists (select from public.members m where m.room = notes.room
                and m.member = current_setting('request.jwt.claims', true)::json ->> 'sub'));
         grant select on public.notes, public.members to authenticated;
         alter publication supabase_realtime add table public.notes, public.members;
         insert into public.members values (1, 'ann'), (2, 'bob');
         insert into public.notes values (1, 'ann', 9, 'a'), (2, 'bob', 9, 'b'), (3, 'eve', 1, 'c'), (4, 'eve', 2, 'd')",
    )
    .await
}

async fn client(server: &Server, token: &str) -> Result<LiveClient> {
    let socket = server.socket(Version::V2, "authenticated").await?;
    let binding = json!([{"event": "*", "schema": "public", "table": "notes", "live": true}]);
    let mut client = LiveClient::join(socket, binding, &[&["id"]], Some(token)).await?;
    client.complete().await?;
    Ok(client)
}

fn ids(client: &LiveClient) -> Vec<&str> {
    client.rows[0].map.keys().map(String::as_str).collect()
}

/// live 4
#[tokio::test]
async fn policies_decide_who_has_a_row() -> Result<()> {
    let (server, db) = server().await?;
    notes(&db).await?;
    let mut ann = client(&server, &token("ann", 3_600)).await?;
    let mut bob = client(&server, &token("bob", 3_600)).await?;
    assert_eq!((ids(&ann), ids(&bob)), (vec!["1", "3"], vec!["2", "4"]));
    ann.news().await?;
    bob.news().await?;

    db.sql("update public.notes set owner = 'bob' where id = 1").await?;
    assert_eq!(
        (ann.news().await?, bob.news().await?),
        (vec!["DELETE 1".to_owned()], vec!["INSERT 1".to_owned()])
    );
    db.sql("delete from public.members where member = 'ann'; insert into public.members values (1, 'bob')")
        .await?;
    assert_eq!(
        (ann.news().await?, bob.news().await?),
        (vec!["DELETE 3".to_owned()], vec!["INSERT 3".to_owned()])
    );
    assert!(!ann.was_warned() && !bob.was_warned());

    db.sql("alter policy own on public.notes using (id = 4)").await?;
    let four = select(&db, "select * from public.notes where id = 4", &["id"]).await?;
    ann.has(&four).await?;
    bob.has(&four).await?;
    db.sql("alter table public.notes disable row level security").await?;
    let all = select(&db, "select * from public.notes", &["id"]).await?;
    ann.has(&all).await?;
    bob.has(&all).await?;
    db.sql("alter table public.notes enable row level security").await?;
    ann.has(&four).await?;
    bob.has(&four).await?;
    assert!(!ann.was_warned() && !bob.was_warned(), "{:?}", ann.systems);
    Ok(())
}

async fn renew(client: &mut LiveClient, token: &str) -> Result<()> {
    client.socket.send(json!("1"), Value::Null, TOPIC, "access_token", json!({"access_token": token})).await
}

/// live 3: other claims, other rows: the differences are told. The same claims but for the time: nothing.
#[tokio::test]
async fn a_new_token_brings_differences() -> Result<()> {
    let (server, db) = server().await?;
    notes(&db).await?;
    db.sql("insert into public.members values (1, 'bob')").await?;
    let mut ann = client(&server, &token("ann", 3_600)).await?;
    ann.news().await?;
    renew(&mut ann, &token("ann", 7_200)).await?;
    assert_eq!(ann.news().await?, Vec::<String>::new());
    renew(&mut ann, &token("bob", 3_600)).await?;
    let mut news = ann.news().await?;
    news.sort_unstable();
    assert_eq!(news, ["DELETE 1", "INSERT 2", "INSERT 4"], "row 3 is seen by both");
    db.sql("update public.notes set body = 'new' where id = 4; update public.notes set body = 'new' where id = 1").await?;
    assert_eq!(ann.news().await?, ["UPDATE 4"]);
    assert!(!ann.was_warned(), "{:?}", ann.systems);
    Ok(())
}

/// live 3: a token that may not read ends the result: its rows leave, and that is told.
#[tokio::test]
async fn rows_leave_when_a_token_is_refused() -> Result<()> {
    let (server, db) = server().await?;
    notes(&db).await?;
    let mut ann = client(&server, &token("ann", 3_600)).await?;
    ann.news().await?;
    let none = sign(&json!({"role": "nobody_known", "sub": "ann", "exp": unix_now() + 3_600}));
    renew(&mut ann, &none).await?;
    ann.told("nobody_known").await?;
    assert_eq!(ids(&ann), Vec::<&str>::new());
    Ok(())
}

/// A right that is taken away: rows leave, told; it comes back: rows again.
#[tokio::test]
async fn rows_leave_with_the_right_and_come_back() -> Result<()> {
    let (server, db) = server().await?;
    notes(&db).await?;
    let mut ann = client(&server, &token("ann", 3_600)).await?;
    let before = ann.rows[0].map.clone();
    db.sql("revoke select on public.notes from authenticated").await?;
    ann.told("warning").await?;
    assert_eq!(ids(&ann), Vec::<&str>::new());
    db.sql("grant select on public.notes to authenticated").await?;
    ann.has(&before).await?;
    Ok(())
}
