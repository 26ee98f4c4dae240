//! `aggregated_result`: the outcomes of all tasks in one event; pure.

use serde::Serialize;
use serde_json::value::RawValue;

use crate::jobs::{event::AggregatedResult, urls};

/// The outcome of a task.
#[derive(Debug)]
pub(crate) enum Outcome {
    /// A result. Its text is not text if it is large or if the event has no room for it.
    Result {
        /// Size of its JSON text.
        bytes: usize,
        /// The JSON text.
        text: Option<Box<RawValue>>,
    },
    /// An error, perhaps shortened.
    Error(Box<str>),
}

#[derive(Serialize)]
struct Failed<'a> {
    error: &'a str,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Elsewhere {
    result: (),
    result_bytes: usize,
    result_url: String,
}

/// One task: its shortest form, and its result if that is longer.
struct Line<'a> {
    key: String,
    short: String,
    inline: Option<&'a str>,
}

/// Puts the outcomes together in the order of the tasks, in at most `budget` bytes. Results that do not fit are replaced
/// by references, the last ones first; if the references do not fit either, the whole is a reference to the job.
pub(crate) fn aggregate<'a>(
    job_id: &str,
    tasks: impl Iterator<Item = (&'a str, &'a Outcome)>,
    budget: usize,
) -> AggregatedResult {
    let lines: Vec<_> = tasks.map(|(id, outcome)| Line::new(job_id, id, outcome)).collect();
    // `{`, `}`, and per line a colon and a comma.
    let mut size = 2 + lines.iter().map(|line| line.key.len() + line.short.len() + 2).sum::<usize>();
    if size > budget {
        return AggregatedResult { results: raw("null".to_owned()), results_url: Some(urls::job(job_id)) };
    }
    let mut text = String::with_capacity(size);
    text.push('{');
    for (index, line) in lines.iter().enumerate() {
        let longer = line.inline.map(|inline| (inline, inline.len() - line.short.len()));
        let value = match longer.filter(|(_, more)| size + more <= budget) {
            Some((inline, more)) => {
                size += more;
                inline
            }
            None => &line.short,
        };
        if index > 0 {
            text.push(',');
        }
        text.push_str(&line.key);
        text.push(':');
        text.push_str(value);
    }
    text.push('}');
    AggregatedResult { results: raw(text), results_url: None }
}

// === impl Line ===

impl<'a> Line<'a> {
    fn new(job_id: &str, id: &str, outcome: &'a Outcome) -> Self {
        let key = json(&id);
        match outcome {
            Outcome::Error(error) => Self { key, short: json(&Failed { error }), inline: None },
            Outcome::Result { bytes, text } => {
                let elsewhere = Elsewhere { result: (), result_bytes: *bytes, result_url: urls::result(job_id, id) };
                let elsewhere = json(&elsewhere);
                match text.as_deref().map(RawValue::get) {
                    Some(inline) if inline.len() > elsewhere.len() => {
                        Self { key, short: elsewhere, inline: Some(inline) }
                    }
                    Some(inline) => Self { key, short: inline.to_owned(), inline: None },
                    None => Self { key, short: elsewhere, inline: None },
                }
            }
        }
    }
}

fn json(value: &impl Serialize) -> String {
    serde_json::to_string(value).expect("plain data serialises")
}

fn raw(text: String) -> Box<RawValue> {
    RawValue::from_string(text).expect("it consists of JSON texts")
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn outcome(value: &Value) -> Outcome {
        let text = serde_json::value::to_raw_value(value).unwrap();
        Outcome::Result { bytes: text.get().len(), text: Some(text) }
    }

    fn results(outcomes: &[(&str, Outcome)], budget: usize) -> (Value, Option<String>) {
        let all = aggregate("J", outcomes.iter().map(|(id, outcome)| (*id, outcome)), budget);
        let text = all.results.get();
        assert!(text.len() <= budget.max(4), "{} of {budget}", text.len());
        (serde_json::from_str(text).unwrap(), all.results_url)
    }

    #[test]
    fn everything_is_inline_while_it_fits() {
        let outcomes = [
            ("a", outcome(&json!({"x": 1}))),
            ("b\"", Outcome::Error("bad \"luck\"".into())),
            ("c", outcome(&Value::Null)),
        ];
        let expected = json!({"a": {"x": 1}, "b\"": {"error": "bad \"luck\""}, "c": null});
        assert_eq!(results(&outcomes, 1000), (expected, None));
    }

    #[test]
    fn what_does_not_fit_is_referred_to() {
        let long = "y".repeat(300);
        let outcomes = [
            ("a", outcome(&json!(long))),
            ("b/b", outcome(&json!(long))),
            ("c", Outcome::Result { bytes: 999, text: None }),
            ("d", outcome(&json!(4))),
        ];
        let (shown, _) = results(&outcomes, 700);
        assert_eq!((&shown["a"], &shown["d"]), (&json!(long), &json!(4)));
        let reference = json!({"result": null, "resultBytes": 302, "resultUrl": "/api/jobs/J/tasks/b%2Fb/result"});
        assert_eq!(shown["b/b"], reference);
        assert_eq!(shown["c"]["resultBytes"], 999);
    }

    #[test]
    fn when_not_even_references_fit_the_job_is_referred_to() {
        let ids: Vec<String> = (0..100).map(|n| n.to_string()).collect();
        let outcomes: Vec<_> = ids.iter().map(|id| (id.as_str(), outcome(&json!("z".repeat(200))))).collect();
        assert_eq!(results(&outcomes, 1000), (Value::Null, Some("/api/jobs/J".into())));
    }
}
