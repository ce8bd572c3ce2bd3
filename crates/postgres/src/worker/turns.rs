//! Whose turn it is: many who subscribe at once must hold up neither the log nor those who have come back.

/// Commands that are taken in a row at most while somebody waits for what was missed: who comes after them has a pass of
/// its own.
const COMMANDS: u32 = 64;

/// What was done last.
#[derive(Debug, Default)]
pub(super) struct Turns {
    /// Whether the last thing was a command.
    commanded: bool,
    /// Commands since the journal was read.
    commands: u32,
}

impl Turns {
    pub(super) fn command(&mut self) {
        self.commanded = true;
        self.commands = self.commands.saturating_add(1);
    }

    pub(super) fn replay(&mut self) {
        *self = Self::default();
    }

    pub(super) fn other(&mut self) {
        self.commanded = false;
    }

    /// Whether what the log has goes first: after each command.
    pub(super) fn is_of_log(&self) -> bool {
        self.commanded
    }

    /// Whether those who have come back go before the next command.
    pub(super) fn is_of_journal(&self) -> bool {
        self.commands >= COMMANDS
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_without_end_hold_up_nobody() {
        let mut turns = Turns::default();
        assert!(!turns.is_of_log() && !turns.is_of_journal());
        for _ in 0..COMMANDS {
            turns.other();
            assert!(!turns.is_of_log() && !turns.is_of_journal());
            turns.command();
            assert!(turns.is_of_log(), "after each command");
        }
        turns.other();
        assert!(turns.is_of_journal(), "what the log had does not count");
        turns.replay();
        assert!(!turns.is_of_log() && !turns.is_of_journal());
    }
}
