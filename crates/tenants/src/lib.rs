//! Tenants: their settings, limits and counters, which one a host name means, and the database that keeps them.

mod cipher;
mod convert;
mod directory;
mod fields;
mod flags;
mod inspect;
mod limiter;
mod phash2;
mod record;
mod registry;
mod source;
mod store;
mod tenant;
mod users;

pub use cipher::{CipherError, Ciphers, Ciphertext};
pub use convert::{MAX_SLOT_NAME, TenantTemplate, UnusableTenant};
pub use directory::{Directory, DirectoryOptions, STALE_LIMIT, TenantChange};
pub use fields::{ExtensionFields, Field, FieldErrors, TenantFields};
pub use flags::{FeatureFlag, FlagFields, GCM_BACKFILL};
pub use inspect::{InspectError, Inspected, MAX_STATEMENT, Order, ROWS};
pub use limiter::{CallWindow, Flood, Limiter, Span, Window};
pub use record::{
    ENCRYPTED_SETTINGS, ExtensionRecord, POSTGRES_CDC_RLS, TenantRecord, WEBHOOKS, encrypted_settings,
};
pub use registry::Registry;
pub use source::Tenants;
pub use store::{
    APPLICATION, MetadataConfig, Operation, SCHEMA, Seed, SeedPlace, Seeded, Store, StoreClient, StoreError,
    TenantDefaults, Updated,
};
pub use tenant::{
    CLIENT_PRESENCE_MAX_CALLS, CLIENT_PRESENCE_WINDOW_MS, DatabaseSettings, HISTORY_MB, Limits,
    MAX_HISTORY_MESSAGES, Tenant, bare_host,
};
pub use users::{UserSlot, Users};
