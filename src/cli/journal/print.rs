//! Output of the commands as text for people.

use std::fmt::Write as _;

use serde_json::Value;

use super::super::text::escape_controls;
use crate::journal::{Imported, Repaired};

/// The summary, one figure per line, and the largest topics.
pub(super) fn inspection(answer: &Value) -> String {
    let mut text = String::new();
    let mut line = |name: &str, value: &Value| {
        if !value.is_null() {
            let _ = writeln!(text, "{name:<10} {}", words(value));
        }
    };
    let names = ["epoch", "head", "events", "bytes", "topics", "records", "diskBytes", "oldest", "newest", "lastStop"];
    for name in names {
        line(&spaced(name), &answer[name]);
    }
    let topics = answer["topTopics"].as_array().map(Vec::as_slice).unwrap_or_default();
    if !topics.is_empty() {
        text.push_str("largest topics:\n");
    }
    for topic in topics {
        let name = words(&topic["topic"]);
        let _ = writeln!(text, "  {:>10} bytes {:>8} events  {name}", words(&topic["bytes"]), words(&topic["events"]));
    }
    text.truncate(text.trim_end().len());
    text
}

/// The number of items read, and each finding.
pub(super) fn verified(answer: &Value) -> String {
    let damaged = answer["damaged"] == Value::Bool(true);
    let mut text = format!(
        "{}: {} events, {} topics, {} records read",
        if damaged { "damaged" } else { "sound" },
        answer["events"],
        answer["topics"],
        answer["records"]
    );
    let findings = answer["findings"].as_array().map(Vec::as_slice).unwrap_or_default();
    for finding in findings {
        let _ = write!(text, "\n  {}: {}", words(&finding["kind"]), words(&finding["detail"]));
    }
    let counts = answer["counts"].as_object();
    let all: u64 = counts.map_or(0, |counts| counts.values().filter_map(Value::as_u64).sum());
    if all > findings.len() as u64 {
        let _ = write!(text, "\n  and {} more: {}", all - findings.len() as u64, answer["counts"]);
    }
    text
}

/// The number of kept and lost items, and the path of the damaged journal.
pub(super) fn repaired(repaired: &Repaired, dry_run: bool) -> String {
    let Repaired { events, lost_events, topics, records, lost_records, damaged_journal, .. } = repaired;
    let found = serde_json::to_value(&repaired.found).unwrap_or_default();
    let would = if dry_run { "would keep" } else { "kept" };
    let mut text = format!(
        "{}\n{would} {events} events, {topics} topics, {records} records; known to be lost: {lost_events} events, \
         {lost_records} records",
        verified(&found)
    );
    if let Some(path) = damaged_journal {
        let _ = write!(
            text,
            "\nthe damaged journal is in `{}`; nothing uses it, delete it when you do not need it any more\n\
             a new epoch has begun: clients that resume get a gap",
            path.display()
        );
    }
    text
}

/// The number of imported events, and of those that were skipped.
pub(super) fn imported(imported: Imported) -> String {
    let Imported { imported, skipped, .. } = imported;
    format!("imported {imported} events ({skipped} of job histories skipped)")
}

fn words(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), |text| escape_controls(text).into_owned())
}

/// A field name with spaces: `diskBytes` becomes `disk bytes`.
fn spaced(name: &str) -> String {
    name.chars().flat_map(|c| c.is_uppercase().then_some(' ').into_iter().chain(c.to_lowercase())).collect()
}
