//! Traces, taken by a real receiver of OTLP over HTTP (http_and_ops 9.6).

use std::collections::HashMap;

use anyhow::{Context as _, Result};
use opentelemetry_proto::tonic::{
    collector::trace::v1::ExportTraceServiceRequest,
    common::v1::{AnyValue, KeyValue, any_value::Value},
    trace::v1::{Span, status::StatusCode},
};
use prost::Message as _;
use realtime_testkit::{Server, ServerOptions, TestDb, token};

use super::collector::Collector;
use crate::BINARY;

fn text(value: Option<&AnyValue>) -> String {
    match value.and_then(|value| value.value.as_ref()) {
        Some(Value::StringValue(text)) => text.clone(),
        Some(Value::IntValue(n)) => n.to_string(),
        other => format!("{other:?}"),
    }
}

fn attributes(pairs: &[KeyValue]) -> HashMap<String, String> {
    pairs.iter().map(|pair| (pair.key.clone(), text(pair.value.as_ref()))).collect()
}

/// Requests are spans with the tenant and the request's id, part of the caller's trace if there is one
#[tokio::test]
async fn requests_are_traced() -> Result<()> {
    let db = TestDb::new().await?;
    let mut collector = Collector::start(Some(200)).await?;
    let options = ServerOptions::default()
        .env("OTEL_TRACES_EXPORTER", "otlp")
        .env("OTEL_EXPORTER_OTLP_ENDPOINT", &format!("http://127.0.0.1:{}", collector.port))
        .env("OTEL_BSP_SCHEDULE_DELAY", "100")
        .env("OTEL_RESOURCE_ATTRIBUTES", "deployment.environment=test");
    let server = Server::start(BINARY, &db, options).await?;
    let headers = [
        ("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"),
        ("baggage", "request-id=of-the-caller"),
    ];
    assert_eq!(server.http("GET", "/api/ping?apikey=s3cret", &headers, b"").await?.status, 200);
    let bearer = format!("Bearer {}", token("anon"));
    let headers = [("Authorization", &*bearer), ("Content-Type", "application/json")];
    server.http("POST", "/api/broadcast/room-1/events/e", &headers, b"{}").await?;
    let mut spans: HashMap<String, Span> = HashMap::new();
    let mut resource = HashMap::new();
    while !["GET /api/ping", "POST /api/broadcast/{topic}/events/{event}"]
        .iter()
        .all(|name| spans.contains_key(*name))
    {
        let request = collector.next().await?;
        assert_eq!(request.line, "POST /v1/traces HTTP/1.1");
        assert_eq!(request.headers["content-type"], "application/x-protobuf");
        assert!(!String::from_utf8_lossy(&request.body).contains("s3cret"), "the query is nobody's business");
        for of_resource in ExportTraceServiceRequest::decode(&*request.body)?.resource_spans {
            resource = attributes(&of_resource.resource.context("resource")?.attributes);
            for span in of_resource.scope_spans.into_iter().flat_map(|scope| scope.spans) {
                spans.insert(span.name.clone(), span);
            }
        }
    }
    assert_eq!(resource["service.name"], "realtime");
    assert_eq!(resource["deployment.environment"], "test");
    let ping = &spans["GET /api/ping"];
    let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    assert_eq!(hex(&ping.trace_id), "0af7651916cd43dd8448eb211c80319c");
    assert_eq!(hex(&ping.parent_span_id), "b7ad6b7169203331");
    assert_eq!(ping.kind, 2, "of a server");
    assert_ne!(ping.status.as_ref().map(|status| status.code()), Some(StatusCode::Error));
    let of_ping = attributes(&ping.attributes);
    for (name, value) in [
        ("request_id", "of-the-caller"),
        ("external_id", "realtime-dev"),
        ("http.request.method", "GET"),
        ("http.route", "/api/ping"),
        ("http.response.status_code", "200"),
        ("url.path", "/api/ping"),
    ] {
        assert_eq!(of_ping.get(name).map(String::as_str), Some(value), "{name} of {of_ping:?}");
    }
    assert!(spans["POST /api/broadcast/{topic}/events/{event}"].parent_span_id.is_empty());
    // What was not sent yet is sent at the end.
    server.http("GET", "/metrics", &[], b"").await?;
    server.stop().await?;
    loop {
        let request = ExportTraceServiceRequest::decode(&*collector.next().await?.body)?;
        let spans =
            request.resource_spans.iter().flat_map(|spans| &spans.scope_spans).flat_map(|scope| &scope.spans);
        if spans.into_iter().any(|span| span.name == "GET /metrics") {
            return Ok(());
        }
    }
}

/// Nothing is sent unless it is asked for, and a sampler that takes none sends none.
#[tokio::test]
async fn traces_are_off_unless_asked_for() -> Result<()> {
    let db = TestDb::new().await?;
    for variables in [
        &[][..],
        &[("OTEL_TRACES_EXPORTER", "none")],
        &[("OTEL_TRACES_EXPORTER", "otlp"), ("OTEL_SDK_DISABLED", "true")],
        &[("OTEL_TRACES_EXPORTER", "otlp"), ("OTEL_TRACES_SAMPLER", "always_off")],
    ] {
        let mut collector = Collector::start(Some(200)).await?;
        let endpoint = format!("http://127.0.0.1:{}", collector.port);
        let options = ServerOptions::default().env("OTEL_EXPORTER_OTLP_ENDPOINT", &endpoint);
        let options = variables.iter().fold(options, |options, (name, value)| options.env(name, value));
        let server = Server::start(BINARY, &db, options).await?;
        server.http("GET", "/api/ping", &[], b"").await?;
        // Its end sends all there is.
        server.stop().await?;
        assert!(collector.received().is_none(), "{variables:?}");
    }
    Ok(())
}
