//! Bars: one per task while they are few, one for the whole job always.

use std::{collections::HashMap, time::Duration};

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};

use super::{complete_text, done_text, failed_text, place, short};
use crate::jobs::event::{Fact, JobEvent, LOCAL, TaskProgress};

/// Most bars at once; tasks beyond them only count in the job's bar. More would not fit a screen.
const MOST: usize = 16;

/// What is drawn.
pub(in crate::cli) struct Bars {
    screen: MultiProgress,
    job: ProgressBar,
    tasks: HashMap<String, ProgressBar>,
    /// Bars of tasks that have ended and still stand there.
    kept: usize,
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
        Self { screen, job, tasks: HashMap::new(), kept: 0 }
    }

    pub(super) fn begin(&mut self, job_id: &str) {
        self.job.set_message(short(job_id, 40));
        self.job.enable_steady_tick(Duration::from_millis(200));
    }

    pub(super) fn on(&mut self, event: &JobEvent) {
        match &event.fact {
            Fact::TaskStart(start) if self.tasks.len() + self.kept < MOST => {
                let bar = self.screen.insert_before(&self.job, ProgressBar::new(1000));
                // Bars of remote tasks have a colour of their own.
                let colour = if event.source == *LOCAL { "cyan" } else { "magenta" };
                let template = format!("  {{prefix:24!}} [{{bar:30.{colour}}}] {{percent:>3}} % {{wide_msg}}");
                bar.set_style(style(&template));
                bar.set_prefix(short(&start.task_name, 24));
                bar.set_message(place(event).trim_start_matches(", ").to_owned());
                bar.tick();
                self.tasks.insert(start.task_id.clone(), bar);
            }
            Fact::TaskProgress(progress) => self.progress(progress),
            Fact::TaskRetry(retry) => {
                self.message(&retry.task_id, &format!("attempt {}: {}", retry.attempt, retry.error));
            }
            Fact::TaskComplete(done) => {
                self.end(&done.task_id, &format!("  ✔ {}{}", done_text(done), place(event)), true);
            }
            Fact::TaskError(failed) => {
                self.end(&failed.task_id, &format!("  ✘ {}{}", failed_text(failed), place(event)), false);
            }
            Fact::Progress(progress) => {
                self.job.set_length(progress.total_steps as u64);
                self.job.set_position(progress.step as u64);
            }
            Fact::Complete(complete) => {
                self.job.finish_and_clear();
                self.note(&complete_text(complete));
            }
            Fact::TaskStart(_) | Fact::AggregatedResult(_) => {}
        }
    }

    pub(super) fn note(&self, text: &str) {
        // What cannot be drawn is not worth failing for.
        let _ = self.screen.println(text);
    }

    fn progress(&self, progress: &TaskProgress) {
        let Some(bar) = self.tasks.get(&progress.task_id) else { return };
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "0 to 1000 after the clamp")]
        bar.set_position((progress.progress * 10.0).clamp(0.0, 1000.0) as u64);
        if let Some(message) = &progress.message {
            bar.set_message(short(message, 60));
        }
    }

    fn message(&self, task_id: &str, text: &str) {
        if let Some(bar) = self.tasks.get(task_id) {
            bar.set_message(short(text, 80));
        }
    }

    /// The bar of an ended task becomes a line above the others. Of many tasks only failures get one.
    fn end(&mut self, task_id: &str, text: &str, well: bool) {
        let bar = self.tasks.remove(task_id);
        if let Some(bar) = &bar {
            bar.finish_and_clear();
            self.screen.remove(bar);
        }
        if (bar.is_some() && self.kept < MOST) || !well {
            self.kept += usize::from(bar.is_some());
            self.note(text);
        }
    }
}

fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template).expect("the templates are right").progress_chars("━╸─")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bars_come_and_go_with_their_tasks_and_are_few() {
        let mut bars = Bars::on_screen(MultiProgress::with_draw_target(indicatif::ProgressDrawTarget::hidden()));
        let start = |n: usize| {
            let data = format!(r#"{{"jobId":"J","timestamp":1,"taskId":"{n}","taskName":"T","source":"local"}}"#);
            JobEvent::decode("task_start", &data).unwrap()
        };
        for n in 0..100 {
            bars.on(&start(n));
        }
        assert_eq!(bars.tasks.len(), MOST);
        bars.end("3", "done", true);
        bars.end("99", "done", true);
        assert_eq!((bars.tasks.len(), bars.kept), (MOST - 1, 1));
    }
}
