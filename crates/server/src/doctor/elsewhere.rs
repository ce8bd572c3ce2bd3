//! What the server needs beside databases: NATS, and the keys of Cloudflare Access.

use std::time::Duration;

use realtime_doctor::{Code, Finding, Part, Step};

use crate::config::{DashboardAccess, Settings};

/// How long NATS is waited for, and the keys of Cloudflare Access.
const LIMIT: Duration = Duration::from_secs(5);

/// The path of a team's keys.
const CERTIFICATES: &str = "/cdn-cgi/access/certs";

pub(super) async fn judge(settings: &Settings, part: &mut Part) {
    nats(settings, part).await;
    let DashboardAccess::Zta { team, .. } = &settings.dashboard.access else { return };
    let url = format!("{team}{CERTIFICATES}");
    match reach(&url).await {
        Ok(()) => part.right.push("keys of Cloudflare Access".to_owned()),
        Err(error) => {
            let text = format!("{url} cannot be fetched: {}", realtime_tls::describe(&error));
            let mend = vec![Step::Shell(format!("curl {url}"))];
            part.findings.push(Finding::new(Code::CertificatesUnreachable, text, mend));
        }
    }
}

async fn reach(url: &str) -> reqwest::Result<()> {
    let client = reqwest::Client::builder()
        .timeout(LIMIT)
        .redirect(reqwest::redirect::Policy::none())
        .no_proxy()
        .build()?;
    client.get(url).send().await?.error_for_status().map(drop)
}

async fn nats(settings: &Settings, part: &mut Part) {
    let Some(config) = &settings.cluster else { return };
    let servers = config.servers.join(",");
    match realtime_cluster::probe(config.clone(), LIMIT).await {
        Ok(()) => part.right.push("NATS".to_owned()),
        Err(error) => {
            let text = format!("NATS cannot be reached at {servers}: {error}");
            let mend = vec![Step::Do(format!(
                "start NATS at {servers}, or correct NATS_URL and what logs in there"
            ))];
            part.findings.push(Finding::new(Code::NatsUnreachable, text, mend));
        }
    }
}
