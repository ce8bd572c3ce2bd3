//! What channels of a tenant were told of lately: gaps, warnings and refusals, for operators.

use std::{
    collections::VecDeque,
    time::{SystemTime, UNIX_EPOCH},
};

use parking_lot::Mutex;
use realtime_protocol::SystemMessage;

/// Different notices that are kept: some of each kind that there is. The oldest goes first.
const KEPT: usize = 50;

/// Characters of a text that are kept: those that name the reason.
const MAX_TEXT: usize = 300;

/// A notice, and how often it was given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Told {
    /// `gap`, `warning` or `error`.
    pub status: &'static str,
    /// The reason as a code; empty for errors.
    pub code: &'static str,
    /// The text, as it was given last.
    pub text: String,
    /// How many channels were told, each time counted.
    pub channels: u64,
    /// When it was given first, in seconds since 1970.
    pub first: u64,
    /// When it was given last, in seconds since 1970.
    pub last: u64,
}

/// The recent notices of a tenant's channels.
#[derive(Debug, Default)]
pub struct Notices(Mutex<VecDeque<Told>>);

impl Notices {
    /// Notes what one channel, or several, were told, if it is a notice.
    pub fn told(&self, message: &SystemMessage, channels: u64) {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        if let Some((status, code, text)) = message.notice() {
            self.add(status, code, text, channels, now);
        }
    }

    /// Notices that differ in numbers only are one: counts and times would make each a new one.
    fn add(&self, status: &'static str, code: &'static str, text: &str, channels: u64, now: u64) {
        let mut kept = self.0.lock();
        let is_same = |told: &Told| told.code == code && told.status == status && is_alike(&told.text, text);
        // Notices come in waves: the same was most likely given last.
        let known = kept.iter().rposition(is_same).and_then(|at| kept.remove(at));
        let (channels, first) = known.map_or((channels, now), |told| (told.channels + channels, told.first));
        if kept.len() >= KEPT {
            kept.pop_front();
        }
        let text = text.chars().take(MAX_TEXT).collect();
        kept.push_back(Told { status, code, text, channels, first, last: now });
    }

    /// All of them, the latest first.
    #[must_use]
    pub fn recent(&self) -> Vec<Told> {
        self.0.lock().iter().rev().cloned().collect()
    }
}

/// Whether two texts differ in numbers only, as far as they are kept.
fn is_alike(known: &str, text: &str) -> bool {
    let letters =
        |text: &str| text.chars().take(MAX_TEXT).filter(|c| !c.is_ascii_digit()).collect::<String>();
    known == text || letters(known) == letters(text)
}

#[cfg(test)]
mod tests {
    use realtime_codes::ErrorCode;
    use realtime_protocol::Extension;

    use super::*;

    #[test]
    fn equal_notices_are_counted_and_different_ones_are_bounded() {
        let notices = Notices::default();
        for count in 2..=4 {
            notices.told(&SystemMessage::dropped(Extension::System, count, 100), 2);
        }
        notices.told(&SystemMessage::subscribed(), 1);
        let told = notices.recent();
        assert_eq!(told.len(), 1, "{told:?}");
        assert_eq!((told[0].status, told[0].code, told[0].channels), ("warning", "MessagesDropped", 6));
        assert!(told[0].first <= told[0].last);
        for n in 0..200 {
            let text = format!("table {}", "x".repeat(n % 100 + 1));
            notices.told(&SystemMessage::gap(Extension::System, ErrorCode::BroadcastsMissed, text), 1);
        }
        notices.told(&SystemMessage::error("x".repeat(10_000)), 1);
        let told = notices.recent();
        assert_eq!(told.len(), KEPT);
        assert_eq!((told[0].status, told[0].code, told[0].text.len()), ("error", "", MAX_TEXT));
    }
}
