//! Functions of columns in policies, and many rows that call them (row_security 2.2: call terms).

use anyhow::Result;
use realtime_testkit::{ServerOptions, Socket};
use serde_json::json;

use crate::{
    changes_compiled::{ROOMS, ids},
    changes_images::{server_with, watching},
};

const PARTIES: i32 = 5;
const VALUES: i32 = 70;

/// The rows of a transaction have many values: each party gets what it may see of each, in order. A function that raises for a value hides the rows with that value only.
#[tokio::test]
async fn the_values_of_a_transaction_are_each_answered() -> Result<()> {
    let options = ServerOptions::default().env("TENANT_MAX_EVENTS_PER_SECOND", "100000000");
    let raising = "create function is_lucky(r int) returns bool language sql stable security definer set search_path = '' as
            $$ select 1 / (r - 13) is not null and
                exists (select from public.members m where m.room = r and m.who = public.me()) $$;";
    let schema = format!("{ROOMS} {raising} alter publication supabase_realtime add table members;");
    let (server, db) = server_with(&schema, options).await?;
    // Party n is in the rooms whose numbers leave n.
    db.sql(&format!(
        "insert into members select room, 'u' || room % {PARTIES} from generate_series(1, {VALUES}) room"
    ))
    .await?;
    let mut sockets: Vec<Socket> = Vec::new();
    for n in 0..PARTIES {
        sockets.push(watching(&server, &format!("u{n}"), "says").await?);
    }
    for (policy, hidden) in
        [("is_member(room)", None), ("is_member_too(room)", None), ("is_lucky(room)", Some(13))]
    {
        db.sql(&format!(
            "delete from says; drop policy if exists own on says;
             create policy own on says to authenticated using ({policy})"
        ))
        .await?;
        for socket in &mut sockets {
            ids(&db, socket).await?;
        }
        let asked = || server.metric("realtime_changes_terms_asked");
        let before = asked().await?;
        for first in [0, 1_000] {
            // Every room twice, and the membership changes in the transaction behind its rows.
            db.sql(&format!(
                "begin;
                 insert into says select {first} + n, 1 + n % {VALUES}, '' from generate_series(0, 2 * {VALUES} - 1) n;
                 insert into members values (1, 'new {first} {policy}');
                 commit"
            ))
            .await?;
            for (n, socket) in (0..PARTIES).zip(&mut sockets) {
                let sees = |at: &i32| (1 + at % VALUES) % PARTIES == n && Some(1 + at % VALUES) != hidden;
                let expected: Vec<_> = (0..2 * VALUES).filter(sees).map(|at| json!(first + at)).collect();
                assert_eq!(ids(&db, socket).await?, expected, "{policy}: u{n}");
            }
            if hidden.is_none() {
                // More, when a role of the cluster changes meanwhile.
                let came = asked().await? - before;
                assert!(came >= f64::from(PARTIES * VALUES), "{policy}: only {came} were asked");
            }
        }
    }
    Ok(())
}

/// Of those who watch, those are asked whom a room names, and one more: not all of them for each room. Who joins a room
/// or leaves it sees its next row, or does not.
#[tokio::test]
async fn a_function_is_asked_of_those_whom_a_room_names() -> Result<()> {
    const WATCHING: i32 = 60;
    const OF_ROOM: i32 = 4;
    const ROOM_COUNT: i32 = WATCHING / OF_ROOM;
    let options = ServerOptions::default().env("TENANT_MAX_EVENTS_PER_SECOND", "100000000");
    let among = "create function is_among(r int) returns bool language sql stable security definer set search_path = '' as
            $$ select r in (select m.room from public.members m where m.who = public.me()) $$;";
    let schema = format!("{ROOMS} {among} alter publication supabase_realtime add table members;");
    let (server, db) = server_with(&schema, options).await?;
    let mut sockets: Vec<Socket> = Vec::new();
    for n in 0..WATCHING {
        sockets.push(watching(&server, &format!("u{n}"), "says").await?);
    }
    let asked = || server.metric("realtime_changes_terms_asked");
    for policy in ["is_member(room)", "is_member_too(room)", "is_among(room)"] {
        db.sql(&format!(
            "delete from says; delete from members; drop policy if exists own on says;
             create policy own on says to authenticated using ({policy});
             insert into members select n % {ROOM_COUNT}, 'u' || n from generate_series(0, {WATCHING} - 1) n"
        ))
        .await?;
        // The policies are compiled, and all are asked who they are.
        db.sql("insert into says values (0, 1000, '')").await?;
        for socket in &mut sockets {
            ids(&db, socket).await?;
        }
        let before = asked().await?;
        db.sql(&format!(
            "begin;
             insert into says select 1 + n, n, '' from generate_series(0, {ROOM_COUNT} - 1) n;
             insert into members values (2000, 'nobody');
             commit"
        ))
        .await?;
        for (n, socket) in (0..WATCHING).zip(&mut sockets) {
            assert_eq!(ids(&db, socket).await?, [json!(1 + n % ROOM_COUNT)], "{policy}: u{n}");
        }
        let came = asked().await? - before;
        // Once more, and who they are, when a role of the cluster changes meanwhile.
        let most = f64::from(2 * ROOM_COUNT * (OF_ROOM + 1) + WATCHING);
        assert!(came <= most, "{policy}: {came} were asked, of {}", WATCHING * ROOM_COUNT);
        db.sql("insert into members values (1, 'u0'); delete from members where (room, who) = (0, 'u0')")
            .await?;
        db.sql("insert into says values (50, 0, ''), (51, 1, ''), (52, null, '')").await?;
        for (n, expected) in [(0, vec![51]), (1, vec![51]), (15, vec![50]), (2, vec![])] {
            let expected: Vec<_> = expected.into_iter().map(|id: i32| json!(id)).collect();
            assert_eq!(ids(&db, &mut sockets[n]).await?, expected, "{policy}: u{n}");
        }
    }
    Ok(())
}
