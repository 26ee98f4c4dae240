//! Progress bars: one for each running task, up to the height of a screen, and one for the whole job.

use std::{collections::HashMap, time::Duration};

use indexmap::IndexMap;
use indicatif::{MultiProgress, ProgressBar, ProgressStyle};

use super::{complete_text, done_text, failed_text, location, shorten};
use crate::jobs::event::{Fact, JobEvent, LOCAL, TaskProgress};

/// Maximum number of bars that fit a screen. Further running tasks wait for a free bar.
const MAX_BARS: usize = 16;
/// Maximum number of lines for successful tasks; failures always get a line.
const MAX_LINES: usize = 16;

/// The progress bars of a job.
pub(in crate::cli) struct Bars {
    screen: MultiProgress,
    job: ProgressBar,
    tasks: HashMap<String, ProgressBar>,
    /// Running tasks without a bar, in the order of their start.
    waiting: IndexMap<String, Waiting>,
    /// Lines printed for successful tasks.
    lines: usize,
    job_id: String,
}

/// A running task that waits for a bar.
struct Waiting {
    name: String,
    location: String,
    remote: bool,
}

// === impl Bars ===

impl Default for Bars {
    fn default() -> Self {
        Self::on_screen(MultiProgress::new())
    }
}

impl Bars {
    fn on_screen(screen: MultiProgress) -> Self {
        let job = screen.add(ProgressBar::new(1));
        job.set_style(style("{prefix:.bold} [{bar:30.green}] {pos}/{len} tasks, {elapsed} {msg}"));
        job.set_prefix("job");
        Self { screen, job, tasks: HashMap::new(), waiting: IndexMap::new(), lines: 0, job_id: String::new() }
    }

    pub(super) fn begin(&mut self, job_id: &str) {
        self.job_id = shorten(job_id, 40);
        self.job.set_message(self.job_id.clone());
        self.job.enable_steady_tick(Duration::from_millis(200));
    }

    pub(super) fn on(&mut self, event: &JobEvent) {
        match &event.fact {
            Fact::TaskStart(start) => {
                let waiting = Waiting {
                    name: shorten(&start.task_name, 24),
                    location: location(event).trim_start_matches(", ").to_owned(),
                    remote: event.source != *LOCAL,
                };
                self.waiting.insert(start.task_id.clone(), waiting);
                self.fill();
            }
            Fact::TaskProgress(progress) => self.progress(progress),
            Fact::TaskRetry(retry) => {
                self.message(&retry.task_id, &format!("attempt {}: {}", retry.attempt, retry.error));
            }
            Fact::TaskComplete(done) => {
                self.end(&done.task_id, &format!("  ✔ {}{}", done_text(done), location(event)), true);
            }
            Fact::TaskError(failed) => {
                self.end(&failed.task_id, &format!("  ✘ {}{}", failed_text(failed), location(event)), false);
            }
            Fact::Progress(progress) => {
                self.job.set_length(progress.total_steps as u64);
                self.job.set_position(progress.step as u64);
            }
            Fact::Complete(complete) => {
                self.job.finish_and_clear();
                self.note(&complete_text(complete));
            }
            Fact::AggregatedResult(_) => {}
        }
    }

    /// Assigns free bars to the tasks that have waited longest, and shows the number of tasks that still wait.
    fn fill(&mut self) {
        while self.tasks.len() < MAX_BARS
            && let Some((task_id, task)) = self.waiting.shift_remove_index(0)
        {
            let bar = self.screen.insert_before(&self.job, ProgressBar::new(1000));
            // Remote tasks have a different colour.
            let colour = if task.remote { "magenta" } else { "cyan" };
            bar.set_style(style(&format!("  {{prefix:24!}} [{{bar:30.{colour}}}] {{percent:>3}} % {{wide_msg}}")));
            bar.set_prefix(task.name);
            bar.set_message(task.location);
            bar.tick();
            self.tasks.insert(task_id, bar);
        }
        let more = self.waiting.len();
        self.job.set_message(match more {
            0 => self.job_id.clone(),
            more => format!("{} +{more} more running", self.job_id),
        });
    }

    pub(super) fn note(&self, text: &str) {
        // A failed output is not an error of the job.
        let _ = self.screen.println(text);
    }

    fn progress(&self, progress: &TaskProgress) {
        let Some(bar) = self.tasks.get(&progress.task_id) else { return };
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "0 to 1000 after the clamp")]
        bar.set_position((progress.progress * 10.0).clamp(0.0, 1000.0) as u64);
        if let Some(message) = &progress.message {
            bar.set_message(shorten(message, 60));
        }
    }

    fn message(&self, task_id: &str, text: &str) {
        if let Some(bar) = self.tasks.get(task_id) {
            bar.set_message(shorten(text, 80));
        }
    }

    /// The bar of an ended task becomes a line above the others. Of many tasks only failures get one.
    fn end(&mut self, task_id: &str, text: &str, well: bool) {
        self.waiting.shift_remove(task_id);
        if let Some(bar) = self.tasks.remove(task_id) {
            bar.finish_and_clear();
            self.screen.remove(&bar);
        }
        if !well || self.lines < MAX_LINES {
            self.lines += usize::from(well);
            self.note(text);
        }
        self.fill();
    }
}

fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template).expect("the templates are valid").progress_chars("━╸─")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_running_task_has_one_of_a_few_bars() {
        let mut bars = Bars::on_screen(MultiProgress::with_draw_target(indicatif::ProgressDrawTarget::hidden()));
        let start = |n: usize| {
            let data = format!(r#"{{"jobId":"J","timestamp":1,"taskId":"{n}","taskName":"T","source":"local"}}"#);
            JobEvent::decode("task_start", &data).unwrap()
        };
        for n in 0..100 {
            bars.on(&start(n));
        }
        assert_eq!((bars.tasks.len(), bars.waiting.len()), (MAX_BARS, 100 - MAX_BARS));
        bars.end("3", "done", true);
        assert!(bars.tasks.contains_key("16"), "the task that waited longest has the free bar");
        bars.end("99", "done", true);
        assert_eq!((bars.tasks.len(), bars.waiting.len(), bars.lines), (MAX_BARS, 100 - MAX_BARS - 2, 2));
        for n in (0..99).filter(|n| *n != 3) {
            assert!(bars.tasks.contains_key(&n.to_string()), "each running task gets a bar: {n}");
            bars.end(&n.to_string(), "done", true);
        }
        assert_eq!((bars.tasks.len(), bars.waiting.len(), bars.lines), (0, 0, MAX_LINES));
    }
}
