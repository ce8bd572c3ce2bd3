//! What was left out is asked of the node that reads when somebody comes back for it, and put into the journal.
//!
//! The journal knows of each row that was left out: where it stood, and of which table it was, as it was described then. So
//! what another node says comes into it only where nothing is missing.

use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};
use realtime_changes::Place;
use realtime_journal::Reach;
use realtime_pgoutput::{Lsn, Oid, Position};
use rustc_hash::{FxHashMap, FxHashSet};

use super::{State, history::Item};
use crate::{Recall, SubscribeRequest};

/// What is answered at most, in bytes: questions between nodes have answers of 32 MB.
const MAX_ANSWER: usize = 24_000_000;

impl State {
    /// What a request needs of what was left out. `None`: nothing.
    pub(in crate::worker) fn to_recall(&self, request: &SubscribeRequest, tables: &[Oid]) -> Option<Recall> {
        if self.history.skipped == 0 {
            return None;
        }
        let plain = request.subscriptions.iter().filter(|(_, spec)| spec.live.is_none());
        let after = plain.filter_map(|(_, spec)| self.beginning(spec.since.as_ref()?.place)).min()?;
        let mut holes = self.history.journal.changes(after).filter(|entry| entry.item.skipped > 0);
        let of_table = |item: &Item| item.version.as_ref().map(|version| version.relation.oid);
        let mut found: FxHashSet<Oid> = FxHashSet::default();
        let first = holes.by_ref().find(|entry| {
            of_table(&entry.item).is_some_and(|oid| tables.contains(&oid) && found.insert(oid))
        })?;
        let Position { commit, number } = first.position;
        let before = Position { commit, number: number.saturating_sub(u64::from(first.item.skipped)) };
        found.extend(holes.filter_map(|entry| of_table(&entry.item)).filter(|oid| tables.contains(oid)));
        Some(Recall { tables: found.into_iter().collect(), after: before })
    }

    /// Behind which position all is needed for a place.
    fn beginning(&self, place: Place) -> Option<Position> {
        match place {
            Place::After(position) => Some(position),
            Place::From(time) => match self.history.journal.since(time) {
                Reach::From(cursor) => Some(cursor),
                Reach::Gone | Reach::Beyond => None,
            },
        }
    }

    /// What is kept of some tables, for another node.
    pub(in crate::worker) fn kept(&self, recall: &Recall) -> Bytes {
        let is_asked = |item: &Item| {
            let version = item.version.as_ref().filter(|_| item.skipped == 0);
            version.is_some_and(|version| recall.tables.contains(&version.relation.oid))
        };
        let mut rows: Vec<(Position, &Bytes)> = self
            .history
            .journal
            .changes(recall.after)
            .filter(|entry| is_asked(&entry.item))
            .map(|entry| (entry.position, &entry.item.bytes))
            .collect();
        let mut bytes = 0;
        let from = rows.iter().rposition(|(_, row)| {
            bytes += row.len() + 20;
            bytes > MAX_ANSWER
        });
        rows.drain(..from.map_or(0, |at| at + 1));
        let mut out = BytesMut::with_capacity(bytes.min(MAX_ANSWER));
        for (position, row) in rows {
            out.put_u64(position.commit.0);
            out.put_u64(position.number);
            out.put_u32(u32::try_from(row.len()).unwrap_or(u32::MAX));
            out.put_slice(row);
        }
        out.freeze()
    }

    /// Takes what another node has kept.
    pub(in crate::worker) fn recalled(&mut self, answer: Bytes) {
        let Some(rows) = read(answer) else { return };
        let mut skipped = self.history.skipped;
        let now = self.history.begun.elapsed();
        self.history.journal.replace(now, |position, item| {
            let version = item.version.as_ref().filter(|_| item.skipped > 0)?;
            let rows = in_place(&rows, position, (version.relation.oid, item.skipped))?;
            skipped = skipped.saturating_sub(1);
            let put = |(position, bytes): (Position, Bytes)| {
                (position, bytes.len(), Item { bytes, skipped: 0, ..item.clone() })
            };
            Some(rows.into_iter().map(put).collect())
        });
        self.history.skipped = skipped;
    }
}

/// The rows in an answer.
fn read(mut answer: Bytes) -> Option<FxHashMap<Position, Bytes>> {
    let mut rows = FxHashMap::default();
    while !answer.is_empty() {
        let commit = Lsn(answer.try_get_u64().ok()?);
        let number = answer.try_get_u64().ok()?;
        let len = answer.try_get_u32().ok()? as usize;
        if len > answer.len() {
            return None;
        }
        rows.insert(Position { commit, number }, answer.split_to(len));
    }
    Some(rows)
}

/// So many rows of a table up to a position. `None`: some are missing.
fn in_place(
    rows: &FxHashMap<Position, Bytes>,
    Position { commit, number }: Position,
    (table, count): (Oid, u32),
) -> Option<Vec<(Position, Bytes)>> {
    let first = (number + 1).checked_sub(u64::from(count))?;
    let row = |number| {
        let position = Position { commit, number };
        let bytes = rows.get(&position)?;
        let of = bytes.get(1..5)?.try_into().map(u32::from_be_bytes).ok()?;
        (of == table).then(|| (position, bytes.clone()))
    };
    (first..=number).map(row).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_whole_stays_left_out() {
        let position = |number| Position { commit: Lsn(5), number };
        let row = |oid: u8| Bytes::copy_from_slice(&[b'I', 0, 0, 0, oid, b'x']);
        let answer = |rows: &[(u64, Bytes)]| {
            let mut out = BytesMut::new();
            for (number, row) in rows {
                out.put_u64(5);
                out.put_u64(*number);
                out.put_u32(6);
                out.put_slice(row);
            }
            read(out.freeze())
        };
        let found = |rows: &[(u64, Bytes)]| {
            let rows = in_place(&answer(rows)?, position(4), (7, 2))?;
            Some(rows.into_iter().map(|(position, _)| position.number).collect::<Vec<_>>())
        };
        assert_eq!(found(&[(2, row(7)), (3, row(7)), (4, row(7))]), Some(vec![3, 4]));
        assert_eq!(found(&[(4, row(7))]), None, "the first is missing");
        assert_eq!(found(&[(3, row(7))]), None, "the last is missing");
        assert_eq!(found(&[(3, row(8)), (4, row(7))]), None, "one is of another table");
        assert!(read(Bytes::from_static(b"half")).is_none());
    }
}
