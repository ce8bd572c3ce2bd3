//! Bodies and answers of the admin API, for the OpenAPI document (http_and_ops 3). What is taken is described here, as
//! bodies are read field by field; what is given is described by the types that are given.
#![allow(dead_code, reason = "described, never made")]

use std::collections::BTreeMap;

use serde_json::{Map, Value};
use utoipa::{IntoResponses, ToSchema};

use super::{
    view::{Health, TenantView},
    webhook_view::WebhookView,
};
use crate::http::shapes::{Message, Problems};

/// The fields of a tenant. Unknown keys are ignored. Numbers may be strings of digits; booleans may be `"true"`, `"1"`,
/// `"false"` or `"0"`.
#[derive(ToSchema)]
#[schema(example = json!({"tenant": {
    "external_id": "acme",
    "jwt_secret": "a secret of this tenant alone",
    "extensions": [{"type": "postgres_cdc_rls", "settings": {
        "region": "eu-central-1", "db_host": "10.0.0.5", "db_port": "5432", "db_name": "app", "db_user": "realtime",
        "db_password": "of the role", "ssl_enforced": false
    }}]
}}))]
pub(super) struct NewTenantBody {
    tenant: NewTenant,
}

/// A tenant by its name. A new one needs its extension, and `jwt_secret` or `jwt_jwks`.
#[derive(ToSchema)]
struct NewTenant {
    /// Its name, which never changes: the first label of the host that its clients connect to.
    #[schema(min_length = 1, max_length = 255, pattern = r"\S")]
    external_id: String,
    #[serde(flatten)]
    fields: TenantChange,
}

/// The fields of the tenant that the path names.
#[derive(ToSchema)]
#[schema(example = json!({"tenant": {"max_concurrent_users": 500, "private_only": true}}))]
pub(super) struct TenantBody {
    tenant: TenantChange,
}

/// Fields of a tenant; those that are not given stay as they are, or get their defaults.
#[derive(ToSchema)]
struct TenantChange {
    /// A name for people; that of a new tenant is its `external_id`.
    name: Option<String>,
    /// Secret of its clients' tokens. It or `jwt_jwks` is needed; never shown.
    #[schema(write_only)]
    jwt_secret: Option<String>,
    /// JSON Web Key Set of its clients' tokens.
    jwt_jwks: Option<KeySet>,
    /// Sockets with a joined channel.
    #[schema(nullable = false)]
    max_concurrent_users: Option<i32>,
    /// Channels of one socket.
    #[schema(nullable = false)]
    max_channels_per_client: Option<i32>,
    /// Messages, row changes and HTTP requests per second.
    #[schema(nullable = false)]
    max_events_per_second: Option<i32>,
    /// Joins per second.
    #[schema(nullable = false)]
    max_joins_per_second: Option<i32>,
    /// Stored, but not enforced.
    #[schema(nullable = false)]
    max_bytes_per_second: Option<i32>,
    /// Presence messages per second.
    max_presence_events_per_second: Option<i32>,
    /// Size of one message, in units of 1000 bytes.
    max_payload_size_in_kb: Option<i32>,
    /// Presence messages of one channel within its window.
    max_client_presence_events_per_window: Option<i32>,
    /// That window in milliseconds.
    client_presence_window_ms: Option<i32>,
    /// How long broadcasts are kept, in seconds; 0: not at all.
    broadcast_history_seconds: Option<i32>,
    /// How many broadcasts of a topic are kept; 0: none.
    broadcast_history_messages: Option<i32>,
    /// Presence is on for channels that do not ask for it.
    #[schema(nullable = false)]
    presence_enabled: Option<bool>,
    /// No connection is accepted.
    #[schema(nullable = false)]
    suspend: Option<bool>,
    /// Only private channels may be joined.
    #[schema(nullable = false)]
    private_only: Option<bool>,
    /// Values of feature flags for this tenant alone.
    #[schema(nullable = false)]
    feature_flags: Option<BTreeMap<String, bool>>,
    /// Its database. Needed for a new tenant. If given again, it replaces the extensions that are there.
    #[schema(nullable = false)]
    extensions: Option<Vec<ExtensionChange>>,
}

/// A JSON Web Key Set.
#[derive(ToSchema)]
struct KeySet {
    keys: Vec<Map<String, Value>>,
}

/// An extension with all its settings.
#[derive(ToSchema)]
struct ExtensionChange {
    /// `postgres_cdc_rls`; other types have no effect.
    #[schema(example = "postgres_cdc_rls")]
    r#type: String,
    settings: ExtensionSettings,
}

/// Where a tenant's database is.
#[derive(ToSchema)]
struct ExtensionSettings {
    #[schema(min_length = 1)]
    region: String,
    #[schema(min_length = 1)]
    db_host: String,
    /// As text.
    #[schema(example = "5432", pattern = "^[0-9]{1,5}$")]
    db_port: String,
    #[schema(min_length = 1)]
    db_name: String,
    #[schema(min_length = 1)]
    db_user: String,
    /// Never shown.
    #[schema(write_only, min_length = 1)]
    db_password: String,
    #[schema(default = "supabase_realtime", nullable = false)]
    publication: Option<String>,
    #[schema(default = "supabase_realtime_replication_slot", nullable = false)]
    slot_name: Option<String>,
    /// Connections to it are encrypted.
    #[schema(default = true, nullable = false)]
    ssl_enforced: Option<bool>,
    /// Connections for row changes. The key is spelled like this.
    #[schema(nullable = false)]
    subcriber_pool_size: Option<i32>,
}

/// A tenant.
#[derive(ToSchema)]
pub(super) struct TenantData {
    data: TenantView,
}

/// Tenants.
#[derive(ToSchema)]
pub(super) struct TenantList {
    data: Vec<TenantView>,
}

/// The health of a tenant.
#[derive(ToSchema)]
pub(super) struct HealthData {
    data: Health<'static>,
}

/// The settings of a webhook. Those that are not given have their defaults, but for the secret, which stays as it is.
#[derive(ToSchema)]
#[schema(example = json!({
    "url": "https://example.com/hooks/orders", "secret": "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
    "schema": "public", "table": "orders", "event": "INSERT", "filter": "total=gt.100"
}))]
#[serde(deny_unknown_fields)]
pub(super) struct WebhookBody {
    /// Where changes are posted: `http://` or `https://`.
    #[schema(max_length = 2048)]
    url: String,
    /// Key of signatures: `whsec_` and base64, or the key itself. Needed for a new webhook; never shown.
    #[schema(write_only, min_length = 16, max_length = 512, nullable = false)]
    secret: Option<String>,
    /// `*` for all schemas.
    #[schema(default = "public")]
    schema: Option<String>,
    /// `*` for all tables. It or `schema` is needed.
    #[schema(default = "*")]
    table: Option<String>,
    /// `INSERT`, `UPDATE`, `DELETE` or `*`.
    #[schema(default = "*", pattern = r"^(\*|INSERT|UPDATE|DELETE)$")]
    event: Option<String>,
    /// Conditions of rows, as channels write them. Needs a table.
    #[schema(example = "total=gt.100")]
    filter: Option<String>,
    /// How long the endpoint may take to answer.
    #[schema(default = 5000, minimum = 100, maximum = 60000, nullable = false)]
    timeout_ms: Option<u64>,
    /// Attempts for one change at most.
    #[schema(default = 12, minimum = 1, maximum = 100, nullable = false)]
    attempts: Option<u32>,
    /// Pause before the second attempt; it doubles with each one, up to a minute.
    #[schema(default = 500, minimum = 10, maximum = 60000, nullable = false)]
    retry_delay_ms: Option<u64>,
    /// How long it is tried to post one change at most.
    #[schema(default = 900_000, minimum = 0, maximum = 86_400_000, nullable = false)]
    give_up_after_ms: Option<u64>,
}

/// A webhook.
#[derive(ToSchema)]
pub(super) struct WebhookData {
    data: WebhookView,
}

/// Webhooks.
#[derive(ToSchema)]
pub(super) struct WebhookList {
    data: Vec<WebhookView>,
}

/// Refusals of a webhook.
#[derive(IntoResponses)]
pub(super) enum WebhookWritten {
    /// The body is no JSON object
    #[response(status = 400, content_type = "text/html", example = json!("Bad Request"))]
    Unreadable(String),
    /// The body did not come in time
    #[response(status = 408, content_type = "text/html", example = json!("Request Timeout"))]
    Late(String),
    /// The body has more than 8,000,000 bytes
    #[response(status = 413, content_type = "text/html", example = json!("Request Entity Too Large"))]
    TooLarge(String),
    /// Something is wrong with it; nothing was written
    #[response(status = 422, example = json!({"errors": {"webhook": ["url must begin with http:// or https://"]}}))]
    Wrong(Problems),
    /// The tenants are those of the configuration
    #[response(status = 501)]
    Configured(Message),
}

/// Answers that all have in common.
#[derive(IntoResponses)]
pub(super) enum Refused {
    /// There is no valid token, or it is a client's
    #[response(status = 403)]
    Forbidden,
    /// The metadata database does not answer
    #[response(status = 503, example = json!({"message": "The metadata database is not available"}))]
    Unavailable(Message),
}

/// Where there is no such tenant.
#[derive(IntoResponses)]
pub(super) enum Missing {
    /// There is no such tenant
    #[response(status = 404, example = json!({"message": "not found"}))]
    Missing(Message),
}

/// Answers to what changes tenants.
#[derive(IntoResponses)]
pub(super) enum Written {
    /// Changed
    #[response(status = 200, headers(("location" = String, description = "Path with the id of the tenant")))]
    Changed(TenantData),
    /// Made, and its database set up
    #[response(status = 201, headers(("location" = String, description = "Path with the id of the tenant")))]
    Made(TenantData),
    /// The body cannot be read, or has no object `tenant`
    #[response(status = 400, content_type = "text/html", example = json!("Bad Request"))]
    Unreadable(String),
    /// Made, but its database could not be set up. The tenant is served as soon as that succeeds
    #[response(status = 401, example = json!({"message": "Unauthorized"}))]
    NotSetUp(Message),
    /// The body did not come in time
    #[response(status = 408, content_type = "text/html", example = json!("Request Timeout"))]
    Late(String),
    /// The body has more than 8,000,000 bytes
    #[response(status = 413, content_type = "text/html", example = json!("Request Entity Too Large"))]
    TooLarge(String),
    /// Something is wrong with a field; nothing was written
    #[response(
        status = 422,
        example = json!({"errors": {"extensions": [{"settings": ["db_password can't be blank", "db_port is invalid"]}]}})
    )]
    Wrong(Problems),
    /// The tenants are those of the configuration
    #[response(status = 501)]
    Configured(Message),
}

/// The published tables.
#[derive(ToSchema)]
pub(super) struct PoliciesData {
    data: PolicyReport,
}

/// What becomes of the policies of published tables.
#[derive(ToSchema)]
struct PolicyReport {
    /// The publication of row changes.
    publication: String,
    /// Its tables, by name.
    tables: Vec<TablePolicies>,
    /// Whether it has more tables than are shown.
    is_cut: bool,
}

/// The policies of a table.
#[derive(ToSchema)]
struct TablePolicies {
    schema: String,
    name: String,
    /// Whether row-level security is on.
    row_security: bool,
    /// Channels that watch it through this node, by role.
    watchers: BTreeMap<String, u64>,
    /// Verdicts about its rows since the node started.
    counted: Option<Counted>,
    /// Roles for which the same holds stand together.
    roles: Vec<RolePolicies>,
}

/// Verdicts about rows, for one role and claims each.
#[derive(ToSchema)]
struct Counted {
    /// Given by compiled policies.
    compiled: u64,
    /// Given by the database.
    asked: u64,
    /// Not given: the policies could not be evaluated.
    withheld: u64,
    /// Compiled ones that the database contradicted.
    mismatch: u64,
}

/// The policies that decide for some roles.
#[derive(ToSchema)]
struct RolePolicies {
    roles: Vec<String>,
    /// Whether they see all rows, whatever the policies say.
    bypasses: bool,
    policies: Vec<PolicyFacts>,
}

/// A policy.
#[derive(ToSchema)]
struct PolicyFacts {
    name: String,
    permissive: bool,
    /// Its condition.
    using: String,
    /// Who decides: the server, the server as far as it can, or the database for each row.
    decided: Decided,
    /// What the database is asked about, and why.
    asked: Vec<AskedPart>,
    /// The tables that it reads.
    reads: Vec<ReadTable>,
}

#[derive(ToSchema)]
#[schema(rename_all = "snake_case")]
enum Decided {
    Compiled,
    InPart,
    Asked,
}

/// A part of a policy that the database is asked about.
#[derive(ToSchema)]
struct AskedPart {
    text: String,
    /// Why it is not compiled, and what helps.
    why: String,
}

/// A table that a policy reads.
#[derive(ToSchema)]
struct ReadTable {
    name: String,
    /// Whether all of its changes come with the log.
    in_stream: bool,
}
