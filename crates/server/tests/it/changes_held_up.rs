//! Users who hold up others with whom they are asked: by policies that catch their own cancellation and go on (a time limit
//! stops a statement once), or that wait for a lock. Nobody waits for them again and again (row_security 2.5).

use anyhow::{Result, ensure};
use realtime_testkit::{Server, ServerOptions, Socket, TestDb};

use crate::{
    changes_compiled::ids,
    changes_images::{server_on, server_with, watching},
};

/// Rows follow each other one by one.
const ROWS: i32 = 8;

/// How often others wait for eves at most: for each once or twice.
const MOST: usize = 8;

/// Users whose names begin with eve take longer than others wait, whoever cancels that, and not as long as they may take
/// beside the stream. The log tells within which time they were asked.
const SAYS: &str = "
    create table says (id int primary key, room int, body text);
    alter table says enable row level security;
    alter publication supabase_realtime add table says;
    create function dawdle() returns void language plpgsql as $$ begin
        if public.me() ~ '^eve' then
            raise log 'eve was asked within %', current_setting('statement_timeout');
            begin
                perform pg_sleep(0.35);
            exception when query_canceled then
                null;
            end;
        end if;
    end $$;
    create function dawdles(what text) returns bool language plpgsql as $$ begin
        perform public.dawdle();
        return true;
    end $$;
    create function rooms() returns int[] language plpgsql stable as $$ begin
        perform public.dawdle();
        return '{1}';
    exception when division_by_zero then
        return null;
    end $$;";

async fn with_policy(policy: &str) -> Result<(Server, TestDb)> {
    let policy = format!("{SAYS} create policy own on says to authenticated using ({policy});");
    // As in earnest: within this time users are asked for whom others wait.
    let options = ServerOptions::fast().env("POLICY_WAIT_MS", "200");
    server_on(TestDb::alone().await?, &policy, options).await
}

/// Ann watches behind some who take their time.
async fn after_eves(server: &Server, eves: i32) -> Result<(Vec<Socket>, Socket)> {
    let mut all = Vec::new();
    for n in 0..eves {
        all.push(watching(server, &format!("eve {n}"), "says").await?);
    }
    Ok((all, watching(server, "ann", "says").await?))
}

/// How often others have waited for somebody who takes long.
fn waits(db: &TestDb) -> Result<usize> {
    Ok(db.log()?.matches("eve was asked within 200ms").count())
}

/// Users that follow each other, and of whom each one's policies have caught their cancellation, are noticed.
#[tokio::test]
async fn users_who_catch_their_cancellation_are_not_waited_for_again() -> Result<()> {
    const EVES: i32 = 4;
    let (server, db) = with_policy("dawdles(body || id::text)").await?;
    let (_eves, mut ann) = after_eves(&server, EVES).await?;
    for id in 1..=ROWS {
        db.sql(&format!("insert into says values ({id}, 1, 'x')")).await?;
        assert_eq!(ids(&db, &mut ann).await?, [id]);
    }
    let (waits, all) = (waits(&db)?, EVES * ROWS);
    // A question is put again when its snapshot lacks a commit.
    ensure!((1..=MOST).contains(&waits), "{waits} times, of {all}");
    Ok(())
}

/// The same where users are asked for what their policies compare rows with. They get their rows, in order.
#[tokio::test]
async fn users_whose_values_take_long_are_not_waited_for_again() -> Result<()> {
    const EVES: i32 = 2;
    let (server, db) = with_policy("room = any (rooms())").await?;
    let (mut eves, mut ann) = after_eves(&server, EVES).await?;
    for id in 1..=ROWS {
        db.sql(&format!("insert into says values ({id}, 1, 'x')")).await?;
        assert_eq!(ids(&db, &mut ann).await?, [id]);
    }
    let (waits, all) = (waits(&db)?, EVES * ROWS);
    // A question is put again when its snapshot lacks a commit.
    ensure!((1..=MOST).contains(&waits), "{waits} times, of {all}");
    for eve in &mut eves {
        assert_eq!(ids(&db, eve).await?, (1..=ROWS).collect::<Vec<i32>>());
    }
    Ok(())
}

/// Of many who are asked for the first time one waits for a lock that somebody holds: the others wait for nobody.
#[tokio::test]
async fn users_who_are_asked_with_one_who_waits_for_a_lock_get_their_rows() -> Result<()> {
    const OTHERS: usize = 5;
    let schema = "
        create table gate (id int primary key);
        create table members (room int, who text, primary key (room, who));
        create table says (id int primary key, room int);
        create function gated() returns text language plpgsql stable security definer as $$
            declare n int;
            begin
                if public.me() = 'eve' then select count(*) into n from public.gate; end if;
                return public.me();
            end $$;
        create function may(r int) returns bool language sql stable security definer as
            $$ select exists (select from public.members m where m.room = r and m.who = public.gated()) $$;
        insert into members select 1, 'user ' || n from generate_series(1, 9) n;
        insert into members values (1, 'eve');
        alter table says enable row level security;
        alter publication supabase_realtime add table says, members, gate;";
    let options = ServerOptions::fast().env("POLICY_WAIT_MS", "200");
    let (server, db) = server_with(schema, options).await?;
    for policy in ["room in (select m.room from members m where m.who = gated())", "may(room)"] {
        db.sql(&format!(
            "delete from says; drop policy if exists own on says;
             create policy own on says to authenticated using ({policy})"
        ))
        .await?;
        let mut eve = watching(&server, "eve", "says").await?;
        let mut others = Vec::new();
        for n in 1..=OTHERS {
            others.push(watching(&server, &format!("user {n}"), "says").await?);
        }
        let mut keeper = db.connect().await?;
        let closed = keeper.transaction().await?;
        closed.batch_execute("lock table gate in access exclusive mode").await?;
        for id in 1..=3 {
            db.sql(&format!("insert into says values ({id}, 1)")).await?;
            for other in &mut others {
                assert_eq!(ids(&db, other).await?, [id], "{policy}");
            }
        }
        closed.commit().await?;
        assert_eq!(ids(&db, &mut eve).await?, [1, 2, 3], "{policy}");
    }
    Ok(())
}
