//! What a person may type while the nodes run.

use std::io::BufRead as _;

use nix::sys::signal::{SigSet, Signal};
use tokio::sync::mpsc;

/// A command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Order {
    /// Start a process again.
    Start(Whom),
    /// Stop a process gracefully.
    Stop(Whom),
    /// Kill a process, as a crash would.
    Kill(Whom),
    /// Pause a process, as an overloaded machine would.
    Pause(Whom),
    /// Resume a paused process.
    Resume(Whom),
    /// Show what runs.
    List,
}

/// A process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Whom {
    /// A node, by its place.
    Node(usize),
    /// The private NATS.
    Nats,
}

impl Order {
    /// Reads a line. `None` if it is no command. There are `nodes` nodes.
    pub(super) fn read(line: &str, nodes: usize) -> Option<Self> {
        let mut words = line.split_whitespace();
        let (verb, whom) = (words.next()?, words.next());
        if words.next().is_some() {
            return None;
        }
        let whom = match whom {
            None => return matches!(verb, "nodes" | "list" | "status").then_some(Self::List),
            Some("nats") => Whom::Nats,
            Some(node) => {
                let number: usize = node.strip_prefix("node").unwrap_or(node).parse().ok()?;
                Whom::Node(number.checked_sub(1).filter(|place| *place < nodes)?)
            }
        };
        Some(match verb {
            "start" => Self::Start(whom),
            "stop" => Self::Stop(whom),
            "kill" => Self::Kill(whom),
            "pause" => Self::Pause(whom),
            "resume" => Self::Resume(whom),
            _ => return None,
        })
    }
}

/// The lines of standard input, until it ends. A thread of its own reads them: a thread of the runtime would delay the
/// end of the program until the next line.
pub(super) fn lines() -> mpsc::UnboundedReceiver<String> {
    let (lines, receiver) = mpsc::unbounded_channel();
    std::thread::spawn(move || {
        // A background process that reads from a terminal is stopped by this signal. If it is blocked, reading fails
        // instead, and ends.
        let mut signals = SigSet::empty();
        signals.add(Signal::SIGTTIN);
        if signals.thread_block().is_err() {
            return;
        }
        for line in std::io::stdin().lock().lines() {
            let Ok(line) = line else { return };
            if lines.send(line).is_err() {
                return;
            }
        }
    });
    receiver
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn orders_are_read() {
        for (line, order) in [
            ("kill 2", Some(Order::Kill(Whom::Node(1)))),
            ("  start node3 ", Some(Order::Start(Whom::Node(2)))),
            ("pause nats", Some(Order::Pause(Whom::Nats))),
            ("resume 1", Some(Order::Resume(Whom::Node(0)))),
            ("stop 1", Some(Order::Stop(Whom::Node(0)))),
            ("nodes", Some(Order::List)),
            ("kill", None),
            ("kill 0", None),
            ("kill 4", None),
            ("kill 2 3", None),
            ("burn 2", None),
            ("", None),
        ] {
            assert_eq!(Order::read(line, 3), order, "{line}");
        }
    }
}
