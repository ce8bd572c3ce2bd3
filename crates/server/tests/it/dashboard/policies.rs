//! Which policies are compiled, which are asked, and why: the page, and the same over the admin API.

use anyhow::Result;
use realtime_testkit::{SECRET, Server, TestDb, Version, sign_with};
use serde_json::{Value, json};

use super::{Operator, options, text};
use crate::BINARY;

/// Tables whose policies are of all kinds. The tables `members` and `plain` are published, `unpublished` is not.
pub(crate) const SCHEMA: &str = "
    create function me() returns text language sql stable as
        $$ select current_setting('request.jwt.claims', true)::jsonb ->> 'me' $$;
    create table members (room int, who text, primary key (room, who));
    create table unpublished (room int, who text);
    create table plain (id int primary key);
    create table says (id int primary key, room int, owner text, body text);
    create table notes (id int primary key, owner text);
    create function is_member(r int) returns bool language plpgsql stable security definer as
        $$ declare n int; begin execute format('select count(*) from public.members m where m.room = %s and m.who = public.me()', r) into n; return n > 0; end $$;
    alter table says enable row level security;
    alter table notes enable row level security;
    create policy of_members on says to authenticated using (room in (select m.room from members m where m.who = me()));
    create policy of_function on says to authenticated using (is_member(room));
    create policy of_list on says to authenticated using (room in (select u.room from unpublished u where u.who = me()));
    create policy of_owner on notes using (owner = me());
    create policy of_staff on notes as restrictive to anon using (owner || 'x' = 'yx');
    create policy writes on notes for insert with check (true);
    alter publication supabase_realtime add table members, plain, says, notes;
    grant select on all tables in schema public to anon, authenticated, service_role;";

/// Each policy, who decides it, and what would help.
#[tokio::test]
async fn policies_are_explained() -> Result<()> {
    let db = TestDb::with_fixture_a().await?;
    db.sql(SCHEMA).await?;
    let server = Server::start(BINARY, &db, options().env("POLICY_PUBLICATION", "off")).await?;
    let mut socket = server.socket(Version::V2, "authenticated").await?;
    socket.watch("realtime:any", json!([{"schema": "public", "table": "says"}])).await?;
    let mut ann = Operator::new(&server);
    let tenant = text(&ann.get("/tenants/realtime-dev").await?.body);
    assert!(tenant.contains("Policies of published tables"), "{tenant}");
    let answer = ann.get("/tenants/realtime-dev/policies").await?;
    assert_eq!(answer.status, 200);
    let page = text(&answer.body);
    for part in [
        "public.members Channels that watch it here nobody Row-level security is off",
        "public.says Channels that watch it here authenticated: 1",
        "of_members compiled",
        "Reads public.members (in the stream).",
        "of_function asked about each row",
        "is_member() is plpgsql with statements that are not read, such as SQL that it puts together: write the membership as a subquery",
        "of_list asked about each row",
        "Reads public.unpublished (not in the stream).",
        "alter publication supabase_realtime add table public.unpublished, and it will be compiled",
        "anon No policy for SELECT: no row is seen.",
        "of_staff restrictive asked about each row",
        "of_owner compiled",
    ] {
        assert!(page.contains(part), "{part}: {page}");
    }
    assert!(!page.contains("writes"), "it decides who may write");
    assert_eq!(ann.get("/tenants/nobody/policies").await?.status, 404);

    let bearer = format!("Bearer {}", sign_with(SECRET, &json!({})));
    let path = "/api/tenants/realtime-dev/policies";
    let answer = server.http("GET", path, &[("Authorization", &bearer)], b"").await?;
    assert_eq!(answer.status, 200, "{}", answer.body);
    let report: Value = serde_json::from_str(&answer.body)?;
    let tables = report["data"]["tables"].as_array().unwrap();
    let says = tables.iter().find(|table| table["name"] == "says").unwrap();
    let of = |role: &str, name: &str| {
        let roles = says["roles"].as_array().unwrap();
        let of_role = roles.iter().find(|of| of["roles"].as_array().unwrap().contains(&json!(role))).unwrap();
        of_role["policies"].as_array().unwrap().iter().find(|policy| policy["name"] == name).cloned()
    };
    assert_eq!(says["watchers"], json!({"authenticated": 1}));
    assert_eq!(of("authenticated", "of_members").unwrap()["decided"], "compiled");
    assert_eq!(
        of("authenticated", "of_members").unwrap()["reads"],
        json!([{"name": "public.members", "in_stream": true}])
    );
    assert_eq!(of("authenticated", "of_function").unwrap()["decided"], "asked");
    assert_eq!(of("anon", "of_members"), None);
    let refused = server.http("GET", path, &[], b"").await?;
    assert_eq!(refused.status, 403);
    let unknown =
        server.http("GET", "/api/tenants/nobody/policies", &[("Authorization", &bearer)], b"").await?;
    assert_eq!(unknown.status, 404);

    // What helps does help.
    db.sql("alter publication supabase_realtime add table unpublished; alter table unpublished replica identity full").await?;
    let page = text(&ann.get("/tenants/realtime-dev/policies").await?.body);
    assert!(page.contains("of_list compiled"), "{page}");

    // What cannot be seen is named.
    for (sql, part) in [
        (
            "create function at_noon(r int) returns bool language sql stable set timezone = 'UTC' as 'select r = extract(hour from now())';
             create policy of_hour on says to authenticated using (at_noon(room))",
            "at_noon() has a setting of its own (SET in its definition), and what that changes is not known: leave it out",
        ),
        (
            "create function keeps() returns text language plpgsql as
                $$ begin perform set_config('app.me', public.me(), true); return public.me(); end $$;
             create policy of_keeper on notes using (owner = keeps())",
            "public.keeps() calls set_config, and while a policy names it all policies are asked",
        ),
        (
            "drop policy of_keeper on notes; create type word as enum ('a');
             create function spell(word) returns text language sql immutable as 'select $1::text || 1';
             create cast (word as text) with function spell(word)",
            "whose function public.spell() is written in SQL or PL/pgSQL, all policies are asked",
        ),
    ] {
        db.sql(sql).await?;
        let page = text(&ann.get("/tenants/realtime-dev/policies").await?.body);
        assert!(page.contains(part), "{part}: {page}");
        assert_eq!(page.contains("of_owner compiled"), part.starts_with("at_noon"), "{page}");
    }
    Ok(())
}
