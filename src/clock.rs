//! The clock of the node: monotonic time for ages, and wall-clock time for timestamps.
//!
//! ```text
//!  steady ──────────────────────────────────────> elapsed time since the start; never jumps: age, expiry, retention
//!  wall   ──────────┐ jump   ┌──────────────────> time of the operating system
//!                   └────────┘
//!  now    ───────────────────────────(adopted)──> steady + offset: timestamps, `since`, `exp` of tokens
//! ```
//!
//! A wall clock that is wrong for a few seconds changes nothing. A jump that lasts for [`SETTLE_MS`] is adopted and logged
//! once. It never changes the age of events that this process has seen. Suspension of the machine counts as a jump.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicI64, Ordering::Relaxed},
    },
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use tokio::sync::watch;

/// A smaller difference is a correction, which is adopted at once.
const STEP_MS: i64 = 1000;
/// Time after which a jump is adopted: well below a minute.
pub const SETTLE_MS: i64 = 10_000;

/// The clock of a node. Clones share its state.
#[derive(Clone)]
pub struct Clock {
    inner: Arc<Inner>,
}

/// A point in time by both clocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Moment {
    /// Milliseconds of the steady clock, which starts at the wall-clock time of the start.
    pub steady: u64,
    /// Unix milliseconds.
    pub wall: u64,
}

struct Inner {
    source: Source,
    /// Start of the steady clock in microseconds.
    begin: i64,
    /// Difference of the wall clock to the steady clock in microseconds.
    offset: AtomicI64,
    pending_jump: Mutex<Option<PendingJump>>,
    jumps: watch::Sender<u64>,
}

/// A jump that is not adopted yet.
#[derive(Clone, Copy)]
struct PendingJump {
    offset: i64,
    since: i64,
}

enum Source {
    System(Instant),
    #[cfg(test)]
    ManualTime(Arc<ManualTime>),
}

/// Moves the clock in a test: microseconds of the wall clock, and since the start.
#[cfg(test)]
#[derive(Default)]
pub struct ManualTime {
    wall: AtomicI64,
    elapsed: AtomicI64,
}

// === impl Moment ===

impl Moment {
    /// Wall-clock time minus steady time, in milliseconds.
    pub fn shift(self) -> i64 {
        self.wall.cast_signed() - self.steady.cast_signed()
    }
}

// === impl Clock ===

impl Clock {
    /// The clock of the operating system.
    pub fn system() -> Self {
        Self::new(Source::System(Instant::now()))
    }

    /// A clock for tests that starts at `wall_ms`.
    #[cfg(test)]
    pub fn by_hand(wall_ms: i64) -> (Self, Arc<ManualTime>) {
        let time = Arc::<ManualTime>::default();
        time.set(wall_ms);
        (Self::new(Source::ManualTime(time.clone())), time)
    }

    fn new(source: Source) -> Self {
        let wall = source.wall();
        // The steady clock must not be negative, also if the wall clock is before 1970.
        let begin = wall.max(0);
        let (offset, jumps) = (AtomicI64::new(wall - begin), watch::Sender::new(0));
        Self { inner: Arc::new(Inner { source, begin, offset, pending_jump: Mutex::default(), jumps }) }
    }

    /// The wall-clock time in Unix milliseconds; 0 before 1970.
    pub fn now_ms(&self) -> u64 {
        self.moment().wall
    }

    /// The wall-clock time, never before 1970.
    pub fn now(&self) -> SystemTime {
        UNIX_EPOCH + Duration::from_millis(self.now_ms())
    }

    /// The steady time in milliseconds, only for ages.
    pub fn steady_ms(&self) -> u64 {
        millis(self.steady())
    }

    /// The time by both clocks.
    pub fn moment(&self) -> Moment {
        let steady = self.steady_ms();
        // In whole milliseconds, so that the difference of both clocks changes only when one of them is adjusted.
        let offset = self.inner.offset.load(Relaxed).div_euclid(1000);
        Moment { steady, wall: steady.saturating_add_signed(offset) }
    }

    /// Time until the wall clock shows `at_ms`; zero if that has passed.
    pub fn until(&self, at_ms: u64) -> Duration {
        Duration::from_millis(at_ms.saturating_sub(self.now_ms()))
    }

    /// Waits until the wall clock shows `at_ms`, also if it jumps meanwhile.
    pub fn reached(&self, at_ms: u64) -> impl Future<Output = ()> + Send + use<> {
        let clock = self.clone();
        async move {
            let mut jumps = clock.inner.jumps.subscribe();
            loop {
                let left = clock.until(at_ms);
                tokio::select! {
                    () = tokio::time::sleep(left) => return,
                    // Never closed: this clone holds the sender.
                    _ = jumps.changed() => {}
                }
            }
        }
    }

    /// Number of adopted jumps since the start.
    pub fn jumps(&self) -> u64 {
        *self.inner.jumps.borrow()
    }

    /// Compares the clocks and adopts jumps. The node calls it about once per second.
    pub fn follow(&self) {
        let (steady, elapsed) = (self.steady(), self.inner.source.elapsed());
        let offset = self.inner.source.wall() - steady;
        let difference = offset - self.inner.offset.load(Relaxed);
        let mut pending_jump = self.inner.pending_jump.lock().expect("no code that holds the lock panics");
        if difference.abs() < STEP_MS * 1000 {
            self.inner.offset.store(offset, Relaxed);
            *pending_jump = None;
            return;
        }
        match *pending_jump {
            Some(known) if (known.offset - offset).abs() < STEP_MS * 1000 => {
                if elapsed - known.since < SETTLE_MS * 1000 {
                    return;
                }
                *pending_jump = None;
                self.inner.offset.store(offset, Relaxed);
                self.inner.jumps.send_modify(|jumps| *jumps += 1);
                tracing::warn!(by_ms = difference / 1000, "the wall clock has jumped; the node adopts the new time");
            }
            _ => *pending_jump = Some(PendingJump { offset, since: elapsed }),
        }
    }

    fn steady(&self) -> i64 {
        self.inner.begin.saturating_add(self.inner.source.elapsed())
    }
}

impl std::fmt::Debug for Clock {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.moment().fmt(f)
    }
}

// === impl Source ===

impl Source {
    /// Microseconds of the wall clock since 1970.
    #[expect(clippy::disallowed_methods, reason = "the only place that reads the wall clock for all others")]
    fn wall(&self) -> i64 {
        match self {
            Self::System(_) => match SystemTime::now().duration_since(UNIX_EPOCH) {
                Ok(since) => micros(since),
                Err(before) => -micros(before.duration()),
            },
            #[cfg(test)]
            Self::ManualTime(time) => time.wall.load(Relaxed),
        }
    }

    /// Microseconds since the start.
    fn elapsed(&self) -> i64 {
        match self {
            Self::System(start) => micros(start.elapsed()),
            #[cfg(test)]
            Self::ManualTime(time) => time.elapsed.load(Relaxed),
        }
    }
}

// === impl ManualTime ===

#[cfg(test)]
impl ManualTime {
    /// Advances both clocks.
    pub fn pass(&self, ms: i64) {
        self.wall.fetch_add(ms * 1000, Relaxed);
        self.elapsed.fetch_add(ms * 1000, Relaxed);
    }

    /// Moves only the wall clock.
    pub fn jump(&self, ms: i64) {
        self.wall.fetch_add(ms * 1000, Relaxed);
    }

    fn set(&self, wall_ms: i64) {
        self.wall.store(wall_ms * 1000, Relaxed);
    }

    /// Advances both clocks in steps of one second, with a comparison after each step.
    pub fn pass_and_follow(&self, clock: &Clock, seconds: i64) {
        for _ in 0..seconds {
            self.pass(1000);
            clock.follow();
        }
    }
}

fn micros(duration: Duration) -> i64 {
    i64::try_from(duration.as_micros()).unwrap_or(i64::MAX)
}

fn millis(micros: i64) -> u64 {
    u64::try_from(micros / 1000).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    const START: i64 = 1_790_000_000_000;
    const HOUR: i64 = 60 * 60 * 1000;

    #[test]
    fn a_wall_clock_that_is_wrong_for_a_moment_changes_nothing() {
        let (clock, time) = Clock::by_hand(START);
        for jump in [24 * HOUR, -HOUR, 10 * 365 * 24 * HOUR, -2 * START] {
            let before = clock.now_ms();
            time.jump(jump);
            time.pass_and_follow(&clock, 9);
            time.jump(-jump);
            time.pass_and_follow(&clock, 1);
            assert_eq!((clock.now_ms(), clock.jumps()), (before + 10_000, 0), "{jump}");
        }
    }

    #[test]
    fn a_lasting_jump_is_adopted_once_and_the_steady_clock_does_not_jump() {
        let (clock, time) = Clock::by_hand(START);
        let mut wall = START;
        for (count, jump) in (1..).zip([24 * HOUR, -24 * HOUR, -2 * START, 2 * START]) {
            let steady = clock.steady_ms();
            time.jump(jump);
            time.pass_and_follow(&clock, 60);
            wall += jump + 60_000;
            assert_eq!(clock.now_ms(), u64::try_from(wall).unwrap_or(0), "{jump}");
            assert_eq!((clock.steady_ms(), clock.jumps()), (steady + 60_000, count), "{jump}");
        }
    }

    #[test]
    fn small_corrections_are_adopted_at_once() {
        let (clock, time) = Clock::by_hand(START);
        time.jump(-900);
        time.pass_and_follow(&clock, 1);
        assert_eq!((clock.now_ms().cast_signed(), clock.jumps()), (START + 100, 0));
    }

    #[test]
    fn a_clock_can_start_before_1970() {
        let (clock, time) = Clock::by_hand(-HOUR);
        time.pass_and_follow(&clock, 1);
        assert_eq!(clock.moment(), Moment { steady: 1000, wall: 0 });
        time.jump(START + HOUR);
        time.pass_and_follow(&clock, 20);
        assert_eq!(clock.now_ms().cast_signed(), START + 21_000);
        assert_eq!(clock.steady_ms(), 21_000);
    }

    #[tokio::test(start_paused = true)]
    async fn a_wall_clock_time_is_reached_when_the_clock_jumps_past_it() {
        let (clock, time) = Clock::by_hand(START);
        let reached = tokio::spawn(clock.reached(clock.now_ms() + 3_600_000));
        tokio::time::sleep(Duration::from_secs(60)).await;
        assert!(!reached.is_finished());
        time.jump(2 * HOUR);
        time.pass_and_follow(&clock, 20);
        reached.await.unwrap();
    }
}
