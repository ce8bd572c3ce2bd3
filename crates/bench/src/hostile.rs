//! What clients that misbehave do to the others.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use anyhow::Result;
use clap::{Args, ValueEnum};
use tokio::{
    task::JoinHandle,
    time::{self, Duration},
};

use crate::{
    report, rooms,
    target::Target,
    wire::{self, frame},
};

#[derive(Debug, Clone, Copy, Args)]
pub(crate) struct Options {
    /// Users that behave
    #[arg(long, default_value_t = 300)]
    users: usize,
    /// Seconds of each measurement
    #[arg(long, default_value_t = 10)]
    seconds: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Hostility {
    /// Is sent 16 MB a second and stops reading
    StopsReading,
    /// Sends what is no message, as fast as it can
    Garbage,
    /// Broadcasts to a room of six, as fast as it can
    Flood,
}

pub(crate) async fn run(options: &Options) -> Result<()> {
    report::heading(&format!("hostile: {} users that behave beside one that does not", options.users));
    let rooms = rooms::Options { users: options.users, rate: 2, seconds: options.seconds };
    for hostility in [None, Some(Hostility::StopsReading), Some(Hostility::Garbage), Some(Hostility::Flood)] {
        let target = Target::real().await?;
        let users = rooms::users(&target, options.users).await?;
        let stop = Arc::new(AtomicBool::new(false));
        let before = target.resident_bytes()?;
        let enemy = match hostility {
            None => None,
            Some(hostility) => Some(start(hostility, target.port(), Arc::clone(&stop)).await?),
        };
        let run = rooms::measure(&target, users, &rooms).await?;
        let after = target.resident_bytes()?;
        stop.store(true, Ordering::Relaxed);
        let name = hostility.map_or("none".to_owned(), |hostility| format!("{hostility:?}"));
        report::latencies(&format!("{name}: sent to received"), &run.latencies);
        report::figure(&format!("{name}: lost"), run.lost, "");
        report::figure(&format!("{name}: memory gained"), after.saturating_sub(before) / 1024, "KiB");
        if let Some(enemy) = enemy {
            report::figure(&format!("{name}: ended by the server"), enemy.is_finished(), "");
            enemy.abort();
        }
    }
    Ok(())
}

async fn start(hostility: Hostility, port: u16, stop: Arc<AtomicBool>) -> Result<JoinHandle<Result<()>>> {
    let topic = "realtime:hostile";
    let (mut reader, mut writer) = wire::joined(port, topic, "{}").await?;
    Ok(match hostility {
        Hostility::StopsReading => {
            let (_other, mut talker) = wire::joined(port, topic, "{}").await?;
            let text = "x".repeat(160_000);
            tokio::spawn(async move {
                let talk = tokio::spawn(async move {
                    let _other = _other;
                    let message =
                        format!(r#"["1","m","{topic}","broadcast",{{"event":"e","payload":"{text}"}}]"#);
                    while !stop.load(Ordering::Relaxed) {
                        talker.send(&message).await?;
                        time::sleep(Duration::from_millis(10)).await;
                    }
                    anyhow::Ok(())
                });
                // What was under way is read later; then the close frame comes.
                time::sleep(Duration::from_secs(3)).await;
                while reader.next().await.is_ok() {}
                talk.abort();
                Ok(())
            })
        }
        Hostility::Garbage => tokio::spawn(async move {
            let one = frame(1, b"[\"this\",\"is\",no message");
            let many = one.repeat(1000);
            while !stop.load(Ordering::Relaxed) {
                tokio::io::AsyncWriteExt::write_all(&mut writer.0, &many).await?;
            }
            Ok(())
        }),
        Hostility::Flood => {
            let mut victims = Vec::new();
            for _ in 0..5 {
                let (mut reader, writer) = wire::joined(port, topic, "{}").await?;
                victims.push((tokio::spawn(async move { while reader.next().await.is_ok() {} }), writer));
            }
            tokio::spawn(async move {
                let _victims = victims;
                let message = format!(r#"["1","m","{topic}","broadcast",{{"event":"e","payload":{{}}}}]"#);
                let many = frame(1, message.as_bytes()).repeat(1000);
                while !stop.load(Ordering::Relaxed) {
                    tokio::io::AsyncWriteExt::write_all(&mut writer.0, &many).await?;
                }
                Ok(())
            })
        }
    })
}
