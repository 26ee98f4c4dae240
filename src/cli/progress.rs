//! Shows the progress of a job on stderr: bars on a terminal, otherwise lines.

use std::{collections::HashMap, fmt::Write as _, time::Duration};

use super::text::{duration_text, escape_controls, shorten};
use crate::{
    jobs::event::{Complete, Fact, JobEvent, LOCAL, TaskComplete, TaskFailed},
    telemetry,
};

mod bars;

use self::bars::Bars;

/// The form of the progress.
pub(super) enum View {
    /// Progress bars, for a terminal.
    Bars(Box<Bars>),
    /// Lines, for a log.
    Lines(Names),
    /// No output.
    Silent,
}

/// Names of tasks by id, as far as they are known.
#[derive(Default)]
pub(super) struct Names(HashMap<String, String>);

// === impl View ===

impl View {
    /// The form that suits stderr.
    pub(super) fn new(quiet: bool) -> Self {
        if quiet {
            Self::Silent
        } else if telemetry::stderr_takes_escapes() {
            Self::Bars(Box::default())
        } else {
            Self::Lines(Names::default())
        }
    }

    /// The node has accepted the job.
    pub(super) fn begin(&mut self, job_id: &str) {
        match self {
            Self::Bars(bars) => bars.begin(job_id),
            Self::Lines(_) => telemetry::print_notice(&format!("job {}", escape_controls(job_id))),
            Self::Silent => {}
        }
    }

    /// Shows the next event of the job.
    pub(super) fn on(&mut self, event: &JobEvent) {
        match self {
            Self::Bars(bars) => bars.on(event),
            Self::Lines(names) => {
                if let Some(line) = names.line(event) {
                    telemetry::print_notice(&line);
                }
            }
            Self::Silent => {}
        }
    }

    /// Shows a notice about the connection.
    pub(super) fn note(&mut self, text: &str) {
        match self {
            Self::Bars(bars) => bars.note(&escape_controls(text)),
            Self::Lines(_) => telemetry::print_notice(&escape_controls(text)),
            Self::Silent => {}
        }
    }
}

// === impl Names ===

impl Names {
    /// A line for the start and the end of a task, and for unusual events between them.
    fn line(&mut self, event: &JobEvent) -> Option<String> {
        Some(match &event.fact {
            Fact::TaskStart(start) => {
                self.0.insert(start.task_id.clone(), shorten(&start.task_name, 60));
                format!("start   {}{}", shorten(&start.task_name, 60), location(event))
            }
            Fact::TaskRetry(retry) => {
                let delay = duration_text(Duration::from_millis(retry.delay_ms));
                let name = self.0.get(&retry.task_id).unwrap_or(&retry.task_id);
                format!("retry   {name}: attempt {} in {delay}: {}", retry.attempt, shorten(&retry.error, 200))
            }
            Fact::TaskComplete(done) => format!("done    {}{}", done_text(done), location(event)),
            Fact::TaskError(failed) => format!("failed  {}{}", failed_text(failed), location(event)),
            Fact::Complete(complete) => complete_text(complete),
            Fact::TaskProgress(_) | Fact::Progress(_) | Fact::AggregatedResult(_) => return None,
        })
    }
}

/// The remote on which the task runs, if it is not a local task.
fn location(event: &JobEvent) -> String {
    if event.source == *LOCAL { String::new() } else { format!(", on {}", shorten(&event.source, 40)) }
}

fn done_text(done: &TaskComplete) -> String {
    let mut text =
        format!("{}, {}", shorten(&done.task_name, 60), duration_text(Duration::from_millis(done.duration_ms)));
    if let Some(status) = done.http_status {
        let _ = write!(text, ", HTTP {status}");
    }
    if done.attempts > 1 {
        let _ = write!(text, ", attempt {}", done.attempts);
    }
    text
}

fn failed_text(failed: &TaskFailed) -> String {
    let attempts = if failed.attempts > 1 { format!(", {} attempts", failed.attempts) } else { String::new() };
    format!(
        "{}: {} ({}{attempts})",
        shorten(&failed.task_name, 60),
        shorten(&failed.error, 300),
        escape_controls(&failed.code)
    )
}

/// `completed: 4 of 4 tasks in 1.2 s`.
fn complete_text(complete: &Complete) -> String {
    let status = serde_json::to_value(complete.status).unwrap_or_default();
    let status = status.as_str().unwrap_or("ended").replace('_', " ");
    let took = duration_text(Duration::from_millis(complete.duration_ms));
    format!("{status}: {} of {} tasks in {took}", complete.success_count, complete.total_tasks)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(names: &mut Names, event: &str, data: &str) -> Option<String> {
        let data = format!(r#"{{"jobId":"J","timestamp":1,{}"#, &data[1..]);
        names.line(&JobEvent::decode(event, &data).unwrap())
    }

    #[test]
    fn a_log_has_a_line_for_the_start_and_the_end_of_each_task() {
        let mut names = Names::default();
        let start = line(&mut names, "task_start", r#"{"taskId":"a","taskName":"Load\u001b[1m","source":"local"}"#);
        assert_eq!(start.unwrap(), "start   Load\\u{1b}[1m");
        assert_eq!(line(&mut names, "task_progress", r#"{"taskId":"a","progress":50}"#), None);
        let retry = r#"{"taskId":"a","attempt":2,"delayMs":1500,"error":"busy","code":"http_503"}"#;
        assert_eq!(line(&mut names, "task_retry", retry).unwrap(), "retry   Load\\u{1b}[1m: attempt 2 in 1.5 s: busy");
        let done = r#"{"taskId":"a","taskName":"Load","result":1,"attempts":2,"durationMs":20,"httpStatus":200}"#;
        assert_eq!(line(&mut names, "task_complete", done).unwrap(), "done    Load, 20 ms, HTTP 200, attempt 2");
        let remote = r#"{"taskId":"c","taskName":"C","source":"reactive"}"#;
        assert_eq!(line(&mut names, "task_start", remote).unwrap(), "start   C, on reactive");
        let failed = r#"{"taskId":"b","taskName":"B","error":"no","code":"timeout","retryable":true,"attempts":1,"durationMs":5}"#;
        assert_eq!(line(&mut names, "error", failed).unwrap(), "failed  B: no (timeout)");
        let end =
            r#"{"status":"timed_out","totalTasks":2,"successCount":1,"errorCount":1,"errors":[],"durationMs":30}"#;
        assert_eq!(line(&mut names, "complete", end).unwrap(), "timed out: 1 of 2 tasks in 30 ms");
    }
}
