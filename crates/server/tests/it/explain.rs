//! "Why do I get nothing?", asked for rows that do not arrive for one reason each.

use anyhow::{Result, ensure};
use realtime_testkit::{SECRET, Server, ServerOptions, TestDb, sign, unix_now};
use serde_json::{Value, json};
use tokio::process::Command;

use crate::BINARY;

/// A database of lists of several people, with a role of the server.
struct Lists {
    db: TestDb,
    role: String,
    env: Vec<(String, String)>,
}

impl Lists {
    async fn new() -> Result<Self> {
        let db = TestDb::new().await?;
        let role = format!("explain_{}", db.name());
        db.sql(&format!(
            "create role {role} login replication noinherit password 'p';
             grant anon, authenticated, service_role to {role};
             grant create on database {} to {role};
             create table public.todos (id int primary key, owner text, room int, title text);
             insert into public.todos values (1, 'me', 1, 'mine'), (2, 'you', 1, 'yours');
             alter table public.todos enable row level security;
             create policy own on public.todos for select to authenticated
                using (owner = (current_setting('request.jwt.claims', true)::jsonb ->> 'sub'));
             grant select on public.todos to authenticated, service_role;
             alter publication supabase_realtime add table public.todos",
            db.name()
        ))
        .await?;
        let mut env = db.env().await?;
        for (name, value) in &mut env {
            match name.as_str() {
                "DB_USER" => *value = role.clone(),
                "DB_PASSWORD" => "p".clone_into(value),
                _ => {}
            }
        }
        Ok(Self { db, role, env })
    }

    async fn ask(&self, token: &str, arguments: &[&str]) -> Result<(Option<i32>, Value)> {
        let output = Command::new(BINARY)
            .args(["explain", "--json", "--token", token])
            .args(arguments)
            .env_clear()
            .env("API_JWT_SECRET", SECRET)
            .envs(self.env.iter().map(|(name, value)| (name, value)))
            .output()
            .await?;
        let text = String::from_utf8(output.stdout)?;
        ensure!(!text.is_empty(), "{}", String::from_utf8_lossy(&output.stderr));
        Ok((output.status.code(), serde_json::from_str(&text)?))
    }
}

fn claims(sub: &str) -> Value {
    json!({"role": "authenticated", "sub": sub, "exp": unix_now() + 3600})
}

/// The first step that says no.
fn reason(told: &Value) -> (&str, &str) {
    let steps = told["steps"].as_array().map(Vec::as_slice).unwrap_or_default();
    let refused = steps.iter().find(|step| step["outcome"] == "no").unwrap_or(&Value::Null);
    (refused["step"].as_str().unwrap_or_default(), refused["text"].as_str().unwrap_or_default())
}

const MINE: &[&str] = &["--table", "todos", "--filter", "room=eq.1", "--key", "id=1"];

#[tokio::test]
async fn a_row_that_arrives_passes_each_step() -> Result<()> {
    let lists = Lists::new().await?;
    let (exit, told) = lists.ask(&sign(&claims("me")), MINE).await?;
    assert_eq!((exit, told["sent"].as_str()), (Some(0), Some("yes")), "{told:#}");
    let policy = told["steps"].as_array().into_iter().flatten().find(|step| step["step"] == "policy");
    let text = policy.map(|policy| policy["text"].to_string()).unwrap_or_default();
    assert!(text.contains("is true for the row") && text.contains("it is compiled"), "{told:#}");
    Ok(())
}

/// The token and the binding are to blame.
#[tokio::test]
async fn what_the_client_got_wrong_is_named() -> Result<()> {
    let lists = Lists::new().await?;
    let (me, you) = (sign(&claims("me")), sign(&claims("you")));
    let old = sign(&json!({"role": "authenticated", "sub": "me", "exp": unix_now() - 3600}));
    let forged = realtime_auth::sign_hs256("another secret", &claims("me").to_string());
    let nobody = sign(&json!({"role": "nobody", "sub": "me", "exp": unix_now() + 3600}));
    for (token, arguments, step, text) in [
        (&old, MINE, "token", "expired"),
        (&forged, MINE, "token", "refused"),
        (&nobody, MINE, "role", "no role nobody"),
        (&you, MINE, "policies", "No policy shows the row to this token"),
        (&me, &["--table", "Todos"][..], "published", "There is no table public.Todos"),
        (&me, &["--table", "todos", "--filter", "room=eq.x"], "filter", "The filter is refused"),
        (&me, &["--table", "todos", "--filter", "rom=eq.1"], "filter", "The filter is refused"),
        (
            &me,
            &["--table", "todos", "--filter", "room=eq.2", "--key", "id=1"],
            "filter",
            "room=eq.2 is false",
        ),
        (&me, &["--table", "todos", "--key", "id=99"], "row", "There is no such row"),
    ] {
        let (exit, told) = lists.ask(token, arguments).await?;
        let found = reason(&told);
        ensure!(exit == Some(1) && found.0 == step && found.1.contains(text), "{step} {text}: {told:#}");
    }
    Ok(())
}

/// The database is to blame: broken, asked about, mended.
#[tokio::test]
async fn what_the_database_lacks_is_named() -> Result<()> {
    let lists = Lists::new().await?;
    let me = sign(&claims("me"));
    for (fault, mended, step, text) in [
        (
            "alter publication supabase_realtime drop table public.todos",
            "alter publication supabase_realtime add table public.todos",
            "published",
            "is not published",
        ),
        (
            "alter publication supabase_realtime set (publish = '')",
            "alter publication supabase_realtime set (publish = 'insert, update, delete, truncate')",
            "published",
            "leaves out",
        ),
        (
            "revoke authenticated from ROLE",
            "grant authenticated to ROLE",
            "role",
            "may not take on role authenticated",
        ),
        (
            "revoke select on public.todos from authenticated",
            "grant select on public.todos to authenticated",
            "granted",
            "may not SELECT",
        ),
        (
            "revoke usage on schema public from authenticated, public",
            "grant usage on schema public to authenticated, public",
            "granted",
            "no USAGE on schema public",
        ),
        (
            "alter table public.todos drop constraint todos_pkey",
            "alter table public.todos add primary key (id)",
            "key",
            "no primary key",
        ),
        (
            "alter policy own on public.todos to anon",
            "alter policy own on public.todos to authenticated",
            "policies",
            "no policy shows role authenticated a row",
        ),
        (
            "create policy bad on public.todos for select to authenticated using (1 / (id - 1) > 0)",
            "drop policy bad on public.todos",
            "policies",
            "bad raises an error",
        ),
        (
            "create policy strict on public.todos as restrictive for select to authenticated using (room > 1)",
            "drop policy strict on public.todos",
            "policies",
            "restrictive policy strict hides the row",
        ),
    ] {
        lists.db.sql(&fault.replace("ROLE", &lists.role)).await?;
        let (exit, told) = lists.ask(&me, MINE).await?;
        let found = reason(&told);
        ensure!(exit == Some(1) && found.0 == step && found.1.contains(text), "{step} {text}: {told:#}");
        lists.db.sql(&mended.replace("ROLE", &lists.role)).await?;
        let (exit, told) = lists.ask(&me, MINE).await?;
        ensure!(exit == Some(0), "{step}: {told:#}");
    }
    Ok(())
}

async fn over_http(server: &Server, token: &str, body: &Value) -> Result<(u16, Value)> {
    let bearer = format!("Bearer {token}");
    let body = body.to_string();
    let answer = server
        .http("POST", "/realtime/v1/api/explain", &[("authorization", &bearer)], body.as_bytes())
        .await?;
    Ok((answer.status, serde_json::from_str(&answer.body).unwrap_or_default()))
}

/// Whether a row exists that a token may not see is not to be found out.
#[tokio::test]
async fn clients_learn_no_more_than_their_token_may_know() -> Result<()> {
    let lists = Lists::new().await?;
    let options = ServerOptions::default().env("DB_USER", &lists.role).env("DB_PASSWORD", "p");
    let server = Server::start(BINARY, &lists.db, options).await?;
    let me = sign(&claims("me"));
    let asked = |table: &str, id: i32| json!({"table": table, "filter": "room=eq.1", "key": {"id": id}});
    let (status, mine) = over_http(&server, &me, &asked("todos", 1)).await?;
    assert_eq!((status, mine["sent"].as_str()), (200, Some("yes")), "{mine:#}");
    let (_, hidden) = over_http(&server, &me, &asked("todos", 2)).await?;
    let (_, missing) = over_http(&server, &me, &asked("todos", 99)).await?;
    let steps = |told: &Value| {
        told["steps"].as_array().map(|steps| steps.iter().skip(1).cloned().collect::<Vec<_>>())
    };
    assert_eq!(steps(&hidden), steps(&missing), "{hidden:#}");
    assert_eq!(reason(&hidden).0, "row");
    lists.db.sql("create table public.secrets (id int primary key)").await?;
    let (_, unpublished) = over_http(&server, &me, &asked("secrets", 1)).await?;
    let (_, absent) = over_http(&server, &me, &asked("absents", 1)).await?;
    let text = |told: &Value| told["answer"].to_string().replace("secrets", "absents");
    assert_eq!(text(&unpublished), text(&absent));
    for told in [&mine, &hidden, &unpublished] {
        let told = told.to_string();
        assert!(!told.contains("jwt.claims") && !told.contains(&lists.role), "{told}");
    }
    lists
        .db
        .sql(
            "create table public.half (secret_key int primary key, shown int, secret text);
             grant select (shown) on public.half to authenticated;
             alter publication supabase_realtime add table public.half",
        )
        .await?;
    let of_key = |column: &str| json!({"table": "half", "key": {column: 1}});
    let (_, half) = over_http(&server, &me, &of_key("secret_key")).await?;
    assert!(half.to_string().contains("Of a deleted row only other columns"), "{half:#}");
    let (_, nothing) = over_http(&server, &me, &of_key("absent_key")).await?;
    assert_eq!(half.to_string(), nothing.to_string().replace("absent_key", "secret_key"));
    assert!(!nothing.to_string().contains("secret"), "{nothing:#}");
    let (status, _) = over_http(&server, "nonsense", &asked("todos", 1)).await?;
    assert_eq!(status, 401);
    let (status, told) = over_http(&server, &me, &json!({"table": "*"})).await?;
    assert_eq!(status, 422, "{told}");
    Ok(())
}

/// Each question costs the database something.
#[tokio::test]
async fn an_address_may_not_ask_too_often() -> Result<()> {
    let lists = Lists::new().await?;
    let server = Server::start(BINARY, &lists.db, ServerOptions::default()).await?;
    let me = sign(&claims("me"));
    for _ in 0..50 {
        if over_http(&server, &me, &json!({"table": "todos"})).await?.0 == 429 {
            return Ok(());
        }
    }
    anyhow::bail!("nothing was refused")
}
