//! Tables: what is looked at, what is refused, what is read.

use std::{collections::BTreeSet, time::Duration};

use anyhow::Result;
use realtime_changes::Party;
use serde_json::json;

use super::{
    super::{Bounds, Key, Kind, Limits, ReadError, prints},
    support::{BOUNDS, LIMITS, Live, anon, texts},
};
use crate::{pool, visibility::Passed};

async fn todos() -> Result<Live> {
    let live = Live::new().await?;
    live.db
        .sql(
            "create table public.todos (id int primary key, owner text, title text, done bool default false, secret text);
             grant select (id, owner, title, done) on public.todos to anon;
             insert into public.todos values (3, 'ann', 'c'), (1, 'ann', 'a'), (2, 'bob', null);
             alter publication supabase_realtime add table public.todos",
        )
        .await?;
    Ok(live)
}

#[tokio::test]
async fn rows_come_in_the_order_asked_for_else_by_key() -> Result<()> {
    let live = todos().await?;
    let rows = |parameters| live.texts(parameters);
    assert_eq!(rows(json!({"table": "todos"})).await?, ["1|ann|a|f", "2|bob|~|f", "3|ann|c|f"]);
    assert_eq!(
        rows(json!({"table": "todos", "order": "title.desc.nullslast", "limit": 2})).await?,
        ["3|ann|c|f", "1|ann|a|f"]
    );
    assert_eq!(
        rows(json!({"table": "todos", "filter": "owner=eq.ann", "select": ["title"], "order": "owner"}))
            .await?,
        ["1|a", "3|c"],
        "the key is read too"
    );
    let source = live.look(json!({"table": "todos"})).await?;
    assert_eq!(
        (source.kind, &source.key, source.has_own_key),
        (Kind::Table, &Key::Columns([0].into()), true)
    );
    assert_eq!((&*source.columns, source.reads.len()), (&[0, 1, 2, 3][..], 1));
    let (read, rows) = live.read_as(&source, &anon(), LIMITS).await?;
    assert_eq!((read.rows, rows.len(), rows[0].len()), (3, 3, 5));
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?.as_micros();
    assert!(u128::try_from(read.taken_at.0)?.abs_diff(now) < 60_000_000);
    Ok(())
}

#[tokio::test]
async fn what_cannot_be_kept_right_is_refused_with_what_to_do() -> Result<()> {
    let live = todos().await?;
    live.db
        .sql(
            "create table public.hidden (id int primary key); create schema far; create table far.t (id int primary key);
             create table public.\"Not Told\" (id int primary key); create unlogged table public.fast (id int primary key);
             create table public.docs (id int primary key, j json);
             create table public.pairs (a int, b int, c text, primary key (a, b));
             create materialized view public.sums as select count(*) as n from public.todos; create sequence public.s;
             grant select on far.t, public.\"Not Told\", public.fast, public.docs, public.sums, public.s to anon;
             grant select (a, c) on public.pairs to anon;
             alter publication supabase_realtime add table public.hidden, far.t, public.docs, public.pairs",
        )
        .await?;
    for (parameters, expected) in [
        (json!({"table": "nothing"}), "there is no table or view of this name"),
        (json!({"table": "s"}), "public.s is neither a table nor a view: live rows need one of these"),
        (
            json!({"table": "hidden"}),
            "role \"anon\" may not read public.hidden: grant select on it to the role, and usage on its schema",
        ),
        (
            json!({"schema": "far", "table": "t"}),
            "role \"anon\" may not read far.t: grant select on it to the role, and usage on its schema",
        ),
        (
            json!({"table": "Not Told"}),
            "public.\"Not Told\" is not in the publication supabase_realtime: alter publication supabase_realtime add table public.\"Not Told\"",
        ),
        (
            json!({"table": "fast"}),
            "public.fast is an unlogged table: PostgreSQL does not tell its changes. Set LIVE_RECHECK_MS to read it again by the clock",
        ),
        (
            json!({"table": "sums"}),
            "public.sums is a materialized view: PostgreSQL does not tell its changes. Set LIVE_RECHECK_MS to read it again by the clock",
        ),
        (
            json!({"table": "pairs"}),
            "role \"anon\" may not read column b of the key of public.pairs: grant select on it, or give another `key`",
        ),
        (json!({"table": "todos", "order": "secret"}), "invalid column for order secret"),
        (json!({"table": "todos", "key": ["nope"]}), "invalid column for key nope"),
        (json!({"table": "todos", "filter": "secret=eq.x"}), "invalid column for filter secret"),
        (json!({"table": "todos", "select": ["secret"]}), "invalid column for select secret"),
        (json!({"table": "docs", "order": "j"}), "column j of `order` is of type json, which has no order"),
        (
            json!({"table": "todos", "limit": 10_001}),
            "`limit` is 10001: a result has 10000 rows at most (LIVE_MAX_ROWS)",
        ),
        (json!({"table": "todos", "filter": "id=eq.x"}), "ERROR 22P02 (invalid_text_representation)"),
    ] {
        assert_eq!(live.refused(parameters.clone()).await, expected, "{parameters}");
    }
    let nobody = live.look_as("nobody_at_all", json!({"table": "todos"}), BOUNDS).await;
    assert_eq!(nobody.unwrap_err().to_string(), "role \"nobody_at_all\" does not exist");
    assert_eq!(live.texts(json!({"table": "pairs", "key": ["a"]})).await?, [""; 0]);
    let by_clock = Bounds { by_clock: true, ..BOUNDS };
    for (table, unpublished) in
        [("sums", "public.sums"), ("fast", "public.fast"), ("Not Told", "public.\"Not Told\"")]
    {
        let source = live.look_as("anon", json!({"table": table}), by_clock).await?;
        assert_eq!((source.needs_clock(), &*source.unpublished), (true, &[unpublished.to_owned()][..]));
    }
    Ok(())
}

#[tokio::test]
async fn a_publication_that_leaves_out_changes_is_refused() -> Result<()> {
    let live = Live::new().await?;
    live.db
        .sql(
            "create table public.a (id int primary key, n int); grant select on public.a to anon;
             alter publication supabase_realtime set (publish = 'insert, update, delete');
             alter publication supabase_realtime add table public.a",
        )
        .await?;
    let text = "the publication supabase_realtime does not tell every change of public.a: it must publish insert, update, delete and truncate, without a row filter";
    assert_eq!(live.refused(json!({"table": "a"})).await, text);
    live.db
        .sql("alter publication supabase_realtime set (publish = 'insert, update, delete, truncate')")
        .await?;
    assert_eq!(live.refused(json!({"table": "a"})).await, "not refused");
    let version: i32 =
        live.db.client().query_one("select current_setting('server_version_num')::int4", &[]).await?.get(0);
    if version >= 150_000 {
        live.db.sql("alter publication supabase_realtime set table public.a where (id > 5)").await?;
        assert_eq!(live.refused(json!({"table": "a"})).await, text);
        // Columns may be left out: a query has them all the same.
        live.db.sql("alter publication supabase_realtime set table public.a (id)").await?;
        let source = live.look(json!({"table": "a", "filter": "n=eq.1"})).await?;
        assert_eq!((&*source.unlogged, &*source.columns), (&[1][..], &[0, 1][..]));
    }
    Ok(())
}

#[tokio::test]
async fn partitions_are_read_with_their_roots() -> Result<()> {
    let live = Live::new().await?;
    live.db
        .sql(
            "create table public.p (id int primary key, n int) partition by range (id);
             create table public.p1 partition of public.p for values from (0) to (10);
             create table public.p2 partition of public.p for values from (10) to (20) partition by range (id);
             create table public.p21 partition of public.p2 for values from (10) to (15);
             grant select on public.p, public.p21 to anon; insert into public.p values (11, 2), (3, 1);
             create table public.parent (id int primary key); create table public.child () inherits (public.parent);
             grant select on public.parent to anon;
             alter publication supabase_realtime add table public.p, only public.parent",
        )
        .await?;
    let oids = async |names: &[&str]| -> Result<BTreeSet<u32>> {
        let sql = "select c.oid from unnest($1::text[]) n join pg_class c on c.oid = n::regclass";
        Ok(live.db.client().query(sql, &[&names]).await?.iter().map(|row| row.get(0)).collect())
    };
    let reads = async |table: &str| -> Result<BTreeSet<u32>> {
        Ok(live.look(json!({"table": table})).await?.reads.into_iter().collect())
    };
    let parent = "public.parent reads public.child, which is not in the publication supabase_realtime: alter publication supabase_realtime add table public.child";
    for via_root in ["false", "true"] {
        live.db
            .sql(&format!(
                "alter publication supabase_realtime set (publish_via_partition_root = {via_root})"
            ))
            .await?;
        assert_eq!(live.texts(json!({"table": "p"})).await?, ["3|1", "11|2"]);
        assert_eq!(reads("p").await?, oids(&["p", "p1", "p2", "p21"]).await?);
        assert_eq!(reads("p21").await?, oids(&["p", "p2", "p21"]).await?);
        assert_eq!(live.look(json!({"table": "p"})).await?.kind, Kind::Partitioned);
        assert_eq!(live.refused(json!({"table": "parent"})).await, parent);
    }
    live.db.sql("alter publication supabase_realtime set table public.p1").await?;
    assert_eq!(
        live.refused(json!({"table": "p"})).await,
        "public.p reads public.p21, which is not in the publication supabase_realtime: alter publication supabase_realtime add table public.p21"
    );
    Ok(())
}

#[tokio::test]
async fn each_party_reads_with_its_role_and_claims() -> Result<()> {
    let live = todos().await?;
    live.db
        .sql(
            "alter table public.todos enable row level security; grant select on public.todos to service_role;
             create table public.members (owner text, who text); grant select on public.members to anon;
             insert into public.members values ('ann', 'u1'), ('bob', 'u2'), ('ann', 'u2');
             create policy own on public.todos for select to anon using (exists (select from public.members m
                where m.owner = todos.owner and m.who = current_setting('request.jwt.claims', true)::jsonb ->> 'sub'
                    and m.who = current_setting('request.jwt.claim.sub', true)))",
        )
        .await?;
    assert_eq!(
        live.refused(json!({"table": "todos"})).await,
        "policies on public.todos read public.members, which is not in the publication supabase_realtime: alter publication supabase_realtime add table public.members"
    );
    live.look_as("service_role", json!({"table": "todos"}), BOUNDS).await?;
    live.db.sql("alter publication supabase_realtime add table public.members").await?;
    let source = live.look(json!({"table": "todos"})).await?;
    assert_eq!(source.reads.len(), 2);
    for (sub, ids) in [("u1", "13"), ("u2", "123"), ("u3", "")] {
        let party =
            Party { role: "anon".into(), claims: json!({"role": "anon", "sub": sub}).to_string().into() };
        let (_, rows) = live.read_as(&source, &party, LIMITS).await?;
        assert_eq!(rows.iter().map(|row| texts(row)[..1].to_owned()).collect::<String>(), ids, "{sub}");
    }
    let service = live.look_as("service_role", json!({"table": "todos"}), BOUNDS).await?;
    let party = Party { role: "service_role".into(), claims: "{}".into() };
    assert_eq!(live.read_as(&service, &party, LIMITS).await?.1.len(), 3);
    for (role, code) in
        [("none", "22023 invalid_parameter_value"), ("nobody_at_all", "22023 invalid_parameter_value")]
    {
        let party = Party { role: role.into(), claims: "{}".into() };
        let error = live.read_as(&source, &party, LIMITS).await.unwrap_err();
        assert_eq!(error.to_string(), code);
    }
    Ok(())
}

#[tokio::test]
async fn bounds_end_a_run_and_leave_a_clean_connection() -> Result<()> {
    let live = todos().await?;
    live.db
        .sql(
            "insert into public.todos select n, 'x', repeat('y', 300) from generate_series(10, 4000) n;
             create view public.slow as select id from public.todos where pg_sleep(0.05) is not null;
             create view public.broken as select id, 1 / (id - 1) as n from public.todos;
             grant select on public.slow, public.broken to anon",
        )
        .await?;
    let todos = live.look(json!({"table": "todos"})).await?;
    assert_eq!(live.read_as(&todos, &anon(), LIMITS).await?.0.rows, 3994);
    assert_eq!(live.read_as(&todos, &anon(), Limits { rows: 3994, ..LIMITS }).await?.1.len(), 3994);
    for rows in [0, 2, 128, 1000, 3993] {
        let error = live.read_as(&todos, &anon(), Limits { rows, ..LIMITS }).await.unwrap_err();
        assert!(matches!(error, ReadError::TooMany(max) if max == rows), "{rows}: {error}");
    }
    let slow = live.look(json!({"table": "slow"})).await?;
    // Each portion is quick enough, all together are not.
    let time = Duration::from_secs(2);
    let error = live.read_as(&slow, &anon(), Limits { time, ..LIMITS }).await.unwrap_err();
    assert!(matches!(error, ReadError::Slow), "{error}");
    let broken = live.look(json!({"table": "broken"})).await?;
    let error = live.read_as(&broken, &anon(), LIMITS).await.unwrap_err();
    assert_eq!(error.to_string(), "22012 division_by_zero");
    live.db.sql("revoke select on public.todos from anon; revoke select (id, owner, title, done) on public.todos from anon").await?;
    let error = live.read_as(&todos, &anon(), LIMITS).await.unwrap_err();
    assert_eq!(error.to_string(), "42501 insufficient_privilege");
    let client = pool::get(&live.pool).await?;
    let row = client
        .query_one("select current_user = session_user, txid_current_if_assigned() is null", &[])
        .await?;
    assert_eq!((row.get(0), row.get(1)), (true, true));
    Ok(())
}

/// A commit that is in the log is not always visible to others yet.
#[tokio::test]
async fn a_run_waits_for_a_snapshot_that_has_all_that_passed() -> Result<()> {
    let live = todos().await?;
    let other = live.db.connect().await?;
    other.batch_execute("begin; update public.todos set title = 'new' where id = 1").await?;
    let xid: i64 = other.query_one("select txid_current()", &[]).await?.get(0);
    let source = live.look(json!({"table": "todos"})).await?;
    let mut passed = Passed::default();
    passed.push(u32::try_from(xid)?);
    let party = anon();
    let reading = live.read_behind(&source, &party, &passed, LIMITS);
    let mut reading = std::pin::pin!(reading);
    let early = tokio::time::timeout(Duration::from_millis(300), &mut reading).await;
    assert!(early.is_err(), "the transaction is open");
    other.batch_execute("commit").await?;
    let (read, rows) = reading.await?;
    assert!(read.snapshot.has(u32::try_from(xid)?));
    assert_eq!(texts(&rows[0]), "1|ann|new|f");
    Ok(())
}

#[tokio::test]
async fn what_a_source_was_made_of_is_noticed_when_it_changes() -> Result<()> {
    let live = todos().await?;
    live.db
        .sql("create view public.v as select id, title from public.todos; grant select on public.v to anon")
        .await?;
    let source = live.look(json!({"table": "v"})).await?;
    let client = pool::get(&live.pool).await?;
    let print = async || {
        let mut prints = prints(&client, "supabase_realtime", &source.relations).await?;
        prints.sort_unstable();
        Ok::<_, anyhow::Error>(prints)
    };
    let mut before = print().await?;
    assert_eq!(before.len(), 2);
    for nothing in ["analyze public.todos", "insert into public.todos values (9)", "vacuum public.todos"] {
        live.db.sql(nothing).await?;
    }
    assert_eq!(print().await?, before, "nothing of the kind");
    for change in [
        "create or replace view public.v as select id, title from public.todos where not done",
        "revoke select on public.v from anon",
        "alter table public.todos enable row level security",
        "create policy x on public.todos using (true)",
        "alter policy x on public.todos using (done)",
        "alter table public.todos rename column title to name",
        "alter view public.v set (security_barrier = true)",
        "alter publication supabase_realtime drop table public.todos",
        "alter schema public rename to other",
        "drop view other.v",
    ] {
        live.db.sql(change).await?;
        let after = print().await?;
        assert_ne!(after, before, "{change}");
        before = after;
    }
    Ok(())
}
