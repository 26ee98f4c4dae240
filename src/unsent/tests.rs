//! The rule by time, on a paused clock, and the bound on bytes.

use std::{future::poll_fn, pin::pin};

use super::*;

const DEADLINE: Duration = Duration::from_secs(10);

fn unsent(max_bytes: usize) -> Unsent {
    Unsent::new(DEADLINE, max_bytes)
}

/// The reason why the response ends, within some time.
async fn ends(account: &mut Account, within: Duration) -> Option<Why> {
    timeout(within, poll_fn(|cx| account.poll_end(cx))).await.ok()
}

fn stuck(unsent: &Unsent, bytes: usize) -> Account {
    let mut account = unsent.account();
    account.blocked(Instant::now());
    account.set(bytes, None);
    account
}

#[tokio::test(start_paused = true)]
async fn a_client_that_does_not_read_has_one_deadline() {
    let unsent = unsent(usize::MAX);
    let mut account = stuck(&unsent, 100);
    assert_eq!(ends(&mut account, DEADLINE.saturating_sub(Duration::from_secs(1))).await, None);
    assert_eq!(ends(&mut account, Duration::from_secs(2)).await, Some(Why::WriteDeadline));
    assert_eq!((unsent.ended(Why::WriteDeadline), unsent.bytes()), (1, 100));
    drop(account);
    assert_eq!(unsent.bytes(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_client_that_reads_a_few_bytes_now_and_then_is_blocked_too() {
    let unsent = unsent(usize::MAX);
    let mut account = stuck(&unsent, 100);
    for _ in 0..9 {
        account.took(500, Instant::now());
        assert_eq!(ends(&mut account, Duration::from_secs(1)).await, None);
    }
    assert_eq!(ends(&mut account, Duration::from_secs(2)).await, Some(Why::WriteDeadline));
}

#[tokio::test(start_paused = true)]
async fn a_client_that_reads_enough_has_no_time_limit() {
    let unsent = unsent(usize::MAX);
    let mut account = stuck(&unsent, 100);
    for _ in 0..100 {
        account.took(1000, Instant::now());
        assert_eq!(ends(&mut account, Duration::from_secs(1)).await, None);
    }
    account.clear();
    assert_eq!(ends(&mut account, DEADLINE * 3).await, None, "nothing waits");
}

#[tokio::test(start_paused = true)]
async fn the_response_that_is_blocked_longest_ends_when_too_many_bytes_wait() {
    let unsent = unsent(1000);
    let mut accounts = Vec::new();
    for _ in 0..3 {
        accounts.push(stuck(&unsent, 300));
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    // It reads all available bytes, so it is not blocked.
    let mut quick = unsent.account();
    quick.set(50, None);
    let mut last = stuck(&unsent, 300);
    assert_eq!(unsent.bytes(), 1250, "they count until they are freed");
    let moment = Duration::from_millis(1);
    let mut ended = Vec::new();
    for account in &mut accounts {
        ended.push(ends(account, moment).await);
    }
    assert_eq!(ended, [Some(Why::UnsentBytes), Some(Why::UnsentBytes), None], "down to seven eighths");
    assert_eq!((ends(&mut quick, moment).await, ends(&mut last, moment).await), (None, None));
    // No further response ends for the bytes of those that are ending.
    last.set(310, None);
    assert_eq!((ends(&mut last, moment).await, ends(&mut accounts[2], moment).await), (None, None));
    accounts.truncate(0);
    assert_eq!(unsent.bytes(), 360);
    assert_eq!(unsent.ended(Why::UnsentBytes), 2);
    drop((accounts, quick, last));
    assert_eq!(unsent.bytes(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_response_is_built_in_its_turn_and_when_there_is_room() {
    let unsent = unsent(1000);
    let (first, second) = (unsent.make(Size::Large).await, unsent.make(Size::Small).await);
    assert!(first.is_ok() && second.is_ok());
    assert_eq!(unsent.make(Size::Large).await.err(), Some(Full), "one is made");
    drop(first);
    let mut large = unsent.account();
    large.set(1200, None);
    // Its client reads: there is no response to end.
    assert_eq!(unsent.make(Size::Small).await.err(), Some(Full), "no room");
    let making = async { unsent.make(Size::Small).await.is_ok() };
    let leaving = async {
        tokio::task::yield_now().await;
        drop(large);
    };
    assert_eq!(tokio::join!(making, leaving), (true, ()));
    drop(second);
    let mut oldest = stuck(&unsent, 900);
    let _more = stuck(&unsent, 900);
    let made = tokio::join!(unsent.make(Size::Small), async {
        assert_eq!(ends(&mut oldest, Duration::from_millis(1)).await, Some(Why::UnsentBytes));
        drop(oldest);
    });
    assert!(made.0.is_ok(), "the bytes of the ended response are free");
}

#[tokio::test(start_paused = true)]
async fn a_response_that_is_ended_for_room_wakes() {
    let unsent = unsent(1000);
    let mut oldest = stuck(&unsent, 600);
    tokio::time::sleep(Duration::from_millis(10)).await;
    let mut end = pin!(poll_fn(|cx| oldest.poll_end(cx)));
    let more = async {
        tokio::task::yield_now().await;
        stuck(&unsent, 600)
    };
    let (why, _more) = tokio::join!(end.as_mut(), more);
    assert_eq!(why, Why::UnsentBytes);
}

#[tokio::test(start_paused = true)]
async fn a_shared_copy_is_counted_once_and_freed_with_its_last_response() {
    let unsent = unsent(1000);
    let share = unsent.share(Bytes::from(vec![0; 600]));
    let mut readers = Vec::new();
    for _ in 0..5 {
        let mut account = unsent.account();
        account.blocked(Instant::now());
        account.set(10, Some(share.clone()));
        readers.push(account);
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(unsent.bytes(), 650);
    drop(share);
    // Each of them frees ten bytes, and the last one the copy.
    let _other = stuck(&unsent, 400);
    for account in &mut readers {
        assert_eq!(ends(account, Duration::from_millis(1)).await, Some(Why::UnsentBytes));
    }
    drop(readers);
    assert_eq!(unsent.bytes(), 400);
}
