//! Metrics of the components: rows with a name, a meaning and values. `http/metrics.rs` writes them as text.
//!
//! A component counts by itself and adds its rows at each scrape: `pub fn metrics(&self, rows: &mut Rows)`. Names have
//! no prefix and no suffix: the text adds `millstream_`, and `_total` to counters. `docs/operating.md` lists all
//! metrics.

use std::borrow::Cow;

/// The rows of all components, in the order in which they were added.
#[derive(Debug, Default)]
pub struct Rows(Vec<Row>);

/// One metric: a single value, or one for each value of a label.
#[derive(Debug)]
pub struct Row {
    /// The name, without prefix and suffix.
    pub name: &'static str,
    /// Its meaning, for people.
    pub help: &'static str,
    /// Counter or gauge.
    pub kind: Kind,
    /// The values, each with the value of its label; the label is empty for a single value.
    pub values: Vec<(Cow<'static, str>, u64)>,
    /// The name of the label; empty for a single value.
    pub label: &'static str,
}

/// How a value changes over time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The value only grows while the node runs.
    Counter,
    /// The value is the present state.
    Gauge,
}

// === impl Rows ===

impl Rows {
    /// Adds a counter.
    pub fn counter(&mut self, name: &'static str, help: &'static str, value: u64) {
        self.add(Kind::Counter, name, help, "", [("", value)]);
    }

    /// Adds a gauge.
    pub fn gauge(&mut self, name: &'static str, help: &'static str, value: u64) {
        self.add(Kind::Gauge, name, help, "", [("", value)]);
    }

    /// Adds a counter for each value of a label. Several components may add values to one name.
    pub fn counters<S: Into<Cow<'static, str>>>(
        &mut self,
        name: &'static str,
        help: &'static str,
        label: &'static str,
        values: impl IntoIterator<Item = (S, u64)>,
    ) {
        self.add(Kind::Counter, name, help, label, values);
    }

    /// Adds a gauge for each value of a label.
    pub fn gauges<S: Into<Cow<'static, str>>>(
        &mut self,
        name: &'static str,
        help: &'static str,
        label: &'static str,
        values: impl IntoIterator<Item = (S, u64)>,
    ) {
        self.add(Kind::Gauge, name, help, label, values);
    }

    /// All rows.
    pub fn iter(&self) -> impl Iterator<Item = &Row> {
        self.0.iter()
    }

    fn add<S: Into<Cow<'static, str>>>(
        &mut self,
        kind: Kind,
        name: &'static str,
        help: &'static str,
        label: &'static str,
        values: impl IntoIterator<Item = (S, u64)>,
    ) {
        let values = values.into_iter().map(|(value, figure)| (value.into(), figure));
        match self.0.iter_mut().find(|row| row.name == name) {
            Some(row) => row.values.extend(values),
            None => self.0.push(Row { name, help, kind, label, values: values.collect() }),
        }
    }
}
