//! What a reader has handed over, so that nothing comes twice when another connection goes on.

use realtime_pgoutput::{Lsn, message::Message};

/// Whether a message was seen before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Sight {
    /// No, or it is of no row and told by every connection.
    New,
    /// It is of a row that was handed over, in a transaction that was not complete, or that this node has not acted on.
    Again,
    /// It belongs to a transaction that was handed over, and is not to be acted on.
    Passed,
}

/// How far the reading has come. Commits are read in the order of their positions.
#[derive(Debug, Default)]
pub(super) struct Seen {
    /// Commit position of the last transaction that came whole.
    whole: Lsn,
    /// Commit position of the last transaction that came whole while this node acted: did what is done once for all nodes.
    acted: Lsn,
    /// What that was before.
    acted_before: Lsn,
    /// Whether some transaction was left: it and those behind it come again, to be acted on.
    leaves: bool,
    /// Whether it does.
    acts: bool,
    /// Commit position of the transaction that came in part, and how many rows of it.
    part: (Lsn, u64),
    /// The transaction that is being read.
    reading: Option<Reading>,
}

#[derive(Debug)]
struct Reading {
    commit: Lsn,
    /// Whether it was handed over.
    known: bool,
    /// Whether it was handed over and nothing remains to be done.
    passed: bool,
    /// Rows that have come by this connection.
    rows: u64,
}

impl Seen {
    /// Whether this node acts, from the next transaction on.
    pub(super) fn acts(&mut self, acts: bool) {
        self.acts = acts;
    }

    /// A connection begins.
    pub(super) fn begins(&mut self) {
        self.leaves = false;
    }

    /// The transaction that has just come whole was not acted on, and those behind it will not be either. By the next
    /// connection they come again.
    pub(super) fn leave(&mut self) {
        if !std::mem::replace(&mut self.leaves, true) {
            self.acted = self.acted_before;
        }
    }

    /// Another node acts on everything that was not confirmed, perhaps this one again.
    pub(super) fn is_void(&mut self) {
        (self.acted, self.acted_before) = (Lsn(0), Lsn(0));
    }

    /// Whether a transaction is being read.
    pub(super) fn is_reading(&self) -> bool {
        self.reading.is_some()
    }

    /// Judges a message and remembers it.
    pub(super) fn see(&mut self, message: &Message) -> Sight {
        match message {
            Message::Begin { final_lsn, .. } => {
                let known = *final_lsn <= self.whole;
                let passed = known && (!self.acts || *final_lsn <= self.acted);
                self.reading = Some(Reading { commit: *final_lsn, known, passed, rows: 0 });
            }
            Message::Commit { .. } => {
                let Some(reading) = self.reading.take() else { return Sight::New };
                if reading.passed {
                    return Sight::Passed;
                }
                self.whole = self.whole.max(reading.commit);
                if self.acts && !self.leaves {
                    self.acted_before = std::mem::replace(&mut self.acted, reading.commit);
                }
            }
            row if is_row(row) => {
                let Some(reading) = &mut self.reading else { return Sight::New };
                if reading.passed {
                    return Sight::Passed;
                }
                if reading.known {
                    return Sight::Again;
                }
                reading.rows += 1;
                if self.part.0 != reading.commit {
                    self.part = (reading.commit, 0);
                }
                if reading.rows <= self.part.1 {
                    return Sight::Again;
                }
                self.part.1 = reading.rows;
            }
            _ => return Sight::New,
        }
        if self.reading.as_ref().is_some_and(|reading| reading.passed) { Sight::Passed } else { Sight::New }
    }
}

/// Whether a message is of rows.
pub(super) fn is_row(message: &Message) -> bool {
    matches!(
        message,
        Message::Insert { .. } | Message::Update { .. } | Message::Delete { .. } | Message::Truncate { .. }
    )
}

#[cfg(test)]
mod tests {
    use realtime_pgoutput::message::UnixMicros;

    use super::*;

    fn begin(commit: u64) -> Message {
        Message::Begin { final_lsn: Lsn(commit), commit_time: UnixMicros(0), xid: 1 }
    }

    fn row() -> Message {
        Message::Insert { xid: None, relation: 1, new: Vec::new() }
    }

    fn commit(commit: u64) -> Message {
        let (commit_lsn, end_lsn) = (Lsn(commit), Lsn(commit + 1));
        Message::Commit { flags: 0, commit_lsn, end_lsn, commit_time: UnixMicros(0) }
    }

    fn see(seen: &mut Seen, messages: Vec<Message>) -> String {
        let of = |message| match seen.see(message) {
            Sight::New => 'n',
            Sight::Again => 'a',
            Sight::Passed => 'p',
        };
        messages.iter().map(of).collect()
    }

    #[test]
    fn what_comes_again_is_known() {
        let mut seen = Seen::default();
        seen.acts(true);
        assert_eq!(see(&mut seen, vec![begin(10), row(), row(), commit(10)]), "nnnn");
        assert_eq!(see(&mut seen, vec![begin(20), row(), row()]), "nnn");
        assert!(seen.is_reading());
        // Another connection goes on before both.
        let again = vec![begin(10), row(), row(), commit(10), begin(20), row(), row(), row(), commit(20)];
        assert_eq!(see(&mut seen, again), "ppppnaann");
        assert!(!seen.is_reading());
        assert_eq!(see(&mut seen, vec![begin(20), row(), row(), row(), commit(20)]), "ppppp");
        assert_eq!(see(&mut seen, vec![begin(30), row(), commit(30)]), "nnn");
    }

    /// What the last node that acted has not confirmed comes again: sockets have it, webhooks may not.
    #[test]
    fn whoever_begins_to_act_does_so_with_what_it_has_seen() {
        let mut seen = Seen::default();
        assert_eq!(
            see(&mut seen, vec![begin(10), row(), commit(10), begin(20), row(), commit(20)]),
            "nnnnnn"
        );
        assert_eq!(see(&mut seen, vec![begin(30), row()]), "nn");
        seen.acts(true);
        let again = vec![begin(20), row(), row(), commit(20), begin(30), row(), row(), commit(30)];
        assert_eq!(see(&mut seen, again), "naannann");
        assert_eq!(see(&mut seen, vec![begin(30), row(), commit(30)]), "ppp", "it has acted");
        seen.acts(false);
        assert_eq!(
            see(&mut seen, vec![begin(30), row(), commit(30), begin(40), row(), commit(40)]),
            "pppnnn"
        );
        seen.acts(true);
        assert_eq!(
            see(&mut seen, vec![begin(40), row(), commit(40), begin(50), row(), commit(50)]),
            "nannnn"
        );
    }

    #[test]
    fn what_was_left_comes_again() {
        let mut seen = Seen::default();
        seen.acts(true);
        assert_eq!(
            see(&mut seen, vec![begin(10), row(), commit(10), begin(20), row(), commit(20)]),
            "nnnnnn"
        );
        seen.leave();
        assert_eq!(see(&mut seen, vec![begin(30), row(), commit(30)]), "nnn");
        seen.leave();
        seen.begins();
        let again =
            [10, 20, 30, 40].into_iter().flat_map(|commit_at| [begin(commit_at), row(), commit(commit_at)]);
        assert_eq!(see(&mut seen, again.collect()), "pppnannannnn");
        assert_eq!(
            see(&mut seen, vec![begin(20), row(), commit(20), begin(40), row(), commit(40)]),
            "pppppp"
        );
    }

    #[test]
    fn what_another_node_was_to_act_on_comes_again() {
        let mut seen = Seen::default();
        seen.acts(true);
        assert_eq!(see(&mut seen, vec![begin(10), row(), commit(10)]), "nnn");
        seen.acts(false);
        seen.is_void();
        // The other one has ended.
        seen.acts(true);
        assert_eq!(see(&mut seen, vec![begin(10), row(), commit(10)]), "nan");
    }

    #[test]
    fn a_transaction_that_breaks_off_twice() {
        let mut seen = Seen::default();
        assert_eq!(see(&mut seen, vec![begin(10), row(), row(), row()]), "nnnn");
        assert_eq!(see(&mut seen, vec![begin(10), row()]), "na");
        assert_eq!(see(&mut seen, vec![begin(10), row(), row(), row(), row(), commit(10)]), "naaann");
    }
}
