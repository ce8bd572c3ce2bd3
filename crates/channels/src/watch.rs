//! A channel's right to row changes.

use std::sync::Arc;

use realtime_changes::{ChannelId, SubscriptionSpec};
use realtime_postgres::{Generations, SubscribeRequest};

use crate::{routes::Route, tenant_runtime::TenantRuntime, token::Token};

/// A channel's right to row changes. Dropping it ends what the channel watches: nothing more reaches its route, and no
/// question that is still on its way to the database leaves anything behind.
pub(crate) struct Watch {
    id: ChannelId,
    generations: Generations,
    runtime: Arc<TenantRuntime>,
}

impl Watch {
    /// One that nothing is watched with yet.
    pub(crate) fn new(runtime: &Arc<TenantRuntime>) -> Self {
        let id = runtime.routes().next_channel();
        Self { id, generations: Generations::default(), runtime: Arc::clone(runtime) }
    }

    /// One whose row changes go this way.
    pub(crate) fn over(runtime: &Arc<TenantRuntime>, route: &Arc<Route>) -> Self {
        let watch = Self::new(runtime);
        watch.open(Arc::clone(route));
        watch
    }

    /// Says where row changes go.
    pub(crate) fn open(&self, route: Arc<Route>) {
        self.runtime.routes().open(self.id, route);
    }

    /// What the database is asked, in place of what it was asked before.
    pub(crate) fn request(
        &self,
        token: &Token,
        subscriptions: Vec<(u32, Arc<SubscriptionSpec>)>,
    ) -> Box<SubscribeRequest> {
        Box::new(SubscribeRequest {
            channel: self.id,
            role: Arc::clone(&token.role),
            claims: Arc::clone(&token.claims),
            subscriptions,
            generation: self.generations.next(),
        })
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.runtime.routes().close(self.id);
        // Before the worker is told: what comes to it later is known to be overtaken.
        self.generations.end();
        self.runtime.database().unsubscribe(self.id);
    }
}

impl std::fmt::Debug for Watch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Watch({})", self.id.0)
    }
}
