//! "Why do I get nothing?": for a token, a binding and a row, step by step.

mod seen;
mod sentences;

use serde::Serialize;

pub use seen::{FilterSeen, Grant, Holds, PolicySeen, Published, RowSeen, Seen, TokenSeen};
pub use sentences::explain;

use crate::Step;

/// How a step went.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// It lets the row through.
    Yes,
    /// It is why nothing arrives.
    No,
    /// It cannot be told from here.
    Open,
    /// Worth knowing.
    Note,
}

/// A step on the way from a row to a client.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Explained {
    /// What is asked at this step: a name that stays the same.
    pub step: &'static str,
    /// How it went.
    pub outcome: Outcome,
    /// One sentence.
    pub text: String,
    /// What mends it.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub mend: Vec<Step>,
}

/// The explanation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Explanation {
    /// Whether the row is sent: `no` if one step says so.
    pub sent: Outcome,
    /// The answer in one sentence.
    pub answer: String,
    /// The steps, in the order in which the server takes them.
    pub steps: Vec<Explained>,
}

impl Explanation {
    /// The explanation for people.
    #[must_use]
    pub fn text(&self) -> String {
        let mut text = String::new();
        for step in &self.steps {
            let word = match step.outcome {
                Outcome::Yes => "yes ",
                Outcome::No => "NO  ",
                Outcome::Open => "?   ",
                Outcome::Note => "    ",
            };
            text.push_str(&format!("{word} {:<12} {}\n", step.step, plain(&step.text)));
            for mend in &step.mend {
                text.push_str(&format!("                  {}\n", plain(&mend.line())));
            }
        }
        text.push_str(&format!("\n{}", plain(&self.answer)));
        text
    }
}

/// A text without what would move the cursor of a terminal.
fn plain(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

#[cfg(test)]
mod tests;
