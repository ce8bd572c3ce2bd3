//! Figures of a node, for operators.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::process;
pub use super::process::{Process, Runtime};
use crate::node::Node;

/// Tenants that are named, largest number of sockets first.
const NAMED: usize = 50;

/// The figures of a node. Nodes of other releases may know fewer, or more.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct NodeFigures {
    /// Name of the node.
    pub name: String,
    /// Region of the node.
    pub region: Option<String>,
    /// Version of the program.
    pub version: String,
    /// Time since its start.
    pub uptime: Duration,
    /// Sockets of all tenants.
    pub sockets: u64,
    /// Sockets with a joined channel.
    pub users: u64,
    /// Tenants in use.
    pub tenants: u64,
    /// The tenants with most sockets.
    pub busiest: Vec<TenantFigures>,
    /// Rooms with members.
    pub rooms: u64,
    /// The process. `None` if the operating system does not tell.
    pub process: Option<Process>,
    /// The runtime that runs its tasks.
    pub runtime: Runtime,
}

/// A tenant on a node.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct TenantFigures {
    /// Its `external_id`.
    pub external_id: String,
    /// Sockets.
    pub sockets: u64,
    /// Sockets with a joined channel.
    pub users: u64,
}

impl NodeFigures {
    /// The figures of this node. Takes a fifth of a second, in which it watches the use of CPU.
    pub async fn of(node: &Node) -> Self {
        let (process, runtime) = process::look().await;
        let process =
            process.inspect_err(|error| tracing::debug!(%error, "the operating system does not tell"));
        let mut tenants: Vec<TenantFigures> = node
            .runtimes()
            .iter()
            .map(|tenant| TenantFigures {
                external_id: tenant.name().to_string(),
                sockets: tenant.sockets().len() as u64,
                users: tenant.users().count().into(),
            })
            .collect();
        // Tenants with equal numbers stay in the order of their names.
        tenants.sort_by_key(|tenant| std::cmp::Reverse(tenant.sockets));
        Self {
            name: node.settings().node.clone(),
            region: node.region().map(str::to_owned),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            uptime: node.identity().uptime(),
            sockets: tenants.iter().map(|tenant| tenant.sockets).sum(),
            users: tenants.iter().map(|tenant| tenant.users).sum(),
            tenants: tenants.len() as u64,
            rooms: node.rooms() as u64,
            process: process.ok(),
            runtime,
            busiest: {
                tenants.truncate(NAMED);
                tenants
            },
        }
    }
}
