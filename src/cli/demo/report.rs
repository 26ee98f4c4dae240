//! Results as text for people: a heading per task, a line per field.

use std::fmt::Write as _;

use serde_json::Value;

use crate::cli::{
    run::Outcome,
    text::{escape_controls, shorten},
};

/// Maximum length of the value of a field in characters.
const VALUE_MAX: usize = 96;

/// The results of all tasks of a job.
pub(super) fn results(outcome: &Outcome) -> String {
    let results: Value = match &outcome.results {
        Some(result) => serde_json::from_str(result.results.get()).unwrap_or_default(),
        None => Value::Null,
    };
    let mut text = String::from("Results\n");
    for (task, result) in results.as_object().into_iter().flatten() {
        let _ = writeln!(text, "\n  {}", escape_controls(task));
        match result {
            Value::Object(fields) => {
                let width = fields.keys().map(|name| name.chars().count()).max().unwrap_or(0);
                for (name, value) in fields {
                    let _ = writeln!(text, "    {:width$}  {}", escape_controls(name), displayed(value));
                }
            }
            other => {
                let _ = writeln!(text, "    {}", displayed(other));
            }
        }
    }
    let has_result = |task: &str| results.get(task).is_some();
    for failed in outcome.complete.errors.iter().filter(|failed| !has_result(&failed.task_id)) {
        let _ = writeln!(text, "\n  {} failed: {}", escape_controls(&failed.task_id), escape_controls(&failed.error));
    }
    text
}

/// The value as short text. A list is shown by its length and its first items.
fn displayed(value: &Value) -> String {
    match value {
        Value::String(text) => shorten(text, VALUE_MAX),
        Value::Array(list) if list.iter().any(Value::is_object) => {
            let first = list.first().map(|first| shorten(&first.to_string(), VALUE_MAX)).unwrap_or_default();
            format!("{} × {first}", list.len())
        }
        other => shorten(&other.to_string(), VALUE_MAX),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{json, value::to_raw_value};

    use super::*;
    use crate::jobs::{
        Status,
        event::{AggregatedResult, Complete, ErrorEntry},
    };

    #[test]
    fn every_task_is_shown_and_long_values_are_cut() {
        let results = json!({
            "Stats": { "count": 3, "regions": { "east": 1.5 } },
            "Image": { "sizes": [{ "width": 1 }, { "width": 2 }], "data": "x".repeat(5000) },
            "Text": "hello",
        });
        let outcome = Outcome {
            results: Some(AggregatedResult { results: to_raw_value(&results).unwrap(), results_url: None }),
            complete: Complete {
                status: Status::Partial,
                total_tasks: 4,
                success_count: 3,
                error_count: 1,
                errors: vec![ErrorEntry { task_id: "Bad".into(), error: "no".into() }],
                errors_omitted: None,
                duration_ms: 9,
            },
        };
        let text = super::results(&outcome);
        for line in [
            "  Stats\n    count    3\n    regions  {\"east\":1.5}\n",
            "    sizes  2 × {\"width\":1}\n",
            "  Text\n    hello\n",
            "  Bad failed: no\n",
        ] {
            assert!(text.contains(line), "{line:?} is not in\n{text}");
        }
        assert!(text.lines().all(|line| line.chars().count() < 130), "{text}");
    }
}
