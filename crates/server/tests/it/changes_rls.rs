//! Row-level security on row changes (postgres_changes 3, cases 88, 97 to 102).

use anyhow::{Context as _, Result};
use realtime_testkit::{Frame, Server, ServerOptions, Socket, TestDb, Version, sign, unix_now};
use serde_json::{Value, json};

use crate::BINARY;

const TOPIC: &str = "realtime:any";

/// A server, and a table `private.notes` whose rows their owners see; `auth.uid()` as the field has it.
async fn server() -> Result<(Server, TestDb)> {
    server_with(ServerOptions::default()).await
}

async fn server_with(options: ServerOptions) -> Result<(Server, TestDb)> {
    let db = TestDb::new().await?;
    db.sql(
        "create schema private; create schema auth;
         create function auth.uid() returns uuid language sql stable as
            $$ select (current_setting('request.jwt.claims', true)::jsonb ->> 'sub')::uuid $$;
         create table private.notes (id int primary key, owner uuid, body text);
         alter table private.notes enable row level security;
         create policy own on private.notes to authenticated using ((select auth.uid()) = owner);
         grant usage on schema private, auth to anon, authenticated, service_role;
         grant select on private.notes to anon, authenticated, service_role;
         alter publication supabase_realtime add table private.notes;",
    )
    .await?;
    let server = Server::start(BINARY, &db, options).await?;
    Ok((server, db))
}

fn user(n: u8) -> String {
    format!("a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a{n:02x}")
}

async fn watching(server: &Server, claims: Value, subscription: Value) -> Result<Socket> {
    let mut claims = claims;
    claims["exp"] = json!(unix_now() + 3600);
    let mut socket = Socket::connect(server.port(), Version::V2, &sign(&claims)).await?;
    socket.watch(TOPIC, json!([subscription])).await?;
    Ok(socket)
}

async fn watching_as(server: &Server, n: u8) -> Result<Socket> {
    let claims = json!({"role": "authenticated", "sub": user(n)});
    watching(server, claims, json!({"schema": "private", "table": "notes"})).await
}

async fn next(socket: &mut Socket) -> Result<Value> {
    Ok(socket.event(TOPIC, "postgres_changes").await?["data"].clone())
}

async fn insert(db: &TestDb, id: i32, owner: u8) -> Result<()> {
    db.sql(&format!("insert into private.notes values ({id}, '{}', 'body {id}')", user(owner))).await
}

/// postgres_changes 97: everybody sees their own rows and no others, whatever the order of the questions
#[tokio::test]
async fn policies_decide_who_sees_a_row() -> Result<()> {
    let (server, db) = server().await?;
    let mut users = Vec::new();
    for n in 0..5 {
        users.push(watching_as(&server, n).await?);
    }
    // Two sockets of one user share the answer.
    let mut twin = watching_as(&server, 3).await?;
    let mut anon = watching(&server, json!({"role": "anon"}), json!({"schema": "private"})).await?;
    let mut service =
        watching(&server, json!({"role": "service_role"}), json!({"schema": "private"})).await?;
    for id in 0..20 {
        insert(&db, id, u8::try_from(id % 5)?).await?;
    }
    // What a policy shows is what it shows when it is asked: rows are left alone until they were handed over.
    for id in 0..20 {
        assert_eq!(next(&mut service).await?["record"]["id"], json!(id));
    }
    db.sql(&format!("update private.notes set owner = '{}' where id = 0", user(1))).await?;
    db.sql("insert into private.notes values (99, null, null)").await?;
    assert_eq!(next(&mut service).await?["type"], "UPDATE");
    assert_eq!(next(&mut service).await?["record"]["id"], 99, "who bypasses sees all");
    for (n, socket) in (0..).zip(users.iter_mut()).chain([(3, &mut twin)]) {
        for id in (n..20).step_by(5) {
            let data = next(socket).await?;
            assert_eq!((&data["type"], &data["record"]["id"]), (&json!("INSERT"), &json!(id)), "user {n}");
        }
        if n == 1 {
            let data = next(socket).await?;
            assert_eq!(
                (&data["type"], &data["record"]["owner"]),
                (&json!("UPDATE"), &json!(user(1))),
                "the new owner"
            );
        }
        assert_eq!(socket.settle().await?, [], "user {n} sees nothing else");
    }
    assert!(anon.settle().await?.is_empty(), "no policy for the role");
    Ok(())
}

/// postgres_changes 99, 100; row_security 3: a deleted row of which the log has the key alone cannot be judged, so
/// everybody gets the key; a whole one goes to who saw it and to nobody else
#[tokio::test]
async fn deleted_rows_go_to_who_saw_them() -> Result<()> {
    let (server, db) = server().await?;
    let mut owner = watching_as(&server, 1).await?;
    let mut other = watching_as(&server, 2).await?;
    let mut service =
        watching(&server, json!({"role": "service_role"}), json!({"schema": "private"})).await?;
    for (full, policy) in
        [(false, ""), (true, ""), (true, "auth.uid() = owner or owner::text || '' = 'asked'")]
    {
        if full {
            db.sql("alter table private.notes replica identity full").await?;
        }
        if !policy.is_empty() {
            db.sql(&format!("alter policy own on private.notes using ({policy})")).await?;
        }
        insert(&db, 1, 1).await?;
        assert_eq!(next(&mut owner).await?["type"], "INSERT");
        assert_eq!(next(&mut service).await?["type"], "INSERT");
        db.sql("delete from private.notes").await?;
        let old = match full {
            false => json!({"id": 1}),
            true => json!({"id": 1, "owner": user(1), "body": "body 1"}),
        };
        for socket in [&mut owner, &mut service] {
            let data = next(socket).await?;
            assert_eq!((&data["type"], &data["old_record"]), (&json!("DELETE"), &old));
            assert!(data.get("record").is_none());
        }
        match full {
            false => assert_eq!(next(&mut other).await?["old_record"], old),
            true => assert_eq!(other.settle().await?, [], "{policy}"),
        }
    }
    Ok(())
}

/// row_security 3: where it is set, a deleted row that cannot be judged goes to nobody for whom policies decide; all
/// others get its key as ever
#[tokio::test]
async fn deleted_rows_that_cannot_be_judged_can_be_kept_back() -> Result<()> {
    let (server, db) = server_with(ServerOptions::default().env("DELETE_UNJUDGED", "drop")).await?;
    db.sql(
        "create table private.free (id int primary key, body text);
         grant select on private.free to authenticated;
         alter publication supabase_realtime add table private.free",
    )
    .await?;
    let mut owner = watching_as(&server, 1).await?;
    let mut service =
        watching(&server, json!({"role": "service_role"}), json!({"schema": "private", "table": "notes"}))
            .await?;
    let claims = json!({"role": "authenticated", "sub": user(1)});
    let mut of_free = watching(&server, claims, json!({"schema": "private", "table": "free"})).await?;
    insert(&db, 1, 1).await?;
    for socket in [&mut owner, &mut service] {
        assert_eq!(next(socket).await?["type"], "INSERT");
    }
    db.sql("delete from private.notes; insert into private.free values (1); delete from private.free")
        .await?;
    assert_eq!(next(&mut service).await?["old_record"], json!({"id": 1}));
    assert_eq!(next(&mut of_free).await?["type"], "INSERT");
    assert_eq!(next(&mut of_free).await?["old_record"], json!({"id": 1}));
    assert_eq!(owner.settle().await?, []);
    // Where the log has all of it, it is judged.
    db.sql("alter table private.notes replica identity full").await?;
    insert(&db, 2, 1).await?;
    assert_eq!(next(&mut owner).await?["type"], "INSERT");
    db.sql("delete from private.notes").await?;
    assert_eq!(next(&mut owner).await?["old_record"]["id"], 2);
    Ok(())
}

/// row_security 3, cases 5 and 6: who gets a row learns nothing of what it was before that was hidden
#[tokio::test]
async fn old_rows_go_to_who_saw_them() -> Result<()> {
    let (server, db) = server().await?;
    db.sql("alter table private.notes replica identity full").await?;
    for policy in ["auth.uid() = owner", "auth.uid() = owner or owner::text || '' = 'asked'"] {
        db.sql(&format!("alter policy own on private.notes using ({policy})")).await?;
        let mut ann = watching_as(&server, 1).await?;
        let claims = json!({"role": "authenticated", "sub": user(2)});
        let mut bob = watching_as(&server, 2).await?;
        let deleted =
            json!({"event": "DELETE", "schema": "private", "table": "notes", "filter": "body=eq.secret"});
        let mut spy = watching(&server, claims, deleted).await?;
        insert(&db, 1, 1).await?;
        let owner =
            |n: u8| format!("update private.notes set id = id + 1, owner = '{}', body = 'secret'", user(n));
        db.sql(&owner(2)).await?;
        let data = next(&mut bob).await?;
        assert_eq!((&data["record"]["id"], &data["old_record"]), (&json!(2), &json!({})), "{policy}");
        db.sql("update private.notes set body = 'more'").await?;
        let data = next(&mut bob).await?;
        let old = json!({"id": 2, "owner": user(2), "body": "secret"});
        assert_eq!((&data["record"]["body"], &data["old_record"]), (&json!("more"), &old), "{policy}");
        db.sql(&format!("{}; delete from private.notes", owner(1))).await?;
        assert_eq!(next(&mut ann).await?["type"], "INSERT");
        let data = next(&mut ann).await?;
        assert_eq!((&data["record"]["id"], &data["old_record"]), (&json!(3), &json!({})), "{policy}");
        assert_eq!(next(&mut ann).await?["old_record"]["body"], "secret");
        assert_eq!(bob.settle().await?, [], "{policy}");
        assert_eq!(spy.settle().await?, [], "a filter tells of no row that is hidden: {policy}");
    }
    Ok(())
}

/// postgres_changes 88, 98: column selection and filters with policies; roles with odd names, keys of any type
#[tokio::test]
async fn policies_with_everything_else() -> Result<()> {
    let (server, db) = server().await?;
    db.sql(
        "create role \"has-hyphen\" nologin; grant usage on schema private to \"has-hyphen\";
         create table private.\"odd $realtime$ name\" (a bytea, \"b \"\"c\"\"\" char(5), v text, primary key (a, \"b \"\"c\"\"\"));
         alter table private.\"odd $realtime$ name\" enable row level security;
         create policy all_of_it on private.\"odd $realtime$ name\" to \"has-hyphen\" using (v <> 'hidden');
         grant select on private.\"odd $realtime$ name\" to \"has-hyphen\";
         alter publication supabase_realtime add table private.\"odd $realtime$ name\";",
    )
    .await?;
    let claims = json!({"role": "has-hyphen", "quote": "it's \"quoted\""});
    let table = json!({"schema": "private", "table": "odd $realtime$ name"});
    let mut socket = watching(&server, claims, table).await?;
    db.sql("insert into private.\"odd $realtime$ name\" values ('\\x00ff', 'ab', 'hidden'), ('\\x01', 'ab', 'shown')").await?;
    assert_eq!(next(&mut socket).await?["record"], json!({"a": "01", "b \"c\"": "ab   ", "v": "shown"}));

    let mut selective = watching(
        &server,
        json!({"role": "authenticated", "sub": user(1)}),
        json!({"schema": "private", "table": "notes", "filter": "body=match.[13]$", "select": ["body"]}),
    )
    .await?;
    for (id, owner) in [(1, 2), (2, 1), (3, 1)] {
        insert(&db, id, owner).await?;
    }
    assert_eq!(next(&mut selective).await?["record"], json!({"id": 3, "body": "body 3"}));
    assert!(selective.settle().await?.is_empty());
    Ok(())
}

/// postgres_changes 101, 102; decision 1: a policy that raises or sleeps harms only those it is for
#[tokio::test]
async fn bad_policies_harm_only_their_own() -> Result<()> {
    let (server, db) = server().await?;
    db.sql(
        "create role raising nologin; create role sleeping nologin; create role recursive nologin; create role outside nologin;
         create policy raising on private.notes to raising using (1 / (id - id) = 1);
         create policy sleeping on private.notes to sleeping using (pg_sleep(30) is null);
         create policy recursive on private.notes to recursive using (exists (select from private.notes n where n.id = 1));
         grant usage on schema private to raising, sleeping, recursive;
         grant select on private.notes to raising, sleeping, recursive, outside;",
    )
    .await?;
    let mut good = Vec::new();
    for n in [1, 2, 1] {
        good.push(watching_as(&server, n).await?);
    }
    let mut bad = Vec::new();
    for role in ["raising", "sleeping", "recursive", "outside"] {
        bad.push(watching(&server, json!({ "role": role }), json!({"schema": "private"})).await?);
    }
    for id in 1..=3 {
        insert(&db, id, 1).await?;
    }
    for id in 1..=3 {
        for socket in [0, 2] {
            assert_eq!(next(&mut good[socket]).await?["record"]["id"], json!(id));
        }
    }
    assert!(good[1].settle().await?.is_empty());
    // Who may not use the schema is told with each row that it may not see it, as `select` would say.
    let mut outside = bad.pop().context("outside")?;
    for _ in 1..=3 {
        let data = next(&mut outside).await?;
        assert_eq!((&data["record"], &data["errors"]), (&json!({}), &json!(["Error 401: Unauthorized"])));
    }
    for (socket, code) in
        bad.iter_mut().zip(["22012 division_by_zero", "57014 query_canceled", "42P17 invalid_object"])
    {
        let system = socket.event(TOPIC, "system").await?;
        let message = system["message"].as_str().unwrap_or_default();
        assert!(message.contains("changes are withheld") && message.contains(code), "{message}");
        assert!(socket.settle().await?.is_empty(), "told once, and no row");
    }
    Ok(())
}

/// A policy counts from the first row after it was made, changed or dropped.
#[tokio::test]
async fn policies_may_change() -> Result<()> {
    let (server, db) = server().await?;
    let mut socket = watching_as(&server, 1).await?;
    insert(&db, 1, 1).await?;
    assert_eq!(next(&mut socket).await?["record"]["id"], 1);
    db.sql("drop policy own on private.notes").await?;
    insert(&db, 2, 1).await?;
    // The insert may still be on its way: the policy has to stay as it is until the update was handed over.
    let updates = json!({"event": "UPDATE", "schema": "private"});
    let mut service = watching(&server, json!({"role": "service_role"}), updates).await?;
    db.sql("update private.notes set body = 'x' where id = 2").await?;
    // It may be watched early enough for the insert to be seen too.
    while next(&mut service).await?["type"] != "UPDATE" {}
    db.sql("create policy all_of_it on private.notes using (true)").await?;
    insert(&db, 3, 2).await?;
    assert_eq!(next(&mut socket).await?["record"]["id"], 3, "nobody saw the second");
    db.sql("alter table private.notes disable row level security; drop policy all_of_it on private.notes")
        .await?;
    insert(&db, 4, 2).await?;
    assert_eq!(next(&mut socket).await?["record"]["id"], 4);
    Ok(())
}

/// Rows of a transaction are checked together and still come in order, whatever lies between them.
#[tokio::test]
async fn transactions_are_checked_together() -> Result<()> {
    // On a busy machine the database takes longer than clients are left without a word.
    let is_delay = |frame: &Frame| frame.payload["code"] == "ChangesDelayed";
    let (server, db) = server().await?;
    db.sql(
        "create table private.open (id int primary key); grant select on private.open to authenticated;
         alter publication supabase_realtime add table private.open;
         create role picky nologin; grant usage on schema private to picky; grant select on private.notes to picky;
         create policy picky on private.notes to picky using (100 / (id - 7) is not null);",
    )
    .await?;
    let mut both =
        watching(&server, json!({"role": "authenticated", "sub": user(1)}), json!({"schema": "private"}))
            .await?;
    let mut other = watching_as(&server, 2).await?;
    let mut picky =
        watching(&server, json!({"role": "picky"}), json!({"schema": "private", "table": "notes"})).await?;
    db.sql(&format!(
        "do $$ begin
            for n in 1..250 loop
                insert into private.notes values (n, case when n % 2 = 0 then '{}'::uuid else '{}'::uuid end, '');
                insert into private.open values (n);
            end loop;
        end $$",
        user(1),
        user(2),
    ))
    .await?;
    for n in 1..=250 {
        if n % 2 == 0 {
            let data = next(&mut both).await?;
            assert_eq!((&data["table"], &data["record"]["id"]), (&json!("notes"), &json!(n)));
        } else {
            assert_eq!(next(&mut other).await?["record"]["id"], json!(n));
        }
        let data = next(&mut both).await?;
        assert_eq!((&data["table"], &data["record"]["id"]), (&json!("open"), &json!(n)));
    }
    for n in (1..=250).filter(|n| *n != 7) {
        assert_eq!(next(&mut picky).await?["record"]["id"], json!(n), "the row that raises is one row");
    }
    let system = picky.expect(|frame| frame.event == "system" && !is_delay(frame)).await?.payload;
    assert!(
        system["message"].as_str().unwrap_or_default().ends_with("withheld: 22012 division_by_zero"),
        "{system}"
    );
    for socket in [&mut both, &mut other, &mut picky] {
        let left = socket.settle().await?;
        assert!(left.iter().all(is_delay), "{left:?}");
    }
    Ok(())
}

/// Who waits for a lock is not slow: rows wait too, nobody is told of a failure, and nothing is lost.
#[tokio::test]
async fn locked_tables_hold_rows_up() -> Result<()> {
    // What is published is not asked when a row comes.
    let options = ServerOptions::default().env("POLICY_PUBLICATION", "off");
    let (server, db) = server_with(options).await?;
    db.sql(
        "create table private.members (uid uuid primary key); grant select on private.members to authenticated;
         create table private.posts (id int primary key); grant select on private.posts to authenticated;
         alter table private.posts enable row level security;
         create policy members on private.posts to authenticated
            using (exists (select from private.members where uid = auth.uid()));
         alter publication supabase_realtime add table private.posts;",
    )
    .await?;
    db.sql(&format!("insert into private.members values ('{}')", user(1))).await?;
    let claims = |n| json!({"role": "authenticated", "sub": user(n)});
    let posts = json!({"schema": "private", "table": "posts"});
    let mut member = watching(&server, claims(1), posts.clone()).await?;
    let mut stranger = watching(&server, claims(2), posts).await?;
    db.sql("insert into private.posts values (1)").await?;
    assert_eq!(next(&mut member).await?["record"]["id"], 1);
    let migration = db.connect().await?;
    migration.batch_execute("begin; lock table private.members in access exclusive mode").await?;
    db.sql("insert into private.posts values (2)").await?;
    // Longer than policies may take, together and each alone: it was asked, cut off, and asked anew.
    let questions = std::cell::RefCell::new(std::collections::HashSet::new());
    realtime_testkit::until("it is asked again", async || {
        let sql = "select pid, query_start::text from pg_stat_activity
            where datname = current_database() and wait_event_type = 'Lock'";
        for row in db.client().query(sql, &[]).await? {
            questions.borrow_mut().insert((row.try_get::<_, i32>(0)?, row.try_get::<_, String>(1)?));
        }
        Ok(questions.borrow().len() > 2)
    })
    .await?;
    assert!(member.settle().await?.is_empty(), "it is not known yet who sees it");
    migration.batch_execute("commit").await?;
    assert_eq!(next(&mut member).await?["record"]["id"], 2);
    assert!(stranger.settle().await?.is_empty());
    Ok(())
}

/// Tables without places of their own: partitioned and published by their root, or with children.
#[tokio::test]
async fn partitioned_tables() -> Result<()> {
    let (server, db) = server().await?;
    db.sql(
        "create table private.parts (id numeric, part int, owner uuid, primary key (id, part)) partition by list (part);
         create table private.part_1 partition of private.parts for values in (1);
         create table private.part_2 partition of private.parts for values in (2);
         alter table private.parts enable row level security;
         create policy own on private.parts to authenticated using ((select auth.uid()) = owner);
         grant select on private.parts to authenticated;
         alter publication supabase_realtime set (publish_via_partition_root = true);
         alter publication supabase_realtime add table private.parts;",
    )
    .await?;
    let parts = json!({"schema": "private", "table": "parts"});
    let mut one = watching(&server, json!({"role": "authenticated", "sub": user(1)}), parts.clone()).await?;
    let mut two = watching(&server, json!({"role": "authenticated", "sub": user(2)}), parts).await?;
    for (id, part, owner) in [("1.5", 1, 1), ("1.5", 2, 2), ("2", 1, 2), ("3", 2, 1)] {
        db.sql(&format!("insert into private.parts values ({id}, {part}, '{}')", user(owner))).await?;
    }
    for (socket, rows) in [(&mut one, [(1.5, 1), (3.0, 2)]), (&mut two, [(1.5, 2), (2.0, 1)])] {
        for (id, part) in rows {
            let data = next(socket).await?;
            let record = &data["record"];
            assert_eq!((record["id"].as_f64(), record["part"].as_i64()), (Some(id), Some(part)), "{data}");
        }
        assert!(socket.settle().await?.is_empty());
    }
    Ok(())
}

/// A function that reads the claims and was declared immutable is evaluated when a statement is planned: no plan may
/// serve two users then.
#[tokio::test]
async fn functions_wrongly_declared_immutable() -> Result<()> {
    let (server, db) = server().await?;
    db.sql("alter function auth.uid() immutable; insert into private.notes values (0, null, 'described')")
        .await?;
    let mut users = Vec::new();
    for n in 0..5 {
        users.push(watching_as(&server, n).await?);
    }
    db.sql(&format!(
        "insert into private.notes select n, ('{{{}}}'::uuid[])[n % 5 + 1], 'x' from generate_series(1, 50) n",
        (0..5).map(user).collect::<Vec<_>>().join(",")
    ))
    .await?;
    for (n, socket) in (0..).zip(&mut users) {
        for id in (1..=50).filter(|id| id % 5 == n) {
            let data = next(socket).await?;
            assert_eq!(
                (&data["record"]["id"], &data["record"]["owner"]),
                (&json!(id), &json!(user(u8::try_from(n)?)))
            );
        }
        assert!(socket.settle().await?.is_empty(), "user {n} sees nothing else");
    }
    Ok(())
}
