//! Why a subscription is refused (postgres_changes 1.7). `Display` is what the client is told.

/// Why a subscription is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SubscribeRefusal {
    /// E3: no published table is meant. Holds the rendered parameters.
    #[error(
        "Unable to subscribe to changes with given parameters. Please check Realtime is enabled for the given connect parameters: {0}"
    )]
    NoTable(String),
    /// E4: the database, or a check in its place, refuses the parameters.
    #[error(
        "Unable to subscribe to changes with given parameters. An exception happened so please check your connect parameters: {context}. Exception: {error}"
    )]
    Database {
        /// The rendered parameters.
        context: String,
        /// The database's error, rendered.
        error: String,
    },
    /// E5, E6: the database cannot be asked at the moment.
    #[error("{{:error, {0:?}}}")]
    Unavailable(String),
}

impl SubscribeRefusal {
    /// The parameters are refused with an exception of our own making.
    #[must_use]
    pub fn raised(context: String, message: &str) -> Self {
        Self::Database { context, error: format!("ERROR P0001 (raise_exception) {message}") }
    }

    /// Whether trying again later may help.
    #[must_use]
    pub const fn is_transient(&self) -> bool {
        matches!(self, Self::Unavailable(_))
    }

    /// Why, for logs: without what the client has written into its filters, which the text for the client repeats.
    #[must_use]
    pub fn reason(&self) -> String {
        match self {
            Self::NoTable(_) => "the table is not published, or does not exist".to_owned(),
            // Such texts begin with the condition: ERROR 22P02 (invalid_text_representation) …
            Self::Database { error, .. } => {
                let condition = error.split_once(')').map_or("", |(condition, _)| condition);
                let condition = condition.strip_prefix("ERROR ").unwrap_or_default().replace('(', "");
                if condition.is_empty() { "refused by the database".to_owned() } else { condition }
            }
            Self::Unavailable(why) => why.clone(),
        }
    }

    /// Operators' code.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Unavailable(_) => "UnableToSubscribeToPostgres",
            _ => "RealtimeDisabledForConfiguration",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// postgres_changes 27
    #[test]
    fn the_transient_error_reads_as_the_references() {
        let refusal = SubscribeRefusal::Unavailable("Too many database timeouts".to_owned());
        assert_eq!(refusal.to_string(), r#"{:error, "Too many database timeouts"}"#);
        assert!(refusal.is_transient());
    }

    /// What clients write into filters may be secret.
    #[test]
    fn reasons_are_without_what_clients_have_written() {
        let of = |error: &str| {
            let context = "[table: t, filters: [secret]]".to_owned();
            SubscribeRefusal::Database { context, error: error.to_owned() }.reason()
        };
        assert_eq!(
            of("ERROR 22P02 (invalid_text_representation) invalid input syntax: \"secret\""),
            "22P02 invalid_text_representation"
        );
        assert_eq!(of("secret"), "refused by the database");
        assert!(!SubscribeRefusal::NoTable("[secret]".to_owned()).reason().contains("secret"));
    }
}
