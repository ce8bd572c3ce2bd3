//! What a webhook has done, for operators.

use std::{
    collections::VecDeque,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{SystemTime, UNIX_EPOCH},
};

use parking_lot::Mutex;
use realtime_codes::ErrorCode;
use realtime_metrics::Counter;
use realtime_pgoutput::{Lsn, Position};
use realtime_webhooks::Webhook;

/// Dead letters that are remembered: the last ones, with their positions.
const REMEMBERED: usize = 20;

/// Whether a webhook's log is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Reading {
    /// It is about to begin, or the server does not run it.
    #[default]
    Not,
    /// It is read here.
    Here,
    /// It rests with its tenant, which is suspended.
    Suspended,
    /// It cannot be read now, for a reason of this code. `ReplicationSlotBeingUsed`: another node reads it.
    Waits(&'static str),
}

impl Reading {
    fn is_elsewhere(self) -> bool {
        self == Self::Waits(ErrorCode::ReplicationSlotBeingUsed.as_str())
    }

    /// The code of what it waits for.
    #[must_use]
    pub const fn waits_for(self) -> Option<&'static str> {
        match self {
            Self::Waits(code) => Some(code),
            Self::Not | Self::Here | Self::Suspended => None,
        }
    }

    /// As it is shown.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Not => "starting",
            Self::Here => "reading",
            Self::Suspended => "suspended",
            Self::Waits(_) if self.is_elsewhere() => "elsewhere",
            Self::Waits(_) => "waiting",
        }
    }
}

/// A change that was given up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeadLetter {
    /// Where it stands in the log.
    pub position: Position,
    /// Why: a status, where the request failed, or why there was none.
    pub code: Box<str>,
    /// When, in Unix seconds.
    pub at: u64,
}

/// What a webhook has done since it began to run on this node.
#[derive(Debug)]
pub(super) struct HookState {
    tenant: Arc<str>,
    name: Box<str>,
    delivered: Counter,
    failed: Counter,
    dead: Counter,
    gaps: Counter,
    waiting: AtomicU64,
    told: Mutex<Told>,
}

#[derive(Debug, Default)]
struct Told {
    reading: Reading,
    position: Option<Lsn>,
    last_error: Option<(Box<str>, u64)>,
    letters: VecDeque<DeadLetter>,
}

impl HookState {
    pub(super) fn new(tenant: Arc<str>, name: &str) -> Self {
        Self {
            tenant,
            name: name.into(),
            delivered: Counter::default(),
            failed: Counter::default(),
            dead: Counter::default(),
            gaps: Counter::default(),
            waiting: AtomicU64::new(0),
            told: Mutex::default(),
        }
    }

    pub(super) fn tenant(&self) -> &str {
        &self.tenant
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// The log is read from a position on.
    pub(super) fn begins(&self, start: Lsn, resumed: bool) {
        if !resumed {
            self.gaps.add(1);
        }
        let mut told = self.told.lock();
        (told.reading, told.position) = (Reading::Here, Some(start));
    }

    pub(super) fn waits(&self, code: &'static str) {
        self.told.lock().reading = Reading::Waits(code);
    }

    pub(super) fn rests(&self) {
        self.told.lock().reading = Reading::Suspended;
    }

    /// The reader has ended, and what waited is forgotten.
    pub(super) fn ends(&self) {
        self.wait(0);
        self.told.lock().reading = Reading::Not;
    }

    pub(super) fn confirmed(&self, position: Lsn) {
        self.told.lock().position = Some(position);
    }

    /// So many changes wait or are being posted.
    pub(super) fn wait(&self, waiting: usize) {
        self.waiting.store(waiting as u64, Ordering::Relaxed);
    }

    pub(super) fn delivered(&self) {
        self.delivered.add(1);
    }

    /// An attempt has failed.
    pub(super) fn failed(&self, code: &str) {
        self.failed.add(1);
        self.told.lock().last_error = Some((code.into(), now()));
    }

    /// A change was given up.
    pub(super) fn dead_letter(&self, position: Position, code: &str, error: &str) {
        self.dead.add(1);
        tracing::warn!(
            code = ErrorCode::WebhookDeadLetter.as_str(),
            tenant = self.tenant(),
            webhook = self.name(),
            %position,
            reason = code,
            error,
            "a change was given up for a webhook"
        );
        let mut told = self.told.lock();
        let at = now();
        told.last_error = Some((code.into(), at));
        if told.letters.len() == REMEMBERED {
            told.letters.pop_front();
        }
        told.letters.push_back(DeadLetter { position, code: code.into(), at });
    }
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

/// A webhook as operators see it.
#[derive(Debug, Clone)]
pub struct HookView {
    /// Its settings.
    pub webhook: Webhook,
    /// Whether its log is read.
    pub reading: Reading,
    /// Everything before this position was posted or given up.
    pub position: Option<Lsn>,
    /// Changes that wait or are being posted.
    pub waiting: u64,
    /// Changes that were answered with success.
    pub delivered: u64,
    /// Attempts that failed.
    pub failed: u64,
    /// Changes that were given up.
    pub dead_letters: u64,
    /// Times that reading began anew: what was committed before was not posted.
    pub gaps: u64,
    /// Why an attempt failed last, and when, in Unix seconds.
    pub last_error: Option<(Box<str>, u64)>,
    /// The last changes that were given up, oldest first.
    pub letters: Vec<DeadLetter>,
}

impl HookView {
    pub(super) fn new(webhook: &Webhook, state: Option<&HookState>) -> Self {
        let mut view = Self {
            webhook: webhook.clone(),
            reading: Reading::Not,
            position: None,
            waiting: 0,
            delivered: 0,
            failed: 0,
            dead_letters: 0,
            gaps: 0,
            last_error: None,
            letters: Vec::new(),
        };
        let Some(state) = state else { return view };
        let told = state.told.lock();
        view.reading = told.reading;
        view.position = told.position;
        view.last_error.clone_from(&told.last_error);
        view.letters = told.letters.iter().cloned().collect();
        view.waiting = state.waiting.load(Ordering::Relaxed);
        view.delivered = state.delivered.get();
        view.failed = state.failed.get();
        view.dead_letters = state.dead.get();
        view.gaps = state.gaps.get();
        view
    }
}
