//! What is told of results of which it is not known all that changes them.

use std::sync::Arc;

use super::{Live, binding::Binding};
use crate::{Notice, live::Source};

/// What clients are told of such a result.
const NOT_ALL_KNOWN: &str = "LiveReadsNotKnown";

/// So many doubts are told.
const TOLD: usize = 3;

impl Live {
    /// Tells who comes to a result what is not known of it. Results that are read by the clock follow all the same.
    pub(super) fn tell_doubts(&self, binding: &Arc<Binding>, source: &Source) {
        if source.doubts.is_empty() || self.settings.recheck.is_some() {
            return;
        }
        let text = text(&source.doubts);
        let table = binding.spec.place();
        tracing::warn!(
            code = NOT_ALL_KNOWN,
            table,
            role = &*binding.role,
            error = text,
            "not all is known that a live result reads"
        );
        self.sink.notice(binding.channel, Notice::warning(NOT_ALL_KNOWN, text));
    }

    /// Tells it to all who have a result, if it is something else than before.
    pub(super) fn tell_new_doubts(&self, result: u32, source: &Source) {
        let Some(kept) = self.results.get(&result).filter(|kept| kept.source.doubts != source.doubts) else {
            return;
        };
        for binding in kept.bindings() {
            self.tell_doubts(binding, source);
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
