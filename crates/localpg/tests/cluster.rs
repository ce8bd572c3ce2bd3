//! A private cluster, for real.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

use std::{path::Path, time::Duration};

use realtime_localpg::{Cluster, ClusterOptions, Progress};

/// How long anything that should come may take.
const PATIENCE: Duration = Duration::from_secs(120);

/// A directory that the server's user can reach even if we are root.
fn dir() -> tempfile::TempDir {
    let dir = tempfile::Builder::new().prefix("realtime-localpg-").tempdir().unwrap();
    let open = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(dir.path(), open).unwrap();
    dir
}

fn options(dir: &Path) -> ClusterOptions {
    ClusterOptions { data_dir: dir.join("pg"), durable: false, ..ClusterOptions::default() }
}

async fn is_reachable(port: u16) -> bool {
    tokio::net::TcpStream::connect(("127.0.0.1", port)).await.is_ok()
}

#[tokio::test]
async fn a_second_start_reuses_the_data_and_a_stop_frees_the_port() {
    let dir = dir();
    let steps = std::sync::atomic::AtomicUsize::new(0);
    let count = |progress: Progress| {
        if matches!(progress, Progress::Initializing(_)) {
            steps.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        }
    };
    let cluster = Cluster::start(options(dir.path()), &count).await.unwrap();
    let client = cluster.connect("postgres").await.unwrap();
    client.batch_execute("create table kept (n int); insert into kept values (7)").await.unwrap();
    let level: String = client.query_one("show wal_level", &[]).await.unwrap().get(0);
    assert_eq!(level, "logical");

    let running = Cluster::start(options(dir.path()), &|_| {}).await.unwrap_err();
    assert!(running.to_string().contains("already runs"), "{running}");

    let port = cluster.port();
    cluster.stop().await.unwrap();
    assert!(!is_reachable(port).await);

    let cluster = Cluster::start(options(dir.path()), &count).await.unwrap();
    let client = cluster.connect("postgres").await.unwrap();
    let n: i32 = client.query_one("select n from kept", &[]).await.unwrap().get(0);
    assert_eq!((n, steps.load(std::sync::atomic::Ordering::Relaxed)), (7, 1));
    cluster.stop().await.unwrap();
}

#[tokio::test]
async fn dropping_the_cluster_stops_the_server() {
    let dir = dir();
    let cluster = Cluster::start(options(dir.path()), &|_| {}).await.unwrap();
    let port = cluster.port();
    drop(cluster);
    let gone = async {
        while is_reachable(port).await {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(PATIENCE, gone).await.unwrap();
}

#[tokio::test]
async fn a_wrong_folder_is_named() {
    let dir = dir();
    let options = ClusterOptions { bin_dir: Some("/nowhere".into()), ..options(dir.path()) };
    let error = Cluster::start(options, &|_| {}).await.unwrap_err();
    assert_eq!(error.to_string(), "/nowhere does not hold PostgreSQL's server programs (initdb, postgres)");
}

/// Nothing is left of a cluster that nobody wants any more, even if nobody stopped it.
#[tokio::test]
async fn an_ephemeral_cluster_takes_its_data_with_it() {
    let dir = dir();
    let options = ClusterOptions { ephemeral: true, ..options(dir.path()) };
    let data = options.data_dir.join("data");
    let cluster = Cluster::start(options, &|_| {}).await.unwrap();
    assert!(data.join("PG_VERSION").exists());
    drop(cluster);
    let gone = async {
        while data.exists() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(PATIENCE, gone).await.unwrap();
}
