//! Progress from a handler to the engine: at most ten reports per second, and never a lower value.

use std::{
    convert::Infallible,
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use tokio::{
    sync::{Notify, mpsc},
    time::{Instant, sleep_until},
};

use crate::{
    jobs::{
        event_size::{fit_data, fit_message},
        handler::{self, Sink},
        work::{JobId, ReportBody, TaskReport},
    },
    journal::BoxFuture,
};

/// Ten reports per second and task become events: people cannot read more, and each event has a cost for every reader.
const INTERVAL: Duration = Duration::from_millis(100);

/// The sink of one attempt.
pub(super) struct AttemptSink {
    job: JobId,
    task: u32,
    attempt: u32,
    /// Maximum size of data; larger data cannot become an event.
    max_data_bytes: usize,
    reports: mpsc::Sender<TaskReport>,
    throttle: Mutex<Throttle>,
    /// Wakes the flush after a report was delayed.
    delayed: Notify,
}

/// Decides which reports are sent; pure.
#[derive(Debug, Default)]
struct Throttle {
    last: Option<Instant>,
    high: f64,
    pending: Option<handler::Report>,
}

// === impl AttemptSink ===

impl AttemptSink {
    pub(super) fn new(
        job: JobId,
        task: u32,
        attempt: u32,
        max_data_bytes: usize,
        reports: mpsc::Sender<TaskReport>,
    ) -> Arc<Self> {
        let (throttle, delayed) = (Mutex::default(), Notify::new());
        Arc::new(Self { job, task, attempt, max_data_bytes, reports, throttle, delayed })
    }

    /// Sends a delayed report when its time has come. Never ends; it runs in parallel with the attempt.
    pub(super) async fn flush(&self) -> Infallible {
        loop {
            self.delayed.notified().await;
            let due = self.throttle().due();
            sleep_until(due.unwrap_or_else(Instant::now)).await;
            let report = self.throttle().release(Instant::now());
            if let Some(report) = report {
                self.send(report).await;
            }
        }
    }

    async fn send(&self, report: handler::Report) {
        let body = ReportBody::Progress {
            progress: report.progress,
            message: fit_message(report.message),
            data: report.data.map(|data| fit_data(data.into_raw(), self.max_data_bytes)),
        };
        // A failure means that the engine has ended.
        let _ =
            self.reports.send(TaskReport { job: self.job.clone(), task: self.task, attempt: self.attempt, body }).await;
    }

    fn throttle(&self) -> MutexGuard<'_, Throttle> {
        self.throttle.lock().expect("no code that holds the lock panics")
    }
}

impl Sink for AttemptSink {
    fn take(&self, report: handler::Report, lossy: bool) -> BoxFuture<'_, ()> {
        Box::pin(async move {
            let passed = self.throttle().offer(Instant::now(), report, lossy);
            match passed {
                Some(report) => self.send(report).await,
                None => self.delayed.notify_one(),
            }
        })
    }
}

// === impl Throttle ===

impl Throttle {
    /// Returns a report that is sent now; stores any other as the latest.
    fn offer(&mut self, now: Instant, mut report: handler::Report, lossy: bool) -> Option<handler::Report> {
        // `max` turns NaN into the other value.
        self.high = self.high.max(report.progress.clamp(0.0, 100.0));
        report.progress = self.shown();
        if lossy && self.last.is_some_and(|last| now < last + INTERVAL) {
            self.pending = Some(report);
            return None;
        }
        if lossy {
            self.last = Some(now);
            self.pending = None;
        }
        Some(report)
    }

    /// Time when the delayed report may be sent.
    fn due(&self) -> Option<Instant> {
        self.pending.as_ref().and(self.last).map(|last| last + INTERVAL)
    }

    /// The delayed report, when its time has come.
    fn release(&mut self, now: Instant) -> Option<handler::Report> {
        self.due().filter(|due| *due <= now)?;
        self.last = Some(now);
        let mut report = self.pending.take()?;
        // A report that cannot be delayed may have been sent before it.
        report.progress = self.shown();
        Some(report)
    }

    /// The highest progress so far, with one decimal place.
    fn shown(&self) -> f64 {
        (self.high * 10.0).round() / 10.0
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn report(progress: f64) -> handler::Report {
        handler::Report { progress, message: None, data: None }
    }

    #[test]
    fn ten_reports_a_second_pass_and_the_latest_is_not_lost() {
        let mut throttle = Throttle::default();
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let passed: Vec<f64> = (0..1000)
            .filter_map(|ms| throttle.offer(at(ms), report(f64::from(u32::try_from(ms).unwrap()) / 10.0), true))
            .map(|r| r.progress)
            .collect();
        assert_eq!(passed, [0.0, 10.0, 20.0, 30.0, 40.0, 50.0, 60.0, 70.0, 80.0, 90.0]);
        assert_eq!(throttle.release(at(999)), None);
        assert_eq!(throttle.due(), Some(at(1000)));
        assert_eq!(throttle.release(at(1000)).map(|r| r.progress), Some(99.9));
        assert_eq!(throttle.release(at(2000)), None);
    }

    #[test]
    fn forwarded_reports_are_always_sent_and_a_delayed_report_is_not_lower() {
        let mut throttle = Throttle::default();
        let now = Instant::now();
        assert!(throttle.offer(now, report(1.0), true).is_some());
        assert!(throttle.offer(now, report(2.0), true).is_none());
        for n in 0..50 {
            assert!(throttle.offer(now, report(f64::from(n)), false).is_some());
        }
        assert_eq!(throttle.release(now + INTERVAL).map(|r| r.progress), Some(49.0));
    }

    proptest! {
        #[test]
        fn progress_stays_in_bounds_and_never_goes_down(reports in proptest::collection::vec((any::<f64>(), any::<bool>(), 0u64..300), 0..100)) {
            let mut throttle = Throttle::default();
            let mut now = Instant::now();
            let mut last = 0.0;
            for (progress, lossy, wait) in reports {
                now += Duration::from_millis(wait);
                for shown in [throttle.release(now), throttle.offer(now, report(progress), lossy)].into_iter().flatten() {
                    prop_assert!((last..=100.0).contains(&shown.progress), "{} after {last}", shown.progress);
                    last = shown.progress;
                }
            }
        }
    }
}
