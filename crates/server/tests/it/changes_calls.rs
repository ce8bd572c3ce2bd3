//! Functions of columns in policies, and many rows that call them (row_security 2.2: call terms).

use anyhow::Result;
use realtime_testkit::{Server, ServerOptions, Socket, TestDb, Version, sign, unix_now};
use serde_json::{Value, json};

use crate::{
    changes_compiled::{ROOMS, ids},
    changes_images::{TOPIC, server_on, server_with, watching},
};

const PARTIES: i32 = 5;
const VALUES: i32 = 70;

/// The rows of a transaction have many values: each party gets what it may see of each, in order. A function that raises for a value hides the rows with that value only.
#[tokio::test]
async fn the_values_of_a_transaction_are_each_answered() -> Result<()> {
    let options = ServerOptions::fast();
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
    let options = ServerOptions::fast();
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

/// A room that names more than can be of help is looked up once, not whenever its answers are needed anew.
#[tokio::test]
async fn a_room_that_names_too_many_is_looked_up_once_in_a_while() -> Result<()> {
    let db = TestDb::alone().await?;
    db.sql(&format!("alter database {} set log_statement = 'all'", db.name())).await?;
    let schema = format!(
        "{ROOMS} alter publication supabase_realtime add table members;
         create policy own on says to authenticated using (is_member(room));
         insert into members select 1, 'member ' || n from generate_series(1, 1100) n;
         insert into members values (1, 'ann');"
    );
    let options = ServerOptions::fast().env("FAILPOINTS", "calls_narrowed=error");
    let (server, db) = server_on(db, &schema, options).await?;
    let (mut ann, mut bob) =
        (watching(&server, "ann", "says").await?, watching(&server, "bob", "says").await?);
    let looked_up = || anyhow::Ok(db.log()?.matches("with given as (").count());
    // The policies are compiled.
    db.sql("insert into says values (0, 0, '')").await?;
    for socket in [&mut ann, &mut bob] {
        ids(&db, socket).await?;
    }
    let mut rounds = Vec::new();
    for round in 1..=3 {
        let before = looked_up()?;
        // What ann was answered before is out of date.
        db.sql(&format!("insert into members values (1000 + {round}, 'ann')")).await?;
        db.sql(&format!("insert into says values ({round}, 1, '')")).await?;
        assert_eq!(ids(&db, &mut ann).await?, [round]);
        assert_eq!(ids(&db, &mut bob).await?, [0; 0]);
        rounds.push(looked_up()? - before);
    }
    assert_eq!(rounds, [1, 0, 0]);
    Ok(())
}

/// Members who watch beside those whom a test is about: enough that it is looked up whom to ask.
const OTHERS: i32 = 50;

/// A server with `says` and what a policy calls; and those who watch: first those with the claims, then others, who claim
/// the same but for their names.
async fn watched_by_many(
    schema: &str,
    policy: &str,
    claims: &[Value],
    of_others: Value,
) -> Result<(Server, TestDb, Vec<(Value, Socket)>)> {
    let options = ServerOptions::fast();
    let schema = format!("{ROOMS} {schema} create policy own on says to authenticated using ({policy});");
    let (server, db) = server_with(&schema, options).await?;
    let mut parties = Vec::new();
    let others = (0..OTHERS).map(|n| {
        let me = format!("other {n}");
        let mut claims = of_others.clone();
        (claims["me"], claims["sub"]) = (json!(me), json!(me));
        claims
    });
    for more in claims.iter().cloned().chain(others) {
        let mut claims = json!({"role": "authenticated", "exp": unix_now() + 3600});
        for (name, value) in more.as_object().into_iter().flatten() {
            claims[name] = value.clone();
        }
        let mut socket = Socket::connect(server.port(), Version::V2, &sign(&claims)).await?;
        let of = |table: &str| json!({"event": "INSERT", "schema": "public", "table": table});
        socket.watch(TOPIC, json!([of("says"), of("fence")])).await?;
        parties.push((claims, socket));
    }
    Ok((server, db, parties))
}

/// Everybody gets what SELECT shows of the rooms 1 to 3. How many there were for each.
async fn as_select_shows(db: &TestDb, parties: &mut [(Value, Socket)]) -> Result<Vec<usize>> {
    // The policies are compiled, and all are asked who they are.
    db.sql("insert into says values (0, 0, '')").await?;
    for (_, socket) in parties.iter_mut() {
        ids(db, socket).await?;
    }
    db.sql("delete from says; insert into says values (1, 1, ''), (2, 2, ''), (3, 3, '')").await?;
    let mut counts = Vec::new();
    for (claims, socket) in parties {
        let client = db.client();
        client.batch_execute("begin").await?;
        client.query("select set_config('request.jwt.claims', $1, true)", &[&claims.to_string()]).await?;
        client.batch_execute("set local role authenticated").await?;
        let rows = client.query("select id from says order by id", &[]).await;
        client.batch_execute("rollback").await?;
        // A query that raises shows nothing.
        let shown: Vec<Value> =
            rows.unwrap_or_default().iter().map(|row| json!(row.get::<_, i32>(0))).collect();
        assert_eq!(ids(db, socket).await?, shown, "{claims}");
        counts.push(shown.len());
    }
    Ok(counts)
}

/// Whom a boolean or a number names gets what it may see.
#[tokio::test]
async fn values_of_all_types_name_those_who_are_asked() -> Result<()> {
    let schema = "
        create table orgs (id int primary key, adult boolean not null, fee numeric, score float8);
        insert into orgs values (1, true, 1.50, 0.5), (2, false, 2, -0.0), (3, true, 3, 'NaN');
        alter publication supabase_realtime add table orgs;
        create function claimed(name text) returns text language sql stable set search_path = '' as
            $$ select current_setting('request.jwt.claims', true)::jsonb ->> name $$;
        create function is_fit(r int) returns bool language sql stable security definer set search_path = '' as
            $$ select exists (select from public.orgs o where o.id = r and o.adult = (public.claimed('adult'))::boolean) $$;
        create function is_paid(r int) returns bool language sql stable security definer set search_path = '' as
            $$ select exists (select from public.orgs o where o.id = r and o.fee = (public.claimed('fee'))::numeric) $$;
        create function is_good(r int) returns bool language sql stable security definer set search_path = '' as
            $$ select exists (select from public.orgs o where o.id = r and o.score = (public.claimed('score'))::float8) $$;";
    let claims = [
        json!({"me": "a", "adult": true}),
        json!({"me": "b", "adult": "no"}),
        json!({"me": "c", "fee": "1.5"}),
        json!({"me": "d", "fee": 2.00}),
        json!({"me": "e", "score": 0}),
        json!({"me": "f", "score": "nan"}),
    ];
    let policy = "is_fit(room) or is_paid(room) or is_good(room)";
    let (_server, db, mut parties) = watched_by_many(schema, policy, &claims, json!({})).await?;
    let counts = as_select_shows(&db, &mut parties).await?;
    assert_eq!(counts[..claims.len()], [2, 1, 1, 1, 1, 1]);
    Ok(())
}

/// A function that is NULL or raises for those who lack a claim is not false for them, and its negation shows them nothing.
/// Nearly all have the claim: for whom no row names it is false. It leads to rows in one part of the policy, and forbids
/// them in another.
#[tokio::test]
async fn a_function_of_claims_is_asked_of_everybody() -> Result<()> {
    let schema = format!(
        "create table profiles (who text, tenant text);
         insert into profiles values ('twice', 'a'), ('twice', 'b'), ('a', 't');
         insert into profiles select 'other ' || n, 't' from generate_series(0, {OTHERS} - 1) n;
         create table mutes (room int, tenant text, who text, primary key (room, who));
         insert into mutes values (1, 't', 'a'), (2, 't', 'b');
         alter publication supabase_realtime add table mutes, profiles;
         create function is_muted(r int, tenant text) returns bool language sql stable strict security definer set search_path = '' as
            $$ select exists (select from public.mutes m where m.room = r and m.tenant = is_muted.tenant and m.who = public.me()) $$;"
    );
    let claims = [
        json!({"me": "a", "tenant": "t"}),
        json!({"me": "b", "tenant": "t"}),
        json!({"me": "c", "tenant": "t"}),
        json!({"me": "a"}),
        json!({"me": "twice", "tenant": "t"}),
    ];
    let policy = |tenant: &str| {
        let is_muted = format!("is_muted(room, {tenant})");
        format!("{is_muted} or room = 3 and not {is_muted}")
    };
    let claimed = policy("current_setting('request.jwt.claims', true)::jsonb ->> 'tenant'");
    let of_others = json!({"tenant": "t"});
    let (_server, db, mut parties) = watched_by_many(&schema, &claimed, &claims, of_others).await?;
    let counts = as_select_shows(&db, &mut parties).await?;
    assert_eq!(counts[..claims.len() + 1], [2, 2, 1, 0, 1, 1]);
    db.sql(&format!(
        "drop policy own on says; create policy own on says to authenticated using ({})",
        policy("(select p.tenant from profiles p where p.who = me())")
    ))
    .await?;
    let counts = as_select_shows(&db, &mut parties).await?;
    assert_eq!(counts[..claims.len() + 1], [2, 0, 0, 2, 0, 1]);
    Ok(())
}
