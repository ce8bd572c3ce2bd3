//! Errors in words.

use std::{error::Error, fmt::Write as _};

/// An error with its causes: of errors of connections the text often says no more than that there was one.
#[must_use]
pub fn describe(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        // Writing to a string does not fail.
        let _ = write!(text, ": {cause}");
        source = cause.source();
    }
    text
}
