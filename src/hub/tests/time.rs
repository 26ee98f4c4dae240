//! Effects of time: heartbeats, lifetimes, deadlines. The clock is paused, so each second is exact.

use std::{
    cell::{Cell, RefCell},
    rc::Rc,
    sync::atomic::Ordering::SeqCst,
    time::Duration,
};

use tokio::time::{Instant, sleep};

use super::support::{Got, Reader, Rig, events, numbers, settle};
use crate::clock::Clock;
use crate::hub::{Config, Connect, Heartbeat, HeartbeatKind, Reason, Selector};

const SECOND: Duration = Duration::from_secs(1);

fn beating(rig: &Rig, kind: HeartbeatKind, every: Duration) -> Connect {
    Connect { heartbeat: Heartbeat { kind, every }, ..rig.connect(&["a"]) }
}

/// The next frame, and the seconds until it arrived.
async fn timed(reader: &mut Reader) -> (Got, f64) {
    let begin = Instant::now();
    let got = reader.next().await;
    (got, begin.elapsed().as_secs_f64())
}

fn near(seconds: f64, expected: f64) -> bool {
    (seconds - expected).abs() <= 0.51
}

#[actix_rt::test]
async fn silence_is_filled_with_heartbeats() {
    let rig = Rig::new();
    let mut reader = rig.greeted(beating(&rig, HeartbeatKind::Event, 15 * SECOND)).await;
    for _ in 0..3 {
        let (beat, seconds) = timed(&mut reader).await;
        assert_eq!((beat.name.as_str(), beat.id.as_ref()), ("heartbeat", None));
        assert!(beat.json()["timestamp"].is_u64());
        assert!(near(seconds, 15.0), "{seconds}");
    }
    assert_eq!(rig.hub.counters().heartbeats.load(SeqCst), 3);
}

#[actix_rt::test]
async fn events_delay_a_heartbeat() {
    let rig = Rig::new();
    let mut reader = rig.greeted(beating(&rig, HeartbeatKind::Event, 15 * SECOND)).await;
    for number in 0..4 {
        sleep(10 * SECOND).await;
        rig.publish("a", &number.to_string()).await;
        assert_eq!(reader.next().await.data, number.to_string());
    }
    let (beat, seconds) = timed(&mut reader).await;
    assert_eq!(beat.name, "heartbeat");
    assert!(near(seconds, 15.0), "{seconds}");
}

#[actix_rt::test]
async fn each_stream_has_its_own_heartbeat() {
    let rig = Rig::new();
    let mut often = rig.greeted(beating(&rig, HeartbeatKind::Comment, SECOND)).await;
    let mut never = rig.greeted(beating(&rig, HeartbeatKind::None, SECOND)).await;
    for _ in 0..5 {
        let (beat, seconds) = timed(&mut often).await;
        assert_eq!(beat.name, ":");
        assert!(near(seconds, 1.0), "{seconds}");
    }
    sleep(60 * SECOND).await;
    assert_eq!(never.events().await, numbers(0..0));
}

/// An unread heartbeat is not followed by another one.
#[actix_rt::test]
async fn heartbeats_do_not_pile_up() {
    let rig = Rig::new();
    let mut reader = rig.greeted(beating(&rig, HeartbeatKind::Event, SECOND)).await;
    sleep(30 * SECOND).await;
    assert_eq!(rig.status(&reader).await.queued_events, 1);
    assert_eq!(reader.next().await.name, "heartbeat");
    assert_eq!(reader.poll().await, None);
}

#[actix_rt::test]
async fn a_lifetime_ends_within_a_tenth_of_the_requested_time_and_not_for_all_at_once() {
    let rig = Rig::new();
    let lived = Rc::new(RefCell::new(Vec::new()));
    let mut tasks = Vec::new();
    for _ in 0..20 {
        let mut reader = rig.greeted(Connect { lifetime: Some(100 * SECOND), ..rig.connect(&["a"]) }).await;
        let (begin, lived) = (Instant::now(), lived.clone());
        tasks.push(tokio::task::spawn_local(async move {
            let frames = reader.rest().await;
            assert_eq!(
                (frames.len(), frames[0].name.as_str(), frames[0].reason().as_str()),
                (1, "disconnect", "lifetime")
            );
            lived.borrow_mut().push(begin.elapsed().as_millis());
        }));
    }
    for task in tasks {
        task.await.unwrap();
    }
    let mut lived = lived.take();
    assert!(lived.iter().all(|ms| (90_000..=110_500).contains(ms)), "{lived:?}");
    lived.sort_unstable();
    lived.dedup();
    assert!(lived.len() > 5, "{lived:?}");
    assert_eq!((rig.hub.counters().closed(Reason::Lifetime), rig.hub.counters().open()), (20, 0));
}

/// Holds a reader until its connection is cut.
type Slot = Rc<RefCell<Option<Reader>>>;

/// Drops the reader when its connection is cut, as the framework drops a body. Also counts the cuts.
fn droppable(connect: Connect) -> (Connect, Slot, Rc<Cell<u32>>) {
    let (slot, cuts) = (Slot::default(), Rc::new(Cell::new(0)));
    let (body, count) = (slot.clone(), cuts.clone());
    let cut = move || {
        count.set(count.get() + 1);
        drop(body.take());
    };
    (Connect { cut: Some(Box::new(cut)), ..connect }, slot, cuts)
}

#[actix_rt::test]
async fn a_client_that_does_not_read_is_cut_at_the_write_deadline() {
    let rig = Rig::with(Config { write_deadline_ms: 10_000, ..Config::default() }, &crate::journal::Config::default());
    let reasons = Rc::new(RefCell::new(Vec::new()));
    let closed = reasons.clone();
    let (connect, slot, cuts) = droppable(rig.connect(&["a"]));
    let on_close = Box::new(move |reason| closed.borrow_mut().push(reason));
    let reader = rig.greeted(Connect { on_close: Some(on_close), ..connect }).await;
    let mut taking = rig.live(&["a"]).await;
    slot.replace(Some(reader));
    // A client of a silent stream is not at fault.
    sleep(30 * SECOND).await;
    rig.burst("a", 0..3).await;
    assert_eq!(taking.events().await, numbers(0..3));
    sleep(9 * SECOND).await;
    assert_eq!(cuts.get(), 0);
    sleep(2 * SECOND).await;
    assert_eq!((cuts.get(), reasons.take()), (1, vec![Reason::WriteDeadline]));
    assert_eq!((rig.hub.counters().closed(Reason::WriteDeadline), rig.hub.counters().open()), (1, 1));
    assert_eq!(rig.hub.emitters(Selector::All).await.len(), 1);
}

#[actix_rt::test]
async fn a_client_that_reads_slowly_is_not_cut() {
    let rig = Rig::with(Config { write_deadline_ms: 10_000, ..Config::default() }, &crate::journal::Config::default());
    let (connect, _, cuts) = droppable(rig.connect(&["a"]));
    let mut reader = rig.greeted(connect).await;
    rig.burst("a", 0..10).await;
    for number in 0..10 {
        sleep(9 * SECOND).await;
        assert_eq!(reader.next().await.data, number.to_string());
    }
    assert_eq!(cuts.get(), 0);
}

/// The operating system may end a stuck connection shortly before the tick does.
#[actix_rt::test]
async fn a_stuck_reader_that_the_system_cut_first_is_counted_as_stuck() {
    let rig = Rig::with(Config { write_deadline_ms: 10_000, ..Config::default() }, &crate::journal::Config::default());
    let (stuck, gone) = (rig.live(&["a"]).await, rig.live(&["a"]).await);
    rig.publish("a", "0").await;
    settle().await;
    drop(gone);
    sleep(Duration::from_millis(9400)).await;
    drop(stuck);
    let counters = rig.hub.counters();
    assert_eq!((counters.closed(Reason::WriteDeadline), counters.closed(Reason::ClientGone)), (1, 1));
}

#[actix_rt::test]
async fn a_client_that_does_not_read_the_last_frame_is_cut() {
    let rig = Rig::new();
    let (connect, slot, cuts) = droppable(rig.connect(&["a"]));
    slot.replace(Some(rig.greeted(connect).await));
    assert_eq!(rig.hub.disconnect(Selector::All, Reason::Removed).await, 1);
    sleep(4 * SECOND).await;
    assert_eq!(cuts.get(), 0);
    sleep(2 * SECOND).await;
    assert_eq!(cuts.get(), 1);
    assert_eq!((rig.hub.counters().closed(Reason::Removed), rig.hub.counters().open()), (1, 0));
}

/// A job's stream often ends with its largest event: a slow client gets the full write deadline for it.
#[actix_rt::test]
async fn the_client_of_a_complete_stream_has_time_to_read_it() {
    let rig = Rig::new();
    let (connect, slot, cuts) = droppable(Connect { until: Some("complete"), ..rig.connect(&["a"]) });
    let mut reader = rig.greeted(connect).await;
    rig.burst("a", 0..5).await;
    let complete = crate::event::Draft { event: "complete".into(), ..super::support::draft(&["a"], "5") };
    rig.append(vec![complete]).await;
    let mut got = Vec::new();
    for _ in 0..6 {
        sleep(20 * SECOND).await;
        got.push(reader.next().await);
    }
    assert_eq!((events(&got), cuts.get()), (numbers(0..6), 0));
    slot.replace(Some(reader));
    sleep(61 * SECOND).await;
    assert_eq!((cuts.get(), rig.hub.counters().closed(Reason::Ended)), (1, 1));
}

/// A token expires by wall-clock time: a jump past its end expires it, a jump back extends it again.
#[actix_rt::test]
async fn a_stream_ends_with_its_token_also_when_the_wall_clock_jumps() {
    tokio::time::pause();
    let (clock, hands) = Clock::by_hand(1_790_000_000_000);
    let rig = Rig::by_clock(Config::default(), &crate::journal::Config::default(), clock.clone());
    let with_token = |seconds| Connect { token_expires: Some(SECOND * seconds), ..rig.connect(&["a"]) };
    let mut reader = rig.greeted(with_token(3600)).await;
    for (jump, open) in [(-7_200_000, true), (7_200_000, true), (3_700_000, false)] {
        hands.jump(jump);
        hands.pass_and_follow(&clock, 20);
        sleep(2 * SECOND).await;
        assert_eq!(reader.poll().await.is_none(), open, "{jump}");
    }
    assert_eq!(rig.hub.counters().open(), 1);
    drop(reader);
    assert_eq!(rig.hub.counters().closed(Reason::TokenExpired), 1);
    // Without a jump the token expires by the monotonic clock.
    let mut reader = rig.greeted(with_token(60)).await;
    let (end, seconds) = timed(&mut reader).await;
    assert_eq!((end.name.as_str(), end.reason().as_str()), ("disconnect", "token_expired"));
    assert!(near(seconds, 60.0), "{seconds}");
}
