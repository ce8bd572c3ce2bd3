//! A permanent slot whose next change cannot be read.

use realtime_pgoutput::Lsn;

use crate::replication::ReplicationError;

/// How often reading may fail at one position before the slot is made again, behind that position.
const ATTEMPTS: u32 = 2;

/// Where reading failed last, and how often in a row.
#[derive(Debug, Default)]
pub(crate) struct Stuck {
    at: Lsn,
    times: u32,
}

impl Stuck {
    /// Reading failed after everything up to a position had come. Whether it is given up there.
    pub(crate) fn failed(&mut self, error: &ReplicationError, position: Lsn) -> bool {
        if !error.is_undecodable() {
            return false;
        }
        if self.at != position {
            *self = Self { at: position, times: 0 };
        }
        self.times += 1;
        if self.times < ATTEMPTS {
            return false;
        }
        tracing::error!(
            code = "ChangeNotDecodable",
            %error,
            %position,
            "the server cannot decode a change behind this position: the replication slot is begun anew"
        );
        *self = Self::default();
        true
    }
}

#[cfg(test)]
mod tests {
    use pgwire_replication::PgWireError;

    use super::*;

    #[test]
    fn a_position_is_given_up_when_it_failed_twice() {
        let server = |text: &str| ReplicationError::Wire(PgWireError::Server(text.to_owned()));
        let (row, other) =
            (server("division by zero (SQLSTATE 22012)"), server("shut down (SQLSTATE 57P01)"));
        let mut stuck = Stuck::default();
        assert!(!stuck.failed(&row, Lsn(1)));
        assert!(!stuck.failed(&row, Lsn(2)), "it has come further");
        assert!(!stuck.failed(&other, Lsn(2)));
        assert!(stuck.failed(&row, Lsn(2)));
        assert!(!stuck.failed(&row, Lsn(2)), "behind it");
    }
}
