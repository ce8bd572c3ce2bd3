//! Users of distinct claims that join private channels: each join is judged by the policies of the database.

use anyhow::{Context as _, Result, ensure};
use clap::Args;
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use hdrhistogram::Histogram;
use realtime_testkit::{Server, TestDb, sign, sign_with, unix_now};
use serde_json::json;
use tokio::{process::Command, time::Instant};

use crate::{
    binary::server_binary,
    changes::{database_cpu, postmaster},
    report, target,
    wire::{self, Reader, Writer},
};

/// Secret of the tokens that read the metrics.
const METRICS_SECRET: &str = "of-the-bench";

/// Who may read which room: a table of members, as applications have it.
const POLICIES: &str = "
    create table public.members (room text, user_id uuid, primary key (room, user_id));
    grant select on public.members to authenticated;
    alter table public.members enable row level security;
    create policy own on public.members for select to authenticated using (
        user_id = (current_setting('request.jwt.claim.sub', true))::uuid);
    create policy members_read on realtime.messages for select to authenticated using (exists (
        select from public.members where room = (select realtime.topic())
            and user_id = (current_setting('request.jwt.claim.sub', true))::uuid));
    insert into public.members select 'room-' || n % 100, ('00000000-0000-4000-8000-' || lpad(n::text, 12, '0'))::uuid
        from generate_series(0, 99999) n;
    vacuum analyze public.members;";

#[derive(Debug, Args)]
pub(crate) struct Options {
    /// Users, each with a socket and claims of its own
    #[arg(long, default_value_t = 5000)]
    users: usize,
    /// Joins under way at once
    #[arg(long, default_value_t = 64)]
    concurrency: usize,
    /// Ask about presence, too
    #[arg(long)]
    presence: bool,
}

pub(crate) async fn run(options: &Options) -> Result<()> {
    let count = options.users as u64;
    ensure!(options.users <= 100_000, "at most 100000 users are members");
    report::heading(&format!("joins: {count} users of distinct claims, one private channel each"));
    let db = TestDb::new().await?;
    let output =
        Command::new(server_binary()?).arg("migrate").env_clear().envs(db.env().await?).output().await?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    for statement in POLICIES.split_inclusive(';').filter(|statement| !statement.trim().is_empty()) {
        db.sql(statement).await?;
    }
    let settings = target::options().env("METRICS_JWT_SECRET", METRICS_SECRET);
    let server = Server::start(server_binary()?, &db, settings).await?;
    let postmaster = postmaster(&db).await?;

    let port = server.port();
    let sockets: Vec<(usize, (Reader, Writer))> = stream::iter(0..options.users)
        .map(|n| async move {
            let sub = format!("00000000-0000-4000-8000-{n:012}");
            let token = sign(&json!({"role": "authenticated", "sub": sub, "exp": unix_now() + 3600}));
            anyhow::Ok((n, wire::connect_as(port, &token).await?))
        })
        .buffer_unordered(64)
        .try_collect()
        .await?;
    let counted = async || -> Result<(f64, f64)> {
        let (probes, statements) = ("realtime_policies_probes", "realtime_policies_statements");
        let metrics = metrics(&server).await?;
        Ok((value(&metrics, probes)?, value(&metrics, statements)?))
    };
    let before = (server.usage()?.cpu_seconds, database_cpu(postmaster)?, counted().await?);
    let started = Instant::now();
    let mut latencies = Histogram::<u64>::new(3)?;
    let mut joined = stream::iter(sockets)
        .map(|(n, (mut reader, mut writer))| async move {
            let began = Instant::now();
            let config = format!(r#"{{"private":true,"presence":{{"enabled":{}}}}}"#, options.presence);
            writer.join(&format!("realtime:room-{}", n % 100), &config).await?;
            reader.expect("\"status\":\"ok\"").await?;
            anyhow::Ok((began.elapsed(), reader, writer))
        })
        .buffer_unordered(options.concurrency);
    let mut kept = Vec::new();
    while let Some((took, reader, writer)) = joined.try_next().await? {
        latencies.record(u64::try_from(took.as_micros())?)?;
        kept.push((reader, writer));
    }
    let elapsed = started.elapsed().as_secs_f64();
    let after = (server.usage()?.cpu_seconds, database_cpu(postmaster)?, counted().await?);
    let (server_cpu, database_cpu) = (after.0 - before.0, after.1 - before.1);
    report::figure("joins, with the load generator beside", format!("{:.0}", count as f64 / elapsed), "/s");
    report::cpu_per("server CPU per join", server_cpu, count);
    report::cpu_per("database CPU per join", database_cpu, count);
    let two_cores = 2.0 * count as f64 / (server_cpu + database_cpu);
    report::figure("joins that two cores would do by that", format!("{two_cores:.0}"), "/s");
    report::latencies("join", &latencies);
    let per_join = |figure: f64| format!("{:.3}", figure / count as f64);
    report::figure("round trips to the database per join", per_join(after.2.0 - before.2.0), "");
    report::figure("statements per join", per_join(after.2.1 - before.2.1), "");
    drop(kept);
    Ok(())
}

async fn metrics(server: &Server) -> Result<String> {
    let claims = json!({"exp": unix_now() + 3600});
    let bearer = format!("Bearer {}", sign_with(METRICS_SECRET, &claims));
    let answer = server.http("GET", "/metrics?scope=node", &[("authorization", &bearer)], &[]).await?;
    ensure!(answer.status == 200, "no metrics: {}", answer.status);
    Ok(answer.body)
}

fn value(metrics: &str, name: &str) -> Result<f64> {
    let line = metrics.lines().find(|line| line.starts_with(name)).context(name.to_owned())?;
    Ok(line.rsplit_once(' ').context("value")?.1.parse()?)
}
