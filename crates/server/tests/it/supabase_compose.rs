//! The server in the place of the original in Supabase's self-hosting set-up (http_and_ops 6, spec README decision 15).

use anyhow::Result;
use realtime_testkit::{Server, ServerOptions, Socket, TestDb, Version, token};

use crate::BINARY;

/// What Supabase's compose file sets, but for the database and the port.
const VARIABLES: &[(&str, &str)] = &[
    ("DB_AFTER_CONNECT_QUERY", "SET search_path TO _realtime"),
    ("DB_ENC_KEY", "supabaserealtime"),
    ("METRICS_JWT_SECRET", realtime_testkit::SECRET),
    ("SECRET_KEY_BASE", "UpNVntn3cDxHJpq99YMc1T1AQgQpc8kfYTuRgBiYa15BLrx8etQoXz3gZv1/u2oq"),
    ("ERL_AFLAGS", "-proto_dist inet_tcp"),
    ("DNS_NODES", "''"),
    ("RLIMIT_NOFILE", "10000"),
    ("APP_NAME", "realtime"),
    ("SEED_SELF_HOST", "true"),
    ("RUN_JANITOR", "true"),
    ("DISABLE_HEALTHCHECK_LOGGING", "true"),
];

/// The variables of our own compose files are settings.
#[test]
fn the_compose_files_set_what_there_is() {
    sets_what_there_is(include_str!("../../../../docker/compose.yaml"));
    sets_what_there_is(include_str!("../../../../docker/cluster.yaml"));
}

fn sets_what_there_is(file: &str) {
    let service = file.split("\n  realtime:\n").nth(1).unwrap();
    let service = service.split("\n  proxy:\n").next().unwrap();
    let names: Vec<_> = service
        .lines()
        .filter_map(|line| line.trim().split_once(": "))
        .map(|(name, _)| name)
        .filter(|name| name.chars().all(|c| c.is_ascii_uppercase() || c == '_'))
        .collect();
    assert!(names.contains(&"DB_PASSWORD"), "{names:?}");
    for name in names {
        assert!(realtime_server::config::table::find(name).is_some(), "{name}");
    }
}

/// Its environment starts the server, which names what means nothing to it once; the gateway's host reaches the tenant.
#[tokio::test]
async fn the_environment_of_the_compose_file() -> Result<()> {
    let db = TestDb::new().await?;
    let set = |options: ServerOptions, (name, value): &(&str, &str)| options.env(name, value);
    let server = Server::start(BINARY, &db, VARIABLES.iter().fold(ServerOptions::default(), set)).await?;
    let log = server.log();
    let ignored: Vec<_> = log.lines().filter(|line| line.contains("are ignored")).collect();
    assert_eq!(ignored.len(), 1, "{log}");
    for name in ["DNS_NODES", "ERL_AFLAGS", "RLIMIT_NOFILE"] {
        assert!(ignored[0].contains(name), "{name}: {}", ignored[0]);
    }
    let host = "realtime-dev.supabase-realtime:4000";
    let answer = server.http("HEAD", "/api/ping", &[("Host", host)], b"").await?;
    assert_eq!((answer.status, &*answer.body), (200, ""));
    // The container asks for its health with the token that is in every browser.
    let bearer = format!("Bearer {}", token("anon"));
    let path = "/api/tenants/realtime-dev/health";
    let answer = server.http("HEAD", path, &[("Authorization", &bearer)], b"").await?;
    assert_eq!((answer.status, &*answer.body), (200, ""), "{}", server.log());
    // The gateway moves the key from the query to a header.
    let url = format!("ws://127.0.0.1:{}/socket/websocket?vsn=1.0.0", server.port());
    let headers = [("host", host), ("x-api-key", &*token("anon"))];
    let mut socket = Socket::try_connect(&url, &headers, Version::V1).await?.expect("it is let in");
    let (reply, _) = socket.join("realtime:a", serde_json::json!({})).await?;
    assert_eq!(reply["status"], "ok");
    Ok(())
}
