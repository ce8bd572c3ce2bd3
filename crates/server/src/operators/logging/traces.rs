//! Traces of requests by OpenTelemetry's protocol over HTTP (http_and_ops 9.6). Off by default.
//!
//! `OTEL_TRACES_EXPORTER=otlp` turns them on, unless `OTEL_SDK_DISABLED` is true. The SDK reads the other `OTEL_…`
//! variables of the standard: the address, the sampling, the service's name.

use std::sync::atomic::{AtomicBool, Ordering};

use http::HeaderMap;
use opentelemetry::{
    global,
    propagation::{Extractor, TextMapCompositePropagator},
    trace::TracerProvider as _,
};
use opentelemetry_otlp::{Protocol, SpanExporter, WithExportConfig as _};
use opentelemetry_sdk::{
    Resource,
    propagation::{BaggagePropagator, TraceContextPropagator},
    trace::{Sampler, SdkTracerProvider},
};
use tracing::{Span, Subscriber};
use tracing_opentelemetry::OpenTelemetrySpanExt as _;
use tracing_subscriber::{Layer, filter::filter_fn, registry::LookupSpan};

use crate::config::{ConfigError, Env};

/// Whether traces are made.
static ENABLED: AtomicBool = AtomicBool::new(false);

/// Sends the remaining traces when it is dropped. Must not be dropped within a runtime.
#[derive(Debug)]
pub struct Guard(SdkTracerProvider);

impl Drop for Guard {
    fn drop(&mut self) {
        if let Err(error) = self.0.shutdown() {
            tracing::warn!(%error, "the last traces were not sent");
        }
    }
}

/// A layer of any kind.
type AnyLayer<S> = Box<dyn Layer<S> + Send + Sync>;

/// Begins to make traces, if they are enabled. Must not be called within a runtime.
///
/// # Errors
/// [`ConfigError`] for an unknown word or an address that cannot be used.
pub(super) fn start<S>(env: &Env) -> Result<Option<(AnyLayer<S>, Guard)>, ConfigError>
where
    S: Subscriber + for<'a> LookupSpan<'a> + Send + Sync,
{
    let wanted = env.one_of("OTEL_TRACES_EXPORTER", false, &[("none", false), ("otlp", true)])?;
    if !wanted || env.boolean("OTEL_SDK_DISABLED")? {
        return Ok(None);
    }
    let endpoint = env.required("OTEL_EXPORTER_OTLP_ENDPOINT")?;
    let exporter = SpanExporter::builder()
        .with_http()
        .with_protocol(Protocol::HttpBinary)
        .with_endpoint(format!("{}/v1/traces", endpoint.trim_end_matches('/')))
        .build()
        .map_err(|error| env.wrong("OTEL_EXPORTER_OTLP_ENDPOINT", error))?;
    let resource = Resource::builder().with_service_name(env.required("OTEL_SERVICE_NAME")?).build();
    let provider = SdkTracerProvider::builder()
        .with_batch_exporter(exporter)
        .with_resource(resource)
        .with_sampler(sampler(env)?)
        .build();
    global::set_text_map_propagator(TextMapCompositePropagator::new(vec![
        Box::new(TraceContextPropagator::new()),
        Box::new(BaggagePropagator::new()),
    ]));
    let tracer = provider.tracer("realtime");
    // Background tasks are not traced, because they have no end.
    let ours = filter_fn(|metadata| {
        metadata.is_span() && metadata.target().starts_with("realtime_") && metadata.name() != "database"
    });
    let layer = tracing_opentelemetry::layer().with_tracer(tracer).with_location(false).with_threads(false);
    ENABLED.store(true, Ordering::Relaxed);
    Ok(Some((layer.with_filter(ours).boxed(), Guard(provider))))
}

/// Which traces are sent.
fn sampler(env: &Env) -> Result<Sampler, ConfigError> {
    let name = "OTEL_TRACES_SAMPLER_ARG";
    let ratio = env.required(name)?.trim().parse::<f64>().ok().filter(|ratio| (0.0..=1.0).contains(ratio));
    let ratio = ratio.ok_or_else(|| env.wrong(name, "must be a number from 0 to 1"))?;
    let name = env.required("OTEL_TRACES_SAMPLER")?;
    let root = match name.trim_start_matches("parentbased_") {
        "always_on" => Sampler::AlwaysOn,
        "always_off" => Sampler::AlwaysOff,
        "traceidratio" => Sampler::TraceIdRatioBased(ratio),
        _ => return Err(env.wrong("OTEL_TRACES_SAMPLER", format!("must be a sampler, not {name:?}"))),
    };
    Ok(if name.starts_with("parentbased_") { Sampler::ParentBased(Box::new(root)) } else { root })
}

/// Makes a span part of the trace that the request names.
pub fn follow(span: &Span, headers: &HeaderMap) {
    if ENABLED.load(Ordering::Relaxed) {
        let parent = global::get_text_map_propagator(|propagator| propagator.extract(&Headers(headers)));
        // An error means that the span is not recorded.
        let _ = span.set_parent(parent);
    }
}

struct Headers<'a>(&'a HeaderMap);

impl Extractor for Headers<'_> {
    fn get(&self, key: &str) -> Option<&str> {
        self.0.get(key)?.to_str().ok()
    }

    fn keys(&self) -> Vec<&str> {
        self.0.keys().map(http::HeaderName::as_str).collect()
    }
}
