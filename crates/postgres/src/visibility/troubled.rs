//! Parties whose policies failed a short while ago.

use std::{collections::HashMap, sync::Arc, time::Duration};

use realtime_changes::Party;
use realtime_pgoutput::Oid;
use tokio::time::Instant;

/// How long a party whose policies took too long is not asked, and how long one that failed is not told again.
const BARRED: Duration = Duration::from_secs(30);

/// Parties whose policies failed a short while ago.
#[derive(Debug, Default)]
pub(crate) struct Troubled(HashMap<(Oid, Arc<Party>), Trouble>);

#[derive(Debug)]
struct Trouble {
    until: Instant,
    barred: bool,
}

impl Troubled {
    /// Whether a party is not to be asked, because its policies took too long.
    pub(crate) fn is_barred(&self, oid: Oid, party: &Arc<Party>) -> bool {
        !self.0.is_empty()
            && self
                .0
                .get(&(oid, Arc::clone(party)))
                .is_some_and(|trouble| trouble.barred && trouble.until > Instant::now())
    }

    /// Notes a failure; whether the party's channels are to be told.
    pub(crate) fn note(&mut self, oid: Oid, party: &Arc<Party>, slow: bool) -> bool {
        let now = Instant::now();
        self.0.retain(|_, trouble| trouble.until > now);
        let key = (oid, Arc::clone(party));
        let news = !self.0.contains_key(&key);
        if news || slow {
            self.0.insert(key, Trouble { until: now + BARRED, barred: slow });
        }
        news
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn told_once_in_a_while() {
        let mut troubled = Troubled::default();
        let party = Arc::new(Party { role: "anon".into(), claims: "{}".into() });
        assert!(troubled.note(1, &party, false) && !troubled.note(1, &party, false));
        assert!(!troubled.is_barred(1, &party), "it may be one row's fault");
        assert!(troubled.note(2, &party, true) && troubled.is_barred(2, &party));
        tokio::time::advance(BARRED).await;
        assert!(!troubled.is_barred(2, &party) && troubled.note(2, &party, true));
    }
}
