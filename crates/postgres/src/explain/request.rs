//! What is asked.

use realtime_changes::SubscriptionSpec;

/// The way of a row to a token.
#[derive(Debug, Clone)]
pub struct ExplainRequest {
    /// Role of the token.
    pub role: String,
    /// Claims of the token, as JSON.
    pub claims: String,
    /// Schema of the table.
    pub schema: String,
    /// The table.
    pub table: String,
    /// The binding.
    pub spec: SubscriptionSpec,
    /// Columns and values that name a row; empty: no row is looked at.
    pub key: Vec<(String, String)>,
    /// Whether an operator asks, who may know what the token may not: whether tables and rows exist, how policies read.
    pub operator: bool,
}
