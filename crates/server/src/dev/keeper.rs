//! Keeps the private PostgreSQL running, and tells when that fails.

use std::{path::Path, time::Duration};

use nix::sys::statvfs::statvfs;
use realtime_localpg::Cluster;
use realtime_retry::Backoff;
use tokio::time;

use super::{banner, fleet::how};

/// Pauses before PostgreSQL is started again.
const RETRY: Backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(15));

/// How often the disk is looked at.
const LOOK: Duration = Duration::from_secs(10);

/// A disk with less free space is full. PostgreSQL needs some segments of its log, of 16 MB each, to start and to run.
const LEAST_FREE: u64 = 64 * 1024 * 1024;

/// Starts PostgreSQL again when it has ended, and tells when its disk is full. Never returns.
pub(super) async fn keep(cluster: &Cluster) {
    tokio::join!(keep_running(cluster), watch_disk(cluster.data()));
}

async fn keep_running(cluster: &Cluster) {
    loop {
        let how = how(cluster.ended().await.ok());
        banner::tell(&format!("PostgreSQL {how}: {}", cluster.last_words()));
        let mut backoff = RETRY;
        let mut told = String::new();
        loop {
            time::sleep(backoff.failed(1.0)).await;
            let problem = match cluster.start_again().await {
                Ok(()) => break banner::tell("PostgreSQL runs again"),
                Err(error) => error.to_string(),
            };
            if let Some(full) = full(cluster.data()) {
                tell_once(&mut told, &full);
            } else {
                tell_once(&mut told, &format!("PostgreSQL cannot be started again; retrying. {problem}"));
            }
        }
    }
}

/// Tells when the disk becomes full and when it has room again. A server with a full disk may keep running and refuse
/// every change.
async fn watch_disk(data: &Path) {
    let mut told = String::new();
    loop {
        match full(data) {
            Some(text) => tell_once(&mut told, &text),
            None if !told.is_empty() => {
                banner::tell("There is room on PostgreSQL's disk again");
                told.clear();
            }
            None => {}
        }
        time::sleep(LOOK).await;
    }
}

fn tell_once(told: &mut String, text: &str) {
    if told != text {
        banner::tell(text);
        text.clone_into(told);
    }
}

/// The sentence about a full disk. `None` if it is not full.
fn full(data: &Path) -> Option<String> {
    let disk = statvfs(data).ok()?;
    let free = disk.blocks_available().saturating_mul(disk.fragment_size());
    is_full(free).then(|| {
        format!(
            "The disk of {} is full: changes cannot be stored until at least {} MB are free",
            data.display(),
            LEAST_FREE / 1024 / 1024
        )
    })
}

const fn is_full(free: u64) -> bool {
    free < LEAST_FREE
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_disk_is_seen() {
        assert!(is_full(0) && is_full(LEAST_FREE - 1) && !is_full(LEAST_FREE));
        assert_eq!(full(Path::new("/nowhere/at/all")), None, "what cannot be asked is not said to be full");
    }
}
