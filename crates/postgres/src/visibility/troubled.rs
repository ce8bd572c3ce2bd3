//! Parties whose policies failed a short while ago.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

use realtime_changes::{ChannelId, Party};
use realtime_pgoutput::Oid;
use tokio::time::Instant;

use super::inquiry::Failure;

/// How long a party whose policies took too long is not asked, and how long channels are not told again.
const BARRED: Duration = Duration::from_secs(30);

/// Troubles remembered at most; beyond it those that are over are forgotten untold.
const MAX_TROUBLES: usize = 10_000;

/// Parties whose policies failed a short while ago.
#[derive(Debug, Default)]
pub(crate) struct Troubled(HashMap<(Oid, Arc<Party>), Trouble>);

#[derive(Debug)]
struct Trouble {
    until: Instant,
    barred: bool,
    error: String,
    /// Channels that know of it.
    told: HashSet<ChannelId>,
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

    /// A party's policies have failed.
    pub(crate) fn failed(&mut self, oid: Oid, party: &Arc<Party>, failure: &Failure) {
        let now = Instant::now();
        if self.0.len() > MAX_TROUBLES {
            self.0.retain(|_, trouble| trouble.until > now);
        }
        let fresh = Trouble {
            until: now + BARRED,
            barred: failure.slow,
            error: failure.error.clone(),
            told: HashSet::new(),
        };
        let trouble = self.0.entry((oid, Arc::clone(party))).or_insert(fresh);
        if trouble.until <= now {
            trouble.told.clear();
        }
        if failure.slow || trouble.until <= now {
            (trouble.until, trouble.barred) = (now + BARRED, failure.slow);
            trouble.error.clone_from(&failure.error);
        }
    }

    /// Rows are withheld from channels of a party: those of them that do not know yet, and what to tell them.
    pub(crate) fn untold(
        &mut self,
        oid: Oid,
        party: &Arc<Party>,
        channels: &HashSet<ChannelId>,
    ) -> Option<(Vec<ChannelId>, &str)> {
        let trouble = self.0.get_mut(&(oid, Arc::clone(party)))?;
        let untold = channels.iter().filter(|channel| trouble.told.insert(**channel)).copied().collect();
        Some((untold, &trouble.error))
    }

    /// A party's policies did not fail. If they had, a while ago: the channels that were told so.
    pub(crate) fn mended(&mut self, oid: Oid, party: &Arc<Party>) -> HashSet<ChannelId> {
        if self.0.is_empty() {
            return HashSet::new();
        }
        let key = (oid, Arc::clone(party));
        // Do not tell every time when policies fail for some rows and not for others.
        if self.0.get(&key).is_none_or(|trouble| trouble.until > Instant::now()) {
            return HashSet::new();
        }
        self.0.remove(&key).map(|trouble| trouble.told).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn channels(ids: &[u64]) -> HashSet<ChannelId> {
        ids.iter().copied().map(ChannelId).collect()
    }

    #[tokio::test(start_paused = true)]
    async fn every_channel_is_told_once_in_a_while() {
        let mut troubled = Troubled::default();
        let party = Arc::new(Party { role: "anon".into(), claims: "{}".into() });
        let failure = |slow| Failure { error: "no".to_owned(), slow };
        let untold = |troubled: &mut Troubled, ids: &[u64]| {
            let (mut told, text) = troubled.untold(1, &party, &channels(ids)).unwrap();
            assert_eq!(text, "no");
            told.sort_unstable();
            told.into_iter().map(|channel| channel.0).collect::<Vec<_>>()
        };
        troubled.failed(1, &party, &failure(false));
        assert!(!troubled.is_barred(1, &party), "it may be one row's fault");
        assert_eq!(untold(&mut troubled, &[1, 2]), [1, 2]);
        assert_eq!(untold(&mut troubled, &[1, 3]), [3]);
        troubled.failed(1, &party, &failure(true));
        assert!(troubled.is_barred(1, &party) && !troubled.is_barred(2, &party));
        assert_eq!(untold(&mut troubled, &[1, 2, 3]), [0; 0]);
        assert!(troubled.mended(1, &party).is_empty(), "too soon to be sure");
        tokio::time::advance(BARRED).await;
        assert!(!troubled.is_barred(1, &party));
        troubled.failed(1, &party, &failure(true));
        assert_eq!(untold(&mut troubled, &[1]), [1]);
        tokio::time::advance(BARRED).await;
        assert_eq!(troubled.mended(1, &party), channels(&[1]));
        assert!(troubled.mended(1, &party).is_empty());
    }
}
