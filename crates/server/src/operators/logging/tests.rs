use std::sync::Arc;

use parking_lot::Mutex;
use realtime_codes::ErrorCode;
use tracing_subscriber::{Registry, layer::SubscriberExt as _};

use super::{
    fields::mask,
    line::Format,
    sink::{Contexts, Counting, Lines},
};
use crate::diagnostics::ErrorCounts;

/// What is logged while `work` runs.
fn logged(format: Format, work: impl FnOnce()) -> Vec<String> {
    let (subscriber, written) = subscriber(format);
    tracing::subscriber::with_default(subscriber, work);
    written.lock().clone()
}

/// A subscriber, and where it writes.
fn subscriber(format: Format) -> (impl tracing::Subscriber + Send + Sync, Arc<Mutex<Vec<String>>>) {
    let written = Arc::new(Mutex::new(Vec::new()));
    let sink = Arc::clone(&written);
    let common = vec![("region", "eu".to_owned())];
    let lines = Lines::new(format, common, Box::new(move |line| sink.lock().push(line.to_owned())));
    (Registry::default().with(Contexts).with(Counting).with(lines), written)
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
    let remedy = ErrorCode::RlsPolicyError.remedy();
    let expected = format!(
        "warning RlsPolicyError: a \"policy\" failed rows=3 tenant=t request_id=r-1 region=eu remedy={remedy}\n"
    );
    assert_eq!(rest, expected);
    assert_eq!(json["remedy"], remedy);
}

#[test]
fn an_error_has_a_code_whatever_it_is() {
    let lines = logged(Format::Text { color: false }, || {
        tracing::error!("no code");
        tracing::error!(target: "somebody_else", "no code");
        tracing::warn!("no code");
    });
    let unknown =
        format!("error UnknownError: no code region=eu remedy={}", ErrorCode::UnknownError.remedy());
    let messages: Vec<_> = lines.iter().map(|line| line.split_once(' ').unwrap().1.trim_end()).collect();
    assert_eq!(messages, [&*unknown, "error no code region=eu", "warning no code region=eu"]);
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

#[tokio::test(start_paused = true)]
async fn what_was_left_out_is_told_once_the_flood_is_over() {
    let flood = |tenant: &'static str, lines: usize| {
        for _ in 0..lines {
            tracing::warn!(tenant, code = "SlowConsumer", "closed");
        }
    };
    let (subscriber, written) = subscriber(Format::Json);
    let _default = tracing::subscriber::set_default(subscriber);
    flood("goes on", 15);
    flood("has gone", 12);
    tokio::time::advance(std::time::Duration::from_secs(10)).await;
    flood("goes on", 1);
    let told: Vec<_> = written
        .lock()
        .iter()
        .map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap())
        .filter(|line| !line["suppressed"].is_null())
        .map(|line| (line["external_id"].as_str().unwrap().to_owned(), line["suppressed"].as_u64().unwrap()))
        .collect();
    assert!(
        told.contains(&("has gone".to_owned(), 2)) && told.contains(&("goes on".to_owned(), 5)),
        "{told:?}"
    );
    assert_eq!(told.len(), 2);
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
