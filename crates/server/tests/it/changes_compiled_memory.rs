//! The memory that answers of policies may take (row_security 2.2: `POLICY_CACHE_MB`).

use anyhow::{Result, ensure};
use realtime_testkit::{Server, ServerOptions, TestDb};

use crate::{
    changes_compiled::{POLICIES, ROOMS, asked, ids},
    changes_images::{server_with, watching},
};

/// A megabyte, and a tenant that may have as many events as there are.
async fn server(more: &str) -> Result<(Server, TestDb)> {
    let options =
        ServerOptions::default().env("POLICY_CACHE_MB", "1").env("TENANT_MAX_EVENTS_PER_SECOND", "100000000");
    server_with(more, options).await
}

/// Sets that do not fit: the database is asked about each row, and rows are right
#[tokio::test]
async fn sets_that_do_not_fit_are_asked_about() -> Result<()> {
    let (server, db) = server(
        "create table members (room int, who text, primary key (room, who));
         create table says (id int primary key, room int);
         insert into members select n, who from generate_series(1, 20000) n, unnest(array['ann', 'bob', 'cat']) who;
         delete from members where room = 7 and who = 'bob';
         alter table says enable row level security;
         create policy own on says to authenticated using (room in (select m.room from members m where m.who = me()));
         alter publication supabase_realtime add table says, members;",
    )
    .await?;
    let mut ann = watching(&server, "ann", "says").await?;
    let mut bob = watching(&server, "bob", "says").await?;
    let mut cat = watching(&server, "cat", "says").await?;
    let before = asked(&server).await?;
    db.sql("insert into says values (1, 7), (2, 8), (3, 20001)").await?;
    assert_eq!(ids(&db, &mut ann).await?, [1, 2]);
    assert_eq!(ids(&db, &mut bob).await?, [2]);
    assert_eq!(ids(&db, &mut cat).await?, [1, 2]);
    server.logged("PolicyCacheFull").await?;
    db.sql("delete from members where who = 'cat'; insert into says values (4, 7)").await?;
    assert_eq!(ids(&db, &mut ann).await?, [4]);
    assert_eq!(ids(&db, &mut bob).await?, [0; 0]);
    assert_eq!(ids(&db, &mut cat).await?, [0; 0]);
    ensure!(asked(&server).await? > before, "nothing was asked");
    Ok(())
}

/// Answers to calls that do not fit are forgotten and asked again
#[tokio::test]
async fn answers_to_calls_that_do_not_fit_are_asked_again() -> Result<()> {
    let (server, db) = server(
        "create table members (room text, who text);
         create table says (id int primary key, room text);
         insert into members values ('5', 'ann'), ('105', 'bob');
         create function may(r text) returns bool language sql stable security definer as
            $$ select exists (select from public.members m where r like '%/' || m.room and m.who = public.me()) $$;
         alter table says enable row level security;
         create policy own on says to authenticated using (may(room));
         alter publication supabase_realtime add table says, members;",
    )
    .await?;
    let mut ann = watching(&server, "ann", "says").await?;
    let mut bob = watching(&server, "bob", "says").await?;
    for round in [0, 1000] {
        let before = asked(&server).await?;
        // Twice as many as fit.
        db.sql(&format!(
            "insert into says select n + {round}, concat(repeat('x', 10000), '/', n) from generate_series(1, 200) n"
        ))
        .await?;
        assert_eq!(ids(&db, &mut ann).await?, [round + 5]);
        assert_eq!(ids(&db, &mut bob).await?, [round + 105]);
        assert_eq!(asked(&server).await?, before, "the database was asked about rows");
    }
    ensure!(!server.log().contains("PolicyCacheFull"), "{}", server.log());
    Ok(())
}

/// row_security 2.2: what there is no memory for is asked
#[tokio::test]
async fn without_memory_the_database_is_asked() -> Result<()> {
    let options = ServerOptions::default().env("POLICY_CACHE_MB", "0");
    let (server, db) = server_with(ROOMS, options).await?;
    for policy in POLICIES {
        db.sql(&format!(
            "delete from says; truncate members; drop policy if exists own on says;
             create policy own on says to authenticated using ({policy}); insert into members values (1, 'ann')"
        ))
        .await?;
        let before = asked(&server).await?;
        let (mut ann, mut bob) =
            (watching(&server, "ann", "says").await?, watching(&server, "bob", "says").await?);
        db.sql("insert into says values (1, 1, ''), (2, 2, '')").await?;
        assert_eq!(ids(&db, &mut ann).await?, [1], "{policy}");
        assert_eq!(ids(&db, &mut bob).await?, [0; 0], "{policy}");
        ensure!(asked(&server).await? > before, "{policy}: nothing was asked");
    }
    Ok(())
}
