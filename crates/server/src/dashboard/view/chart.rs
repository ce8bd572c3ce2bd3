//! Charts of the last hour, as SVG that the server writes.

use std::fmt::Write as _;

use maud::{Markup, html};

use super::units;
use crate::operators::history::{EVERY, KEPT, Measure, Series};

/// Height of a chart in its own units; its width is the number of samples.
const HEIGHT: f32 = 60.0;

/// Room above the highest point and below the lowest, so that lines are not cut.
const MARGIN: f32 = 2.0;

/// Samples that may be missing before a line is broken: a node may take one late.
const MAX_HOLE: u64 = 2;

/// What a measure is called, and what it means.
const fn name(measure: Measure) -> (&'static str, &'static str) {
    match measure {
        Measure::Sockets => ("Connections", "Open sockets"),
        Measure::Joins => ("Joins", "Joins that were admitted, per second"),
        Measure::Events => ("Events", "Broadcasts accepted and delivered, per second"),
        Measure::Rows => ("Row changes", "Rows read from the log, per second"),
        Measure::Deliveries => {
            ("Deliveries of row changes", "Row changes, times the subscriptions that matched, per second")
        }
        Measure::Lag => ("Lag of the slot", "Bytes of the log that were not handed over yet"),
        Measure::Policies => {
            ("Time of policies", "Milliseconds per second that the database spent on policies")
        }
        Measure::Memory => ("Memory", "Resident memory of the process"),
        Measure::Cpu => ("CPU", "Per cent of one core"),
    }
}

/// A value as people read it.
fn shown(measure: Measure, value: f32) -> String {
    let value = value.max(0.0);
    match measure {
        Measure::Sockets => units::count(value.round() as u64),
        Measure::Lag | Measure::Memory => units::bytes(value as u64),
        Measure::Policies => format!("{} ms/s", decimal(value)),
        Measure::Cpu => format!("{} %", decimal(value * 100.0)),
        Measure::Joins | Measure::Events | Measure::Rows | Measure::Deliveries => {
            format!("{}/s", decimal(value))
        }
    }
}

/// Small numbers with a decimal, large ones without.
fn decimal(value: f32) -> String {
    if value == 0.0 || value >= 100.0 {
        return units::count(value.round() as u64);
    }
    format!("{value:.1}")
}

/// Charts of these measures, up to the moment `now`.
pub fn charts(series: &Series, now: u64, measures: impl Iterator<Item = Measure>) -> Markup {
    html! {
        @if series.samples.is_empty() {
            p.empty { "No samples yet: one is taken every " (EVERY) " seconds, and kept for an hour." }
        } @else {
            div.charts { @for measure in measures { (chart(measure, &series.of(measure), now)) } }
        }
    }
}

fn chart(measure: Measure, points: &[(u64, f32)], now: u64) -> Markup {
    let (name, meaning) = name(measure);
    let first = now.saturating_sub(KEPT as u64 - 1);
    let points: Vec<(u64, f32)> =
        points.iter().copied().filter(|(at, _)| (first..=now).contains(at)).collect();
    let highest = points.iter().fold(0.0_f32, |highest, (_, value)| highest.max(*value));
    let last = points.last().map_or_else(|| "–".to_owned(), |(_, value)| shown(measure, *value));
    let most = shown(measure, highest);
    let label = format!("{name}: now {last}, at most {most} in the last hour");
    let (line, area) = paths(&points, first, highest);
    html! {
        figure.chart title=(meaning) {
            figcaption { span { (name) } strong { (last) } }
            svg viewBox=(format!("0 0 {KEPT} {HEIGHT}")) preserveAspectRatio="none" role="img" aria-label=(label) {
                path.grid d=(format!("M0 {MARGIN}H{KEPT}M0 {}H{KEPT}", HEIGHT - MARGIN)) {}
                path.area d=(area) {}
                path.line d=(line) {}
            }
            div.axis aria-hidden="true" { span { "1 h ago" } span { "at most " (most) } span { "now" } }
        }
    }
}

/// The line through the points, and the area below it. Both are broken where samples are missing.
fn paths(points: &[(u64, f32)], first: u64, highest: f32) -> (String, String) {
    let (mut line, mut area) = (String::new(), String::new());
    let floor = HEIGHT - MARGIN;
    let runs = points.chunk_by(|(before, _), (after, _)| after.saturating_sub(*before) <= MAX_HOLE);
    for run in runs {
        let mut ends = None;
        for (at, value) in run {
            let x = (at - first) as f32;
            let share = if highest > 0.0 { (value / highest).clamp(0.0, 1.0) } else { 0.0 };
            let y = floor - share * (floor - MARGIN);
            let (begin, _) = *ends.get_or_insert((x, x));
            ends = Some((begin, x));
            // Writing to a text does not fail.
            let _ = write!(line, "{}{x} {y:.1}", if begin < x { 'L' } else { 'M' });
            if begin < x {
                let _ = write!(area, "L{x} {y:.1}");
            } else {
                let _ = write!(area, "M{x} {floor}L{x} {y:.1}");
            }
        }
        if let Some((begin, end)) = ends {
            if begin < end {
                let _ = write!(area, "L{end} {floor}Z");
            } else {
                // A single sample is a point: the line's round ends show it.
                line.push_str("h0.01");
            }
        }
    }
    (line, area)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_go_through_the_samples_and_break_where_some_are_missing() {
        let (line, area) = paths(&[(10, 0.0), (11, 2.0), (13, 1.0), (20, 2.0)], 10, 2.0);
        assert_eq!(line, "M0 58.0L1 2.0L3 30.0M10 2.0h0.01");
        assert_eq!(area, "M0 58L0 58.0L1 2.0L3 30.0L3 58ZM10 58L10 2.0");
        assert_eq!(paths(&[], 0, 0.0), (String::new(), String::new()));
        assert_eq!(paths(&[(1, 0.0), (2, 0.0)], 1, 0.0).0, "M0 58.0L1 58.0");
    }

    #[test]
    fn a_chart_says_in_words_what_it_shows() {
        let series =
            Series { samples: vec![(5, vec![1.0; 9]), (1_000, vec![1234.0, 0.25, 0.0]), (5_000, vec![9.0])] };
        let page = charts(&series, 1_001, Measure::ALL.into_iter()).into_string();
        assert!(
            page.contains("Connections: now 1\u{202f}234, at most 1\u{202f}234 in the last hour"),
            "{page}"
        );
        assert!(page.contains("Joins: now 0.2/s, at most 0.2/s"), "{page}");
        assert!(page.contains("CPU: now –, at most 0 %"), "{page}");
        assert_eq!(page.matches("<svg").count(), 9);
        assert!(!page.contains("style=") && !page.contains("NaN"));
        let none = charts(&Series::default(), 1, Measure::ALL.into_iter()).into_string();
        assert!(none.contains("No samples yet"));
    }

    #[test]
    fn values_for_people() {
        assert_eq!(shown(Measure::Memory, 5_000_000.0), "4.8 MiB");
        assert_eq!(shown(Measure::Cpu, 1.5), "150 %");
        assert_eq!(shown(Measure::Policies, 12.34), "12.3 ms/s");
        assert_eq!(shown(Measure::Events, 123_456.0), "123\u{202f}456/s");
        assert_eq!(shown(Measure::Sockets, -1.0), "0");
    }
}
