//! Policies that are compiled: what they read, and when it changes (row_security 2.2, 2.3; its cases are numbered as
//! there). That no row is asked about is told by the counter of questions.

use anyhow::{Result, ensure};
use realtime_testkit::{Server, ServerOptions, Socket, TestDb};
use serde_json::{Value, json};

use crate::changes_images::{seen, server, server_on, server_with, watching};

/// Who stands in which room, and what is said there.
pub(crate) const ROOMS: &str = "
    create table members (room int, who text, primary key (room, who));
    create table says (id int primary key, room int, body text);
    create function is_member(r int) returns bool language sql stable security definer set search_path = '' as
        $$ select exists (select from public.members m where m.room = r and m.who = public.me()) $$;
    create function is_member_too(r int) returns bool language plpgsql stable security definer set search_path = '' as
        $$ begin return exists (select from public.members m where m.room = r and m.who = public.me()); end $$;
    alter table says enable row level security;
    alter publication supabase_realtime add table says;";

/// The ways in which people write a membership.
pub(crate) const POLICIES: [&str; 5] = [
    "room in (select m.room from members m where m.who = me())",
    "exists (select from members m where m.room = says.room and m.who = me())",
    "room = any (array(select m.room from members m where m.who = me()))",
    "is_member(room)",
    "is_member_too(room)",
];

/// How many parties the database was asked about rows for.
pub(crate) async fn asked(server: &Server) -> Result<f64> {
    server.metric("realtime_changes_checks").await
}

pub(crate) async fn ids(db: &TestDb, socket: &mut Socket) -> Result<Vec<Value>> {
    let came = seen(db, socket).await?.into_iter().filter(|(kind, _)| kind != "DELETE");
    Ok(came.map(|(_, record)| record["id"].clone()).collect())
}

/// row_security 1
#[tokio::test]
async fn owners_see_their_rows_without_a_question() -> Result<()> {
    let (server, db) = server(
        "create table by_uuid (id int primary key, owner uuid);
         create table by_number (id int primary key, owner bigint);
         create table by_word (id int primary key, owner varchar(20));
         create function uid() returns uuid language sql stable as
            $$ select nullif(current_setting('request.jwt.claims', true)::jsonb ->> 'sub', '')::uuid $$;
         alter publication supabase_realtime add table by_uuid, by_number, by_word;",
    )
    .await?;
    let ann = "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a01";
    for (table, policy, sub, own, other) in [
        ("by_uuid", "uid() = owner", ann, ann, "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a02"),
        ("by_uuid", "(select uid()) = owner", ann, ann, "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a02"),
        ("by_uuid", "owner = uid()", ann, ann, "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a02"),
        (
            "by_number",
            "owner = (current_setting('request.jwt.claims', true)::jsonb ->> 'sub')::bigint",
            "7",
            "7",
            "8",
        ),
        (
            "by_word",
            "(current_setting('request.jwt.claims', true)::json ->> 'sub') = owner::text",
            "it's",
            "it''s",
            "x",
        ),
        ("by_word", "owner = current_setting('request.jwt.claim.sub', true)", "it's", "it''s", "x"),
    ] {
        db.sql(&format!(
            "delete from {table}; alter table {table} enable row level security; drop policy if exists own on {table};
             create policy own on {table} to authenticated using ({policy})"
        ))
        .await?;
        let before = asked(&server).await?;
        let mut mine = watching(&server, sub, table).await?;
        let mut others = watching(&server, "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a09", table).await?;
        if table == "by_number" {
            others = watching(&server, "9", table).await?;
        }
        db.sql(&format!("insert into {table} values (1, '{own}'), (2, '{other}'), (3, null), (4, '{own}')"))
            .await?;
        assert_eq!(ids(&db, &mut mine).await?, [1, 4], "{policy}");
        assert_eq!(ids(&db, &mut others).await?, [0; 0], "{policy}");
        assert_eq!(asked(&server).await?, before, "{policy}: the database was asked");
    }
    Ok(())
}

/// row_security 10, 12: what is read in another table counts from the row after its change, in one transaction and in
/// two, under every replica identity
#[tokio::test]
async fn memberships_count_from_the_next_row() -> Result<()> {
    let (server, db) =
        server(&format!("{ROOMS} alter publication supabase_realtime add table members;")).await?;
    for (at, policy) in POLICIES.iter().enumerate() {
        let identity = ["default", "full", "using index members_pkey"][at % 3];
        db.sql(&format!(
            "delete from says; truncate members; drop policy if exists own on says; alter table members replica identity {identity};
             create policy own on says to authenticated using ({policy});
             insert into members values (1, 'ann'), (2, 'bob')"
        ))
        .await?;
        let (mut ann, mut bob) =
            (watching(&server, "ann", "says").await?, watching(&server, "bob", "says").await?);
        db.sql("insert into says values (1, 1, ''), (2, 2, '')").await?;
        assert_eq!(
            (ids(&db, &mut ann).await?, ids(&db, &mut bob).await?),
            (vec![json!(1)], vec![json!(2)]),
            "{policy}"
        );
        let before = asked(&server).await?;
        // What is read elsewhere may be newer than the row: each step is over before the next begins.
        let none = [0; 0];
        for (sql, for_ann, for_bob) in [
            // Added, then a row: in two transactions and in one.
            ("insert into members values (1, 'bob'); insert into says values (3, 1, '')", &[3][..], &[3][..]),
            (
                "begin; insert into members values (2, 'ann'); insert into says values (4, 2, ''); commit",
                &[4],
                &[4],
            ),
            // Moved.
            (
                "begin; update members set room = 3 where room = 1 and who = 'ann';
                 insert into says values (5, 1, ''), (6, 3, ''); commit",
                &[6],
                &[5],
            ),
            // Deleted, then a row.
            (
                "delete from members where who = 'bob' and room = 2; insert into says values (7, 2, '')",
                &[7],
                &none,
            ),
            (
                "begin; delete from members where who = 'bob'; insert into says values (8, 1, ''); commit",
                &none,
                &none,
            ),
            (
                "begin; insert into members values (1, 'ann'); rollback; insert into says values (9, 1, '')",
                &none,
                &none,
            ),
            (
                "begin; truncate members; insert into says values (10, 1, ''), (11, 2, ''), (12, 3, ''); commit",
                &none,
                &none,
            ),
        ] {
            for statement in if sql.starts_with("begin") { vec![sql] } else { sql.split("; ").collect() } {
                db.sql(statement).await?;
            }
            assert_eq!(ids(&db, &mut ann).await?, for_ann, "{policy}: {sql}");
            assert_eq!(ids(&db, &mut bob).await?, for_bob, "{policy}: {sql}");
        }
        assert_eq!(asked(&server).await?, before, "{policy}: the database was asked about rows");
    }
    Ok(())
}

/// row_security 2.2: a change of a membership asks those anew whose membership it is, where the log tells
#[tokio::test]
async fn a_membership_asks_its_own_party_anew() -> Result<()> {
    let options = ServerOptions::fast();
    let schema = format!("{ROOMS} alter publication supabase_realtime add table members;");
    let (server, db) = server_with(&schema, options).await?;
    let mut sockets = Vec::new();
    for n in 0..10 {
        sockets.push(watching(&server, &format!("u{n}"), "says").await?);
    }
    for policy in POLICIES {
        // Roles are of the whole cluster: when others change them all are asked again.
        let mut rounds = 0;
        while !asks_its_own_party(&server, &db, policy, &mut sockets).await? {
            rounds += 1;
            ensure!(rounds < 10, "{policy}: too many parties were asked");
        }
    }
    Ok(())
}

/// Changes memberships of one of ten. Whether nobody else was asked.
async fn asks_its_own_party(
    server: &Server,
    db: &TestDb,
    policy: &str,
    sockets: &mut [Socket],
) -> Result<bool> {
    db.sql(&format!(
        "delete from says; truncate members; drop policy if exists own on says;
         create policy own on says to authenticated using ({policy})"
    ))
    .await?;
    // Each is asked once, and for the room.
    db.sql("insert into says values (1, 1, '')").await?;
    for socket in sockets.iter_mut() {
        assert_eq!(ids(db, socket).await?, [0; 0], "{policy}");
    }
    let asked = || server.metric("realtime_changes_terms_asked");
    let mut is_alone = true;
    for (id, sql, sees) in [
        (2, "insert into members values (1, 'u3'), (1, 'nobody')", true),
        (3, "delete from members where who = 'u3'", false),
        (4, "insert into members values (7, 'u3')", false),
        (5, "update members set room = 1 where who = 'u3'", true),
    ] {
        let before = asked().await?;
        db.sql(&format!("{sql}; insert into says values ({id}, 1, '')")).await?;
        for (n, socket) in sockets.iter_mut().enumerate() {
            let expected: &[i32] = if sees && n == 3 { &[id] } else { &[] };
            assert_eq!(ids(db, socket).await?, expected, "{policy}: {sql}: {n}");
        }
        is_alone &= (1.0..=2.0).contains(&(asked().await? - before));
    }
    // What does not tell whose membership it was concerns all.
    let before = asked().await?;
    db.sql("truncate members; insert into says values (6, 1, '')").await?;
    for socket in sockets.iter_mut() {
        assert_eq!(ids(db, socket).await?, [0; 0], "{policy}");
    }
    ensure!(asked().await? - before >= 10.0, "{policy}: not all were asked");
    Ok(is_alone)
}

/// row_security 11: what a subquery finds is what the party may see
#[tokio::test]
async fn a_table_that_is_read_has_policies_of_its_own() -> Result<()> {
    let (server, db) = server(&format!(
        "{ROOMS}
         create policy own on says to authenticated using (room in (select m.room from members m));
         alter table members enable row level security;
         create policy own on members to authenticated using (who = me());
         alter publication supabase_realtime add table members;"
    ))
    .await?;
    let (mut ann, mut bob) =
        (watching(&server, "ann", "says").await?, watching(&server, "bob", "says").await?);
    db.sql(
        "insert into members values (1, 'ann'), (2, 'bob'); insert into says values (1, 1, ''), (2, 2, '')",
    )
    .await?;
    assert_eq!((ids(&db, &mut ann).await?, ids(&db, &mut bob).await?), (vec![json!(1)], vec![json!(2)]));
    Ok(())
}

/// row_security 12: a table that no publication has
#[tokio::test]
async fn a_table_that_is_not_published_is_right_all_the_same() -> Result<()> {
    let (server, db) = server_with(ROOMS, ServerOptions::default().env("POLICY_PUBLICATION", "off")).await?;
    for policy in POLICIES {
        db.sql(&format!(
            "delete from says; truncate members; drop policy if exists own on says;
             create policy own on says to authenticated using (me() = 'root' or {policy});
             insert into members values (1, 'ann')"
        ))
        .await?;
        let (mut ann, mut bob) =
            (watching(&server, "ann", "says").await?, watching(&server, "bob", "says").await?);
        let mut root = watching(&server, "root", "says").await?;
        // About rows, or for a batch of them.
        let asked = async || {
            Ok::<f64, anyhow::Error>(
                asked(&server).await? + server.metric("realtime_changes_terms_asked").await?,
            )
        };
        let before = asked().await?;
        db.sql("insert into says values (1, 1, ''); insert into members values (1, 'bob')").await?;
        db.sql("insert into says values (2, 1, '')").await?;
        db.sql("begin; delete from members where who = 'ann'; insert into says values (3, 1, ''); commit")
            .await?;
        let came = (ids(&db, &mut ann).await?, ids(&db, &mut bob).await?, ids(&db, &mut root).await?);
        // Without the log a row is judged as the tables are when it is asked about.
        ensure!(
            !came.0.contains(&json!(3)) && came.1.contains(&json!(2)) && came.1.contains(&json!(3)),
            "{came:?}"
        );
        assert_eq!(came.2, [1, 2, 3], "{policy}");
        ensure!(asked().await? > before, "{policy}: nothing was asked");
    }
    Ok(())
}

/// row_security 2.4: what cannot be kept is asked once for a party and a batch of rows, not for each row
#[tokio::test]
async fn what_cannot_be_kept_is_asked_once_for_many_rows() -> Result<()> {
    let options = ServerOptions::fast();
    // In a cluster of its own: roles that others change have policies compiled anew.
    let (server, db) = server_on(
        TestDb::alone().await?,
        &format!(
            "{ROOMS}
             create function rooms_of_me() returns int[] language plpgsql stable security definer as $$
                declare found int[]; begin execute concat('select array(select room from public.members where who = $1)')
                    into found using public.me(); return found; end $$;
             create policy own on says to authenticated using (room = any (rooms_of_me()));"
        ),
        options,
    )
    .await?;
    let mut sockets = Vec::new();
    for n in 0..10 {
        sockets.push(watching(&server, &format!("u{n}"), "says").await?);
        db.sql(&format!("insert into members values ({n}, 'u{n}')")).await?;
    }
    // The first row has the policies compiled.
    db.sql("insert into says values (-1, -1, '')").await?;
    for socket in &mut sockets {
        assert_eq!(ids(&db, socket).await?, [0; 0]);
    }
    let before = (asked(&server).await?, server.metric("realtime_changes_terms_asked").await?);
    db.sql("insert into says select n, n % 10, '' from generate_series(0, 199) n").await?;
    for (n, socket) in (0i32..).zip(&mut sockets) {
        let expected: Vec<i32> = (0..200).filter(|id| id % 10 == n).collect();
        assert_eq!(ids(&db, socket).await?, expected);
    }
    assert_eq!(asked(&server).await?, before.0, "the database was asked about rows");
    let came = server.metric("realtime_changes_terms_asked").await? - before.1;
    // Twice, if others have changed a role meanwhile: roles are of the whole cluster.
    ensure!((10.0..=20.0).contains(&came), "each party is asked once, not {came}");
    // The next batch sees what has changed, of which the log tells nothing that could be understood.
    for (id, sql, sees) in [
        (1001, "delete from members where who = 'u3'", false),
        (1002, "insert into members values (3, 'u3')", true),
        (1003, "begin; insert into says values (1004, 3, ''); truncate members; commit", false),
    ] {
        db.sql(sql).await?;
        db.sql(&format!("insert into says values ({id}, 3, '')")).await?;
        let socket = sockets.get_mut(3).ok_or_else(|| anyhow::anyhow!("there are ten"))?;
        let expected: &[i32] = if sees { &[id] } else { &[] };
        assert_eq!(ids(&db, socket).await?, expected, "{sql}");
    }
    assert_eq!(asked(&server).await?, before.0, "the database was asked about rows");
    Ok(())
}

/// A body in PL/pgSQL is read, whatever path it takes
#[tokio::test]
async fn a_body_with_variables_and_loops_is_followed() -> Result<()> {
    let (server, db) = server(&format!(
        "{ROOMS} alter publication supabase_realtime add table members;
         create function counts(r int) returns bool language plpgsql stable security definer as $$
            declare n int := 0; one record;
            begin
                if public.me() is null then return false; end if;
                for one in select m.room from public.members m where m.who = public.me() loop
                    continue when one.room <> r;
                    n := n + 1;
                end loop;
                return n > 0;
            end $$;
         create function executes(r int) returns bool language plpgsql stable security definer as $$
            declare found bool;
            begin
                execute 'select exists (select from public.members m where m.room = $1 and m.who = public.me())'
                    into found using r;
                return found;
            end $$;
         create function mine() returns setof int language plpgsql stable security definer as $$
            begin
                return query select m.room from public.members m where m.who = public.me();
            end $$;"
    ))
    .await?;
    for policy in ["counts(room)", "executes(room)", "room in (select mine())"] {
        db.sql(&format!(
            "delete from says; truncate members; drop policy if exists own on says;
             create policy own on says to authenticated using ({policy}); insert into members values (1, 'ann')"
        ))
        .await?;
        let (mut ann, mut bob) =
            (watching(&server, "ann", "says").await?, watching(&server, "bob", "says").await?);
        let before = asked(&server).await?;
        for (id, sql, for_ann, for_bob) in [
            (1, "select 1", true, false),
            (2, "insert into members values (1, 'bob')", true, true),
            (3, "delete from members where who = 'ann'", false, true),
            (4, "truncate members", false, false),
        ] {
            db.sql(sql).await?;
            db.sql(&format!("insert into says values ({id}, 1, '')")).await?;
            let expected = |sees: bool| if sees { vec![json!(id)] } else { Vec::new() };
            assert_eq!(ids(&db, &mut ann).await?, expected(for_ann), "{policy}: {sql}");
            assert_eq!(ids(&db, &mut bob).await?, expected(for_bob), "{policy}: {sql}");
        }
        assert_eq!(asked(&server).await?, before, "{policy}: the database was asked about rows");
    }
    Ok(())
}

/// row_security 2.2, `now()`
#[tokio::test]
async fn the_clock_decides() -> Result<()> {
    let (server, db) = server(
        "create table timed (id int primary key, until timestamptz);
         alter table timed enable row level security;
         create policy own on timed to authenticated using (until > now());
         alter publication supabase_realtime add table timed;",
    )
    .await?;
    let before = asked(&server).await?;
    let mut ann = watching(&server, "ann", "timed").await?;
    db.sql("insert into timed values (1, now() + interval '1 hour'), (2, now() - interval '1 hour'), (3, 'infinity'), (4, null)").await?;
    assert_eq!(ids(&db, &mut ann).await?, [1, 3]);
    assert_eq!(asked(&server).await?, before);
    Ok(())
}
