//! What is told of results of which it is not known all that changes them.

use super::Live;
use crate::Notice;

/// What clients are told of such a result.
const NOT_ALL_KNOWN: &str = "LiveReadsNotKnown";

/// So many doubts are told.
const TOLD: usize = 3;

impl Live {
    /// Tells those who have got all rows of a result, once, what is not known of it. Results that are read by the clock follow
    /// all the same.
    pub(super) fn tell_doubts(&self, result: u32) {
        let Some(kept) = self.results.get(&result) else { return };
        if kept.source.doubts.is_empty() || self.settings.recheck.is_some() {
            return;
        }
        let mut told: Option<Notice> = None;
        for binding in kept.members.iter().filter(|binding| !binding.warn()) {
            let notice = told.get_or_insert_with(|| {
                let (table, role) = kept.about();
                let text = text(&kept.source.doubts);
                tracing::warn!(
                    code = NOT_ALL_KNOWN,
                    table,
                    role = role.as_deref(),
                    error = text,
                    "not all is known that a live result reads"
                );
                Notice::warning(NOT_ALL_KNOWN, text)
            });
            self.sink.notice(binding.channel, notice.clone());
        }
    }
}

fn text(doubts: &[String]) -> String {
    let told: Vec<&str> = doubts.iter().take(TOLD).map(String::as_str).collect();
    let more = match doubts.len().saturating_sub(TOLD) {
        0 => String::new(),
        more => format!("; and {more} more"),
    };
    format!(
        "It is not known all that live rows read: {}{more}. A change there is seen when something else changes that they read. \
         With LIVE_RECHECK_MS they are read again by the clock besides",
        told.join("; ")
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_few_doubts_are_told() {
        let doubts: Vec<String> = (1..=5).map(|n| format!("f{n}() is written in c{n}")).collect();
        assert!(
            text(&doubts)
                .contains("f1() is written in c1; f2() is written in c2; f3() is written in c3; and 2 more.")
        );
        assert!(text(&doubts[..1]).contains("read: f1() is written in c1. A change"));
    }
}
