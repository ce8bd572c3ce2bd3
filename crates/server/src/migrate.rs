//! `realtime migrate`: sets the databases of all tenants up for private topics, by hand.

use std::{fmt::Write as _, sync::Arc, time::SystemTime};

use realtime_postgres::{Origin, SchemaReport, TenantDatabase};

use crate::{app::database_config, config::Settings, limits::Meters, routes::Routes};

/// What became of it.
pub struct Outcome {
    /// For the person who asked.
    pub text: String,
    /// Whether everything could be done.
    pub complete: bool,
}

/// Sets up one database after the other; one that fails does not stop the others.
pub async fn run(settings: &Settings) -> Outcome {
    let mut outcome = Outcome { text: String::new(), complete: true };
    if settings.tenants.is_empty() {
        outcome.text.push_str("There is no tenant whose database could be set up");
    }
    for tenant in &settings.tenants {
        let database = TenantDatabase::new(
            database_config(tenant),
            Arc::new(Routes::new(Arc::new(Meters::new(&tenant.limits)))),
        );
        let place = &tenant.database;
        let _ = writeln!(
            outcome.text,
            "Tenant {}: database {} at {}:{}",
            tenant.external_id, place.name, place.host, place.port
        );
        match database.set_up_schema(SystemTime::now(), true).await {
            Ok(report) => {
                outcome.complete &= report.failed.is_empty();
                write_report(&mut outcome.text, &report);
            }
            Err(error) => {
                outcome.complete = false;
                let _ = writeln!(outcome.text, "  Failed, nothing was changed: {error}");
            }
        }
    }
    outcome
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
