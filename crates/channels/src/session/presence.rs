//! What a channel's client says of its presence (protocol 5.4; spec README, decision 23).
//!
//! Calls above a limit are merged into one, which counts when the limit allows it.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use realtime_codes::ErrorCode;
use realtime_hub::{Holding, Outbox};
use realtime_protocol::{Extension, PresencePush, SystemMessage, size};
use realtime_tenants::CallWindow;
use tokio::time::Instant;

use super::stop::{Stop, TOO_MANY_CALLS, TOO_MANY_PRESENCE};
use crate::tenant_runtime::TenantRuntime;

/// Pause before a tenant's presence is looked at again that has too many events.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// Pause before an outbox is looked at again that had no room for a state.
const LOOK_FOR_ROOM: Duration = Duration::from_millis(100);

/// What is wrong when the presence of a topic takes as much as may be shown.
pub(super) const PRESENCE_TOO_LARGE: &str = "The presence of this topic is too large";

/// Answer to a track for which there is no room in the presence of its topic.
pub(super) const NO_ROOM: &[u8] = br#"{"reason":"PresenceTooLarge: The presence of this topic is too large, and this object larger than an equal share"}"#;

/// What a channel's client said last about its presence, while it may not say more.
#[derive(Debug)]
struct Merged {
    /// When it counts.
    at: Instant,
    /// The object to track, `None` to untrack.
    tracked: Option<Bytes>,
    /// Counts the object as held for the client.
    holding: Holding,
}

/// Why a presence call does not count yet.
#[derive(Debug, Clone, Copy)]
pub(super) enum Held {
    /// The client made its calls of this window; this long until the next begins.
    Window(Duration),
    /// The tenant has too many presence events.
    Tenant,
}

impl Held {
    const fn pause(self) -> Duration {
        match self {
            Self::Window(pause) => pause,
            Self::Tenant => LOOK_AGAIN,
        }
    }

    /// What the client is told when it begins.
    pub(super) fn told(self) -> SystemMessage {
        let (code, text) = match self {
            Self::Window(_) => (ErrorCode::ClientPresenceRateLimitReached, TOO_MANY_CALLS),
            Self::Tenant => (ErrorCode::PresenceRateLimitReached, TOO_MANY_PRESENCE),
        };
        SystemMessage::warning(Extension::System, code, format!("{text}: the last call counts later"))
    }
}

/// What becomes of a presence call.
pub(super) struct Call {
    /// Status and response of its answer.
    pub(super) answer: (&'static str, &'static [u8]),
    /// What is wanted: an object to track, or none to untrack. `None`: nothing.
    pub(super) wanted: Option<Option<Bytes>>,
    /// Why it does not count yet.
    pub(super) held: Option<Held>,
}

/// The presence of a channel.
#[derive(Debug)]
pub(super) struct Presence {
    pub(super) key: Box<str>,
    /// Whether it was asked for when the channel was joined.
    pub(super) wanted: bool,
    /// Its client's calls of late.
    calls: CallWindow,
    /// What was said last, while no more may be said.
    merged: Option<Box<Merged>>,
    /// When it is tried again to send the state, for which there was no room in the outbox.
    owed: Option<Instant>,
}

impl Presence {
    /// Of a channel that has just joined.
    pub(super) fn new(key: Box<str>, wanted: bool) -> Self {
        Self { key, wanted, calls: CallWindow::default(), merged: None, owed: None }
    }

    /// When there is something to do.
    pub(super) fn deadline(&self) -> Option<Instant> {
        [self.merged_until(), self.owed].into_iter().flatten().min()
    }

    /// When what was merged counts.
    fn merged_until(&self) -> Option<Instant> {
        self.merged.as_ref().map(|merged| merged.at)
    }

    /// The state was sent, or has to be sent later.
    pub(super) fn state_sent(&mut self, sent: bool) {
        self.owed = (!sent).then(|| Instant::now() + LOOK_FOR_ROOM);
    }

    /// Whether the state is to be sent now.
    pub(super) fn owes_state(&self, now: Instant) -> bool {
        self.owed.is_some_and(|at| at <= now)
    }

    /// Counts a call. Whether the client may make it; else how long it has to wait.
    fn allow(&mut self, runtime: &TenantRuntime) -> Result<(), Duration> {
        let (calls, window) = runtime.tenant().limits.client_presence();
        let now = runtime.uptime();
        if self.calls.allow(now, calls, window) {
            return Ok(());
        }
        Err(self.calls.opens_at(window).saturating_sub(now))
    }

    /// Judges a call. `denied`: the policies deny writing.
    ///
    /// # Errors
    /// Why the channel has to end.
    pub(super) fn judge(
        &mut self,
        push: PresencePush,
        denied: bool,
        runtime: &TenantRuntime,
    ) -> Result<Call, Stop> {
        let closes = runtime.meters().closes_channels();
        let over = if push == PresencePush::NoEvent { None } else { self.allow(runtime).err() };
        if over.is_some() && closes {
            return Err(TOO_MANY_CALLS.into());
        }
        let mut held = over.map(Held::Window);
        let answer: (_, &[u8]) = match &push {
            PresencePush::Track(tracked) if !is_object(tracked) => {
                ("error", br#"{"reason":"Presence track payload must be a map"}"#)
            }
            PresencePush::Track(_) if denied => ("error", b"{}"),
            PresencePush::Track(tracked)
                if size::exceeds(tracked, runtime.tenant().limits.max_payload_bytes()) =>
            {
                return Err("Track message size exceeded".into());
            }
            PresencePush::Track(_) if runtime.too_many_presence_events() => {
                if closes {
                    return Err(TOO_MANY_PRESENCE.into());
                }
                held = held.or(Some(Held::Tenant));
                ("ok", b"{}")
            }
            PresencePush::NoEvent | PresencePush::Track(_) | PresencePush::Untrack => ("ok", b"{}"),
            PresencePush::Unknown => ("error", b"{}"),
        };
        let wanted = match push {
            // Copied: the tracked object would else keep the whole frame it came in.
            PresencePush::Track(tracked) if answer.0 == "ok" => Some(Some(Bytes::copy_from_slice(&tracked))),
            PresencePush::Untrack => Some(None),
            _ => None,
        };
        Ok(Call { answer, wanted, held })
    }

    /// Counts the call of a track that the policies could not judge.
    ///
    /// # Errors
    /// Why the channel has to end.
    pub(super) fn count_unjudged(&mut self, runtime: &TenantRuntime) -> Result<(), Stop> {
        let over = self.allow(runtime).is_err();
        if over && runtime.meters().closes_channels() { Err(TOO_MANY_CALLS.into()) } else { Ok(()) }
    }

    /// Keeps what a client says until it counts. Whether that begins now.
    pub(super) fn merge(&mut self, held: Held, tracked: Option<Bytes>, outbox: &Arc<Outbox>) -> bool {
        let at = self.merged_until().unwrap_or_else(|| Instant::now() + held.pause());
        let before = self.merged.take();
        let begins = before.is_none();
        let mut holding = before.map_or_else(|| Holding::new(outbox), |merged| merged.holding);
        holding.set(tracked.as_ref().map_or(0, Bytes::len));
        self.merged = Some(Box::new(Merged { at, tracked, holding }));
        begins
    }

    /// What was said last, if it counts now.
    pub(super) fn take_merged(&mut self, now: Instant, runtime: &TenantRuntime) -> Option<Option<Bytes>> {
        let mut merged = self.merged.take_if(|merged| merged.at <= now)?;
        if merged.tracked.is_some() && runtime.too_many_presence_events() {
            merged.at = now + LOOK_AGAIN;
            self.merged = Some(merged);
            return None;
        }
        let _ = self.allow(runtime);
        Some(merged.tracked)
    }

    /// Something else was said, which counts.
    pub(super) fn forget_merged(&mut self) {
        self.merged = None;
    }
}

/// Whether a JSON text is an object.
pub(super) fn is_object(json: &[u8]) -> bool {
    json.trim_ascii_start().first() == Some(&b'{')
}
