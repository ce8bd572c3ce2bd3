//! Compiled policies are checked against the database while they are in use (row_security 2.8).

use anyhow::{Result, ensure};
use realtime_testkit::{PATIENCE, ServerOptions, sign};
use serde_json::json;
use tokio::time::{self, Duration, Instant};

use crate::changes_images::{seen, server_with, watching};

/// Two tables whose policies read a third one.
const SCHEMA: &str = "
    create table members (room int, who text, primary key (room, who));
    create table says (id serial primary key, room int);
    create table notes (id serial primary key, owner text, room int);
    alter table says enable row level security;
    alter table notes enable row level security;
    create policy of_members on says to authenticated using (room in (select m.room from members m where m.who = me()));
    create policy open_rooms on says to authenticated using (room > 1000);
    create policy of_owners on notes to authenticated using (owner = me());
    alter publication supabase_realtime add table says, notes, members;";

/// A server that compares every verdict.
fn every() -> ServerOptions {
    ServerOptions::default().env("POLICY_CHECK_EVERY", "1")
}

/// The server is made to overlook that a membership ends. It finds out that it shows rows that nobody may see, names the
/// policy, and asks the database about it from then on.
#[tokio::test]
async fn a_wrong_verdict_is_found_and_its_policy_asked() -> Result<()> {
    let options = every().env("FAILPOINTS", "policy_table_changed=error");
    let (server, db) =
        server_with(&format!("{SCHEMA} insert into members values (1, 'ann-of-the-secret');"), options)
            .await?;
    let mut ann = watching(&server, "ann-of-the-secret", "*").await?;
    db.sql("insert into says (room) values (1); insert into notes (owner) values ('ann-of-the-secret')")
        .await?;
    let came = seen(&db, &mut ann).await?;
    assert_eq!(came.iter().filter(|(_, row)| row.get("owner").is_none()).count(), 1, "{came:?}");
    let checks = server.metric("realtime_changes_checks").await?;
    db.sql("delete from members").await?;
    let limit = Instant::now() + PATIENCE;
    while server.metric("realtime_changes_mismatch").await? == 0.0 {
        ensure!(Instant::now() < limit, "nothing was found");
        db.sql("insert into says (room) values (1)").await?;
        time::sleep(Duration::from_millis(20)).await;
    }
    let line = server.logged("PolicyMismatch").await?;
    for part in ["public.says", "of_members"] {
        assert!(line.contains(part), "{part}: {line}");
    }
    for part in ["open_rooms", "ann-of-the-secret"] {
        assert!(!line.contains(part), "{part}: {line}");
    }
    seen(&db, &mut ann).await?;
    db.sql("insert into says (room) values (1), (1001); insert into notes (owner, room) values ('ann-of-the-secret', 7)").await?;
    let came = seen(&db, &mut ann).await?;
    let rooms: Vec<_> =
        came.iter().filter(|(kind, _)| kind == "INSERT").map(|(_, row)| row["room"].clone()).collect();
    assert_eq!(rooms, [json!(1001), json!(7)], "the database decides");
    assert!(server.metric("realtime_changes_checks").await? > checks, "it was asked");
    let bearer = format!("Bearer {}", sign(&json!({})));
    let metrics = server.http("GET", "/metrics?scope=node", &[("authorization", &bearer)], b"").await?.body;
    let of = |name: &str, relation: &str| {
        let start = format!("{name}{{");
        let label = format!("relation=\"{relation}\"");
        let line = metrics.lines().find(|line| line.starts_with(&start) && line.contains(&label));
        line.and_then(|line| line.rsplit(' ').next()?.parse::<f64>().ok())
    };
    assert_eq!(of("realtime_changes_mismatch", "public.notes"), Some(0.0));
    assert!(of("realtime_changes_compared", "public.notes") > Some(0.0), "{metrics}");
    assert!(of("realtime_changes_asked", "public.says") > Some(0.0));
    assert_eq!(of("realtime_changes_asked", "public.notes"), Some(0.0), "its policy is right");
    assert_eq!(of("realtime_changes_withheld", "public.says"), Some(0.0));

    // Who mends the policy has it compiled again.
    db.sql(
        "drop policy of_members on says;
         create policy of_members on says to authenticated using (room = (select max(m.room) from members m where m.who = me()));
         insert into members values (5, 'ann-of-the-secret')",
    )
    .await?;
    seen(&db, &mut ann).await?;
    let asked = server.metric("realtime_changes_asked").await?;
    db.sql("insert into says (room) values (5)").await?;
    assert_eq!(seen(&db, &mut ann).await?.len(), 1);
    assert_eq!(server.metric("realtime_changes_asked").await?, asked, "it is compiled");
    Ok(())
}

/// Memberships that come and go while every verdict is compared: no false alarm, and the stream does not wait. With 0
/// nothing is compared.
#[tokio::test]
async fn what_changes_meanwhile_is_no_mismatch() -> Result<()> {
    for (options, compares) in
        [(every(), true), (ServerOptions::default().env("POLICY_CHECK_EVERY", "0"), false)]
    {
        let (server, db) =
            server_with(SCHEMA, options.env("TENANT_MAX_EVENTS_PER_SECOND", "1000000")).await?;
        let mut sockets = Vec::new();
        for who in ["ann", "bob"] {
            sockets.push(watching(&server, who, "says").await?);
        }
        for round in 0..60 {
            let who = ["ann", "bob"][round % 2];
            let sql = format!(
                "insert into says (room) values (1), (2); insert into members values ({room}, '{who}') on conflict do nothing;
                 insert into says (room) values (1), (2);
                 delete from members where who = '{other}'; insert into says (room) values (1), (2);",
                room = round % 3, other = ["bob", "ann"][round % 2],
            );
            // In one transaction, and in many.
            if round % 4 < 2 {
                db.sql(&sql).await?;
            } else {
                for statement in sql.split(';') {
                    db.sql(statement).await?;
                }
            }
        }
        for socket in &mut sockets {
            seen(&db, socket).await?;
        }
        let limit = Instant::now() + PATIENCE;
        while compares && server.metric("realtime_changes_compared").await? < 10.0 {
            ensure!(Instant::now() < limit, "nothing was compared");
            db.sql("insert into says (room) values (1)").await?;
            time::sleep(Duration::from_millis(20)).await;
        }
        assert_eq!(server.metric("realtime_changes_compared").await? > 0.0, compares);
        assert_eq!(server.metric("realtime_changes_mismatch").await?, 0.0);
    }
    Ok(())
}
