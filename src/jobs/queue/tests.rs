//! The order of service, and the limits.

use std::{collections::BTreeMap, time::Instant};

use proptest::prelude::*;

use super::*;

const OPEN: usize = 0;
const NARROW: usize = 1;

fn queue(slots: usize) -> Queue<u32> {
    Queue::new(Share::WHOLE, slots, &[None, Some(1)])
}

fn job(queue: &mut Queue<u32>, job: u32, tasks: u32) {
    queue.add(job, None, None);
    (0..tasks).for_each(|task| queue.push(&job, task, OPEN));
}

fn serve(queue: &mut Queue<u32>, turns: usize) -> Vec<u32> {
    let turn = |_| {
        let (job, _) = queue.next().expect("there is work");
        queue.release(&job, &None, OPEN);
        job
    };
    (0..turns).map(turn).collect()
}

#[test]
fn jobs_of_any_size_take_turns() {
    let mut queue = queue(10);
    job(&mut queue, 1, 1000);
    job(&mut queue, 2, 3);
    let mut count = BTreeMap::new();
    serve(&mut queue, 6).into_iter().for_each(|job| *count.entry(job).or_insert(0) += 1);
    assert_eq!(count, BTreeMap::from([(1, 3), (2, 3)]));
}

#[test]
fn tasks_of_a_job_begin_in_their_order() {
    let mut queue = queue(10);
    job(&mut queue, 1, 5);
    let tasks: Vec<_> = std::iter::from_fn(|| queue.next()).map(|(_, task)| task).collect();
    assert_eq!(tasks, [0, 1, 2, 3, 4]);
}

#[test]
fn a_new_job_begins_at_once_behind_a_flood() {
    let mut queue = queue(1);
    (0..1000).for_each(|flood| job(&mut queue, flood, 100));
    serve(&mut queue, 301);
    job(&mut queue, 9999, 1);
    assert!(serve(&mut queue, 2).contains(&9999));
}

#[test]
fn a_flood_of_new_jobs_does_not_stop_the_old_ones() {
    let mut queue = queue(1);
    job(&mut queue, 1, 100);
    let mut served = 0;
    for newcomer in 0..100 {
        job(&mut queue, 100 + newcomer, 1);
        served += serve(&mut queue, 1).into_iter().filter(|job| *job == 1).count();
    }
    assert!(served > 0, "the first job was never served");
}

#[test]
fn a_saturated_handler_blocks_no_other_task_of_the_job() {
    let mut queue = queue(10);
    queue.add(1, None, None);
    for (task, lane) in [(0, NARROW), (1, NARROW), (2, OPEN), (3, NARROW), (4, OPEN)] {
        queue.push(&1, task, lane);
    }
    let begun: Vec<_> = std::iter::from_fn(|| queue.next()).map(|(_, task)| task).collect();
    assert_eq!(begun, [0, 2, 4]);
    queue.release(&1, &None, NARROW);
    assert_eq!(queue.next(), Some((1, 1)));
    assert_eq!((queue.next(), queue.running(), queue.waiting()), (None, 3, 1));
}

#[test]
fn a_cleared_job_is_not_served_but_its_slots_come_back() {
    let mut queue = queue(2);
    job(&mut queue, 1, 5);
    assert_eq!((queue.next(), queue.next()), (Some((1, 0)), Some((1, 1))));
    job(&mut queue, 2, 1);
    queue.clear(&1);
    assert_eq!((queue.waiting(), queue.next()), (1, None));
    queue.release(&1, &None, OPEN);
    assert_eq!(queue.next(), Some((2, 0)));
    queue.remove(&1);
    queue.release(&1, &None, OPEN);
    assert_eq!((queue.running(), queue.waiting()), (1, 0));
    queue.push(&1, 0, OPEN);
    assert_eq!(queue.next(), None, "a removed job is not served");
}

#[test]
fn ten_thousand_jobs_and_a_job_of_many_tasks_are_cheap() {
    let mut queue = queue(256);
    (0..10_000).for_each(|id| job(&mut queue, id, 10));
    job(&mut queue, 10_000, 100_000);
    let begun = Instant::now();
    serve(&mut queue, 200_000);
    // About 0.2 s without optimisation; an algorithm that visits all jobs at each turn takes minutes.
    assert!(begun.elapsed().as_secs() < 20, "{:?}", begun.elapsed());
}

#[expect(clippy::unnecessary_wraps, reason = "an owner is an option")]
fn owner(name: &str) -> Owner {
    Some(name.into())
}

/// Adds a job with `tasks` tasks for an owner.
fn owned(queue: &mut Queue<u32>, job: u32, name: &str, tasks: u32, lane: usize) {
    queue.add(job, owner(name), None);
    (0..tasks).for_each(|task| queue.push(&job, task, lane));
}

#[test]
fn owners_with_any_number_of_jobs_take_turns() {
    let mut queue = Queue::new(Share::WHOLE, 1, &[None]);
    (0..50).for_each(|job| owned(&mut queue, job, "many", 10, OPEN));
    owned(&mut queue, 50, "one", 3, OPEN);
    let mut served = 0;
    for _ in 0..6 {
        let (job, _) = queue.next().expect("there is work");
        served += u32::from(job == 50);
        queue.release(&job, &owner(if job == 50 { "one" } else { "many" }), OPEN);
    }
    assert_eq!(served, 3);
}

#[test]
fn an_owner_alone_leaves_a_reserve_that_the_next_one_gets_at_once() {
    let mut queue = Queue::new(Share::percent(50), 8, &[None]);
    owned(&mut queue, 1, "a", 100, OPEN);
    assert_eq!(std::iter::from_fn(|| queue.next()).count(), 6);
    owned(&mut queue, 2, "b", 1, OPEN);
    assert_eq!((queue.next(), queue.next()), (Some((2, 0)), None));
    // When another owner arrives, the first one is reduced to its share.
    for running in [6, 5, 4] {
        queue.release(&1, &owner("a"), OPEN);
        assert_eq!((queue.next().is_some(), running), (running == 4, running), "with {running} before");
    }
    queue.release(&2, &owner("b"), OPEN);
    queue.remove(&2);
    assert_eq!(std::iter::from_fn(|| queue.next()).count(), 2, "alone again");
    assert!(queue.skipped() > 0);
}

#[test]
fn a_share_counts_for_each_handler_as_well() {
    let mut queue = Queue::new(Share::percent(50), 100, &[None, Some(4)]);
    owned(&mut queue, 1, "a", 10, NARROW);
    assert_eq!(std::iter::from_fn(|| queue.next()).count(), 3);
    queue.push(&1, 10, OPEN);
    assert_eq!(queue.next(), Some((1, 10)), "other handlers are not affected");
    owned(&mut queue, 2, "b", 10, NARROW);
    assert_eq!((queue.next(), queue.next()), (Some((2, 0)), None));
}

proptest! {
    /// Every task is served once and no limit is exceeded, for any order of tasks.
    #[test]
    fn limits_apply_and_nothing_is_lost(
        slots in 1usize..6,
        percent in prop_oneof![Just(100), 1u8..100],
        job_slots in proptest::collection::vec(proptest::option::of(1usize..4), 1..5),
        pushes in proptest::collection::vec((0usize..5, 0usize..3), 1..60),
        releases in proptest::collection::vec(0usize..100, 0..200),
    ) {
        let lane_slots = [None, Some(1), Some(2)];
        let mut queue = Queue::new(Share::percent(percent), slots, &lane_slots);
        let owner_of = |job: usize| owner(if job.is_multiple_of(2) { "even" } else { "odd" });
        for (job, slots) in job_slots.iter().enumerate() {
            queue.add(job, owner_of(job), *slots);
        }
        let mut lanes = BTreeMap::new();
        for (task, (job, lane)) in pushes.iter().enumerate() {
            let job = job % job_slots.len();
            lanes.insert(u32::try_from(task).unwrap(), *lane);
            queue.push(&job, u32::try_from(task).unwrap(), *lane);
        }
        let mut running: Vec<(usize, u32)> = Vec::new();
        let mut served = Vec::new();
        let mut releases = releases.into_iter();
        loop {
            while let Some((job, task)) = queue.next() {
                running.push((job, task));
                served.push(task);
            }
            prop_assert!(running.len() <= slots);
            for (job, slots) in job_slots.iter().enumerate() {
                prop_assert!(running.iter().filter(|r| r.0 == job).count() <= slots.unwrap_or(usize::MAX));
            }
            for (lane, slots) in lane_slots.iter().enumerate() {
                prop_assert!(running.iter().filter(|r| lanes[&r.1] == lane).count() <= slots.unwrap_or(usize::MAX));
            }
            prop_assert_eq!(queue.running(), running.len());
            if running.is_empty() {
                break;
            }
            let (job, task) = running.swap_remove(releases.next().unwrap_or(0) % running.len());
            queue.release(&job, &owner_of(job), lanes[&task]);
        }
        served.sort_unstable();
        prop_assert_eq!(served, lanes.keys().copied().collect::<Vec<_>>());
        prop_assert_eq!(queue.waiting(), 0);
    }
}
