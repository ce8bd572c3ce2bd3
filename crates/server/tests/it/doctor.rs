//! `realtime doctor` on databases that are broken in one way each: it names the fault, the command that it tells mends it,
//! and then it says that all is right.

mod elsewhere;

use std::process::Stdio;

use anyhow::{Context as _, Result, ensure};
use realtime_localpg::{Cluster, ClusterOptions};
use realtime_testkit::TestDb;
use serde_json::Value;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpListener,
    process::Command,
};

use crate::BINARY;

/// A secret that is neither short nor known.
const LONG: &str = "a-secret-of-the-tests-of-the-doctor-that-is-long";

/// What a run ended with, and its report.
async fn doctor(env: &[(String, String)], arguments: &[&str]) -> Result<(Option<i32>, Value, String)> {
    let output = Command::new(BINARY)
        .arg("doctor")
        .args(arguments)
        .env_clear()
        .env("API_JWT_SECRET", LONG)
        .envs(env.iter().map(|(name, value)| (name.as_str(), value.as_str())))
        .stdin(Stdio::null())
        .output()
        .await?;
    let text = String::from_utf8(output.stdout)?;
    ensure!(output.stderr.is_empty(), "{}", String::from_utf8_lossy(&output.stderr));
    let json = serde_json::from_str(&text).unwrap_or(Value::Null);
    Ok((output.status.code(), json, text))
}

/// The findings that are more than notes, by code.
fn codes(report: &Value) -> Vec<String> {
    findings(report).map(|finding| finding["code"].as_str().unwrap_or_default().to_owned()).collect()
}

fn findings(report: &Value) -> impl Iterator<Item = &Value> {
    let parts = report["parts"].as_array().map(Vec::as_slice).unwrap_or_default();
    let all =
        parts.iter().flat_map(|part| part["findings"].as_array().map(Vec::as_slice).unwrap_or_default());
    all.filter(|finding| finding["severity"] != "note")
}

/// A database in which nothing is wrong, and a role of the server with the rights of `docker/init/role.psql`.
struct Patient {
    db: TestDb,
    role: String,
    env: Vec<(String, String)>,
}

impl Patient {
    async fn new() -> Result<Self> {
        let db = TestDb::new().await?;
        let role = format!("doctor_{}", db.name());
        db.sql(&format!(
            "create role {role} login replication noinherit password 'pass of {role}';
             grant anon, authenticated, service_role to {role};
             grant create on database {} to {role};
             create table public.todos (id int primary key, owner text, title text);
             alter table public.todos enable row level security;
             alter table public.todos replica identity full;
             create policy own on public.todos for select to authenticated
                using (owner = (current_setting('request.jwt.claims', true)::jsonb ->> 'sub'));
             grant select on public.todos to authenticated;
             alter publication supabase_realtime add table public.todos",
            db.name()
        ))
        .await?;
        let mut env = db.env().await?;
        for (name, value) in &mut env {
            match name.as_str() {
                "DB_USER" => *value = role.clone(),
                "DB_PASSWORD" => *value = format!("pass of {role}"),
                _ => {}
            }
        }
        // Else the server would mend its schema by itself, and a note would be enough.
        env.push(("PREPARE_DATABASES".to_owned(), "false".to_owned()));
        let patient = Self { db, role, env };
        patient.migrate().await?;
        Ok(patient)
    }

    /// Whether publications have conditions and lists of columns: from PostgreSQL 15 on.
    async fn publishes_parts(&self) -> Result<bool> {
        let sql = "select current_setting('server_version_num')::int4 >= 150000";
        Ok(self.db.client().query_one(sql, &[]).await?.try_get(0)?)
    }

    async fn migrate(&self) -> Result<()> {
        let output = Command::new(BINARY)
            .arg("migrate")
            .env_clear()
            .envs(self.env.iter().map(|(name, value)| (name, value)))
            .output()
            .await?;
        ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
        Ok(())
    }

    /// Breaks the database, has the doctor name the fault, does what it says, and looks again.
    async fn breaks(&self, code: &str, fault: &str) -> Result<()> {
        self.db.sql(&fault.replace("ROLE", &self.role).replace("DATABASE", self.db.name())).await?;
        let (exit, report, text) = doctor(&self.env, &["--json", "--strict"]).await?;
        ensure!(exit == Some(1) && codes(&report) == [code], "{code}: {exit:?} {text}");
        let finding = findings(&report).next().context("no finding")?;
        let steps = finding["mend"].as_array().context("no steps")?;
        for step in steps {
            let text = step["text"].as_str().context("no text")?;
            match step["kind"].as_str() {
                Some("sql") => self.db.sql(text).await.with_context(|| format!("{code}: {text}"))?,
                Some("shell") if text == "realtime migrate" => self.migrate().await?,
                Some("do") => {}
                _ => anyhow::bail!("{code}: nobody can do {step}"),
            }
        }
        let (exit, _, text) = doctor(&self.env, &["--json", "--strict"]).await?;
        ensure!(exit == Some(0), "{code} is not mended: {text}");
        Ok(())
    }
}

#[tokio::test]
async fn each_fault_is_named_and_the_command_mends_it() -> Result<()> {
    let patient = Patient::new().await?;
    let (exit, _, text) = doctor(&patient.env, &["--json", "--strict"]).await?;
    ensure!(exit == Some(0), "{text}");
    for (code, fault) in [
        ("PublicationMissing", "drop publication supabase_realtime"),
        ("PublicationEmpty", "alter publication supabase_realtime drop table public.todos"),
        ("PublicationActions", "alter publication supabase_realtime set (publish = 'insert')"),
        ("NoReplication", "alter role ROLE noreplication"),
        ("NoMember", "revoke authenticated from ROLE"),
        ("NoKey", "alter table public.todos drop constraint todos_pkey"),
        ("IdentityNothing", "alter table public.todos replica identity nothing"),
        ("NoPolicy", "drop policy own on public.todos"),
        ("NoGrant", "revoke select on public.todos from authenticated"),
        (
            "NoUsage",
            "create schema shop; create table shop.orders (id int primary key);
             grant select on shop.orders to authenticated;
             alter publication supabase_realtime add table shop.orders",
        ),
        (
            "RowFilterMayRaise",
            "alter publication supabase_realtime drop table public.todos;
             alter publication supabase_realtime add table public.todos where (10 / id > 1)",
        ),
        (
            "SlotInactive",
            "select pg_create_logical_replication_slot('supabase_realtime_replication_slot_DATABASE', 'pgoutput')",
        ),
        ("ConnectionsShort", "alter role ROLE connection limit 7"),
        ("SetUpIncomplete", "drop function realtime.topic()"),
        (
            "PublicationOwner",
            "alter publication supabase_realtime_messages_publication owner to current_user",
        ),
        ("DatabaseUnreachable", "alter role ROLE nologin"),
    ] {
        if code != "RowFilterMayRaise" || patient.publishes_parts().await? {
            patient.breaks(code, fault).await?;
        }
    }
    Ok(())
}

/// PostgreSQL itself refuses writes then; the server is not to blame, and would hear of nothing.
#[tokio::test]
async fn parts_without_the_key_are_named_before_writes_fail() -> Result<()> {
    let patient = Patient::new().await?;
    if !patient.publishes_parts().await? {
        return Ok(());
    }
    patient.db.sql("alter table public.todos replica identity default").await?;
    let fault = "alter publication supabase_realtime drop table public.todos;
        alter publication supabase_realtime add table public.todos (title) where (id > 0)";
    patient.breaks("ColumnListWithoutKey", fault).await?;
    let fault = "alter publication supabase_realtime drop table public.todos;
        alter publication supabase_realtime add table public.todos where (title <> 'x')";
    patient.breaks("RowFilterWithoutKey", fault).await?;
    patient.db.sql("insert into public.todos values (1, 'a', 'b'); update public.todos set title = 'c'").await
}

/// Settings of PostgreSQL that need a restart.
#[tokio::test]
async fn settings_of_the_server_are_mended_by_a_restart() -> Result<()> {
    let dir = tempfile::Builder::new().prefix("realtime-doctor-").tempdir()?;
    std::fs::set_permissions(dir.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
    let options = |settings: &[&str]| ClusterOptions {
        bin_dir: std::env::var_os("REALTIME_PG_BIN").map(Into::into),
        data_dir: dir.path().join("pg"),
        install: true,
        durable: false,
        settings: settings.iter().map(|setting| (*setting).to_owned()).collect(),
        ..ClusterOptions::default()
    };
    let env = |cluster: &Cluster| {
        [
            ("DB_HOST", cluster.host().to_owned()),
            ("DB_PORT", cluster.port().to_string()),
            ("DB_USER", cluster.user().to_owned()),
            ("DB_PASSWORD", cluster.password().to_owned()),
        ]
        .map(|(name, value)| (name.to_owned(), value))
    };
    let cluster = Cluster::start(options(&["wal_level=replica", "max_wal_senders=0"]), &|_| {}).await?;
    let (exit, report, text) = doctor(&env(&cluster), &["--json"]).await?;
    ensure!(exit == Some(1), "{text}");
    for code in ["WalLevel", "NoFreeSender"] {
        let finding = findings(&report).find(|finding| finding["code"] == code).context(text.clone())?;
        ensure!(finding["mend"][1]["text"].as_str().unwrap_or_default().contains("restart"), "{finding}");
        let sql = finding["mend"][0]["text"].as_str().context("no statement")?;
        cluster.connect("postgres").await?.batch_execute(sql).await?;
    }
    // What the statements have written down counts where no argument of the command line says otherwise.
    let written = std::fs::read_to_string(dir.path().join("pg/postgresql.auto.conf")).unwrap_or_default();
    cluster.stop().await?;
    ensure!(written.is_empty() || written.contains("wal_level = 'logical'"), "{written}");
    let cluster = Cluster::start(options(&[]), &|_| {}).await?;
    let (_, report, text) = doctor(&env(&cluster), &["--json"]).await?;
    let left = codes(&report);
    ensure!(!left.iter().any(|code| code == "WalLevel" || code == "NoFreeSender"), "{text}");
    cluster.stop().await?;
    Ok(())
}

/// A pooler refuses settings of a session, and replication.
#[tokio::test]
async fn a_pooler_in_between_is_named() -> Result<()> {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
    let port = listener.local_addr()?.port();
    let pooler = tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut start = [0; 1024];
            let _ = stream.read(&mut start).await;
            let fields = b"SFATAL\0C08P01\0Munsupported startup parameter: options\0\0";
            let length = u32::try_from(fields.len() + 4).unwrap_or_default().to_be_bytes();
            let _ = stream.write_all(&[b"E", &length[..], fields].concat()).await;
        }
    });
    let url = format!("postgres://me:pw@127.0.0.1:{port}/app?sslmode=disable");
    let (exit, report, text) = doctor(&[], &["--json", "--url", &url]).await?;
    pooler.abort();
    ensure!(exit == Some(1) && codes(&report) == ["PoolerInBetween"], "{text}");
    Ok(())
}

#[tokio::test]
async fn one_page_for_people() -> Result<()> {
    let patient = Patient::new().await?;
    let (exit, _, text) = doctor(&patient.env, &[]).await?;
    assert_eq!(exit, Some(0), "{text}");
    for right in
        ["wal_level logical", "publication supabase_realtime with 1 tables", "Everything is right: 0 errors"]
    {
        assert!(text.contains(right), "{right}: {text}");
    }
    patient.db.sql("drop publication supabase_realtime").await?;
    let url = format!(
        "postgres://{0}:pass%20of%20{0}@127.0.0.1:{1}/{2}",
        patient.role,
        patient.env.iter().find(|(name, _)| name == "DB_PORT").map_or("", |(_, port)| port),
        patient.db.name()
    );
    let (exit, _, text) = doctor(&[], &["--url", &url]).await?;
    assert_eq!(exit, Some(1), "{text}");
    assert!(
        text.contains("error  PublicationMissing: There is no publication supabase_realtime\n"),
        "{text}"
    );
    assert!(text.contains("psql -c 'create publication supabase_realtime for table public.todos'"), "{text}");
    assert!(!text.contains("pass of"), "{text}");
    Ok(())
}

/// Nothing of the database is looked at with settings that nobody meant.
#[tokio::test]
async fn settings_that_cannot_be_used_are_all_named() -> Result<()> {
    let env = [("PORT", "70000"), ("DB_SSL", "yes"), ("DB_PASSWROD", "x"), ("API_JWT_SECRET", "short")];
    let env = env.map(|(name, value)| (name.to_owned(), value.to_owned()));
    let (exit, report, text) = doctor(&env, &["--json"]).await?;
    assert_eq!(exit, Some(64), "{text}");
    assert_eq!(codes(&report), ["SettingUnknown", "SettingWrong", "SettingWrong"], "{text}");
    Ok(())
}
