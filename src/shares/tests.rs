//! Amounts granted to owners; no amount is lost.

use futures::FutureExt;
use proptest::prelude::*;

use super::*;

const HALF: Share = Share(50);

#[expect(clippy::unnecessary_wraps, reason = "the type of an owner")]
fn owner(name: &str) -> Owner {
    Some(name.into())
}

#[test]
fn a_single_owner_leaves_a_reserve_and_one_of_several_has_its_share() {
    assert_eq!((HALF.most(256, true), HALF.most(256, false)), (192, 128));
    assert_eq!((HALF.most(4, true), HALF.most(2, true), HALF.most(1, true)), (3, 1, 1));
    assert_eq!((HALF.most(1, false), HALF.most(0, false)), (1, 0));
    assert_eq!((Share::WHOLE.most(7, true), Share::WHOLE.most(7, false)), (7, 7));
    assert!(HALF.most(u64::MAX, false) > u64::MAX / 3);
}

#[test]
fn one_owner_cannot_take_the_whole_pool() {
    let pool = Pool::new(8);
    let mut held: Vec<_> = std::iter::from_fn(|| pool.take(HALF, &owner("a"), 1).ok()).collect();
    assert_eq!((held.len(), pool.take(HALF, &owner("a"), 1).unwrap_err()), (6, Denied::Share));
    let other = pool.take(HALF, &owner("b"), 1).expect("the reserve is free for others");
    held.truncate(4);
    assert_eq!(pool.take(HALF, &owner("a"), 1).unwrap_err(), Denied::Share, "another owner holds a part");
    let figures = pool.figures();
    assert_eq!((figures.held, figures.owners, figures.refused), (5, 2, 3));
    drop((held, other));
    assert_eq!(pool.figures().held + pool.figures().owners, 0);
}

#[test]
fn with_a_share_of_the_whole_only_the_pool_limits() {
    let pool = Pool::new(2);
    let held = (pool.take(Share::WHOLE, &None, 1), pool.take(Share::WHOLE, &None, 1));
    assert_eq!(pool.take(Share::WHOLE, &None, 1).unwrap_err(), Denied::Pool);
    assert!(held.0.is_ok() && held.1.is_ok());
}

#[tokio::test]
async fn requests_wait_in_order_and_one_owner_does_not_block_others() {
    let pool = Pool::new(4);
    let all = pool.take(Share::WHOLE, &None, 4).expect("it is empty");
    let (one, two) = (owner("a"), owner("b"));
    let mut first = Box::pin(pool.acquire(HALF, &one, 2));
    let mut second = Box::pin(pool.acquire(HALF, &one, 2));
    let mut third = Box::pin(pool.acquire(HALF, &two, 1));
    assert!(first.as_mut().now_or_never().is_none() && second.as_mut().now_or_never().is_none());
    assert!(third.as_mut().now_or_never().is_none());
    drop(all);
    let first = first.await;
    let third = third.await;
    assert!(second.as_mut().now_or_never().is_none(), "its owner has its share");
    drop(first);
    drop((second.await, third));
    assert_eq!(pool.figures().held, 0);
}

#[tokio::test]
async fn a_dropped_request_holds_nothing() {
    let pool = Pool::new(1);
    let held = pool.take(HALF, &None, 1).expect("it is empty");
    let mut given_up = Box::pin(pool.acquire(HALF, &None, 1));
    assert!(given_up.as_mut().now_or_never().is_none());
    drop(given_up);
    let mut granted = Box::pin(pool.acquire(HALF, &None, 1));
    assert!(granted.as_mut().now_or_never().is_none());
    drop(held);
    // The request was granted, but its future is dropped before it is polled.
    drop(granted);
    assert_eq!((pool.figures().held, pool.acquire(HALF, &None, 9).await.amount), (0, 1));
}

proptest! {
    #[test]
    fn the_sum_of_all_parts_is_the_held_amount(total in 1u64..50, percent in 1u8..=100, steps in proptest::collection::vec((0u8..4, 1u64..10, any::<bool>()), 0..100)) {
        let pool = Pool::new(total);
        let mut held: Vec<Held> = Vec::new();
        for (who, amount, back) in steps {
            if back && !held.is_empty() {
                held.swap_remove(usize::from(who) % held.len());
            } else if let Ok(part) = pool.take(Share::percent(percent), &owner(&who.to_string()), amount) {
                held.push(part);
            }
            let sum: u64 = held.iter().map(|part| part.amount).sum();
            prop_assert!(sum <= total);
            prop_assert_eq!(pool.figures().held, sum);
        }
    }
}
