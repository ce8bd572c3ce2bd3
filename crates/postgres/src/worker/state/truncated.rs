//! Tables that were truncated: no row of theirs is told of, so those who watch them are.

use realtime_changes::ChannelId;
use realtime_pgoutput::Oid;

use super::{State, behind::What, known::Watcher};
use crate::Notice;

impl State {
    /// Tells those who watch truncated tables, once for each channel, whatever events it wants.
    pub(in crate::worker) async fn truncated(&mut self, relations: &[Oid]) {
        let Some(transaction) = &mut self.transaction else { return };
        transaction.position.1 += 1;
        let position = transaction.position;
        relations.iter().for_each(|oid| self.touch_all_live(*oid));
        if position <= self.handed {
            return;
        }
        // Earlier changes are delivered first.
        self.flush().await;
        for oid in relations {
            self.reads_change(*oid);
        }
        for (channel, text) in self.concerned(self.watchers.keys().copied(), relations) {
            // Who has come back is told in its turn.
            if self.history.returning.of(channel).is_empty() {
                self.tell_in_order(channel, What::Notice(Notice::gap("Truncated", text)));
            }
        }
        self.handed = position;
    }

    /// Those of some channels that watch one of these tables, and what each is told.
    pub(super) fn concerned(
        &self,
        channels: impl Iterator<Item = ChannelId>,
        relations: &[Oid],
    ) -> Vec<(ChannelId, String)> {
        let told = |channel: ChannelId| {
            let watcher = self.watchers.get(&channel)?;
            let truncated = relations.iter().filter(|oid| self.sees(watcher, **oid));
            let tables = truncated.filter_map(|oid| self.known.get(oid)?.table.as_ref());
            let names: Vec<String> = tables.map(|table| format!("{}.{}", table.schema, table.name)).collect();
            (!names.is_empty()).then(|| {
                (channel, format!("Truncated: {}. All rows that were there are gone", names.join(", ")))
            })
        };
        channels.filter_map(told).collect()
    }

    /// Whether a channel watches a table and may read a column of it.
    pub(super) fn sees(&self, watcher: &Watcher, oid: Oid) -> bool {
        let access = self.known.get(&oid).and_then(|known| known.access.get(&watcher.request.role));
        watcher.attached.iter().any(|(attached, _)| *attached == oid)
            && access.is_some_and(|access| access.selectable.contains(&true))
    }
}
