use std::sync::Arc;

use parking_lot::Mutex;
use tracing_subscriber::{Registry, layer::SubscriberExt as _};

use super::{
    fields::mask,
    line::Format,
    sink::{Contexts, Counting, Lines},
};
use crate::metrics::errors::ErrorCounts;

/// What is logged while `work` runs.
fn logged(format: Format, work: impl FnOnce()) -> Vec<String> {
    let written = Arc::new(Mutex::new(Vec::new()));
    let sink = Arc::clone(&written);
    let common = vec![("region", "eu".to_owned())];
    let lines = Lines::new(format, common, Box::new(move |line| sink.lock().push(line.to_owned())));
    let subscriber = Registry::default().with(Contexts).with(Counting).with(lines);
    tracing::subscriber::with_default(subscriber, work);
    written.lock().clone()
}

#[test]
fn a_line_has_the_code_the_tenant_and_the_request() {
    let work = || {
        let span = tracing::error_span!("request", request_id = "r-1", tenant = tracing::field::Empty);
        span.record("tenant", "t");
        let _entered = span.enter();
        tracing::warn!(code = "RlsPolicyError", rows = 3, "a \"policy\"\nfailed");
    };
    let lines = logged(Format::Json, work);
    let [line] = &lines[..] else { panic!("{lines:?}") };
    let json: serde_json::Value = serde_json::from_str(line).unwrap();
    for (name, value) in [
        ("level", "warning"),
        ("message", "RlsPolicyError: a \"policy\"\nfailed"),
        ("project", "t"),
        ("external_id", "t"),
        ("request_id", "r-1"),
        ("error_code", "RlsPolicyError"),
        ("region", "eu"),
    ] {
        assert_eq!(json[name], value, "{line}");
    }
    assert_eq!(json["rows"], 3);
    let lines = logged(Format::Text { color: false }, work);
    let [line] = &lines[..] else { panic!("{lines:?}") };
    let (_, rest) = line.split_once(' ').unwrap();
    let expected = "warning RlsPolicyError: a \"policy\" failed rows=3 tenant=t request_id=r-1 region=eu\n";
    assert_eq!(rest, expected);
}

#[test]
fn a_flood_is_left_out_but_counted() {
    let before = |all: &[(String, String, u64)]| {
        let flood =
            |(code, tenant, _): &&(String, String, u64)| code == "SlowConsumer" && tenant == "flooded";
        all.iter().find(flood).map_or(0, |(.., count)| *count)
    };
    let counted = before(&ErrorCounts::global().all());
    let lines = logged(Format::Json, || {
        for _ in 0..1000 {
            tracing::warn!(tenant = "flooded", code = "SlowConsumer", "closed");
        }
        tracing::warn!(tenant = "other", code = "SlowConsumer", "closed");
        for _ in 0..100 {
            tracing::info!("what is no warning is written");
        }
    });
    assert_eq!(lines.len(), 10 + 1 + 100);
    assert_eq!(before(&ErrorCounts::global().all()) - counted, 1000);
}

#[test]
fn what_looks_like_a_token_is_masked() {
    let token = "eyJhbGciOiJIUzI1NiJ9.eyJyb2xlIjoiYW5vbiJ9.c2ln_bmF0dXJl-Zg";
    assert_eq!(mask(&format!("?apikey={token}&vsn=2 {token}")), "?apikey=[token]&vsn=2 [token]");
    assert_eq!(mask(token), "[token]");
    assert_eq!(mask("heyJude eyJ"), "heyJude eyJ");
    let lines = logged(Format::Json, || tracing::error!(error = token, "it was {token}"));
    assert!(!lines.concat().contains("eyJ") && lines.concat().contains("[token]"), "{lines:?}");
}
