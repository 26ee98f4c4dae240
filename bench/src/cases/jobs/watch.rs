//! One job of HTTP tasks: submits it, follows its events to `complete`, counts the end of each task.

use std::{fmt::Write as _, io::Read, net::SocketAddr};

use serde::Deserialize;
use serde_json::Value;

use millstream::sse::{Decoder, Item, Limits};

use crate::{call::send, wire::Body};

/// The ends of a job's tasks.
#[derive(Debug, Default)]
pub(super) struct Ends {
    /// Events that end a task, by its number.
    each: Vec<u32>,
    /// Tasks without a result.
    pub failed: u64,
    /// `complete` arrived.
    complete: bool,
    /// Its counts are those of the events.
    counts_match: bool,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct TaskEnd<'a> {
    task_id: &'a str,
}

/// Submits a job of this number of GETs, and reads its events until `complete` or the end of the stream.
///
/// # Errors
/// When the node refuses the job or the stream breaks off.
pub(super) fn run(node: SocketAddr, url: &str, tasks: u32, concurrency: u16) -> Result<Ends, String> {
    let mut body = format!(r#"{{"concurrency":{concurrency},"tasks":["#);
    for number in 0..tasks {
        let comma = if number == 0 { "" } else { "," };
        let _ = write!(body, r#"{comma}{{"id":"{number}","url":"{url}"}}"#);
    }
    body.push_str("]}");
    let mut socket = send(
        node,
        &format!(
            "POST /api/jobs HTTP/1.1\r\nhost: {node}\r\naccept: text/event-stream\r\n\
             content-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        ),
    )?;
    let mut ends = Ends::of(tasks);
    let (mut body, mut decoder, mut buffer) = (Body::default(), Decoder::new(limits()), vec![0; 64 << 10]);
    while !ends.complete {
        let read = socket.read(&mut buffer).map_err(|error| format!("the job's stream broke off: {error}"))?;
        if read == 0 {
            break;
        }
        body.take(&buffer[..read], |data| {
            let each = |item: Item<'_>| {
                if let Item::Event { event, data, .. } = item {
                    ends.take(event, data);
                }
            };
            decoder.push(data, each).map_err(|error| error.to_string())
        })?;
    }
    Ok(ends)
}

/// `aggregated_result` is as large as an event may be.
fn limits() -> Limits {
    let most = 16 << 20;
    Limits { line: most, event: most }
}

// === impl Ends ===

impl Ends {
    fn of(tasks: u32) -> Self {
        Self { each: vec![0; tasks as usize], ..Self::default() }
    }

    fn take(&mut self, event: &str, data: &str) {
        match event {
            "task_complete" | "error" => {
                let end = serde_json::from_str::<TaskEnd<'_>>(data).ok();
                let number = end.and_then(|end| end.task_id.parse::<usize>().ok());
                let count = number.and_then(|number| self.each.get_mut(number));
                // The end of an unknown task counts as a failure, too.
                self.failed += u64::from(event == "error" || count.is_none());
                count.into_iter().for_each(|count| *count += 1);
            }
            "complete" => {
                let complete: Value = serde_json::from_str(data).unwrap_or_default();
                let succeeded = (self.each.len() as u64).saturating_sub(self.failed);
                self.counts_match = complete["successCount"].as_u64() == Some(succeeded);
                self.complete = true;
            }
            _ => {}
        }
    }

    /// Tasks without an end event, and one more if `complete` is missing or has other counts.
    pub(super) fn lost(&self) -> u64 {
        self.each.iter().filter(|count| **count == 0).count() as u64 + u64::from(!self.counts_match)
    }

    /// End events after the first one of their task.
    pub(super) fn duplicated(&self) -> u64 {
        self.each.iter().map(|count| u64::from(count.saturating_sub(1))).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ends(events: &[(&str, &str)]) -> (u64, u64, u64) {
        let mut ends = Ends::of(2);
        events.iter().for_each(|(event, data)| ends.take(event, data));
        (ends.lost(), ends.duplicated(), ends.failed)
    }

    #[test]
    fn each_task_must_end_once() {
        let (first, second) =
            (("task_complete", r#"{"jobId":"J","taskId":"0"}"#), ("task_complete", r#"{"taskId":"1"}"#));
        let all = ("complete", r#"{"successCount":2}"#);
        assert_eq!(ends(&[first, second, all]), (0, 0, 0));
        assert_eq!(ends(&[first, second]), (1, 0, 0), "`complete` is missing");
        assert_eq!(ends(&[first, first, all]), (1, 1, 0));
        let one = ("complete", r#"{"successCount":1}"#);
        assert_eq!(ends(&[first, ("error", r#"{"taskId":"1"}"#), one]), (0, 0, 1));
        assert_eq!(ends(&[first, second, one]), (1, 0, 0), "other counts than those of the events");
        assert_eq!(ends(&[("task_complete", r#"{"taskId":"2"}"#), first, second, one]), (0, 0, 1), "an unknown task");
    }
}
