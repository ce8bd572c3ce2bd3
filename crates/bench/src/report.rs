//! Figures on standard output, one a line.

use std::time::Duration;

use hdrhistogram::Histogram;

/// Prints a figure with its name and unit.
#[expect(clippy::print_stdout, reason = "the program's output")]
pub(crate) fn figure(name: &str, value: impl std::fmt::Display, unit: &str) {
    println!("{name:<44} {value:>12} {unit}");
}

/// Prints a heading.
#[expect(clippy::print_stdout, reason = "the program's output")]
pub(crate) fn heading(text: &str) {
    println!("\n{text}");
}

/// Prints a row of a table.
#[expect(clippy::print_stdout, reason = "the program's output")]
pub(crate) fn row(cells: &[&str]) {
    let cells: Vec<String> = cells
        .iter()
        .enumerate()
        .map(|(n, cell)| if n == 0 { format!("{cell:<16}") } else { format!("{cell:>12}") })
        .collect();
    println!("{}", cells.join(""));
}

/// CPU time for each of `count` units, in microseconds.
pub(crate) fn cpu_per(name: &str, seconds: f64, count: u64) {
    figure(name, format!("{:.1}", seconds * 1e6 / count.max(1) as f64), "µs");
}

/// Percentiles of latencies in microseconds.
pub(crate) fn latencies(name: &str, histogram: &Histogram<u64>) {
    for (label, quantile) in [("p50", 0.5), ("p95", 0.95), ("p99", 0.99), ("max", 1.0)] {
        let value = Duration::from_micros(histogram.value_at_quantile(quantile));
        figure(&format!("{name} {label}"), format!("{:.2}", value.as_secs_f64() * 1e3), "ms");
    }
}

/// The middle one.
pub(crate) fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}
