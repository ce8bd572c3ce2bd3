//! Live bindings, and which of them share a result.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use realtime_changes::{Action, ChannelId, EventFilter, SubscriptionSpec};
use realtime_pgoutput::Oid;

use crate::live::{Kind, Source};

/// A live binding of a channel, with the rights that it was asked with.
#[derive(Debug)]
pub(in crate::worker::state) struct Binding {
    pub(super) channel: ChannelId,
    /// As the client knows it.
    pub(super) id: u32,
    pub(super) spec: Arc<SubscriptionSpec>,
    pub(super) role: Arc<str>,
    pub(super) claims: Arc<str>,
    /// Nothing is sent to it any more.
    gone: AtomicBool,
    /// It was told what is not known of its result.
    warned: AtomicBool,
}

/// Names a binding.
pub(super) type Name = (ChannelId, u32);

impl Binding {
    pub(in crate::worker::state) const fn new(
        channel: ChannelId,
        id: u32,
        spec: Arc<SubscriptionSpec>,
        role: Arc<str>,
        claims: Arc<str>,
    ) -> Self {
        let (gone, warned) = (AtomicBool::new(false), AtomicBool::new(false));
        Self { channel, id, spec, role, claims, gone, warned }
    }

    pub(super) const fn name(&self) -> Name {
        (self.channel, self.id)
    }

    pub(super) fn leave(&self) {
        self.gone.store(true, Ordering::Relaxed);
    }

    /// It is told once what is not known of its result: whether it was told before.
    pub(super) fn warn(&self) -> bool {
        self.warned.swap(true, Ordering::Relaxed)
    }

    pub(super) fn was_warned(&self) -> bool {
        self.warned.load(Ordering::Relaxed)
    }

    pub(super) fn is_gone(&self) -> bool {
        self.gone.load(Ordering::Relaxed)
    }

    pub(super) fn event(&self) -> EventFilter {
        self.spec.event
    }
}

/// Whether a binding for these events is sent this.
pub(super) fn wants(event: EventFilter, action: Action) -> bool {
    match event {
        EventFilter::All => true,
        EventFilter::Insert => action == Action::Insert,
        EventFilter::Update => action == Action::Update,
        EventFilter::Delete => action == Action::Delete,
    }
}

/// What bindings have in common that share a result.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Identity {
    relation: Oid,
    /// Filter, columns, order, limit, key.
    asked: Box<str>,
    pub(super) role: Arc<str>,
    /// `None`: they make no difference.
    pub(super) claims: Option<Arc<str>>,
}

impl Identity {
    pub(super) fn of(binding: &Binding, source: &Source) -> Self {
        let spec = &binding.spec;
        Self {
            relation: source.oid,
            asked: format!("{:?} {:?} {:?}", spec.filters, spec.select, spec.live).into(),
            role: Arc::clone(&binding.role),
            claims: claims_matter(source).then(|| Arc::clone(&binding.claims)),
        }
    }
}

/// Whether claims can make a difference: a table without policies shows all claims of a role the same. What a view calls
/// is not known.
pub(super) fn claims_matter(source: &Source) -> bool {
    match source.kind {
        Kind::Table | Kind::Partitioned => source.table.asks() && !source.access.bypasses_rls,
        Kind::Materialized => false,
        Kind::View => true,
    }
}
