//! Ages of events while the clock is wrong, in memory and on disk, during one run and across restarts.

use super::*;
use crate::{
    clock::{Clock, ManualTime},
    journal::Memory,
};

const START: i64 = 1_790_000_000_000;
const HOUR: i64 = 60 * 60 * 1000;
/// A day and ten years ahead, an hour back, and before 1970.
const WRONG: [i64; 4] = [24 * HOUR, 10 * 365 * 24 * HOUR, -HOUR, -START - HOUR];

/// Settings: events live for two seconds, keys for one.
fn brief() -> Config {
    Config { retention_ms: 2000, dedupe_ms: 1000, min_free_bytes: 0, sync: SyncMode::Os, ..Config::default() }
}

async fn put(journal: &dyn Journal, draft: Draft) -> u64 {
    journal.append(Batch::events(vec![draft])).await.unwrap()[0].position.offset
}

fn keyed(data: &str) -> Draft {
    Draft { key: Some("k".into()), publisher: "p".into(), ..draft(&["t"], data) }
}

async fn kept(journal: &dyn Journal) -> Vec<SharedEvent> {
    let patterns = vec![Pattern::any()].into();
    let query = Query { patterns, after: 0, floor: 0, limit: usize::MAX, max_bytes: usize::MAX };
    journal.read(query).await.unwrap().events
}

async fn data(journal: &dyn Journal) -> Vec<String> {
    kept(journal).await.iter().map(|event| event.data.to_string()).collect()
}

/// Checks, after the clock was corrected, that new events have its time and that all ages are measured by it.
async fn assert_ages_follow_the_clock(journal: &dyn Journal, clock: &Clock, time: &ManualTime, case: &str) {
    let at = clock.now_ms();
    let ttl = put(journal, Draft { ttl_ms: Some(500), ..draft(&["t"], "short") }).await;
    assert_eq!(put(journal, keyed("once")).await, ttl + 1, "{case}: offsets continue");
    assert_eq!(put(journal, keyed("once")).await, ttl + 1, "{case}: a duplicate is detected");
    let fresh: Vec<u64> =
        kept(journal).await.iter().filter(|event| event.position.offset >= ttl).map(|event| event.timestamp).collect();
    assert_eq!(fresh, [at, at], "{case}: timestamps follow the corrected clock");
    assert_eq!(journal.before_time(at + 60_000).await.unwrap(), ttl + 1, "{case}: no event is in the future");
    time.pass(600);
    assert!(!data(journal).await.contains(&"short".to_owned()), "{case}: it has expired");
    assert_eq!(journal.before_time(at + 500).await.unwrap(), ttl + 1, "{case}: there is no later event");
    time.pass(1400);
    journal.sweep(clock.steady_ms()).await.unwrap();
    assert_eq!(data(journal).await, Vec::<String>::new(), "{case}: retention has deleted everything");
    put(journal, keyed("another")).await;
    assert_eq!(data(journal).await, ["another"], "{case}: the key is forgotten");
}

/// The clock is wrong for 1 s, which the node ignores, and for 30 s, after which the node adopts the jump and the
/// correction.
async fn check_wrong_clock(open: impl Fn(Clock) -> Box<dyn Journal>) {
    for wrong in WRONG {
        for seconds in [1, 30] {
            let case = format!("{wrong} ms for {seconds} s");
            let (clock, time) = Clock::by_hand(START);
            let journal = open(clock.clone());
            put(&*journal, draft(&["t"], "before")).await;
            time.jump(wrong);
            time.pass_and_follow(&clock, seconds);
            put(&*journal, draft(&["t"], "wrong")).await;
            time.pass(1);
            assert_eq!(data(&*journal).await.last().map(String::as_str), Some("wrong"), "{case}");
            time.jump(-wrong);
            time.pass_and_follow(&clock, 30);
            assert_ages_follow_the_clock(&*journal, &clock, &time, &case).await;
        }
    }
}

#[tokio::test]
async fn a_clock_that_is_wrong_for_a_while_changes_no_age_in_memory() {
    check_wrong_clock(|clock| Box::new(Memory::with_clock(&brief(), clock))).await;
}

#[tokio::test]
async fn a_clock_that_is_wrong_for_a_while_changes_no_age_on_disk() {
    check_wrong_clock(|clock| Box::new(Embedded::with_clock(&brief(), &directory(), clock).unwrap())).await;
}

/// Each run of the journal has its own clock; the clock of the second run is wrong.
#[tokio::test]
async fn a_clock_that_was_wrong_does_not_affect_the_next_run() {
    for wrong in WRONG {
        for clean in [true, false] {
            let case = format!("{wrong} ms, clean: {clean}");
            let mut again = Reopened::new(Config::default());
            let mut lives = Vec::new();
            for (data, ahead) in [("first", 0), ("wrong", wrong), ("third", 60_000), ("fourth", 120_000)] {
                let (clock, time) = Clock::by_hand(START + ahead);
                again.clock = Some(clock.clone());
                again.reopen(clean).await;
                again.put(&["t"], data).await;
                lives.push((clock, time));
            }
            let all = data(&*again).await;
            assert!(all.ends_with(&["third".to_owned(), "fourth".to_owned()]), "{case}: {all:?}");
            assert!(wrong > 7 * 24 * HOUR || all.len() == 4, "{case}: {all:?}");
            // Later events are neither older nor younger than their timestamps.
            let start = u64::try_from(START).unwrap();
            assert!(again.before_time(start + 60_000).await.unwrap() <= 2, "{case}");
            assert_eq!(again.before_time(start + 61_000).await.unwrap(), 3, "{case}");
            assert_eq!(again.before_time(start + 180_000).await.unwrap(), 4, "{case}");
            let (clock, time) = Clock::by_hand(START + 180_000);
            (again.clock, again.config) = (Some(clock.clone()), brief());
            again.reopen(clean).await;
            assert_ages_follow_the_clock(&*again, &clock, &time, &case).await;
        }
    }
}

/// The last events are from the future: their age starts at the next start, and the index stores that time.
#[tokio::test]
async fn an_event_from_the_future_ages_from_the_next_start() {
    let mut again = Reopened::new(brief());
    let (clock, _) = Clock::by_hand(START + 24 * HOUR);
    again.clock = Some(clock);
    again.reopen(true).await;
    again.append(vec![Draft { ttl_ms: Some(500), ..draft(&["t"], "short") }, draft(&["t"], "long")]).await;
    let (clock, time) = Clock::by_hand(START);
    again.clock = Some(clock.clone());
    again.reopen(true).await;
    assert_eq!(again.data().await, ["short", "long"]);
    time.pass(600);
    assert_eq!(again.data().await, ["long"]);
    time.pass(1400);
    again.sweep(clock.steady_ms()).await.unwrap();
    assert_eq!(again.data().await, Vec::<String>::new());
}
