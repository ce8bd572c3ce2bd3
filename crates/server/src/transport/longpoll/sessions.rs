//! The long-poll sessions of a node, and how requests reach each of them.

use std::{collections::HashMap, hash::Hash, net::IpAddr, sync::Arc};

use base64::{Engine as _, prelude::BASE64_URL_SAFE_NO_PAD};
use bytes::Bytes;
use parking_lot::Mutex;
use realtime_channels::address::network;
use realtime_hub::{Batch, Outbox};
use realtime_protocol::Opcode;
use tokio::sync::{Semaphore, mpsc, oneshot};

/// Sessions of a node. Each costs memory for some seconds, even if its client has left.
const MAX_SESSIONS: usize = 10_000;

/// The sessions of this node.
#[derive(Debug)]
pub struct LongPolls {
    sessions: Mutex<Sessions>,
    /// Sessions that a tenant may have, and that an address may have.
    limits: (usize, usize),
}

#[derive(Debug, Default)]
struct Sessions {
    open: HashMap<[u8; 16], Handle>,
    /// Sessions of each tenant and each address, so that nobody takes the places of others.
    of_tenants: HashMap<Arc<str>, usize>,
    of_addresses: HashMap<IpAddr, usize>,
}

/// The way by which requests reach a session.
#[derive(Debug, Clone)]
pub(super) struct Handle {
    pub(super) takes: mpsc::Sender<Take>,
    pub(super) polls: mpsc::Sender<Poll>,
    pub(super) outbox: Arc<Outbox>,
    /// Held while a body is read and taken. Other bodies wait.
    pub(super) turn: Arc<Semaphore>,
}

/// A poll that waits for frames. It gets none if another one takes its place.
pub(super) type Poll = oneshot::Sender<Option<Arc<Batch>>>;

/// Asks the session to take these messages, and to say when that is done.
#[derive(Debug)]
pub(super) struct Take {
    pub(super) messages: Vec<(Opcode, Bytes)>,
    pub(super) done: oneshot::Sender<()>,
}

/// The place of a session among those of its node, its tenant and its address.
pub(super) struct Place {
    sessions: Arc<LongPolls>,
    pub(super) id: [u8; 16],
    tenant: Arc<str>,
    address: IpAddr,
}

impl LongPolls {
    /// An empty table. `limits`: sessions that a tenant may have, and that an address may have.
    #[must_use]
    pub fn new(limits: (usize, usize)) -> Self {
        Self { sessions: Mutex::default(), limits }
    }

    pub(super) fn get(&self, token: &str) -> Option<Handle> {
        let id: [u8; 16] = BASE64_URL_SAFE_NO_PAD.decode(token).ok()?.try_into().ok()?;
        self.sessions.lock().open.get(&id).cloned()
    }
}

impl Place {
    /// Takes a place, if there is a free one.
    pub(super) fn take(
        all: &Arc<LongPolls>,
        tenant: &Arc<str>,
        address: IpAddr,
        handle: Handle,
    ) -> Option<Self> {
        let (per_tenant, per_address) = all.limits;
        let address = network(address);
        let mut sessions = all.sessions.lock();
        let has = |count: Option<&usize>| count.copied().unwrap_or(0);
        if sessions.open.len() >= MAX_SESSIONS
            || has(sessions.of_tenants.get(tenant)) >= per_tenant
            || has(sessions.of_addresses.get(&address)) >= per_address
        {
            return None;
        }
        let id = rand::random();
        sessions.open.insert(id, handle);
        *sessions.of_tenants.entry(Arc::clone(tenant)).or_default() += 1;
        *sessions.of_addresses.entry(address).or_default() += 1;
        Some(Self { sessions: Arc::clone(all), id, tenant: Arc::clone(tenant), address })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut sessions = self.sessions.sessions.lock();
        sessions.open.remove(&self.id);
        one_less(&mut sessions.of_tenants, &self.tenant);
        one_less(&mut sessions.of_addresses, &self.address);
    }
}

fn one_less<K: Eq + Hash>(counts: &mut HashMap<K, usize>, key: &K) {
    if let Some(count) = counts.get_mut(key) {
        *count -= 1;
        if *count == 0 {
            counts.remove(key);
        }
    }
}
