//! What a channel gets from its tenant's database: row changes and broadcasts.

use realtime_changes::SubscribeRefusal;
use realtime_codes::ErrorCode;
use realtime_protocol::{Extension, SystemMessage};

use super::Channel;
use crate::{
    client::Client,
    effect::Effect,
    session::{policies::Question, rows::Refused, stop::Stop},
};

/// Tells channels of a gap in broadcasts from the database.
const GAP: &str = "The connection to the database was lost: broadcasts from it may have been missed";

/// Tells channels that row changes may be missing, because an operator ended the connection to the database.
const ENDED: &str = "The connection to the database was ended: changes may have been missed";

impl Channel {
    /// Asks the database for what the channel watches, with its current token.
    pub(super) fn subscribe(&mut self, client: &mut Client, effects: &mut Vec<Effect>) {
        self.rows.subscribe(&self.topic, self.tokens.in_use(), client, effects);
    }

    /// Tells the client the outcome of its subscription.
    pub(in crate::session) fn tell_subscription(
        &mut self,
        step: u32,
        result: Result<(), SubscribeRefusal>,
        client: &Client,
    ) {
        let Some(answered) = self.rows.answered(step, result) else { return };
        if answered.is_judged {
            self.tokens.judged();
        }
        if let Some(refused) = &answered.refused {
            let Refused { code, tables, reason } = refused;
            let role = &*self.tokens.in_use().role;
            tracing::warn!(tenant = client.tenant(), code, tables, role, reason, "subscription refused");
        }
        self.system(client, &answered.told);
    }

    /// The tenant's database has a new handle, which knows no subscriptions. Tells the client that there is a gap, and
    /// subscribes again. If it may be a different database (`elsewhere`), the policies of private channels are asked
    /// again.
    pub(in crate::session) fn database_replaced(
        &mut self,
        elsewhere: bool,
        client: &mut Client,
        effects: &mut Vec<Effect>,
    ) -> Result<(), Stop> {
        let watches = self.rows.is_replaced(client);
        if let Some(policies) = self.policies.as_mut().filter(|_| elsewhere) {
            policies.write = None;
            self.ask(Question::Refresh, None, client, effects)?;
        }
        if watches && self.rows.can_miss() {
            self.system(
                client,
                &SystemMessage::gap(Extension::PostgresChanges, ErrorCode::DatabaseReplaced, ENDED),
            );
        }
        Ok(())
    }

    /// Tells the client what is new about broadcasts from the database.
    pub(in crate::session) fn tell_replication(&mut self, client: &Client) {
        let news = self.ready.learn(client.runtime.database().replication());
        if news.missed {
            self.system(client, &SystemMessage::gap(Extension::System, ErrorCode::BroadcastsMissed, GAP));
        }
        if news.arrive {
            self.system(client, &SystemMessage::replication_established());
        }
    }
}
