//! `realtime migrate`: sets up the metadata database, and all tenants' databases for private topics.

use std::{fmt::Write as _, sync::Arc, time::SystemTime};

use realtime_channels::{limits::Meters, routes::Routes};
use realtime_postgres::{Origin, SchemaReport, TenantDatabase};
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

/// Sets up one database after the other. A failure does not stop the others.
pub async fn run(settings: &Settings) -> Outcome {
    let mut outcome = Outcome { text: String::new(), complete: true };
    let tenants = match &settings.metadata {
        Some(metadata) => outcome.stored(metadata).await,
        None => settings.tenants.clone(),
    };
    if tenants.is_empty() && outcome.complete {
        outcome.line("There is no tenant whose database could be set up");
    }
    for tenant in &tenants {
        outcome.tenant(tenant).await;
    }
    outcome
}

impl Outcome {
    fn line(&mut self, line: &str) {
        self.text.push_str(line);
        self.text.push('\n');
    }

    /// Sets up the metadata database. Returns its tenants.
    async fn stored(&mut self, metadata: &MetadataSettings) -> Vec<Tenant> {
        let config = &metadata.config;
        self.line(&format!("Metadata: database {} at {}:{}", config.name, config.host, config.port));
        match self.try_stored(metadata).await {
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

    async fn tenant(&mut self, tenant: &Tenant) {
        let database = TenantDatabase::new(
            database_config(tenant),
            Arc::new(Routes::new(Arc::new(Meters::new(&tenant.limits)))),
        );
        let place = &tenant.database;
        self.line(&format!(
            "Tenant {}: database {} at {}:{}",
            tenant.external_id, place.name, place.host, place.port
        ));
        match database.set_up_schema(SystemTime::now(), true).await {
            Ok(report) => {
                self.complete &= report.failed.is_empty();
                write_report(&mut self.text, &report);
            }
            Err(error) => {
                self.complete = false;
                self.line(&format!("  Failed, nothing was changed: {error}"));
            }
        }
    }
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
