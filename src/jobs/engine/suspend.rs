//! How a node stops whose jobs outlive it: what runs is told to stop and will run again, the rest says nothing.

use super::{Engine, Id, Phase, tasks::PLAIN_EVENT_BYTES};
use crate::jobs::{
    code,
    event::{Fact, TaskRetry},
};

/// What a watcher reads of a task that a stop has interrupted.
const STOPPED: &str = "the node stopped before the task had ended; it runs again when the node starts";
/// What a watcher reads of a task that the end of the node has interrupted.
const RESTARTED: &str = "the node ended before the task did; it runs again";

// === impl Engine ===

impl Engine {
    /// Leaves unfinished jobs standing. Those whose ending has begun come to their end; a result that an attempt has in
    /// its last two seconds counts.
    pub(super) fn suspend(&mut self) {
        self.suspended = true;
        // What remotes run they go on with, and nobody says a word.
        self.leave.cancel();
        let mut standing = 0;
        for (id, job) in &mut self.book {
            let Some(live) = job.live.as_deref_mut().filter(|live| live.ending.is_none() && !live.closed()) else {
                continue;
            };
            standing += 1;
            live.cancel.cancel();
            // What was not told of the last end of the node yet is told at the next start.
            live.interrupted.clear();
            for (index, run) in (0..).zip(&mut live.runs) {
                if run.phase == Phase::Delayed {
                    // Its next attempt was announced; nobody could tell later that it had not begun.
                    run.phase = Phase::Interrupted;
                    run.attempts += 1;
                    live.interrupted.push_back(index);
                }
            }
            if !live.interrupted.is_empty() {
                self.interrupted.push_back(id.clone());
            }
            self.queue.clear(id);
        }
        tracing::info!(jobs = standing, "unfinished jobs are left standing; they go on when the node starts");
    }

    /// True when nothing runs and nothing is left to say.
    pub(super) fn at_rest(&self) -> bool {
        self.admitted == 0
            && self.queue.running() == 0
            && self.followed == 0
            && self.doomed.is_empty()
            && self.interrupted.is_empty()
    }

    /// Tells that an attempt fell to an end of the node and that another will follow. It waits for its turn, but for the
    /// queue.
    pub(super) fn interrupt(&mut self, id: &Id, index: u32) {
        let stopped = self.suspended;
        let live = self.live(id).expect("the caller has found it");
        let (task, run) = (&live.plan.tasks[index as usize], &mut live.runs[index as usize]);
        run.phase = Phase::Waiting;
        run.spared += 1;
        run.resumes = true;
        let (code, error) = if stopped { (code::NODE_STOPPED, STOPPED) } else { (code::NODE_RESTARTED, RESTARTED) };
        let fact = TaskRetry {
            task_id: task.id.clone(),
            attempt: run.attempts + 1,
            delay_ms: 0,
            error: error.into(),
            code: code.into(),
        };
        self.stats.task_retries += 1;
        self.push(id, index, Fact::TaskRetry(fact), PLAIN_EVENT_BYTES);
    }
}
