//! Live rows under row-level security, and with new tokens (live 3, case 4).

use anyhow::Result;
use realtime_testkit::{SECRET, Server, ServerOptions, TestDb, Version, sign, unix_now};
use serde_json::{Value, json};
use tokio::time::{self, Duration};

use crate::{
    BINARY,
    live_client::{LiveClient, Map, TOPIC, select},
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
    ann.has(&select(&db, "select * from public.notes where id = 3", &["id"]).await?).await?;
    bob.has(&select(&db, "select * from public.notes where id in (1, 2, 4)", &["id"]).await?).await?;
    assert_eq!(
        (ann.news().await?, bob.news().await?),
        (vec!["DELETE 1".to_owned()], vec!["INSERT 1".to_owned()])
    );
    db.sql("delete from public.members where member = 'ann'; insert into public.members values (1, 'bob')")
        .await?;
    ann.has(&Map::new()).await?;
    bob.has(&select(&db, "select * from public.notes", &["id"]).await?).await?;
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
    ann.has(&select(&db, "select * from public.notes where id in (2, 3, 4)", &["id"]).await?).await?;
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
    // The right to a table that the policies read: `select` is refused as a whole.
    ann.systems.clear();
    db.sql("revoke select on public.members from authenticated").await?;
    ann.told("42501 insufficient_privilege. It is tried again; its rows have left").await?;
    assert_eq!(ids(&ann), Vec::<&str>::new());
    db.sql("grant select on public.members to authenticated").await?;
    ann.has(&before).await?;
    Ok(())
}

/// A server whose metrics can be read, and the table of notes.
async fn measured() -> Result<(Server, TestDb)> {
    let db = TestDb::new().await?;
    notes(&db).await?;
    db.sql("create table public.quiet (n int); alter publication supabase_realtime add table public.quiet")
        .await?;
    let options = ServerOptions::default().env("METRICS_JWT_SECRET", SECRET);
    Ok((Server::start(BINARY, &db, options).await?, db))
}

async fn readings(server: &Server) -> Result<f64> {
    server.metric("realtime_live_run_duration_milliseconds_count").await
}

/// Waits until nothing is read any more: after its first look at the catalog the server reads all results again.
async fn quiet(server: &Server, db: &TestDb) -> Result<()> {
    let mut before = -1.0;
    while before != readings(server).await? {
        before = readings(server).await?;
        db.sql("insert into public.quiet values (1)").await?;
        time::sleep(Duration::from_millis(2_500)).await;
    }
    Ok(())
}

/// live 3: where policies are compiled the log tells who has a row now. No query.
#[tokio::test]
async fn rows_under_policies_need_no_reading() -> Result<()> {
    let (server, db) = measured().await?;
    let mut ann = client(&server, &token("ann", 3_600)).await?;
    let mut bob = client(&server, &token("bob", 3_600)).await?;
    db.sql("insert into public.notes values (5, 'ann', 9, 'e')").await?;
    assert_eq!(
        (ann.news().await?.last().cloned(), bob.news().await?.len()),
        (Some("INSERT 5".to_owned()), 2)
    );
    quiet(&server, &db).await?;
    let before = readings(&server).await?;
    for (change, of_ann, of_bob) in [
        ("update public.notes set body = 'new' where id = 5", vec!["UPDATE 5"], vec![]),
        ("update public.notes set owner = 'bob' where id = 5", vec!["DELETE 5"], vec!["INSERT 5"]),
        ("update public.notes set room = 1 where id = 5", vec!["INSERT 5"], vec!["UPDATE 5"]),
        (
            "update public.notes set id = 6 where id = 5",
            vec!["DELETE 5", "INSERT 6"],
            vec!["DELETE 5", "INSERT 6"],
        ),
        (
            "begin; update public.notes set owner = 'eve' where id = 6; delete from public.notes where id = 1; commit",
            vec!["DELETE 1", "UPDATE 6"],
            vec!["DELETE 6"],
        ),
        (
            "begin; insert into public.notes values (7, 'ann', 9, ''); delete from public.notes where id = 7; commit",
            vec![],
            vec![],
        ),
    ] {
        db.sql(change).await?;
        let (mut to_ann, mut to_bob) = (ann.news().await?, bob.news().await?);
        to_ann.sort_unstable();
        to_bob.sort_unstable();
        assert_eq!(to_ann, of_ann, "{change}");
        assert_eq!(to_bob, of_bob, "{change}");
    }
    assert_eq!(readings(&server).await?, before);
    assert!(!ann.was_warned() && !bob.was_warned());
    Ok(())
}

/// live 3: what policies read may change in the transaction of the row, before it or after it.
#[tokio::test]
async fn a_membership_and_a_row_change_in_one_transaction() -> Result<()> {
    let (server, db) = measured().await?;
    let mut ann = client(&server, &token("ann", 3_600)).await?;
    let seen = "select * from public.notes where owner = 'ann' or room in (select room from public.members where member = 'ann')";
    for change in [
        "delete from public.members where member = 'ann'; insert into public.notes values (10, 'eve', 1, '')",
        "insert into public.notes values (11, 'eve', 1, ''); insert into public.members values (1, 'ann')",
        "insert into public.notes values (12, 'eve', 1, ''); delete from public.members where member = 'ann'",
        "insert into public.members values (2, 'ann'); update public.notes set room = 2 where id = 12",
        "update public.members set room = 3 where member = 'ann'; insert into public.notes values (13, 'eve', 3, '')",
        "truncate public.members; insert into public.notes values (14, 'eve', 3, '')",
        "insert into public.members values (1, 'ann'), (3, 'ann'); delete from public.notes where room = 1",
        "truncate public.notes; insert into public.notes values (15, 'eve', 3, '')",
    ] {
        db.sql(&format!("begin; {change}; commit")).await?;
        ann.has(&select(&db, seen, &["id"]).await?).await?;
    }
    assert!(!ann.was_warned(), "{:?}", ann.systems);
    Ok(())
}

/// live 3: an update that leaves a large value alone does not repeat it.
#[tokio::test]
async fn large_values_that_an_update_leaves_alone_stay() -> Result<()> {
    let (server, db) = measured().await?;
    let mut ann = client(&server, &token("ann", 3_600)).await?;
    let seen = "select * from public.notes where owner = 'ann' or room = 1";
    // Values that do not compress stay out of the row.
    let large = "(select string_agg(md5(n::text), '') from generate_series(1, 500) n)";
    for identity in ["default", "full"] {
        db.sql(&format!(
            "alter table public.notes replica identity {identity};
             update public.notes set body = {large} || '{identity}' where id in (1, 2)"
        ))
        .await?;
        ann.has(&select(&db, seen, &["id"]).await?).await?;
        for change in
            ["room = room + 10 where id = 1", "owner = 'ann' where id = 2", "owner = 'bob' where id = 2"]
        {
            db.sql(&format!("update public.notes set {change}")).await?;
            ann.has(&select(&db, seen, &["id"]).await?).await?;
        }
    }
    assert!(!ann.was_warned(), "{:?}", ann.systems);
    Ok(())
}

/// live 3: a row costs the results that it matches, and a membership those of its member; not all that watch the table.
#[tokio::test]
async fn a_row_costs_the_results_that_it_matches() -> Result<()> {
    let (server, db) = measured().await?;
    let mut clients = Vec::new();
    for user in 0..50 {
        clients.push(client(&server, &token(&format!("u{user}"), 3_600)).await?);
    }
    let looks = async || server.metric("realtime_live_looks").await;
    // The first row has the policies compiled and the parties asked.
    db.sql("insert into public.notes values (100, 'u7', 9, '')").await?;
    clients[7].has(&select(&db, "select * from public.notes where id = 100", &["id"]).await?).await?;
    quiet(&server, &db).await?;
    let (looked, read) = (looks().await?, readings(&server).await?);
    db.sql("update public.notes set owner = 'u9' where id = 100").await?;
    clients[9].has(&select(&db, "select * from public.notes where id = 100", &["id"]).await?).await?;
    clients[7].has(&Map::new()).await?;
    db.sql("update public.notes set room = 4 where owner = 'eve'").await?;
    db.sql("insert into public.notes values (101, 'u9', 9, '')").await?;
    clients[9].has(&select(&db, "select * from public.notes where owner = 'u9'", &["id"]).await?).await?;
    assert_eq!((looks().await? - looked, readings(&server).await? - read), (3.0, 0.0));
    db.sql("insert into public.members values (4, 'u3')").await?;
    clients[3].has(&select(&db, "select * from public.notes where room = 4", &["id"]).await?).await?;
    assert_eq!((looks().await? - looked, readings(&server).await? - read), (3.0, 1.0));
    Ok(())
}

/// What only policies read need not be in the publication of row changes: it is read along.
#[tokio::test]
async fn tables_that_only_policies_read_need_not_be_published() -> Result<()> {
    let db = TestDb::new().await?;
    notes(&db).await?;
    db.sql("alter publication supabase_realtime drop table public.members").await?;
    let server = Server::start(BINARY, &db, ServerOptions::default()).await?;
    let mut ann = client(&server, &token("ann", 3_600)).await?;
    assert_eq!(ids(&ann), ["1", "3"]);
    let seen = "select * from public.notes where owner = 'ann' or room in (select room from public.members where member = 'ann')";
    for change in [
        "insert into public.members values (2, 'ann')",
        "insert into public.notes values (5, 'eve', 2, '')",
        "delete from public.members where member = 'ann'",
        "insert into public.notes values (6, 'eve', 2, '')",
        "begin; insert into public.notes values (7, 'eve', 1, ''); insert into public.members values (1, 'ann'); commit",
    ] {
        db.sql(change).await?;
        ann.has(&select(&db, seen, &["id"]).await?).await?;
    }
    assert!(!ann.was_warned(), "{:?}", ann.systems);

    let off = ServerOptions::default().env("POLICY_PUBLICATION", "off");
    let server = Server::start(BINARY, &db, off).await?;
    let socket = server.socket(Version::V2, "authenticated").await?;
    let binding = json!([{"event": "*", "schema": "public", "table": "notes", "live": true}]);
    let mut refused = LiveClient::join(socket, binding, &[&["id"]], Some(&token("ann", 3_600))).await?;
    refused.told("alter publication supabase_realtime add table public.members").await?;
    Ok(())
}
