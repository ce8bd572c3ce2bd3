//! Setting the metadata database up (http_and_ops 7.1, 7.2).
//!
//! Any number of nodes may do it at once, any number of times: an advisory lock puts them in line, everything is one
//! transaction, and only what is missing is made, so that a database that lacks nothing is only read. What the
//! reference made is completed to what its newest release has, and its migrations are recorded as done, so that
//! either server can be started on the other's database.

use std::collections::HashSet;

use deadpool_postgres::{GenericClient, Transaction};

use super::{
    SCHEMA, Store, StoreError,
    error::{KEY_CHECK, ROLLOUT_CHECK},
    now,
};

/// Key of the advisory lock that puts nodes in line.
const LOCK_KEY: i64 = 0x7265_616c_6d65_7461;

/// Migrations of the reference: what they make is made here at once.
const MIGRATIONS: [i64; 33] = [
    20210706140551,
    20220329161857,
    20220410212326,
    20220506102948,
    20220527210857,
    20220815211129,
    20220815215024,
    20220818141501,
    20221018173709,
    20221102172703,
    20221223010058,
    20230110180046,
    20230810220907,
    20230810220924,
    20231024094642,
    20240306114423,
    20240418082835,
    20240625211759,
    20240704172020,
    20240902173232,
    20241106103258,
    20250424203323,
    20250613072131,
    20250711044927,
    20250811121559,
    20250926223044,
    20251204170944,
    20251218000543,
    20260209232800,
    20260304000000,
    20260422000000,
    20260709151810,
    20260805000000,
];

/// A table and its columns, each with its definition. The first column is there from the beginning.
struct Table {
    name: &'static str,
    columns: &'static [(&'static str, &'static str)],
}

const TABLES: [Table; 4] = [
    Table {
        name: "tenants",
        columns: &[
            ("id", "uuid primary key"),
            ("name", "text"),
            ("external_id", "text"),
            ("jwt_secret", "text"),
            ("jwt_jwks", "jsonb"),
            ("postgres_cdc_default", "text default 'postgres_cdc_rls'"),
            ("max_concurrent_users", "integer not null default 200"),
            ("max_events_per_second", "integer not null default 100"),
            ("max_bytes_per_second", "integer not null default 100000"),
            ("max_channels_per_client", "integer not null default 100"),
            ("max_joins_per_second", "integer not null default 500"),
            ("max_presence_events_per_second", "integer default 1000"),
            ("max_payload_size_in_kb", "integer default 3000"),
            ("max_client_presence_events_per_window", "integer"),
            ("client_presence_window_ms", "integer"),
            ("broadcast_history_seconds", "integer"),
            ("broadcast_history_messages", "integer"),
            ("suspend", "boolean default false"),
            ("notify_private_alpha", "boolean default false"),
            ("private_only", "boolean not null default false"),
            ("presence_enabled", "boolean not null default false"),
            ("migrations_ran", "integer default 0"),
            ("broadcast_adapter", "varchar(255) default 'gen_rpc'"),
            ("feature_flags", "jsonb not null default '{}'"),
            ("gcm_migrated_at", "timestamp(0)"),
            ("inserted_at", "timestamp(0) not null"),
            ("updated_at", "timestamp(0) not null"),
        ],
    },
    Table {
        name: "extensions",
        columns: &[
            ("id", "uuid primary key"),
            ("type", "text"),
            ("settings", "jsonb"),
            ("tenant_external_id", "text"),
            ("inserted_at", "timestamp(0) not null"),
            ("updated_at", "timestamp(0) not null"),
        ],
    },
    Table {
        name: "feature_flags",
        columns: &[
            ("id", "uuid primary key"),
            ("name", "varchar(255) not null"),
            ("enabled", "boolean not null default false"),
            ("rollout_percentage", "integer not null default 100"),
            ("bucket_key", "varchar(255)"),
            ("inserted_at", "timestamp(0) not null"),
            ("updated_at", "timestamp(0) not null"),
        ],
    },
    Table {
        name: "schema_migrations",
        columns: &[("version", "bigint primary key"), ("inserted_at", "timestamp(0)")],
    },
];

/// Indexes: name, and statement that makes it. Before [`CONSTRAINTS`], one of which needs the first.
const INDEXES: [(&str, &str); 4] = [
    ("tenants_external_id_index", "create unique index tenants_external_id_index on tenants (external_id)"),
    (
        "extensions_tenant_external_id_index",
        "create index extensions_tenant_external_id_index on extensions (tenant_external_id)",
    ),
    (
        "extensions_tenant_external_id_type_index",
        "create unique index extensions_tenant_external_id_type_index
             on extensions (tenant_external_id, type)",
    ),
    ("feature_flags_name_index", "create unique index feature_flags_name_index on feature_flags (name)"),
];

/// Constraints: table, name, definition.
const CONSTRAINTS: [(&str, &str, &str); 3] = [
    (
        "extensions",
        "extensions_tenant_external_id_fkey",
        "foreign key (tenant_external_id) references tenants (external_id) on delete cascade",
    ),
    ("tenants", KEY_CHECK, "check (jwt_secret is not null or jwt_jwks is not null)"),
    ("feature_flags", ROLLOUT_CHECK, "check (rollout_percentage between 0 and 100)"),
];

impl Store {
    /// Makes what is missing in the metadata database, and tells what that was: lines for operators, none if
    /// nothing was missing.
    ///
    /// # Errors
    /// [`StoreError::SetUp`] names the step that failed, others that the database was lost; nothing was changed.
    pub async fn set_up(&self) -> Result<Vec<String>, StoreError> {
        let mut client = self.client().await?;
        let transaction = client.transaction().await?;
        // Another node may be at it for as long as that; nothing else is waited for that long.
        transaction.batch_execute("set local statement_timeout = '60s'").await?;
        transaction.execute("select pg_catalog.pg_advisory_xact_lock($1)", &[&LOCK_KEY]).await?;
        let mut work = Work { transaction: &transaction, changed: Vec::new() };
        work.run().await?;
        let changed = work.changed;
        transaction.commit().await?;
        Ok(changed)
    }
}

struct Work<'a, 'b> {
    transaction: &'a Transaction<'b>,
    changed: Vec<String>,
}

impl Work<'_, '_> {
    async fn run(&mut self) -> Result<(), StoreError> {
        self.schema().await?;
        for table in &TABLES {
            self.table(table).await?;
        }
        let there =
            self.names("select relname::text from pg_catalog.pg_class where relkind = 'i'", "rel").await?;
        for (name, statement) in INDEXES {
            if !there.contains(name) {
                self.step(statement, format!("Create index {name}")).await?;
            }
        }
        let there =
            self.names("select conname::text from pg_catalog.pg_constraint where true", "con").await?;
        for (table, name, definition) in CONSTRAINTS {
            if !there.contains(name) {
                let statement = format!("alter table {table} add constraint {name} {definition}");
                self.step(&statement, format!("Add constraint {name}")).await?;
            }
        }
        self.migrations().await
    }

    /// The schema that the search path names, if there is none of it: ours, unless an operator set another.
    async fn schema(&mut self) -> Result<(), StoreError> {
        let row = self
            .transaction
            .query_one("select current_schema()::text, current_setting('search_path')", &[])
            .await?;
        let (current, path): (Option<String>, String) = (row.try_get(0)?, row.try_get(1)?);
        let first = path.split(',').next().unwrap_or_default().trim().trim_matches('"');
        if first == SCHEMA && current.as_deref() != Some(SCHEMA) {
            return self.step(&format!("create schema {SCHEMA}"), format!("Create schema {SCHEMA}")).await;
        }
        match current {
            Some(_) => Ok(()),
            None => Err(StoreError::SetUp {
                what: format!("Find a schema of the search path {path}"),
                error: "there is none".to_owned(),
            }),
        }
    }

    async fn table(&mut self, table: &Table) -> Result<(), StoreError> {
        let name = table.name;
        let rows = self
            .transaction
            .query(
                "select a.attname::text, a.attnotnull
                 from pg_catalog.pg_attribute a
                 where a.attrelid = to_regclass(quote_ident(current_schema()) || '.' || $1)
                   and a.attnum > 0 and not a.attisdropped",
                &[&name],
            )
            .await?;
        if rows.is_empty() {
            let columns: Vec<_> =
                table.columns.iter().map(|(column, definition)| format!("{column} {definition}")).collect();
            let statement = format!("create table {name} ({})", columns.join(", "));
            return self.step(&statement, format!("Create table {name}")).await;
        }
        let mut there = Vec::new();
        for row in &rows {
            there.push((row.try_get::<_, String>(0)?, row.try_get::<_, bool>(1)?));
        }
        for (column, definition) in table.columns {
            match there.iter().find(|(there, _)| there == column) {
                None => {
                    let statement = format!("alter table {name} add column {column} {definition}");
                    self.step(&statement, format!("Add column {column} to {name}")).await?;
                }
                // Secrets had to be there before key sets were known.
                Some((_, true))
                    if !definition.contains("not null") && !definition.contains("primary key") =>
                {
                    let statement = format!("alter table {name} alter column {column} drop not null");
                    self.step(&statement, format!("Allow {column} of {name} to be null")).await?;
                }
                Some(_) => {}
            }
        }
        Ok(())
    }

    async fn migrations(&mut self) -> Result<(), StoreError> {
        let versions = MIGRATIONS.to_vec();
        let statement = "insert into schema_migrations (version, inserted_at)
             select version, $2 from unnest($1::bigint[]) version
             on conflict (version) do nothing";
        let missing = self
            .transaction
            .query_one(
                "select count(*) from unnest($1::bigint[]) version
                 where version not in (select version from schema_migrations)",
                &[&versions],
            )
            .await?;
        if missing.try_get::<_, i64>(0)? > 0 {
            let recorded = self.transaction.execute(statement, &[&versions, &now()]).await?;
            self.changed.push(format!("Record {recorded} migrations of Supabase Realtime as done"));
        }
        Ok(())
    }

    /// Names of objects of a kind in the schema.
    async fn names(&self, query: &str, prefix: &str) -> Result<HashSet<String>, StoreError> {
        let query = format!("{query} and {prefix}namespace = quote_ident(current_schema())::regnamespace");
        let rows = self.transaction.query(&query, &[]).await?;
        rows.iter().map(|row| Ok(row.try_get(0)?)).collect()
    }

    async fn step(&mut self, statement: &str, what: String) -> Result<(), StoreError> {
        match self.transaction.batch_execute(statement).await {
            Ok(()) => {
                self.changed.push(what);
                Ok(())
            }
            Err(error) => match error.as_db_error() {
                Some(db) => Err(StoreError::SetUp { what, error: db.message().to_owned() }),
                None => Err(error.into()),
            },
        }
    }
}
