//! The publication of tables that policies read and that clients do not watch (row_security 2.2, case 12).

use anyhow::{Result, ensure};
use realtime_testkit::{PATIENCE, Server, ServerOptions, Socket, TestDb};
use serde_json::json;
use tokio::time::{Duration, Instant, sleep};

use crate::{
    changes_compiled::{POLICIES, ROOMS, asked, ids},
    changes_images::{seen, server_with, watching},
};

async fn server(more: &str) -> Result<(Server, TestDb)> {
    server_with(more, ServerOptions::fast()).await
}

/// The tables of the publication.
async fn published(db: &TestDb) -> Result<Vec<String>> {
    let sql = "select tablename::text from pg_publication_tables where pubname = 'supabase_realtime_policies' order by 1";
    Ok(db.client().query(sql, &[]).await?.iter().map(|row| row.get(0)).collect())
}

/// Repeats a trial until it holds.
async fn until(mut trial: impl AsyncFnMut(i32) -> Result<bool>, what: &str) -> Result<()> {
    let begun = Instant::now();
    for round in 1.. {
        if trial(round).await? {
            break;
        }
        ensure!(begun.elapsed() < PATIENCE, "{what}");
        sleep(Duration::from_millis(50)).await;
    }
    Ok(())
}

/// Writes rows of room 1 until they are seen without the database being asked about them.
async fn until_kept(server: &Server, db: &TestDb, ann: &mut Socket, first: i32) -> Result<()> {
    until(
        async |round| {
            let before = asked(server).await?;
            let id = first + round;
            db.sql(&format!("insert into says values ({id}, 1, '')")).await?;
            assert_eq!(ids(db, ann).await?, [id]);
            Ok(asked(server).await? == before && published(db).await? == ["members"])
        },
        "the database is asked about each row",
    )
    .await
}

/// row_security 12: a membership deleted under the default replica identity counts at once
#[tokio::test]
async fn a_table_that_policies_read_is_published_for_the_server_alone() -> Result<()> {
    let (server, db) = server(ROOMS).await?;
    for (at, policy) in POLICIES.iter().enumerate() {
        db.sql(&format!(
            "delete from says; truncate members; drop policy if exists own on says;
             create policy own on says to authenticated using ({policy});
             insert into members values (1, 'ann'), (1, 'bob')"
        ))
        .await?;
        let (mut ann, mut bob) =
            (watching(&server, "ann", "*").await?, watching(&server, "bob", "says").await?);
        until_kept(&server, &db, &mut ann, 1000 * (i32::try_from(at)? + 1)).await?;
        assert_eq!(published(&db).await?, ["members"], "{policy}");
        ids(&db, &mut bob).await?;
        let before = asked(&server).await?;
        for (id, sql, for_ann, for_bob) in [
            (1, "delete from members where who = 'bob'", true, false),
            (2, "update members set who = 'bob'", false, true),
            (3, "insert into members values (1, 'ann')", true, true),
            (4, "truncate members", false, false),
        ] {
            db.sql(sql).await?;
            db.sql(&format!("insert into says values ({id}, 1, '')")).await?;
            let expected = |sees: bool| if sees { vec![json!(id)] } else { Vec::new() };
            // Whoever watches all tables does not watch this one.
            assert_eq!(ids(&db, &mut ann).await?, expected(for_ann), "{policy}: {sql}");
            assert_eq!(ids(&db, &mut bob).await?, expected(for_bob), "{policy}: {sql}");
        }
        assert_eq!(asked(&server).await?, before, "{policy}: the database was asked about rows");
    }
    Ok(())
}

/// What the main publication gets comes by it alone: with its condition on rows, its columns, its actions
#[tokio::test]
async fn a_table_that_the_main_publication_gets_leaves() -> Result<()> {
    let (server, db) = server(ROOMS).await?;
    db.sql(
        "create policy own on says to authenticated using (room in (select m.room from members m where m.who = me()));
         insert into members values (1, 'ann')",
    )
    .await?;
    let mut ann = watching(&server, "ann", "says").await?;
    until_kept(&server, &db, &mut ann, 1000).await?;
    let version: i32 =
        db.client().query_one("select current_setting('server_version_num')::int", &[]).await?.get(0);
    let condition = if version >= 150_000 { "where (room = 7)" } else { "" };
    db.sql(&format!("alter publication supabase_realtime add table members {condition}")).await?;
    // Nothing of it comes but what the condition lets through, from whenever on it comes.
    let mut other = watching(&server, "ann", "members").await?;
    let mut came = Vec::new();
    until(
        async |round| {
            let who = format!("w{round}");
            db.sql(&format!("insert into members values (7, '{who}'), (8, '{who}')")).await?;
            let rows = seen(&db, &mut other).await?;
            came.extend(rows.iter().map(|(_, record)| record["room"].clone()));
            Ok(rows.iter().any(|(_, record)| record["who"] == json!(who)))
        },
        "the table does not come by the main publication",
    )
    .await?;
    assert_eq!(published(&db).await?, [""; 0]);
    ensure!(condition.is_empty() || came.iter().all(|room| *room == 7), "{came:?}");
    // The policy is right all the same.
    db.sql("insert into members values (2, 'ann')").await?;
    db.sql("insert into says values (1, 2, ''), (2, 3, '')").await?;
    assert_eq!(ids(&db, &mut ann).await?, [1]);
    db.sql("delete from members where who = 'ann'").await?;
    db.sql("insert into says values (3, 2, '')").await?;
    assert_eq!(ids(&db, &mut ann).await?, [0; 0]);
    Ok(())
}

/// PostgreSQL refuses updates and deletes of a published table without a replica identity
#[tokio::test]
async fn a_table_without_a_replica_identity_stays_out() -> Result<()> {
    let (server, db) = server(&format!(
        "{ROOMS} alter table members drop constraint members_pkey;
         create policy own on says to authenticated using (is_member(room));"
    ))
    .await?;
    let mut ann = watching(&server, "ann", "says").await?;
    db.sql("insert into members values (1, 'ann'); insert into says values (1, 1, '')").await?;
    assert_eq!(ids(&db, &mut ann).await?, [1]);
    db.sql("delete from members; insert into says values (2, 1, '')").await?;
    assert_eq!(ids(&db, &mut ann).await?, [0; 0]);
    assert_eq!(published(&db).await?, [""; 0]);
    // It gets one, and loses it.
    db.sql("alter table members add primary key (room, who); insert into members values (1, 'ann')").await?;
    until_kept(&server, &db, &mut ann, 1000).await?;
    assert_eq!(published(&db).await?, ["members"]);
    db.sql("alter table members drop constraint members_pkey").await?;
    until(
        async |round| {
            let id = 5000 + round;
            db.sql(&format!("insert into says values ({id}, 1, '')")).await?;
            assert_eq!(ids(&db, &mut ann).await?, [id]);
            Ok(published(&db).await?.is_empty())
        },
        "a table without a replica identity stays published",
    )
    .await?;
    db.sql("delete from members").await?;
    db.sql("insert into says values (2001, 1, '')").await?;
    assert_eq!(ids(&db, &mut ann).await?, [0; 0]);
    Ok(())
}

/// Somebody who writes is not waited for: until then the database is asked
#[tokio::test]
async fn a_table_that_is_busy_is_published_later() -> Result<()> {
    let (server, db) = server(&format!(
        "{ROOMS} create policy own on says to authenticated using (is_member(room));
         insert into members values (1, 'ann');"
    ))
    .await?;
    let mut ann = watching(&server, "ann", "says").await?;
    let mut writer = db.connect().await?;
    let writing = writer.transaction().await?;
    writing.batch_execute("insert into members values (2, 'ann')").await?;
    db.sql("insert into says values (1, 1, ''), (2, 2, '')").await?;
    assert_eq!(ids(&db, &mut ann).await?, [1]);
    assert_eq!(published(&db).await?, [""; 0]);
    writing.commit().await?;
    until_kept(&server, &db, &mut ann, 1000).await?;
    assert_eq!(published(&db).await?, ["members"]);
    db.sql("insert into says values (3, 2, '')").await?;
    assert_eq!(ids(&db, &mut ann).await?, [3]);
    Ok(())
}

#[tokio::test]
async fn a_table_that_no_policy_reads_any_more_is_taken_out() -> Result<()> {
    let (server, db) = server(&format!(
        "{ROOMS} create policy own on says to authenticated using (is_member(room));
         insert into members values (1, 'ann');"
    ))
    .await?;
    let mut ann = watching(&server, "ann", "says").await?;
    until_kept(&server, &db, &mut ann, 1000).await?;
    assert_eq!(published(&db).await?, ["members"]);
    db.sql("alter policy own on says using (room = 1)").await?;
    until(
        async |round| {
            let id = 5000 + round;
            db.sql(&format!("insert into says values ({id}, 1, '')")).await?;
            assert_eq!(ids(&db, &mut ann).await?, [id]);
            Ok(published(&db).await?.is_empty())
        },
        "nobody reads the table, and it stays published",
    )
    .await
}

#[tokio::test]
async fn a_server_that_is_told_so_makes_no_publication() -> Result<()> {
    let (server, db) = server_with(
        &format!(
            "{ROOMS} create policy own on says to authenticated using (is_member(room));
             insert into members values (1, 'ann');"
        ),
        ServerOptions::default().env("POLICY_PUBLICATION", "off"),
    )
    .await?;
    let mut ann = watching(&server, "ann", "says").await?;
    db.sql("insert into says values (1, 1, '')").await?;
    assert_eq!(ids(&db, &mut ann).await?, [1]);
    let sql = "select count(*) from pg_publication where pubname = 'supabase_realtime_policies'";
    assert_eq!(db.client().query_one(sql, &[]).await?.get::<_, i64>(0), 0);
    Ok(())
}
