//! The metrics of jobs, and of the memory of their specs, inputs and responses.

use super::{Handle, Memory};
use crate::{metrics::Rows, shares};

impl Handle {
    /// Adds the metrics of jobs and tasks.
    pub fn metrics(&self, rows: &mut Rows) {
        let jobs = self.stats();
        rows.counter("jobs_accepted", "Jobs accepted.", jobs.jobs_accepted);
        rows.counter("jobs_taken_up", "Unfinished jobs that continued at the start.", jobs.jobs_taken_up);
        rows.counters("jobs_ended", "Jobs that ended, by status.", "status", jobs.jobs_ended.by_status());
        let help = "Records of jobs that could not be read at the start.";
        rows.counter("job_records_unreadable", help, jobs.records_unreadable);
        rows.counter("tasks_succeeded", "Tasks that ended with a result.", jobs.tasks_succeeded);
        rows.counter("tasks_failed", "Tasks that ended with an error.", jobs.tasks_failed);
        rows.counter("task_retries", "Attempts that followed a failed one.", jobs.task_retries);
        let help = "Sum of the durations of ended tasks.";
        rows.counter("task_duration_milliseconds", help, jobs.task_duration_ms_sum);
        rows.gauge("jobs_running", "Jobs that have not ended.", jobs.jobs_running);
        rows.gauge("jobs_kept", "Ended jobs in the journal.", jobs.jobs_kept);
        rows.gauge("tasks_running", "Attempts that run.", jobs.tasks_running);
        let help = "Tasks of jobs that have not ended (max_running_tasks).";
        rows.gauge("unfinished_tasks", help, jobs.unfinished_tasks);
        rows.gauge("tasks_queued", "Tasks that wait for a slot.", jobs.tasks_queued);
        rows.gauge("remote_jobs", "Jobs on remotes that run tasks of jobs here.", jobs.remote_jobs);
        rows.gauge("job_events_pending", "Events of jobs that wait for the journal.", jobs.events_pending);
        shares::count_refused(rows, "jobs", jobs.shares_refused);
    }
}

impl Memory {
    /// Adds the memory that is held and requested, by part.
    pub fn metrics(&self, rows: &mut Rows) {
        let parts = self.figures();
        let help = "Bytes of max_memory_bytes that specs and responses hold, by part.";
        rows.gauges("memory_reserved_bytes", help, "part", parts.map(|(part, figures)| (part, figures.held)));
        let help = "Specs and responses that wait for memory of max_memory_bytes, by part.";
        rows.gauges("memory_waiting", help, "part", parts.map(|(part, figures)| (part, figures.waiting)));
    }
}
