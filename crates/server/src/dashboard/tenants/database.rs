//! A tenant's database, looked at when the page is opened.

use std::time::Duration;

use maud::{Markup, html};
use realtime_postgres::{DatabaseFacts, SlotFacts, look};
use realtime_tenants::Tenant;
use tokio::{net::lookup_host, time};

use crate::{
    dashboard::view::{
        parts::{facts, maybe, notice, plain, state, table, yes},
        units,
    },
    node::database_config,
};

/// How long a page waits for a database.
const LIMIT: Duration = Duration::from_secs(5);

/// The addresses of its host, its version, its replication slots.
pub async fn section(tenant: &Tenant) -> Markup {
    let config = database_config(tenant);
    let host = (config.host.as_str(), config.port);
    let (addresses, looked) =
        tokio::join!(time::timeout(LIMIT, lookup_host(host)), time::timeout(LIMIT, look(&config)));
    let addresses = match addresses {
        Ok(Ok(found)) => {
            let mut found: Vec<String> = found.map(|address| address.ip().to_string()).collect();
            found.dedup();
            plain(found.join(", "))
        }
        Ok(Err(error)) => html! { span.state.bad { (error) } },
        Err(_) => html! { span.state.bad { "not resolved in time" } },
    };
    let mut rows = vec![("Addresses of db_host", addresses)];
    match looked {
        Ok(Ok(found)) => {
            rows.extend(server(&found));
            html! { (facts(&rows)) h3 { "Replication slots" } (slots(&found.slots)) }
        }
        Ok(Err(error)) => html! { (facts(&rows)) (notice(false, error.to_string())) },
        Err(_) => html! { (facts(&rows)) (notice(false, "The database did not answer in time.")) },
    }
}

fn server(found: &DatabaseFacts) -> [(&'static str, Markup); 4] {
    let published = match found.published {
        Some(tables) => plain(format!("{tables} tables")),
        None => html! { span.state.bad { "there is no such publication" } },
    };
    [
        ("PostgreSQL version", plain(&found.version)),
        ("wal_level", state(found.wal_level == "logical", "logical", &found.wal_level)),
        ("Sessions", plain(format!("{} of {}", found.sessions, found.max_connections))),
        ("Published", published),
    ]
}

fn slots(slots: &[SlotFacts]) -> Markup {
    let rows: Vec<Vec<Markup>> = slots
        .iter()
        .map(|slot| {
            vec![
                plain(&slot.name),
                maybe(slot.plugin.as_deref()),
                state(slot.active, "read", "idle"),
                yes(slot.temporary),
                maybe(slot.wal_status.as_deref()),
                maybe(slot.lag_bytes.map(|lag| units::bytes(lag.max(0.0) as u64))),
            ]
        })
        .collect();
    let heads = ["Name", "Plugin", "State", "Temporary", "Log", "Lag"];
    table("Replication slots of the database", &heads, &rows, "The database has no replication slots.")
}
