//! The figures of a measurement: a table for people, a line of JSON for programs.

use std::time::Duration;

use hdrhistogram::Histogram;
use serde_json::{Map, Value};

use crate::tally::Losses;

/// Longest time that a histogram can distinguish, in microseconds: two minutes. Longer times count as two minutes.
const TIME_MAX: u64 = 120_000_000;

/// Rows in the order of the table.
#[derive(Debug)]
pub(crate) struct Report {
    title: String,
    rows: Vec<(String, Value, &'static str)>,
    clean: bool,
}

// === impl Report ===

impl Report {
    /// A report of a case; it is clean until [`unclean`](Self::unclean).
    pub(crate) fn new(case: &'static str, title: String) -> Self {
        Self { title, rows: vec![("case".into(), case.into(), "")], clean: true }
    }

    /// A figure. The name ends with its unit, as in the API; the table also shows `note`.
    pub(crate) fn put(&mut self, name: impl Into<String>, value: impl Into<Value>, note: &'static str) {
        self.rows.push((name.into(), value.into(), note));
    }

    /// A figure with a fraction, rounded to its significant digits.
    pub(crate) fn ratio(&mut self, name: impl Into<String>, value: Option<f64>, note: &'static str) {
        // The share of a core that idle streams cost is some thousandths.
        let round = |value: f64| {
            let digits = if value.abs() < 0.1 { 1e6 } else { 1e3 };
            (value * digits).round() / digits
        };
        self.put(name, value.filter(|value| value.is_finite()).map(round), note);
    }

    /// Bytes, in MiB.
    pub(crate) fn mib(&mut self, name: impl Into<String>, bytes: Option<u64>, note: &'static str) {
        self.ratio(name, bytes.map(|bytes| float(bytes) / f64::from(1 << 20)), note);
    }

    /// Percentiles of a histogram of microseconds, in milliseconds.
    pub(crate) fn times(&mut self, names: &[(&str, f64)], times: &Histogram<u64>) {
        for (name, percentile) in names {
            self.ratio(*name, millis(times, *percentile), "ms");
        }
    }

    /// Cores that other processes used meanwhile.
    pub(crate) fn others(&mut self, cores: Option<f64>) {
        self.ratio("otherCores", cores, "used by others; far from 0 the figures are of a busy machine");
    }

    /// Events that did not arrive once and in order, and `gap` frames. Any of them makes the report unclean.
    pub(crate) fn losses(&mut self, losses: Losses, gaps: u64, note: &'static str) {
        self.put("lost", losses.lost, note);
        self.put("duplicated", losses.duplicated, "");
        self.put("reordered", losses.reordered, "");
        self.put("gaps", gaps, "");
        if !losses.none() || gaps > 0 {
            self.unclean();
        }
    }

    /// The measurement found a fault.
    pub(crate) fn unclean(&mut self) {
        self.clean = false;
    }

    /// True if all events arrived once and in order.
    pub(crate) fn clean(&self) -> bool {
        self.clean
    }

    /// The table.
    pub(crate) fn table(&self) -> String {
        let width = self.rows.iter().map(|(name, ..)| name.len()).max().unwrap_or(0);
        let mut text = format!("{}\n", self.title);
        for (name, value, note) in &self.rows[1..] {
            let value = match value {
                Value::Null => "-".to_owned(),
                Value::String(text) => text.clone(),
                Value::Number(number) => grouped(&number.to_string()),
                other => other.to_string(),
            };
            let line = format!("  {name:width$}  {value:>14} {note}");
            text.push_str(line.trim_end());
            text.push('\n');
        }
        text.push_str(if self.clean { "clean\n" } else { "NOT CLEAN\n" });
        text
    }

    /// The line of JSON.
    pub(crate) fn json(&self) -> String {
        let mut fields: Map<String, Value> =
            self.rows.iter().map(|(name, value, _)| (name.clone(), value.clone())).collect();
        fields.insert("clean".into(), self.clean.into());
        Value::Object(fields).to_string()
    }
}

/// A histogram of microseconds.
pub(crate) fn histogram() -> Histogram<u64> {
    Histogram::new_with_max(TIME_MAX, 3).expect("the bounds are valid")
}

/// Counts a time in nanoseconds.
pub(crate) fn record(times: &mut Histogram<u64>, nanos: u64) {
    times.saturating_record(nanos / 1000);
}

/// A percentile of a histogram of microseconds, in milliseconds; `None` if it is empty.
pub(crate) fn millis(times: &Histogram<u64>, percentile: f64) -> Option<f64> {
    (!times.is_empty()).then(|| float(times.value_at_quantile(percentile)) / 1000.0)
}

/// The upper of the middle values; `None` if there is none.
pub(crate) fn median(values: &[f64]) -> Option<f64> {
    let mut values = values.to_vec();
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied()
}

/// Exact below 2^53, which no count here reaches.
pub(crate) fn float(count: u64) -> f64 {
    count as f64
}

/// Events, or other items, per second.
pub(crate) fn rate(count: u64, time: Duration) -> Option<f64> {
    (time > Duration::ZERO).then(|| float(count) / time.as_secs_f64())
}

/// Adds a comma between groups of three digits.
fn grouped(number: &str) -> String {
    let (whole, fraction) = number.split_once('.').map_or((number, None), |(whole, fraction)| (whole, Some(fraction)));
    let digits = whole.len();
    let mut text = String::new();
    for (index, digit) in whole.chars().enumerate() {
        if index > 0 && (digits - index) % 3 == 0 && !text.ends_with('-') {
            text.push(',');
        }
        text.push(digit);
    }
    fraction.map_or(text.clone(), |fraction| format!("{text}.{fraction}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_is_a_table_and_a_line() {
        let mut report = Report::new("fanout", "fan-out".into());
        report.put("deliveries", 1_234_567_u64, "");
        report.ratio("cpuUsPerDelivery", Some(2.75), "µs");
        report.ratio("serverCores", None, "");
        report.ratio("idleCores", Some(0.003_449), "");
        report.ratio("rate", Some(234.567_89), "");
        let mut times = histogram();
        (1..=100).for_each(|ms| record(&mut times, ms * 1_000_000));
        report.times(&[("latencyP50Ms", 0.5), ("latencyMaxMs", 1.0)], &times);
        let table = report.table();
        assert!(
            table.contains("1,234,567\n") && table.contains("2.750 µs") && table.contains("- \n")
                || table.contains("-\n"),
            "{table}"
        );
        assert!(table.ends_with("clean\n"));
        report.unclean();
        let json: Value = serde_json::from_str(&report.json()).unwrap();
        assert_eq!(
            (&json["case"], &json["deliveries"], &json["clean"]),
            (&"fanout".into(), &1_234_567.into(), &false.into())
        );
        assert!((json["latencyP50Ms"].as_f64().unwrap() - 50.0).abs() < 0.1, "{json}");
        assert_eq!(json["serverCores"], Value::Null);
        assert_eq!((&json["idleCores"], &json["rate"]), (&0.003_449.into(), &234.568.into()));
    }

    #[test]
    fn thousands_are_separated() {
        assert_eq!(grouped("999"), "999");
        assert_eq!(grouped("1000"), "1,000");
        assert_eq!(grouped("-123456.25"), "-123,456.25");
    }
}
