//! The node's one clock: what age is measured by, and what the time of day is taken to be.
//!
//! ```text
//!  steady ──────────────────────────────────────> elapsed time since the start; never jumps: age, expiry, retention
//!  wall   ──────────┐ jump   ┌──────────────────> what the system says
//!                   └────────┘
//!  now    ────────────────────────────(followed)> steady + offset: timestamps, `since`, `exp` of tokens
//! ```
//!
//! A wall clock that is wrong for a few seconds changes nothing. A jump that stays for [`SETTLE_MS`] is followed, and logged
//! once. The age of what this process has seen never changes by it. Time spent in suspension of the machine counts as a jump.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicI64, Ordering::Relaxed},
    },
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use tokio::sync::watch;

/// A smaller difference is a correction, which is taken over at once.
const STEP_MS: i64 = 1000;
/// A jump is followed when it has lasted for so long: well within a minute.
pub const SETTLE_MS: i64 = 10_000;

/// The clock. Cheap to clone; the clones are one clock.
#[derive(Clone)]
pub struct Clock {
    inner: Arc<Inner>,
}

/// A moment by both clocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Moment {
    /// Milliseconds by the steady clock, which begins with the time of day at the start.
    pub steady: u64,
    /// Unix milliseconds.
    pub wall: u64,
}

struct Inner {
    source: Source,
    /// The steady clock in microseconds when the source had run for no time.
    begin: i64,
    /// Microseconds between the steady clock and the time of day.
    offset: AtomicI64,
    doubt: Mutex<Option<Doubt>>,
    jumps: watch::Sender<u64>,
}

/// A jump that is not followed yet.
#[derive(Clone, Copy)]
struct Doubt {
    offset: i64,
    since: i64,
}

enum Source {
    System(Instant),
    #[cfg(test)]
    Hands(Arc<Hands>),
}

/// The hands of a clock that a test moves: microseconds of the wall clock and since the start.
#[cfg(test)]
#[derive(Default)]
pub struct Hands {
    wall: AtomicI64,
    elapsed: AtomicI64,
}

// === impl Moment ===

impl Moment {
    /// What the wall clock shows beyond the steady one.
    pub fn shift(self) -> i64 {
        self.wall.cast_signed() - self.steady.cast_signed()
    }
}

// === impl Clock ===

impl Clock {
    /// The clock of the system.
    pub fn system() -> Self {
        Self::new(Source::System(Instant::now()))
    }

    /// A clock that a test moves; it begins at `wall_ms`.
    #[cfg(test)]
    pub fn by_hand(wall_ms: i64) -> (Self, Arc<Hands>) {
        let hands = Arc::<Hands>::default();
        hands.set(wall_ms);
        (Self::new(Source::Hands(hands.clone())), hands)
    }

    fn new(source: Source) -> Self {
        let wall = source.wall();
        // A steady clock that began before 1970 could not be written without a sign.
        let begin = wall.max(0);
        let (offset, jumps) = (AtomicI64::new(wall - begin), watch::Sender::new(0));
        Self { inner: Arc::new(Inner { source, begin, offset, doubt: Mutex::default(), jumps }) }
    }

    /// The time of day in Unix milliseconds; 0 before 1970.
    pub fn now_ms(&self) -> u64 {
        self.moment().wall
    }

    /// The time of day, never before 1970.
    pub fn now(&self) -> SystemTime {
        UNIX_EPOCH + Duration::from_millis(self.now_ms())
    }

    /// Milliseconds by the steady clock: for ages alone.
    pub fn steady_ms(&self) -> u64 {
        millis(self.steady())
    }

    /// Both at once.
    pub fn moment(&self) -> Moment {
        let steady = self.steady();
        Moment { steady: millis(steady), wall: millis(steady.saturating_add(self.inner.offset.load(Relaxed))) }
    }

    /// How long until the time of day is `at_ms`; nothing when it is past.
    pub fn until(&self, at_ms: u64) -> Duration {
        Duration::from_millis(at_ms.saturating_sub(self.now_ms()))
    }

    /// Waits until the time of day is `at_ms`, however the wall clock jumps meanwhile.
    pub fn reached(&self, at_ms: u64) -> impl Future<Output = ()> + Send + use<> {
        let clock = self.clone();
        async move {
            let mut jumps = clock.inner.jumps.subscribe();
            loop {
                let left = clock.until(at_ms);
                tokio::select! {
                    () = tokio::time::sleep(left) => return,
                    // The sender lives as long as this clone.
                    _ = jumps.changed() => {}
                }
            }
        }
    }

    /// How many jumps were followed since the start.
    pub fn jumps(&self) -> u64 {
        *self.inner.jumps.borrow()
    }

    /// Compares with the wall clock and follows it; called about once a second by the node.
    pub fn follow(&self) {
        let (steady, elapsed) = (self.steady(), self.inner.source.elapsed());
        let offset = self.inner.source.wall() - steady;
        let difference = offset - self.inner.offset.load(Relaxed);
        let mut doubt = self.inner.doubt.lock().expect("no code that holds the lock panics");
        if difference.abs() < STEP_MS * 1000 {
            self.inner.offset.store(offset, Relaxed);
            *doubt = None;
            return;
        }
        match *doubt {
            Some(known) if (known.offset - offset).abs() < STEP_MS * 1000 => {
                if elapsed - known.since < SETTLE_MS * 1000 {
                    return;
                }
                *doubt = None;
                self.inner.offset.store(offset, Relaxed);
                self.inner.jumps.send_modify(|jumps| *jumps += 1);
                tracing::warn!(by_ms = difference / 1000, "the wall clock has jumped, and the node follows it");
            }
            _ => *doubt = Some(Doubt { offset, since: elapsed }),
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
    #[expect(clippy::disallowed_methods, reason = "this is the clock that all others are asked instead of")]
    fn wall(&self) -> i64 {
        match self {
            Self::System(_) => match SystemTime::now().duration_since(UNIX_EPOCH) {
                Ok(since) => micros(since),
                Err(before) => -micros(before.duration()),
            },
            #[cfg(test)]
            Self::Hands(hands) => hands.wall.load(Relaxed),
        }
    }

    /// Microseconds since the start.
    fn elapsed(&self) -> i64 {
        match self {
            Self::System(start) => micros(start.elapsed()),
            #[cfg(test)]
            Self::Hands(hands) => hands.elapsed.load(Relaxed),
        }
    }
}

// === impl Hands ===

#[cfg(test)]
impl Hands {
    /// Time passes.
    pub fn pass(&self, ms: i64) {
        self.wall.fetch_add(ms * 1000, Relaxed);
        self.elapsed.fetch_add(ms * 1000, Relaxed);
    }

    /// The wall clock is moved, and no time passes.
    pub fn jump(&self, ms: i64) {
        self.wall.fetch_add(ms * 1000, Relaxed);
    }

    fn set(&self, wall_ms: i64) {
        self.wall.store(wall_ms * 1000, Relaxed);
    }

    /// Time passes, second by second, and the clock looks each time.
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
        let (clock, hands) = Clock::by_hand(START);
        for jump in [24 * HOUR, -HOUR, 10 * 365 * 24 * HOUR, -2 * START] {
            let before = clock.now_ms();
            hands.jump(jump);
            hands.pass_and_follow(&clock, 9);
            hands.jump(-jump);
            hands.pass_and_follow(&clock, 1);
            assert_eq!((clock.now_ms(), clock.jumps()), (before + 10_000, 0), "{jump}");
        }
    }

    #[test]
    fn a_jump_that_stays_is_followed_once_and_the_steady_clock_does_not_jump() {
        let (clock, hands) = Clock::by_hand(START);
        let mut wall = START;
        for (count, jump) in (1..).zip([24 * HOUR, -24 * HOUR, -2 * START, 2 * START]) {
            let steady = clock.steady_ms();
            hands.jump(jump);
            hands.pass_and_follow(&clock, 60);
            wall += jump + 60_000;
            assert_eq!(clock.now_ms(), u64::try_from(wall).unwrap_or(0), "{jump}");
            assert_eq!((clock.steady_ms(), clock.jumps()), (steady + 60_000, count), "{jump}");
        }
    }

    #[test]
    fn small_corrections_are_taken_over_at_once() {
        let (clock, hands) = Clock::by_hand(START);
        hands.jump(-900);
        hands.pass_and_follow(&clock, 1);
        assert_eq!((clock.now_ms().cast_signed(), clock.jumps()), (START + 100, 0));
    }

    #[test]
    fn a_start_before_1970_is_a_start() {
        let (clock, hands) = Clock::by_hand(-HOUR);
        hands.pass_and_follow(&clock, 1);
        assert_eq!(clock.moment(), Moment { steady: 1000, wall: 0 });
        hands.jump(START + HOUR);
        hands.pass_and_follow(&clock, 20);
        assert_eq!(clock.now_ms().cast_signed(), START + 21_000);
        assert_eq!(clock.steady_ms(), 21_000);
    }

    #[tokio::test(start_paused = true)]
    async fn a_time_of_day_is_reached_when_the_clock_jumps_past_it() {
        let (clock, hands) = Clock::by_hand(START);
        let reached = tokio::spawn(clock.reached(clock.now_ms() + 3_600_000));
        tokio::time::sleep(Duration::from_secs(60)).await;
        assert!(!reached.is_finished());
        hands.jump(2 * HOUR);
        hands.pass_and_follow(&clock, 20);
        reached.await.unwrap();
    }
}
