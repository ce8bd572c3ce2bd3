//! The text format of Prometheus, version 0.0.4: each family once, with its help and type before its samples.
//!
//! It is not OpenMetrics, which would rename counters that operators' dashboards use.

use std::fmt::Write as _;

use realtime_metrics::Snapshot;

use super::families::{Family, Kind};

/// Media type of the format.
pub const CONTENT_TYPE: &str = "text/plain; charset=utf-8";

/// Metrics as text, while they are being written.
#[derive(Debug)]
pub struct Exposition {
    text: String,
    /// Labels of every sample, as they are written.
    common: String,
}

impl Exposition {
    /// An empty text whose samples all have these labels.
    #[must_use]
    pub fn new(common: &[(&str, &str)]) -> Self {
        let mut labels = String::new();
        for (name, value) in common {
            label(&mut labels, name, value);
        }
        Self { text: String::new(), common: labels }
    }

    /// Begins a family. Call it once for each. A family without samples does not appear.
    pub fn family(&mut self, family: &'static Family) -> Samples<'_> {
        Samples { exposition: self, family, begun: false }
    }

    /// The text.
    #[must_use]
    pub fn finish(self) -> String {
        self.text
    }
}

/// The samples of one family.
#[derive(Debug)]
pub struct Samples<'a> {
    exposition: &'a mut Exposition,
    family: &'static Family,
    begun: bool,
}

impl Samples<'_> {
    /// Adds a sample with the values of the family's labels, in their order. The value is scaled.
    pub fn add(&mut self, labels: &[&str], value: f64) -> &mut Self {
        self.begin();
        let labels = self.labels(labels);
        self.sample("", &labels, value / self.family.scale);
        self
    }

    /// Adds the samples of a histogram, unless it is empty.
    pub fn histogram(&mut self, labels: &[&str], seen: &Snapshot) -> &mut Self {
        if seen.count() == 0 {
            return self;
        }
        self.begin();
        let (labels, scale) = (self.labels(labels), self.family.scale);
        for (bound, count) in seen.cumulative() {
            // With a decimal point, because existing series have it: `le="250.0"`.
            let bound = format!("{:?}", bound as f64 / scale);
            let mut labels = labels.clone();
            label(&mut labels, "le", &bound);
            self.sample("_bucket", &labels, count as f64);
        }
        let mut last = labels.clone();
        label(&mut last, "le", "+Inf");
        self.sample("_bucket", &last, seen.count() as f64);
        self.sample("_sum", &labels, seen.sum() as f64 / scale);
        self.sample("_count", &labels, seen.count() as f64);
        self
    }

    fn begin(&mut self) {
        if !std::mem::replace(&mut self.begun, true) {
            let Family { name, kind, help, .. } = self.family;
            let help = help.replace('\\', "\\\\").replace('\n', "\\n");
            // Writing to a string does not fail.
            let _ = writeln!(
                self.exposition.text,
                "# HELP {name} {help}\n# TYPE {name} {kind}",
                kind = kind.as_str()
            );
        }
    }

    fn labels(&self, values: &[&str]) -> String {
        debug_assert_eq!(values.len(), self.family.labels.len(), "{}", self.family.name);
        let mut labels = self.exposition.common.clone();
        for (name, value) in self.family.labels.iter().zip(values) {
            label(&mut labels, name, value);
        }
        labels
    }

    fn sample(&mut self, suffix: &str, labels: &str, value: f64) {
        debug_assert!(suffix.is_empty() || self.family.kind == Kind::Histogram);
        let name = self.family.name;
        let _ = writeln!(self.exposition.text, "{name}{suffix}{{{labels}}} {value}");
    }
}

/// Appends `name="value"`.
fn label(labels: &mut String, name: &str, value: &str) {
    if !labels.is_empty() {
        labels.push(',');
    }
    labels.push_str(name);
    labels.push_str("=\"");
    for c in value.chars() {
        match c {
            '\\' => labels.push_str("\\\\"),
            '"' => labels.push_str("\\\""),
            '\n' => labels.push_str("\\n"),
            c => labels.push(c),
        }
    }
    labels.push('"');
}

#[cfg(test)]
mod tests {
    use realtime_metrics::{Histogram, milliseconds};

    use super::*;

    static COUNTER: Family =
        Family { name: "things", kind: Kind::Counter, labels: &["kind"], help: "a\\b\nc", scale: 1.0 };
    static TIMES: Family =
        Family { name: "times", kind: Kind::Histogram, labels: &[], help: "x", scale: 1000.0 };

    #[test]
    fn labels_are_escaped_and_empty_families_left_out() {
        let mut exposition = Exposition::new(&[("host", "h")]);
        exposition.family(&TIMES).histogram(&[], &Snapshot::default());
        exposition.family(&COUNTER).add(&["a\"b\\c\nd"], 12.0).add(&["é"], 0.5);
        assert_eq!(
            exposition.finish(),
            "# HELP things a\\\\b\\nc\n# TYPE things counter\n\
             things{host=\"h\",kind=\"a\\\"b\\\\c\\nd\"} 12\nthings{host=\"h\",kind=\"é\"} 0.5\n"
        );
    }

    #[test]
    fn histograms_are_cumulative_and_scaled() {
        static BOUNDS: [u64; 2] = milliseconds([10, 250]);
        let histogram = Histogram::new(&BOUNDS);
        for micros in [5_500, 100_000, 400_000] {
            histogram.record(micros);
        }
        let mut exposition = Exposition::new(&[]);
        exposition.family(&TIMES).histogram(&[], &histogram.snapshot());
        assert_eq!(
            exposition.finish(),
            "# HELP times x\n# TYPE times histogram\ntimes_bucket{le=\"10.0\"} 1\ntimes_bucket{le=\"250.0\"} 2\n\
             times_bucket{le=\"+Inf\"} 3\ntimes_sum{} 505.5\ntimes_count{} 3\n"
        );
    }
}
