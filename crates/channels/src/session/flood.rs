//! Clients that go on with far more than their tenant may have (spec README, decision 23).

use super::Session;

/// Close code of a client that goes on with far more than its tenant may have: "policy violation" (RFC 6455 7.4.1).
pub(super) const CLOSE: u16 = 1008;

/// How many times the limit of events per second a client may send in a second, for some seconds.
const FACTOR: u32 = 10;

impl Session {
    /// Whether the client goes on with far more than its tenant may have (spec README, decision 23).
    pub(super) fn floods(&mut self) -> bool {
        let meters = self.runtime.meters();
        if meters.closes_channels() {
            return false;
        }
        let limit = meters.events().limit().max(1);
        let floods = self.flood.hear(self.runtime.uptime(), limit.saturating_mul(FACTOR));
        if floods {
            let tenant = &**self.runtime.name();
            let code = "MessagePerSecondRateLimitReached";
            tracing::warn!(tenant, code, limit, "socket closed: it goes on with ten times the limit");
        }
        floods
    }
}
