//! What was measured: a table for people, a line of JSON for programs.

use std::time::Duration;

use hdrhistogram::Histogram;
use serde_json::{Map, Value};

/// Longest time that a histogram tells apart, in microseconds: two minutes. Longer ones count as that.
const TIME_MAX: u64 = 120_000_000;

/// Beside the cores that other processes used.
pub const OTHERS: &str = "used by others; far from 0 the figures are of a busy machine";

/// Rows in the order in which they are shown.
#[derive(Debug)]
pub struct Report {
    title: String,
    rows: Vec<(&'static str, Value, &'static str)>,
    clean: bool,
}

// === impl Report ===

impl Report {
    /// A report of a case, clean until something is found.
    pub fn new(case: &'static str, title: String) -> Self {
        Self { title, rows: vec![("case", case.into(), "")], clean: true }
    }

    /// A figure; its unit stands at the end of the name, as in the API, and is shown to people as `unit`.
    pub fn put(&mut self, name: &'static str, value: impl Into<Value>, unit: &'static str) {
        self.rows.push((name, value.into(), unit));
    }

    /// A figure with a fraction, rounded to what can be trusted.
    pub fn ratio(&mut self, name: &'static str, value: Option<f64>, unit: &'static str) {
        // A share of a core that silence costs is some thousandths.
        let round = |value: f64| {
            let digits = if value.abs() < 0.1 { 1e6 } else { 1e3 };
            (value * digits).round() / digits
        };
        self.put(name, value.filter(|value| value.is_finite()).map(round), unit);
    }

    /// Percentiles of a histogram of microseconds, in milliseconds.
    pub fn times(&mut self, names: &[(&'static str, f64)], times: &Histogram<u64>) {
        for (name, percentile) in names {
            let micros = times.value_at_quantile(*percentile);
            self.ratio(name, (!times.is_empty()).then(|| float(micros) / 1000.0), "ms");
        }
    }

    /// Says that the measurement is not clean.
    pub fn unclean(&mut self) {
        self.clean = false;
    }

    /// True if all came, once and in order.
    pub fn clean(&self) -> bool {
        self.clean
    }

    /// For people.
    pub fn table(&self) -> String {
        let width = self.rows.iter().map(|(name, ..)| name.len()).max().unwrap_or(0);
        let mut text = format!("{}\n", self.title);
        for (name, value, unit) in &self.rows[1..] {
            let value = match value {
                Value::Null => "-".to_owned(),
                Value::String(text) => text.clone(),
                Value::Number(number) => grouped(&number.to_string()),
                other => other.to_string(),
            };
            let line = format!("  {name:width$}  {value:>14} {unit}");
            text.push_str(line.trim_end());
            text.push('\n');
        }
        text.push_str(if self.clean { "clean\n" } else { "NOT CLEAN\n" });
        text
    }

    /// For programs.
    pub fn json(&self) -> String {
        let mut fields: Map<String, Value> =
            self.rows.iter().map(|(name, value, _)| ((*name).to_owned(), value.clone())).collect();
        fields.insert("clean".into(), self.clean.into());
        Value::Object(fields).to_string()
    }
}

/// A histogram of microseconds.
pub fn histogram() -> Histogram<u64> {
    Histogram::new_with_max(TIME_MAX, 3).expect("the bounds are right")
}

/// Counts a time given in nanoseconds.
pub fn record(times: &mut Histogram<u64>, nanos: u64) {
    times.saturating_record(nanos / 1000);
}

/// Exact below 2^53, which no count here reaches.
#[expect(clippy::cast_precision_loss, reason = "see above")]
pub fn float(count: u64) -> f64 {
    count as f64
}

/// Events per second, or whatever is counted.
pub fn rate(count: u64, time: Duration) -> Option<f64> {
    (time > Duration::ZERO).then(|| float(count) / time.as_secs_f64())
}

/// Thousands apart.
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
    fn thousands_stand_apart() {
        assert_eq!(grouped("999"), "999");
        assert_eq!(grouped("1000"), "1,000");
        assert_eq!(grouped("-123456.25"), "-123,456.25");
    }
}
