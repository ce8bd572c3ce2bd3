//! `realtime migrate`: sets up the metadata database, and all tenants' databases for private topics. Says what a set-up does
//! not mend.

use std::{fmt::Write as _, sync::Arc, time::SystemTime};

use realtime_channels::{limits::Meters, routes::Routes};
use realtime_postgres::{DatabaseConfig, Origin, SchemaReport, TenantDatabase, look, look_at_schema};
use realtime_tenants::{Seeded, Store, StoreError, Tenant};

use crate::{
    config::{MetadataSettings, Settings},
    node::database_config,
};

/// The outcome of a set-up.
pub struct Outcome {
    /// The report for the person who asked.
    pub text: String,
    /// Whether everything was done.
    pub complete: bool,
}

/// Sets up one database after the other. A failure does not stop the others. `dry`: only says what would be done.
pub async fn run(settings: &Settings, dry: bool) -> Outcome {
    let mut outcome = Outcome { text: String::new(), complete: true };
    let tenants = match &settings.metadata {
        Some(metadata) => outcome.stored(metadata, dry).await,
        None => settings.tenants.clone(),
    };
    if tenants.is_empty() && outcome.complete {
        outcome.line("There is no tenant whose database could be set up");
    }
    for tenant in &tenants {
        outcome.tenant(tenant, dry).await;
    }
    outcome
}

impl Outcome {
    fn line(&mut self, line: &str) {
        self.text.push_str(line);
        self.text.push('\n');
    }

    /// Sets up the metadata database. Returns its tenants.
    async fn stored(&mut self, metadata: &MetadataSettings, dry: bool) -> Vec<Tenant> {
        let config = &metadata.config;
        self.line(&format!("Metadata: database {} at {}:{}", config.name, config.host, config.port));
        let read = match dry {
            true => self.preview_stored(metadata).await,
            false => self.try_stored(metadata).await,
        };
        match read {
            Ok(tenants) => tenants,
            Err(error) => {
                self.complete = false;
                self.line(&format!("  Failed: {error}"));
                Vec::new()
            }
        }
    }

    async fn try_stored(&mut self, metadata: &MetadataSettings) -> Result<Vec<Tenant>, StoreError> {
        let store = Store::new(metadata.config.clone())?;
        let mut changed = store.set_up().await?;
        if let Some(seed) = &metadata.seed {
            match store.seed(seed).await? {
                Seeded::Created(_) => changed.push(format!("Make tenant {}", seed.external_id)),
                Seeded::Updated(updated) if updated.changed.is_empty() => {}
                Seeded::Updated(_) => {
                    changed.push(format!(
                        "Give tenant {} the environment's keys and database",
                        seed.external_id
                    ));
                }
            }
        }
        if changed.is_empty() {
            changed.push("Nothing to change".to_owned());
        }
        for line in changed {
            self.line(&format!("  {line}"));
        }
        self.tenants_of(metadata, &store).await
    }

    /// The tenants that are stored by now. Where the schema is missing there are none.
    async fn preview_stored(&mut self, metadata: &MetadataSettings) -> Result<Vec<Tenant>, StoreError> {
        let store = Store::new(metadata.config.clone())?;
        let client = store.client().await?;
        let found = client
            .query_one(
                "select coalesce(to_regclass('tenants'), to_regclass('_realtime.tenants')) is not null",
                &[],
            )
            .await?;
        drop(client);
        if !found.try_get::<_, bool>(0)? {
            self.line("  Would create schema _realtime and its tables");
            return Ok(Vec::new());
        }
        self.line("  Not looked at: a set-up is repeated without harm");
        self.tenants_of(metadata, &store).await
    }

    async fn tenants_of(
        &mut self,
        metadata: &MetadataSettings,
        store: &Store,
    ) -> Result<Vec<Tenant>, StoreError> {
        let mut tenants = Vec::new();
        for record in store.list().await? {
            match record.tenant(store.ciphers(), &metadata.options.template) {
                Ok(tenant) => tenants.push(tenant),
                Err(error) => {
                    self.complete = false;
                    self.line(&format!("Tenant {}: cannot be served: {error}", record.external_id));
                }
            }
        }
        Ok(tenants)
    }

    async fn tenant(&mut self, tenant: &Tenant, dry: bool) {
        let config = database_config(tenant);
        let place = &tenant.database;
        self.line(&format!(
            "Tenant {}: database {} at {}:{}",
            tenant.external_id, place.name, place.host, place.port
        ));
        if dry {
            self.preview(&config).await;
        } else {
            self.set_up(tenant, &config).await;
        }
    }

    async fn set_up(&mut self, tenant: &Tenant, config: &DatabaseConfig) {
        let routes = Arc::new(Routes::new(Arc::new(Meters::new(&tenant.limits))));
        let database = TenantDatabase::new(config.clone(), routes);
        match database.set_up_schema(SystemTime::now(), true).await {
            Ok(report) => {
                self.complete &= report.failed.is_empty();
                write_report(&mut self.text, &report);
                self.look(config).await;
            }
            Err(error) => {
                self.complete = false;
                self.line(&format!("  Failed, nothing was changed: {error}"));
            }
        }
    }

    /// What a set-up would do. Nothing is changed.
    async fn preview(&mut self, config: &DatabaseConfig) {
        match look_at_schema(config, SystemTime::now()).await {
            Ok(facts) => {
                if facts.plan.is_empty() {
                    self.line("  Nothing to change");
                }
                for planned in &facts.plan {
                    self.line(&format!("  Would {}", lower(&planned.what)));
                }
                for note in &facts.notes {
                    self.line(&format!("  Note: {note}"));
                }
                self.look(config).await;
            }
            Err(error) => {
                self.complete = false;
                self.line(&format!("  Failed: {error}"));
            }
        }
    }

    /// What a set-up does not mend, and what does.
    async fn look(&mut self, config: &DatabaseConfig) {
        let Ok(facts) = look(config).await else { return };
        if facts.wal_level != "logical" {
            self.complete = false;
            self.line(&format!(
                "  Failed: wal_level is {}, so there are no row changes and no messages from the database: \
                 alter system set wal_level = logical, then restart PostgreSQL",
                facts.wal_level
            ));
        }
        let publication = &config.publication;
        match facts.published {
            Some(_) => {}
            None => self.line(&format!(
                "  Note: there is no publication {publication}, so rows cannot be watched: \
                 create publication {publication} for table YOUR_TABLES"
            )),
        }
    }
}

/// With a small letter at its beginning.
fn lower(text: &str) -> String {
    let mut letters = text.chars();
    letters.next().map(|first| first.to_lowercase().chain(letters).collect()).unwrap_or_default()
}

fn write_report(text: &mut String, report: &SchemaReport) {
    let lines = |text: &mut String, prefix: &str, lines: &[String]| {
        for line in lines {
            let _ = writeln!(text, "  {prefix}{line}");
        }
    };
    match report.origin {
        Origin::Ours => {}
        Origin::Supabase(Some(migrations)) => {
            let _ = writeln!(
                text,
                "  Made by Supabase Realtime ({migrations} migrations); its objects are left as they are"
            );
        }
        Origin::Supabase(None) => {
            let _ = writeln!(text, "  Made by Supabase Realtime; its objects are left as they are");
        }
    }
    if report.changed.is_empty() && report.failed.is_empty() {
        let _ = writeln!(text, "  Nothing to change");
    }
    lines(text, "", &report.changed);
    lines(text, "Failed: ", &report.failed);
    lines(text, "Note: ", &report.notes);
}
