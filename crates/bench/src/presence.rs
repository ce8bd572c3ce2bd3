//! Users that all come to one room at once, each telling that it is there.

use std::collections::HashSet;

use anyhow::{Context as _, Result};
use clap::Args;
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use tokio::{
    task::JoinSet,
    time::{self, Instant},
};

use crate::{
    report,
    target::Target,
    wire::{self, LIMIT, Reader, find},
};

#[derive(Debug, Clone, Copy, Args)]
pub(crate) struct Options {
    /// Users, one socket each
    #[arg(long, default_value_t = 1000)]
    users: usize,
}

const TOPIC: &str = "realtime:lobby";

pub(crate) async fn run(options: &Options) -> Result<()> {
    let target = Target::real().await?;
    let port = target.port();
    let sockets: Vec<_> =
        stream::iter(0..options.users).map(|_| wire::connect(port)).buffered(32).try_collect().await?;
    time::sleep(time::Duration::from_secs(1)).await;
    let before = target.cpu_seconds()?;
    let started = Instant::now();
    let mut readers = JoinSet::new();
    let mut writers = Vec::new();
    for (n, (reader, mut writer)) in sockets.into_iter().enumerate() {
        let join = format!(
            r#"["1","join","{TOPIC}","phx_join",{{"config":{{"presence":{{"enabled":true,"key":"u{n}"}}}}}}]"#
        );
        let track = format!(
            r#"["1","track","{TOPIC}","presence",{{"type":"presence","event":"track","payload":{{"n":{n}}}}}]"#
        );
        let both = [wire::frame(1, join.as_bytes()), wire::frame(1, track.as_bytes())].concat();
        readers.spawn(read(reader, options.users));
        tokio::io::AsyncWriteExt::write_all(&mut writer.0, &both).await?;
        writers.push(writer);
    }
    let (mut bytes, mut frames) = (0, 0);
    while let Some(reader) = readers.join_next().await {
        let seen = reader??;
        bytes += seen.0;
        frames += seen.1;
    }
    let elapsed = started.elapsed();
    let after = target.cpu_seconds()?;
    let users = options.users as u64;
    report::heading(&format!("presence: {users} users join one room and track at once"));
    report::figure("until all have seen all", format!("{:.0}", elapsed.as_secs_f64() * 1e3), "ms");
    report::cpu_per("server CPU per user", after - before, users);
    report::figure("sent per user", bytes / users, "bytes");
    report::figure("frames per user", format!("{:.1}", frames as f64 / users as f64), "");
    Ok(())
}

/// Reads until all are known; how many bytes and frames that took.
async fn read(mut reader: Reader, users: usize) -> Result<(u64, u64)> {
    const REF: &[u8] = b"\"phx_ref\":\"";
    let mut known = HashSet::new();
    let (mut bytes, mut frames) = (0, 0);
    while known.len() < users {
        let message = time::timeout(LIMIT, reader.next()).await.context("somebody was not seen")??;
        bytes += message.len() as u64;
        frames += 1;
        let mut rest = message;
        while let Some(at) = find(rest, REF) {
            rest = rest.get(at + REF.len()..).context("ref")?;
            known.insert(rest.get(..16).context("ref")?.to_vec());
        }
    }
    Ok((bytes, frames))
}
