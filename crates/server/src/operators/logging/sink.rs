//! Where events go: to the counts of errors, and to the log.

use std::{
    collections::hash_map::RandomState,
    fmt,
    hash::BuildHasher as _,
    io::Write as _,
    sync::atomic::{AtomicU64, Ordering},
};

use jiff::Timestamp;
use parking_lot::Mutex;
use realtime_codes::ErrorCode;
use tokio::time::Instant;
use tracing::{
    Event, Level, Subscriber,
    field::{Field, Visit},
    span,
};
use tracing_subscriber::{Layer, layer::Context, registry::LookupSpan};

use super::{
    fields::{Fields, Value, mask},
    line::{self, Common, Format},
    throttle::{Throttle, Verdict},
};
use crate::diagnostics::ErrorCounts;

/// Lines left out since the start.
static SUPPRESSED: AtomicU64 = AtomicU64::new(0);

/// Lines left out of the log since the start, because equal ones came too often.
#[must_use]
pub fn suppressed() -> u64 {
    SUPPRESSED.load(Ordering::Relaxed)
}

/// Writes a line to standard error. Failures are ignored: the server goes on without a log.
pub(super) fn standard_error(line: &str) {
    let _ = std::io::stderr().lock().write_all(line.as_bytes());
}

/// Tenant and request of a span.
#[derive(Debug, Default)]
struct About {
    tenant: Option<String>,
    request_id: Option<String>,
}

impl Visit for About {
    fn record_str(&mut self, field: &Field, value: &str) {
        let place = match field.name() {
            "tenant" | "external_id" => &mut self.tenant,
            "request_id" => &mut self.request_id,
            // Fields of traces only.
            _ => return,
        };
        *place = Some(mask(value).into_owned());
    }

    fn record_debug(&mut self, _: &Field, _: &dyn fmt::Debug) {}
}

/// Remembers the tenant and request of each span.
pub(super) struct Contexts;

impl<S: Subscriber + for<'a> LookupSpan<'a>> Layer<S> for Contexts {
    fn on_new_span(&self, attributes: &span::Attributes<'_>, id: &span::Id, context: Context<'_, S>) {
        let Some(span) = context.span(id) else { return };
        let mut about = About::default();
        attributes.record(&mut about);
        span.extensions_mut().insert(about);
    }

    fn on_record(&self, id: &span::Id, values: &span::Record<'_>, context: Context<'_, S>) {
        let Some(span) = context.span(id) else { return };
        if let Some(about) = span.extensions_mut().get_mut::<About>() {
            values.record(about);
        }
    }
}

/// The fields of an event, together with those of its spans.
fn fields<S: Subscriber + for<'a> LookupSpan<'a>>(event: &Event<'_>, context: &Context<'_, S>) -> Fields {
    let mut fields = Fields::default();
    event.record(&mut fields);
    let metadata = event.metadata();
    if fields.code.is_none() && *metadata.level() == Level::ERROR && is_ours(metadata.target()) {
        fields.code = Some(NO_CODE.to_owned());
    }
    for span in context.event_scope(event).into_iter().flatten() {
        if let Some(about) = span.extensions().get::<About>() {
            fields.tenant = fields.tenant.or_else(|| about.tenant.clone());
            fields.request_id = fields.request_id.or_else(|| about.request_id.clone());
        }
    }
    fields
}

/// Code of our own errors that have no code.
const NO_CODE: &str = ErrorCode::UnknownError.as_str();

/// Whether an event is from this server, and not from a library.
fn is_ours(target: &str) -> bool {
    target == "realtime" || target.starts_with("realtime_")
}

/// Counts events that have a code.
pub(super) struct Counting;

impl<S: Subscriber + for<'a> LookupSpan<'a>> Layer<S> for Counting {
    fn on_event(&self, event: &Event<'_>, context: Context<'_, S>) {
        let metadata = event.metadata();
        let level = *metadata.level();
        if level > Level::WARN || (level == Level::WARN && metadata.fields().field("code").is_none()) {
            return;
        }
        let fields = fields(event, &context);
        if let Some(code) = &fields.code {
            ErrorCounts::global().add(code, fields.tenant.as_deref().unwrap_or_default());
        }
    }
}

/// The description of a kind of lines.
struct Sample {
    level: Level,
    code: Option<String>,
    tenant: Option<String>,
    message: String,
}

/// Writes a line.
type Write = Box<dyn Fn(&str) + Send + Sync>;

/// Writes events as lines.
pub(super) struct Lines {
    format: Format,
    common: Common,
    write: Write,
    hasher: RandomState,
    throttle: Mutex<Throttle<Sample>>,
}

impl fmt::Debug for Lines {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lines").field("format", &self.format).finish_non_exhaustive()
    }
}

impl Lines {
    pub(super) fn new(format: Format, common: Common, write: Write) -> Self {
        let throttle = Mutex::new(Throttle::new(Instant::now()));
        Self { format, common, write, hasher: RandomState::new(), throttle }
    }

    /// Number of equal lines that were left out before a warning; `None` if this one is left out, too.
    fn admit(&self, event: &Event<'_>, fields: &Fields) -> Option<u64> {
        let level = *event.metadata().level();
        let now = Instant::now();
        let mut throttle = self.throttle.lock();
        let over = throttle.sweep(now);
        let verdict = if level > Level::WARN {
            Verdict::Pass(0)
        } else {
            let kind = (event.metadata().callsite(), &fields.code, &fields.tenant);
            throttle.judge(self.hasher.hash_one(kind), now, || Sample {
                level,
                code: fields.code.clone(),
                tenant: fields.tenant.clone(),
                message: fields.message.clone(),
            })
        };
        drop(throttle);
        for (sample, count) in over {
            self.tell_suppressed(sample, count);
        }
        match verdict {
            Verdict::Pass(suppressed) => Some(suppressed),
            Verdict::Suppress => {
                SUPPRESSED.fetch_add(1, Ordering::Relaxed);
                None
            }
        }
    }

    fn tell_suppressed(&self, sample: Sample, count: u64) {
        let fields = Fields {
            message: sample.message,
            code: sample.code,
            tenant: sample.tenant,
            others: vec![("suppressed", Value::Integer(count.into()))],
            ..Fields::default()
        };
        self.write(sample.level, &fields);
    }

    fn write(&self, level: Level, fields: &Fields) {
        (self.write)(&line::write(self.format, Timestamp::now(), level, fields, &self.common));
    }
}

impl<S: Subscriber + for<'a> LookupSpan<'a>> Layer<S> for Lines {
    fn on_event(&self, event: &Event<'_>, context: Context<'_, S>) {
        let mut fields = fields(event, &context);
        let Some(suppressed) = self.admit(event, &fields) else { return };
        if suppressed > 0 {
            fields.others.push(("suppressed", Value::Integer(suppressed.into())));
        }
        self.write(*event.metadata().level(), &fields);
    }
}
