//! What wakes the engine: reports, in batches; the clock, when something is due; and once a second the sweep.
//!
//! One loop on the engine's thread. It waits at a gate while the engine has no room, so that the bounded channel behind
//! it fills and the tasks wait in their turn.

use std::time::Duration;

use tokio::{
    select,
    sync::{mpsc, oneshot, watch},
    time::{Instant, MissedTickBehavior, interval, sleep_until},
};

use super::{
    engine::{REPORTS_PER_TURN, Report},
    recovery::Found,
};

/// What the engine is called for.
pub enum Call {
    /// Take these reports, do what is due, and open the gate once there is room for more.
    Wake(Vec<Report>, oneshot::Sender<()>),
    /// Let go of what need not be kept.
    Sweep,
    /// Take what the journal kept; does not come from the pump.
    Found(Found),
}

/// Runs until `deliver` says that there is nobody left to call.
pub async fn run(
    deliver: impl AsyncFn(Call) -> bool,
    mut arriving: mpsc::Receiver<Report>,
    mut alarm: watch::Receiver<Option<Instant>>,
) {
    let mut second = interval(Duration::from_secs(1));
    second.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let due = *alarm.borrow_and_update();
        let mut reports = Vec::new();
        select! {
            count = arriving.recv_many(&mut reports, REPORTS_PER_TURN) => if count == 0 { return },
            () = sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => {}
            changed = alarm.changed() => match changed {
                Ok(()) => continue,
                Err(_) => return,
            },
            _ = second.tick() => match deliver(Call::Sweep).await {
                true => continue,
                false => return,
            },
        }
        let (gate, opened) = oneshot::channel();
        if !deliver(Call::Wake(reports, gate)).await || opened.await.is_err() {
            return;
        }
    }
}
