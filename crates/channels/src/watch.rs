//! A channel's right to row changes.

use std::sync::Arc;

use realtime_changes::{ChannelId, SubscriptionSpec};
use realtime_postgres::{Generations, SubscribeRequest};

use crate::{routes::Route, tenant_runtime::TenantRuntime, token::Token};

/// A channel's right to row changes. Dropping it ends the subscription: nothing more reaches its route, and a question
/// that is still on its way to the database has no effect.
pub(crate) struct Watch {
    id: ChannelId,
    generations: Generations,
    runtime: Arc<TenantRuntime>,
}

impl Watch {
    /// A right with which nothing is watched yet.
    pub(crate) fn new(runtime: &Arc<TenantRuntime>) -> Self {
        let id = runtime.routes().next_channel();
        Self { id, generations: Generations::default(), runtime: Arc::clone(runtime) }
    }

    /// A right whose row changes go to a route.
    pub(crate) fn over(runtime: &Arc<TenantRuntime>, route: &Arc<Route>) -> Self {
        let watch = Self::new(runtime);
        watch.open(Arc::clone(route));
        watch
    }

    /// Sets the route of row changes.
    pub(crate) fn open(&self, route: Arc<Route>) {
        self.runtime.routes().open(self.id, route);
    }

    /// The question to the database. It replaces earlier ones.
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
        // Must be first: the worker then ignores questions of this channel that arrive later.
        self.generations.end();
        self.runtime.database().unsubscribe(self.id);
    }
}

impl std::fmt::Debug for Watch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Watch({})", self.id.0)
    }
}
