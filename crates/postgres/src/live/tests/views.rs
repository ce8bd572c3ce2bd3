//! Views: what they read, what tells their rows apart, and whose rights count.

use anyhow::Result;
use realtime_changes::Party;
use serde_json::{Value as Json, json};

use super::{
    super::{Bounds, Key, Kind, Source},
    support::{BOUNDS, LIMITS, Live, anon, texts},
};

/// Customers, their orders, and what was ordered: all published. Views of them.
async fn shop() -> Result<Live> {
    let live = Live::new().await?;
    live.db
        .sql(
            "create table public.customers (id int primary key, name text);
             create table public.orders (id int primary key, customer int references public.customers, note text);
             create table public.items (order_id int references public.orders, n int, what text, primary key (order_id, n));
             create table public.log (what text);
             insert into public.customers values (1, 'ann'), (2, 'bob');
             insert into public.orders values (10, 1, 'x'), (11, 1, null), (12, 2, 'y');
             insert into public.items values (10, 1, 'tea'), (10, 2, 'milk'), (12, 1, 'tea');
             alter publication supabase_realtime add table public.customers, public.orders, public.items;
             create view public.joined as
                select o.note, c.name, o.id as order_number, c.id as customer_number
                from public.orders o join public.customers c on c.id = o.customer;
             create view public.names as select o.id, c.name from public.orders o join public.customers c on c.id = o.customer;
             create view public.lines as select i.n as line, i.order_id as \"of order\", i.what from public.items i where i.n > 0;
             create view public.totals as select customer, count(*) as n from public.orders group by customer;
             create view public.notes as select note from public.orders;
             create view public.both as select id, 'c' as what from public.customers union all select id, 'o' from public.orders;
             create view public.nested as select l.\"of order\" as o, l.line as l, upper(l.what) as what from public.lines l;
             create view public.with_rows as select o.id, g from public.orders o, generate_series(1, 2) g;
             create view public.sets as select o.id, generate_series(1, 2) as g from public.orders o;
             create view public.in_query as select * from (select id, note from public.orders offset 0) o;
             create view public.exists_in as select c.* from public.customers c
                where exists (select from public.orders o where o.customer = c.id and o.note <> 'z');
             create view public.hidden_key as select o.id as o, i.what from public.orders o join public.items i on i.order_id = o.id;
             create view public.pairs as select a.id as a, b.id as b from public.customers a, public.customers b;
             create view public.left_out as select c.id, o.id as o from public.customers c
                left join public.orders o on o.customer = c.id and o.note = 'y';
             create view public.of_log as select c.name, l.what from public.customers c cross join public.log l;
             grant select on all tables in schema public to anon",
        )
        .await?;
    Ok(live)
}

async fn oids(live: &Live, names: &[&str]) -> Result<Vec<u32>> {
    let sql = "select ('public.' || n)::regclass::oid from unnest($1::text[]) n order by 1";
    Ok(live.db.client().query(sql, &[&names]).await?.iter().map(|row| row.get(0)).collect())
}

fn reads(source: &Source) -> Vec<u32> {
    let mut reads: Vec<u32> = source.reads.iter().copied().collect();
    reads.sort_unstable();
    reads
}

#[tokio::test]
async fn what_a_view_reads_is_found_and_what_tells_its_rows_apart() -> Result<()> {
    let live = shop().await?;
    let columns = |places: &[usize]| Key::Columns(places.into());
    for (view, key, tables) in [
        ("joined", columns(&[2, 3]), &["customers", "orders"][..]),
        ("names", columns(&[0]), &["customers", "orders"]),
        ("lines", columns(&[0, 1]), &["items"]),
        ("nested", columns(&[0, 1]), &["items"]),
        ("totals", Key::WholeRow, &["orders"]),
        ("notes", Key::WholeRow, &["orders"]),
        ("both", Key::WholeRow, &["customers", "orders"]),
        ("with_rows", Key::WholeRow, &["orders"]),
        ("sets", Key::WholeRow, &["orders"]),
        ("in_query", Key::WholeRow, &["orders"]),
        ("exists_in", columns(&[0]), &["customers", "orders"]),
        ("hidden_key", columns(&[0]), &["items", "orders"]),
        ("pairs", columns(&[0, 1]), &["customers"]),
        ("left_out", columns(&[0, 1]), &["customers", "orders"]),
    ] {
        let source = live.look(json!({"table": view})).await?;
        assert_eq!(source.kind, Kind::View);
        assert_eq!(source.key, key, "{view}");
        assert_eq!(reads(&source), oids(&live, tables).await?, "{view}");
        assert!(!source.has_own_key && source.doubts.is_empty() && source.unpublished.is_empty());
    }
    Ok(())
}

#[tokio::test]
async fn rows_of_views() -> Result<()> {
    let live = shop().await?;
    for (parameters, expected) in [
        (json!({"table": "joined"}), &["x|ann|10|1", "~|ann|11|1", "y|bob|12|2"][..]),
        (json!({"table": "joined", "filter": "name=eq.ann,note=is.null"}), &["~|ann|11|1"]),
        (json!({"table": "totals", "order": "n.desc"}), &["1|2", "2|1"]),
        (json!({"table": "totals", "key": ["customer"], "order": "customer.desc", "limit": 1}), &["2|1"]),
        (json!({"table": "nested"}), &["10|1|TEA", "10|2|MILK", "12|1|TEA"]),
        (json!({"table": "nested", "select": ["what"], "filter": "o=eq.10"}), &["10|1|TEA", "10|2|MILK"]),
        (json!({"table": "notes", "order": "note.nullsfirst"}), &["~", "x", "y"]),
        (json!({"table": "both", "limit": 2}), &["1|c", "2|c"]),
    ] {
        assert_eq!(live.texts(parameters.clone()).await?, expected, "{parameters}");
    }
    let source = live.look(json!({"table": "totals", "key": ["customer"]})).await?;
    assert_eq!(source.key, Key::Columns([0].into()));
    assert_eq!(source.table.primary_key, [0], "payloads show it");
    assert!(source.relation.columns[0].identity && !source.relation.columns[1].identity);
    Ok(())
}

#[tokio::test]
async fn what_is_not_published_is_named_however_deep_it_lies() -> Result<()> {
    let live = shop().await?;
    let text = |of: &str| {
        format!(
            "{of} reads public.log, which is not in the publication supabase_realtime: alter publication supabase_realtime add table public.log"
        )
    };
    assert_eq!(live.refused(json!({"table": "of_log"})).await, text("public.of_log"));
    live.db
        .sql(
            "create view public.deep as select name from public.of_log where what in (select what from public.items);
             create materialized view public.kept as select * from public.log;
             create view public.of_kept as select c.* from public.customers c join public.kept k on k.what = c.name;
             create unique index on public.kept (what);
             create view public.catalog as select relname from pg_class;
             grant select on public.deep, public.of_kept, public.catalog to anon",
        )
        .await?;
    assert_eq!(live.refused(json!({"table": "deep"})).await, text("public.deep"));
    assert_eq!(
        live.refused(json!({"table": "of_kept"})).await,
        "public.kept is a materialized view: PostgreSQL does not tell its changes. Set LIVE_RECHECK_MS to read it again by the clock"
    );
    assert_eq!(
        live.refused(json!({"table": "catalog"})).await,
        "pg_catalog.pg_class is a table of PostgreSQL's own catalog: PostgreSQL does not tell its changes. Set LIVE_RECHECK_MS to read it again by the clock"
    );
    let by_clock = Bounds { by_clock: true, ..BOUNDS };
    let source = live.look_as("anon", json!({"table": "of_kept"}), by_clock).await?;
    assert_eq!((&*source.unpublished, source.needs_clock()), (&["public.kept".to_owned()][..], true));
    live.db.sql("grant select on public.kept to anon").await?;
    let kept = live.look_as("anon", json!({"table": "kept"}), by_clock).await?;
    assert_eq!((kept.kind, kept.key), (Kind::Materialized, Key::Columns([0].into())));
    live.db.sql("alter publication supabase_realtime add table public.log").await?;
    assert_eq!(live.texts(json!({"table": "deep"})).await?, [""; 0]);
    Ok(())
}

/// A view reads with its owner's rights, or with those of who asks.
#[tokio::test]
async fn policies_count_for_whose_rights_a_view_reads_with() -> Result<()> {
    let live = shop().await?;
    let owner = format!("owner_{}", live.db.name());
    live.db
        .sql(&format!(
            "create role {owner} nologin; grant create, usage on schema public to {owner};
             create table public.members (customer int, who text);
             insert into public.members values (1, 'u1'), (2, 'u2');
             alter table public.orders enable row level security;
             create policy own on public.orders for select to anon using (customer in
                (select m.customer from public.members m where m.who = current_setting('request.jwt.claim.sub', true)));
             create policy other on public.orders for select to {owner} using (id < 12);
             create view public.by_owner as select id from public.orders;
             grant select on public.orders to {owner}; alter view public.by_owner owner to {owner};
             grant select on public.by_owner, public.members to anon"
        ))
        .await?;
    let party = Party { role: "anon".into(), claims: r#"{"role":"anon","sub":"u2"}"#.into() };
    let ids = async |view: &str| -> Result<Vec<String>> {
        let source = live.look(json!({"table": view})).await?;
        let rows = live.read_as(&source, &party, LIMITS).await?.1;
        Ok(rows.iter().map(texts).collect())
    };
    // The owner's policies count, and those do not read other tables.
    assert_eq!(ids("by_owner").await?, ["10", "11"]);
    let version: i32 =
        live.db.client().query_one("select current_setting('server_version_num')::int4", &[]).await?.get(0);
    if version < 150_000 {
        return Ok(());
    }
    live.db.sql("alter view public.by_owner set (security_invoker = on)").await?;
    assert_eq!(
        live.refused(json!({"table": "by_owner"})).await,
        "policies on public.by_owner read public.members, which is not in the publication supabase_realtime: alter publication supabase_realtime add table public.members"
    );
    live.db.sql("alter publication supabase_realtime add table public.members").await?;
    let source = live.look(json!({"table": "by_owner"})).await?;
    assert_eq!(reads(&source), oids(&live, &["orders", "members"]).await?);
    assert_eq!(ids("by_owner").await?, ["12"]);
    Ok(())
}

#[tokio::test]
async fn functions_are_looked_into() -> Result<()> {
    let live = shop().await?;
    live.db
        .sql(
            "create function public.parsed(int) returns bigint stable language sql
                begin atomic select count(*) from public.items where order_id = $1; end;
             create function public.harmless() returns text stable language sql as $$ select current_setting('x', true) $$;
             create function public.of_text(int) returns bigint stable language plpgsql as
                $$ begin return (select count(*) from public.items where order_id = $1); end $$;
             create function public.nested(int) returns bigint stable language sql as $$ select public.of_text($1) $$;
             create function public.built(int) returns bigint stable language plpgsql as
                $$ declare n bigint; begin execute 'select 1 from ' || 'public.items' into n;
                    return n + (select count(*) from public.customers); end $$;
             create function public.of_log() returns bigint stable language sql as $$ select count(*) from public.log $$;
             create function public.of_catalog() returns bigint stable language sql as $$ select count(*) from pg_class $$;
             create function public.of_view() returns bigint stable language sql as $$ select count(*) from public.names $$;
             create schema other; create table other.items (id int primary key);
             create function public.bare() returns bigint stable language sql as $$ select count(*) from items $$;
             create function public.on_path() returns bigint stable language sql set search_path = other as
                $$ select count(*) from items $$;
             create view public.counts as select id, public.parsed(id) as n from public.orders;
             create view public.harmless_view as select id, public.harmless() as n from public.orders;
             create view public.texts as select id, public.of_text(id) as n from public.orders;
             create view public.nesteds as select id, public.nested(id) as n from public.orders;
             create view public.builts as select id, public.built(id) as n from public.orders;
             create view public.logs as select id, public.of_log() as n from public.orders;
             create view public.catalogs as select id, public.of_catalog() as n from public.orders;
             create view public.of_views as select public.of_view() as n;
             create view public.bares as select public.bare() as n;
             create view public.paths as select public.on_path() as n;
             grant select on all tables in schema public to anon",
        )
        .await?;
    for (view, tables) in [
        ("counts", &["orders", "items"][..]),
        ("harmless_view", &["orders"]),
        ("texts", &["orders", "items"]),
        ("nesteds", &["orders", "items"]),
        ("of_views", &["orders", "customers"]),
        ("bares", &["items"]),
    ] {
        let source = live.look(json!({"table": view})).await?;
        assert_eq!((reads(&source), &*source.doubts), (oids(&live, tables).await?, &[][..]), "{view}");
    }
    assert_eq!(live.texts(json!({"table": "counts"})).await?, ["10|2", "11|0", "12|1"]);
    for (view, tables, doubt) in [
        ("builts", &["orders", "customers"][..], "public.built() is not understood as a whole"),
        (
            "catalogs",
            &["orders"],
            "a function reads pg_catalog.pg_class, a table of PostgreSQL's own catalog",
        ),
    ] {
        let source = live.look(json!({"table": view})).await?;
        let own = |oid: &u32| *oid >= 16_384;
        let reads: Vec<u32> = reads(&source).into_iter().filter(own).collect();
        assert_eq!(reads, oids(&live, tables).await?, "{view}");
        assert!(matches!(&*source.doubts, [one] if one.contains(doubt)), "{view}: {:?}", source.doubts);
    }
    for (view, table) in [("logs", "public.log"), ("paths", "other.items")] {
        assert_eq!(
            live.refused(json!({"table": view})).await,
            format!(
                "a function that public.{view} calls reads {table}, which is not in the publication supabase_realtime: alter publication supabase_realtime add table {table}"
            )
        );
    }
    Ok(())
}

/// Of functions of one name any may be meant: what only these read is read along, and nobody is refused for it.
#[tokio::test]
async fn functions_of_one_name_are_all_looked_into() -> Result<()> {
    let live = shop().await?;
    live.db
        .sql(
            "create function public.f(int) returns bigint stable language sql as $$ select count(*) from public.items $$;
             create function public.f(text) returns bigint stable language sql as $$ select count(*) from public.log $$;
             create function public.g(int) returns bigint stable language sql as $$ select public.f($1) $$;
             create view public.v as select id, public.g(id) as n from public.orders;
             create view public.w as select id, public.f(id) as n from public.orders;
             grant select on public.v, public.w to anon",
        )
        .await?;
    let v = live.look(json!({"table": "v"})).await?;
    assert_eq!(reads(&v), oids(&live, &["orders", "items", "log"]).await?);
    assert_eq!(*v.doubts, ["a function may read public.log, which is not published"]);
    let w = live.look(json!({"table": "w"})).await?;
    assert_eq!((reads(&w), w.doubts.len()), (oids(&live, &["orders", "items"]).await?, 0));
    Ok(())
}

/// Views name the functions of casts; of casts in texts nobody knows, so what any of them reads counts there.
#[tokio::test]
async fn functions_of_casts_are_looked_into() -> Result<()> {
    let live = shop().await?;
    live.db
        .sql(
            "create type public.tag as (t text);
             create function public.tag_of(int) returns public.tag stable language sql as
                $$ select row(count(*)::text)::public.tag from public.items $$;
             create cast (int as public.tag) with function public.tag_of(int);
             create function public.casting(int) returns text stable language sql as $$ select ($1::public.tag).t $$;
             create view public.v as select id, (id::public.tag).t from public.orders;
             create view public.w as select id, public.casting(id) as t from public.orders;
             grant select on public.v, public.w to anon",
        )
        .await?;
    for view in ["v", "w"] {
        let source = live.look(json!({"table": view})).await?;
        assert_eq!(
            (reads(&source), source.doubts.len()),
            (oids(&live, &["orders", "items"]).await?, 0),
            "{view}"
        );
    }
    Ok(())
}

/// However functions call each other, it costs no more than there are.
#[tokio::test]
async fn functions_that_call_each_other_are_looked_into_to_a_bound() -> Result<()> {
    let live = shop().await?;
    let mut sql = "set check_function_bodies = off; create view public.v as select 1 as a;".to_owned();
    for n in 0..30 {
        let (next, back) = (n + 1, n / 2);
        sql.push_str(&format!(
            "create function public.f{n}() returns bigint stable language sql as $$ select public.f{next}() + public.f{back}() $$;"
        ));
    }
    sql.push_str(
        "create function public.f30() returns bigint stable language sql as $$ select count(*) from public.items $$;
         create function public.own() returns bigint stable language plpgsql as $$ begin return public.own(); end $$;
         create or replace view public.v as select 1 as a, public.f0() as b;
         create view public.w as select id, public.f28() + public.own() as n from public.orders;
         grant select on public.v, public.w to anon;",
    );
    let long = "-- it is long\n".repeat(6_000);
    sql.push_str(&format!(
        "create function public.long() returns bigint stable language sql as $${long} select count(*) from public.items $$;
         create view public.x as select public.long() as n; grant select on public.x to anon;"
    ));
    live.db.sql(&sql).await?;
    let x = live.look(json!({"table": "x"})).await?;
    assert!(matches!(&*x.doubts, [one] if one.starts_with("public.long() is too long")), "{:?}", x.doubts);
    let v = live.look(json!({"table": "v"})).await?;
    assert_eq!(*v.doubts, ["functions call each other too deeply"]);
    let w = live.look(json!({"table": "w"})).await?;
    assert!(reads(&w).contains(&oids(&live, &["items"]).await?[0]));
    Ok(())
}

/// Views that lead to each other many times over cost no more than there are views.
#[tokio::test]
async fn views_that_name_others_many_times_are_looked_at_once() -> Result<()> {
    let live = shop().await?;
    let mut sql = "create view public.v0 as select id from public.orders;".to_owned();
    for n in 0..24 {
        sql.push_str(&format!(
            "create view public.w{n} as select id from public.v{n};
             create view public.v{} as select a.id from public.v{n} a join public.w{n} b on a.id = b.id;",
            n + 1
        ));
    }
    live.db.sql(&format!("{sql} grant select on all tables in schema public to anon")).await?;
    let source = live.look(json!({"table": "v24"})).await?;
    assert_eq!((source.key, source.relations.len()), (Key::Columns([0].into()), 50));
    Ok(())
}

#[tokio::test]
async fn names_of_any_kind_are_read() -> Result<()> {
    let live = Live::new().await?;
    live.db
        .sql(
            "create schema \"S s\"; grant usage on schema \"S s\" to anon;
             create table \"S s\".\"T\"\"t\" (\"live_row\" int primary key, \"a.b\" text, \"c'd\\\" json, \"{:}\" int);
             insert into \"S s\".\"T\"\"t\" values (1, 'x', '{\"k\": \"it''s \\\\\"}', 5);
             create view \"S s\".\"v (\" as select \"live_row\" as \":resno\", \"{:}\" as \"} )\", \"a.b\" from \"S s\".\"T\"\"t\";
             grant select on all tables in schema \"S s\" to anon;
             alter publication supabase_realtime add table \"S s\".\"T\"\"t\"",
        )
        .await?;
    let table = |filter: &str| -> Json { json!({"schema": "S s", "table": "T\"t", "filter": filter}) };
    for filter in ["", "live_row=eq.1", "a.b=eq.x", "c'd\\->>k=eq.\"it's \\\\\"", "{:}=in.(5,6)"] {
        assert_eq!(live.texts(table(filter)).await?.len(), 1, "{filter}");
    }
    let view = live.look(json!({"schema": "S s", "table": "v ("})).await?;
    assert_eq!(view.key, Key::Columns([0].into()));
    assert_eq!(
        live.read_as(&view, &anon(), LIMITS).await?.1.iter().map(texts).collect::<Vec<_>>(),
        ["1|5|x"]
    );
    Ok(())
}
