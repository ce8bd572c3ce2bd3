//! Presence calls above a limit: merged into one, which counts when the limit allows it (spec README, decision 23).

use std::time::Duration;

use bytes::Bytes;
use realtime_protocol::{Extension, SystemMessage};
use tokio::time::Instant;

use super::{Session, Topic, push};

/// What a channel's client said last about its presence, while it may not say more.
#[derive(Debug)]
pub(super) struct Merged {
    /// When it counts.
    pub(super) at: Instant,
    /// The object to track, `None` to untrack.
    tracked: Option<Bytes>,
}

/// Pause before a tenant's presence is looked at again that has too many events.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

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

    fn told(self) -> SystemMessage {
        let (code, text) = match self {
            Self::Window(_) => ("ClientPresenceRateLimitReached", push::TOO_MANY_CALLS),
            Self::Tenant => ("PresenceRateLimitReached", push::TOO_MANY_PRESENCE),
        };
        SystemMessage::warning(Extension::System, code, format!("{text}: the last call counts later"))
    }
}

impl Session {
    /// Keeps what a client says of its presence until it counts. The client is told when that begins.
    pub(super) fn merge(&mut self, topic: &str, held: Held, tracked: Option<Bytes>) {
        let Some(channel) = self.channel_mut(topic) else { return };
        let at = channel.merged.as_ref().map_or_else(|| Instant::now() + held.pause(), |merged| merged.at);
        if channel.merged.replace(Box::new(Merged { at, tracked })).is_none() {
            self.system(topic, &held.told());
        }
    }

    /// Does what was said last about presence, if it counts now.
    pub(super) fn take_merged(&mut self, topic: &str, now: Instant) {
        let (uptime, tenant_is_over) = (self.runtime.uptime(), self.runtime.too_many_presence_events());
        let (calls, window) = self.runtime.tenant().limits.client_presence();
        let Some(Topic::Joined(channel)) = self.topics.get_mut(topic) else { return };
        let Some(merged) = channel.merged.take_if(|merged| merged.at <= now) else { return };
        match merged.tracked {
            tracked @ Some(_) if tenant_is_over => {
                channel.merged = Some(Box::new(Merged { at: now + LOOK_AGAIN, tracked }));
            }
            Some(tracked) => {
                channel.presence_calls.allow(uptime, calls, window);
                // The policies may have judged another token meanwhile.
                let judged = channel.policies.as_ref().and_then(|policies| policies.write);
                if judged.is_none_or(|write| write.presence) {
                    self.track(topic, tracked);
                }
            }
            None => {
                channel.presence_calls.allow(uptime, calls, window);
                self.fan_outs.extend(channel.membership.untrack());
            }
        }
    }
}
