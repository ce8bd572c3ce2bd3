//! The token of a joined channel: the one in use, and the ones that follow (protocol 5.6, 8.5).

use std::sync::Arc;

use realtime_auth::AuthError;
use tokio::time::Instant;

use crate::{renewal::Renewal, tenant_runtime::TenantRuntime, token::Token};

/// The token of a channel.
#[derive(Debug)]
pub(super) struct Tokens {
    in_use: Arc<Token>,
    /// When the token in use is verified again.
    recheck_at: Instant,
    /// The tokens that follow it.
    renewal: Renewal,
}

impl Tokens {
    /// The token that a channel was joined with.
    pub(super) fn new(token: Arc<Token>, runtime: &TenantRuntime) -> Self {
        let recheck_at = token.recheck_at(runtime.clock().unix_seconds());
        Self { in_use: token, recheck_at, renewal: Renewal::default() }
    }

    /// The token in use.
    pub(super) fn in_use(&self) -> &Arc<Token> {
        &self.in_use
    }

    /// Takes a token from the client.
    pub(super) fn came(&mut self, text: Box<str>) {
        self.renewal.came(text, &self.in_use);
    }

    /// The token that is to be judged now.
    pub(super) fn due(&mut self, now: Instant) -> Option<Box<str>> {
        self.renewal.due(now)
    }

    /// Replaces the token. `is_judged`: the database has to judge it.
    pub(super) fn replace(&mut self, token: Arc<Token>, is_judged: bool, runtime: &TenantRuntime) {
        let recheck_at = token.recheck_at(runtime.clock().unix_seconds());
        let former = std::mem::replace(&mut self.in_use, token);
        let former_until = std::mem::replace(&mut self.recheck_at, recheck_at);
        if is_judged {
            self.renewal.began(former, former_until);
        }
    }

    /// Notes that the database has judged the token in use.
    pub(super) fn judged(&mut self) {
        self.renewal.is_over();
    }

    /// Verifies the token in use again if it is time. If it has expired, a newer one that waits takes its place.
    ///
    /// # Errors
    /// Why the token is refused, if no newer one waits.
    pub(super) fn recheck(
        &mut self,
        now: Instant,
        runtime: &TenantRuntime,
    ) -> Result<Option<Box<str>>, AuthError> {
        if self.recheck_at > now {
            return Ok(None);
        }
        match runtime.verify_again(&self.in_use) {
            Ok(token) => {
                self.recheck_at = token.recheck_at(runtime.clock().unix_seconds());
                Ok(None)
            }
            Err(error) => self.renewal.at_once().map(Some).ok_or(error),
        }
    }

    /// Verifies the former token again if it is time. Returns whether it has expired.
    pub(super) fn former_expires(&mut self, now: Instant, runtime: &TenantRuntime) -> bool {
        let Some(former) = self.renewal.former_due(now) else { return false };
        let verified = runtime.verify_again(&former);
        self.renewal.is_over();
        match verified {
            Ok(token) => {
                self.renewal.began(former, token.recheck_at(runtime.clock().unix_seconds()));
                false
            }
            Err(_) => true,
        }
    }

    /// When something has to be done. While the policies have to answer, no other token is judged.
    pub(super) fn deadline(&self, is_asking: bool) -> Instant {
        let due = self.renewal.due_at().filter(|_| !is_asking);
        [self.renewal.former_until(), due].into_iter().flatten().fold(self.recheck_at, Instant::min)
    }
}
