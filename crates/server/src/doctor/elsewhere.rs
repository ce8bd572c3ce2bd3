//! What the server needs beside databases: NATS, and the keys of Cloudflare Access.

use std::time::Duration;

use realtime_cluster::ProbeError;
use realtime_doctor::{Code, Finding, Part, Step, nats_forbidden, nats_unreachable};

use crate::{
    config::{DashboardAccess, Settings},
    team_keys::{self, KeysError},
};

/// How long NATS is waited for.
const LIMIT: Duration = Duration::from_secs(5);

pub(super) async fn judge(settings: &Settings, part: &mut Part) {
    nats(settings, part).await;
    if let DashboardAccess::Zta { team, .. } = &settings.dashboard.access {
        keys(team, part).await;
    }
}

async fn keys(team: &str, part: &mut Part) {
    let address = team_keys::address(team);
    let fetched = match team_keys::client() {
        Ok(client) => team_keys::fetch(&client, team).await,
        Err(error) => Err(KeysError::Unreachable(realtime_tls::describe(&error))),
    };
    let (code, text) = match fetched {
        Ok(_) => {
            part.right.push("keys of Cloudflare Access".to_owned());
            return;
        }
        Err(KeysError::Unreachable(error)) => {
            (Code::CertificatesUnreachable, format!("{address} cannot be fetched: {error}"))
        }
        Err(KeysError::NoKeySet(error)) => {
            (Code::CertificatesUnusable, format!("{address} is no key set: {error}"))
        }
        Err(KeysError::NoKey) => {
            (Code::CertificatesUnusable, format!("{address} has no key that can be used"))
        }
    };
    let domain = "set CF_TEAM_DOMAIN to the domain of your team, as team.cloudflareaccess.com";
    let mend = vec![Step::Shell(format!("curl {address}")), Step::Do(domain.to_owned())];
    part.findings.push(Finding::new(code, text, mend));
}

async fn nats(settings: &Settings, part: &mut Part) {
    let Some(config) = &settings.cluster else { return };
    let servers = config.servers.join(",");
    match realtime_cluster::probe(config.clone(), LIMIT).await {
        Ok(()) => part.right.push("NATS".to_owned()),
        Err(ProbeError::Unreachable(error)) => part.findings.push(nats_unreachable(&servers, &error)),
        Err(ProbeError::Forbidden(error)) => {
            part.findings.push(nats_forbidden(&servers, &config.prefix, &error));
        }
    }
}
