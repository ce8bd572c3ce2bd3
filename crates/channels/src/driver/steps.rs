//! The slow steps of a session: what they ask of the tenant's database.

use std::sync::Arc;

use futures_util::future::BoxFuture;
use realtime_hub::RoomKey;
use realtime_postgres::{AuthorizeRequest, ReplayParams, Replication, SubscribeRequest};
use tokio::time::{self, Duration};

use crate::{
    effect::{Completion, Ticket},
    history::{self, Asked},
    tenant_runtime::TenantRuntime,
};

/// How long the join of a channel that needs nothing from the database waits for it. A first connection usually takes
/// less, so the channel hears what is broadcast from there from the start.
const CONTACT_LIMIT: Duration = Duration::from_secs(1);

/// A slow step.
pub(super) type Step = BoxFuture<'static, Completion>;

/// Makes sure that the database can be reached.
pub(super) fn database(runtime: Arc<TenantRuntime>, ticket: Ticket) -> Step {
    Box::pin(async move {
        let ready = runtime.ask(|database| async move { database.ready().await });
        let (ready, ()) = tokio::join!(ready, runtime.hear_room(&ticket.topic));
        Completion::Database(ticket, ready)
    })
}

/// Tries to reach the database, for a channel that can do without it.
pub(super) fn contact(runtime: Arc<TenantRuntime>, ticket: Ticket) -> Step {
    Box::pin(async move {
        let asked = Arc::clone(&runtime);
        // The attempt goes on after the caller stops waiting; otherwise a slow database would never be reached.
        let contact =
            tokio::spawn(async move { asked.ask(|database| async move { database.ready().await }).await });
        let contact = time::timeout(CONTACT_LIMIT, contact);
        // Failures are logged, and told to the channels that need the database.
        let _ = tokio::join!(contact, runtime.hear_room(&ticket.topic));
        Completion::Database(ticket, Ok(()))
    })
}

/// Asks what may be read of a private topic.
pub(super) fn read(runtime: Arc<TenantRuntime>, ticket: Ticket, request: Box<AuthorizeRequest>) -> Step {
    Box::pin(async move {
        let verdict = runtime.ask(|database| {
            let request = (*request).clone();
            async move { database.authorize_read(&request).await }
        });
        let (verdict, ()) = tokio::join!(verdict, runtime.hear_room(&ticket.topic));
        Completion::Read(ticket, verdict)
    })
}

/// Asks what may be written to a private topic.
pub(super) fn write(runtime: Arc<TenantRuntime>, ticket: Ticket, request: Box<AuthorizeRequest>) -> Step {
    Box::pin(async move {
        let verdict = runtime.ask(|database| {
            let request = (*request).clone();
            async move { database.authorize_write(&request).await }
        });
        Completion::Write(ticket, verdict.await)
    })
}

/// Looks for stored messages of a topic.
pub(super) fn replay(
    runtime: Arc<TenantRuntime>,
    ticket: Ticket,
    topic: Box<str>,
    params: ReplayParams,
) -> Step {
    Box::pin(async move {
        let messages = runtime.ask(|database| {
            let topic = topic.clone();
            async move { database.replay(&topic, params).await }
        });
        Completion::Replayed(ticket, messages.await)
    })
}

/// Looks for what was said in a room and is not kept on this node.
pub(super) fn recall(runtime: Arc<TenantRuntime>, ticket: Ticket, room: RoomKey, asked: Asked) -> Step {
    Box::pin(async move {
        let found = history::look(&runtime, &room, asked).await;
        Completion::Recalled(ticket, found)
    })
}

/// Subscribes to row changes.
pub(super) fn subscribe(runtime: Arc<TenantRuntime>, ticket: Ticket, request: Box<SubscribeRequest>) -> Step {
    Box::pin(async move {
        let outcome = runtime.ask(|database| {
            let request = (*request).clone();
            async move { database.subscribe(request).await }
        });
        Completion::Subscribed(ticket, outcome.await)
    })
}

/// Watches whether broadcasts from the database arrive.
pub(super) fn watch_replication(runtime: Arc<TenantRuntime>, from: Replication) -> Step {
    Box::pin(async move {
        runtime.database().replication_differs(from).await;
        Completion::ReplicationDiffers
    })
}
