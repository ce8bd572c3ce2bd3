//! The board for Grafana.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context as _, Result, ensure};
use realtime_testkit::{Nats, Server, ServerOptions, TestDb, Version, sign_with};
use serde_json::{Value, json};

use crate::BINARY;

/// Name, labels in braces and what follows, for each metric of an expression.
fn metrics(expression: &str) -> Vec<(&str, &str)> {
    let mut found = Vec::new();
    for (at, _) in expression.match_indices('{') {
        let before = &expression[..at];
        let from = before.rfind(|c: char| !c.is_ascii_alphanumeric() && c != '_').map_or(0, |at| at + 1);
        let labels = expression[at + 1..].split('}').next().unwrap_or_default();
        found.push((&before[from..], labels));
    }
    found
}

/// A board that Grafana can read: panels have numbers and places of their own, and ask the data source that was chosen for
/// metrics and labels that a server of a cluster has.
#[tokio::test]
async fn the_board_asks_for_metrics_that_exist() -> Result<()> {
    let board: Value = serde_json::from_str(include_str!("../../../../../packaging/grafana/realtime.json"))?;
    ensure!(board["schemaVersion"].as_u64() >= Some(36) && board["uid"] == "realtime", "{board}");
    let variables = board["templating"]["list"].as_array().context("variables")?;
    let names: Vec<&str> = variables.iter().filter_map(|variable| variable["name"].as_str()).collect();
    assert_eq!(names, ["source", "host", "tenant"]);

    let db = TestDb::with_fixture_a().await?;
    let nats = Nats::start(&[]).await?;
    let options =
        ServerOptions::default().env("METRICS_JWT_SECRET", "of-metrics").env("NATS_URL", &nats.url());
    let server = Server::start(BINARY, &db, options).await?;
    let mut socket = server.socket(Version::V2, "anon").await?;
    socket.watch("realtime:any", json!([{"schema": "public"}])).await?;
    let token = sign_with("of-metrics", &json!({"exp": realtime_testkit::unix_now() + 60}));
    let authorization = format!("Bearer {token}");
    let answer = server.http("GET", "/metrics", &[("Authorization", &*authorization)], b"").await?;
    assert_eq!(answer.status, 200, "{}", answer.body);
    // A test keeps this list equal to what the server has; a server shows only what it has counted.
    let known = include_str!("../../../../../docs/operations.md").lines().filter_map(|line| {
        let mut cells = line.strip_prefix("| `")?.split(" | ");
        Some((cells.next()?.trim_end_matches('`'), cells.next()?))
    });
    let kinds: BTreeMap<&str, &str> = known.collect();
    for name in ["realtime_sockets", "realtime_cluster_nodes", "process_cpu_seconds_total"] {
        let kind = kinds.get(name).with_context(|| name.to_owned())?;
        ensure!(answer.body.contains(&format!("# TYPE {name} {kind}\n")), "{name} is no {kind}");
    }
    let mut places: BTreeSet<(u64, u64)> = BTreeSet::new();
    let mut numbers = BTreeSet::new();
    let mut asked = 0;
    for panel in board["panels"].as_array().context("panels")? {
        let title = panel["title"].as_str().context("title")?;
        ensure!(numbers.insert(panel["id"].as_u64().context("id")?), "{title}: its number is taken");
        let at = |name: &str| panel["gridPos"][name].as_u64().context("gridPos");
        for x in at("x")?..at("x")? + at("w")? {
            for y in at("y")?..at("y")? + at("h")? {
                ensure!(x < 24 && places.insert((x, y)), "{title} lies over another panel");
            }
        }
        for target in panel["targets"].as_array().into_iter().flatten() {
            assert_eq!(target["datasource"]["uid"], "${source}", "{title}");
            let expression = target["expr"].as_str().context("expr")?;
            ensure!(expression.matches('(').count() == expression.matches(')').count(), "{expression}");
            let found = metrics(expression);
            ensure!(!found.is_empty(), "{title}: {expression}");
            for (name, labels) in found {
                let family = name.strip_suffix("_bucket").unwrap_or(name);
                let kind = kinds.get(family).with_context(|| format!("{title}: there is no {family}"))?;
                assert_eq!(*kind == "histogram", name != family, "{title}: {name}");
                assert_eq!(*kind == "gauge", !expression.contains("rate("), "{title}: {name} is a {kind}");
                let sample = answer.body.lines().find(|line| line.starts_with(&format!("{name}{{")));
                for label in labels.split(',').filter_map(|label| label.split("=~").next()) {
                    if let Some(sample) = sample {
                        ensure!(sample.contains(&format!("{label}=\"")), "{title}: {name} has no {label}");
                    }
                }
                asked += 1;
            }
            // What the legend names is what the expression keeps.
            let legend = target["legendFormat"].as_str().context("legend")?;
            for label in legend.split("{{").skip(1).filter_map(|rest| rest.split("}}").next()) {
                let kept = expression.contains(" by (") || !expression.contains("sum");
                ensure!(kept && (expression.contains(label)), "{title}: {legend}");
            }
        }
    }
    ensure!(asked > 20, "{asked}");
    Ok(())
}
