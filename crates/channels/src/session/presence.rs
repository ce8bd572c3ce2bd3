//! What a channel's client says about its presence (protocol 5.4; spec README, decision 23).
//!
//! Calls above a limit are merged: the last one is applied when the limit allows it.

use std::time::Duration;

use bytes::Bytes;
use realtime_codes::ErrorCode;
use realtime_protocol::{Extension, PresencePush, SystemMessage, size};
use realtime_tenants::CallWindow;
use tokio::time::Instant;

use super::stop::{Stop, TOO_MANY_CALLS, TOO_MANY_PRESENCE};
use crate::tenant_runtime::TenantRuntime;

/// Pause before the next look at a tenant that has too many presence events.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// The last presence call of a client that has reached a limit.
#[derive(Debug)]
struct Merged {
    /// When it is applied.
    at: Instant,
    /// The object to track; `None` to untrack.
    tracked: Option<Bytes>,
}

/// Why a presence call is held back.
#[derive(Debug, Clone, Copy)]
pub(super) enum Held {
    /// The client made its calls of this window. The next one begins after this time.
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

    /// The notice for the client.
    pub(super) fn told(self) -> SystemMessage {
        let (code, text) = match self {
            Self::Window(_) => (ErrorCode::ClientPresenceRateLimitReached, TOO_MANY_CALLS),
            Self::Tenant => (ErrorCode::PresenceRateLimitReached, TOO_MANY_PRESENCE),
        };
        SystemMessage::warning(Extension::System, code, format!("{text}: the last call counts later"))
    }
}

/// The outcome of a presence call.
pub(super) struct Call {
    /// Status and response of its answer.
    pub(super) answer: (&'static str, &'static [u8]),
    /// What the call asks for: an object to track, or `None` to untrack. The outer `None`: nothing.
    pub(super) wanted: Option<Option<Bytes>>,
    /// Why it is held back, if it is.
    pub(super) held: Option<Held>,
}

/// The presence of a channel.
#[derive(Debug)]
pub(super) struct Presence {
    pub(super) key: Box<str>,
    /// Whether the join asked for presence.
    pub(super) wanted: bool,
    /// The client's recent calls.
    calls: CallWindow,
    /// The last call that was held back.
    merged: Option<Box<Merged>>,
}

impl Presence {
    /// The presence of a channel that has just joined.
    pub(super) fn new(key: Box<str>, wanted: bool) -> Self {
        Self { key, wanted, calls: CallWindow::default(), merged: None }
    }

    /// When the call that was held back is applied.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.merged.as_ref().map(|merged| merged.at)
    }

    /// Counts a call. Returns why it is held back, if the client may not make it now.
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
            // Copied: otherwise the tracked object would keep the whole frame in memory.
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

    /// Holds back a call. Returns whether it is the first one, of which the client is told.
    pub(super) fn merge(&mut self, held: Held, tracked: Option<Bytes>) -> bool {
        let at = self.deadline().unwrap_or_else(|| Instant::now() + held.pause());
        self.merged.replace(Box::new(Merged { at, tracked })).is_none()
    }

    /// Takes the call that was held back, if it is applied now.
    pub(super) fn take_merged(&mut self, now: Instant, runtime: &TenantRuntime) -> Option<Option<Bytes>> {
        let merged = self.merged.take_if(|merged| merged.at <= now)?;
        if merged.tracked.is_some() && runtime.too_many_presence_events() {
            self.merged = Some(Box::new(Merged { at: now + LOOK_AGAIN, tracked: merged.tracked }));
            return None;
        }
        let _ = self.allow(runtime);
        Some(merged.tracked)
    }

    /// Forgets the call that was held back: a newer one was applied.
    pub(super) fn forget_merged(&mut self) {
        self.merged = None;
    }
}

/// Whether a JSON text is an object.
pub(super) fn is_object(json: &[u8]) -> bool {
    json.trim_ascii_start().first() == Some(&b'{')
}
