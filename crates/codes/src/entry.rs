//! What is known about a code.

/// How severe an error is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Level {
    /// Told to channels only; never in the log.
    Notice,
    /// Nothing is wrong.
    Info,
    /// A client was refused or limited, or something is retried. Look at it if it happens often.
    Warning,
    /// Something does not work, and an operator should look at it.
    Error,
}

impl Level {
    /// As it is written in the documentation.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Notice => "notice",
            Self::Info => "info",
            Self::Warning => "warning",
            Self::Error => "error",
        }
    }
}

/// What is known about a code.
#[derive(Debug)]
pub(crate) struct Entry {
    pub(crate) name: &'static str,
    pub(crate) level: Level,
    pub(crate) meaning: &'static str,
    pub(crate) remedy: &'static str,
}
