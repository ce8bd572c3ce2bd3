//! Definitions that compiled policies are made of: what changes of them count for, and from when on (row_security 2.7).

use anyhow::{Result, ensure};
use realtime_testkit::{Socket, TestDb};
use serde_json::Value;

use crate::{
    changes_compiled::{ROOMS, ids},
    changes_images::{server, watching},
};

/// ANALYZE has tables described anew: nobody is asked again, and what did change counts
#[tokio::test]
async fn a_table_that_is_described_anew_asks_nobody_anew() -> Result<()> {
    let (server, db) = server(&format!(
        "{ROOMS} alter publication supabase_realtime add table members;
         create policy own on says to authenticated using (is_member(room) or body = me());
         insert into members values (1, 'ann');"
    ))
    .await?;
    let mut ann = watching(&server, "ann", "says").await?;
    db.sql("insert into says values (1, 1, ''), (2, 2, '')").await?;
    assert_eq!(ids(&db, &mut ann).await?, [1]);
    let mut id = 3;
    loop {
        let before = server.metric("realtime_changes_terms_asked").await?;
        for _ in 0..3 {
            db.sql("analyze says").await?;
            db.sql(&format!("insert into says values ({id}, 1, '')")).await?;
            assert_eq!(ids(&db, &mut ann).await?, [id]);
            id += 1;
        }
        // Roles are of the whole cluster: when others change them all are asked again.
        if server.metric("realtime_changes_terms_asked").await? == before {
            break;
        }
        ensure!(id < 50, "an ANALYZE asks anew");
    }
    db.sql("alter policy own on says using (room = 2)").await?;
    db.sql("insert into says values (106, 1, ''), (107, 2, '')").await?;
    assert_eq!(ids(&db, &mut ann).await?, [107]);
    db.sql("revoke select on says from authenticated").await?;
    db.sql("insert into says values (108, 2, '')").await?;
    // It is told that it may not see the row.
    assert_eq!(ids(&db, &mut ann).await?, [Value::Null]);
    Ok(())
}

/// row_security 12a: definitions count within two seconds
#[tokio::test]
async fn definitions_are_followed() -> Result<()> {
    let (server, db) = server(&format!(
        "{ROOMS} alter publication supabase_realtime add table members;
         create policy own on says to authenticated using (is_member(room));"
    ))
    .await?;
    db.sql("insert into members values (1, 'ann')").await?;
    let mut ann = watching(&server, "ann", "says").await?;
    db.sql("insert into says values (1, 1, ''), (2, 2, '')").await?;
    assert_eq!(ids(&db, &mut ann).await?, [1]);
    db.sql(
        "create or replace function is_member(r int) returns bool language sql stable security definer as
            $$ select r = 2 $$;",
    )
    .await?;
    until_seen(&db, &mut ann, 2, 1).await?;
    db.sql(
        "create or replace function is_member(r int) returns bool language sql stable as $$ select nested(r) $$;
         create function nested(r int) returns bool language sql stable as $$ select r = 3 $$;",
    )
    .await
    .err();
    db.sql(
        "create function nested(r int) returns bool language sql stable as $$ select r = 3 $$;
         create or replace function is_member(r int) returns bool language sql stable as $$ select public.nested(r) $$;",
    )
    .await?;
    until_seen(&db, &mut ann, 3, 2).await?;
    db.sql("create or replace function nested(r int) returns bool language sql stable as $$ select r = 4 $$")
        .await?;
    until_seen(&db, &mut ann, 4, 3).await?;
    // The table's own policies count from the next row.
    db.sql("alter policy own on says using (room = 5)").await?;
    db.sql("insert into says values (501, 5, ''), (502, 4, '')").await?;
    assert_eq!(ids(&db, &mut ann).await?, [501]);
    Ok(())
}

/// Writes to two rooms until the rows of one alone are seen, as long as a definition may take to count.
async fn until_seen(db: &TestDb, socket: &mut Socket, shown: i32, hidden: i32) -> Result<()> {
    let begun = tokio::time::Instant::now();
    let mut id = shown * 1000;
    loop {
        id += 2;
        db.sql(&format!("insert into says values ({id}, {shown}, ''), ({}, {hidden}, '')", id + 1)).await?;
        if ids(db, socket).await? == [id] {
            return Ok(());
        }
        ensure!(begun.elapsed() < realtime_testkit::PATIENCE, "the rows of room {shown} are not seen");
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    }
}
