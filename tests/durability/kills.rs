//! The kill harness: publishers and subscribers continue while the node is killed and started again.

use std::{
    net::SocketAddr,
    sync::{Arc, atomic::Ordering::Relaxed},
    time::Duration,
};

use rand::{RngExt, SeedableRng, rngs::StdRng};
use serde_json::json;

use crate::{
    ledger::Ledger,
    publishers::Manner,
    subscribers::{END, Ear, Item, Received},
    support::{Node, eventually, steady::listen},
};

/// Retention keeps everything but of `tiny`.
const SETTINGS: &str = "retention_events = 0\nretention_bytes = 0\n[server]\ndrain_ms = 200\n[telemetry]\nlog = \"warn\"\n\
                        [[journal.retention]]\ntopic = \"tiny\"\nretention_events = 50\n";

const TOPICS: &[&str] = &["orders:1", "orders:2", "orders:3", "keyed", "multi", "bulk", "tiny", "purged"];

const PUBLISHERS: &[Manner] = &[
    Manner::single("alone", &["orders:1"]),
    Manner::single("alone, keyed", &["orders:2"]).keyed(),
    Manner::single("keyed", &["keyed"]).keyed(),
    Manner::single("several topics", &["orders:1", "multi", "keyed"]).keyed(),
    Manner::single("batches, keyed", &["bulk"]).batches(BATCH).keyed(),
    Manner::single(BATCHES, &["bulk", "orders:3"]).batches(BATCH),
    Manner::single("tiny", &["tiny"]).batches(20),
    Manner::single("purged", &["purged"]).purging(10),
];
const BATCHES: &str = "batches";
const BATCH: u64 = 100;
const BATCH_EVENTS: usize = 100;

/// These receive all events.
const LOSSLESS: &[Ear] = &[
    Ear::on("orders:1"),
    Ear::on("orders:1,keyed,multi"),
    Ear::on("orders:*"),
    Ear::on("bulk,keyed").stuck(2),
    Ear::on("orders:*,bulk,keyed,multi").late(1),
];

/// These fall behind the existing events, and get a gap.
const LOSSY: &[Ear] =
    &[Ear::on("tiny"), Ear::on("tiny").stuck(2), Ear::on("tiny").late(2), Ear::on("purged"), Ear::on("purged").late(2)];

#[test]
fn killed_nodes_lose_nothing_with_sync_always() {
    run("always", 8);
}

#[test]
fn killed_nodes_lose_nothing_with_sync_interval() {
    run("interval", 8);
}

#[test]
fn killed_nodes_lose_nothing_with_sync_os() {
    run("os", 8);
}

/// Long runs have ten times as many kills, or as many times as the variable sets.
pub(crate) fn kills(usual: u64) -> u64 {
    let Ok(long) = std::env::var("MILLSTREAM_LONG") else { return usual };
    usual * long.parse().ok().filter(|times| *times > 1).unwrap_or(10)
}

/// The random numbers of this run.
pub(crate) fn seeded() -> StdRng {
    let seed = std::env::var("MILLSTREAM_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or_else(rand::random);
    println!("MILLSTREAM_SEED={seed}");
    StdRng::seed_from_u64(seed)
}

/// The node works for a random time, is killed, and starts again; sometimes the start is interrupted too. `progress`
/// counts the work of the node.
pub(crate) fn kill(node: &mut Node, rng: &mut StdRng, ledger: &Ledger, progress: impl Fn() -> u64) {
    let more = match rng.random_range(0..10) {
        0 => 0,
        1 => 300,
        _ => rng.random_range(1..60),
    };
    let until = progress() + more;
    eventually(|| (progress() >= until).then_some(()));
    node.kill();
    ledger.kills.fetch_add(1, Relaxed);
    if rng.random_ratio(1, 4) {
        node.die_starting(Duration::from_micros(rng.random_range(0..80_000)));
    }
    node.start_again();
}

fn run(sync: &str, usual: u64) {
    let mut rng = seeded();
    let mut node = Node::start(&format!("[journal]\nsync = \"{sync}\"\n{SETTINGS}"));
    let (addr, ledger) = (node.addr, Arc::new(Ledger::default()));
    let beginning = beginning(addr);
    ledger.offset(&beginning);
    let listen = |ear: &Ear| ear.start(addr, ledger.clone(), beginning.clone());
    let lossless: Vec<_> = LOSSLESS.iter().map(listen).collect();
    let lossy: Vec<_> = LOSSY.iter().map(listen).collect();
    let publishers: Vec<_> = PUBLISHERS.iter().map(|manner| manner.start(addr, ledger.clone())).collect();

    let kills = kills(usual);
    for round in 0..kills {
        kill(&mut node, &mut rng, &ledger, || ledger.answers());
        if round % 50 == 49 {
            println!("sync = {sync}: {} kills, {} answers", round + 1, ledger.answers());
        }
        if round == kills / 2 {
            // A stop in order is not a kill, but must work between kills.
            assert_eq!(node.terminate(), Some(0));
            node.start_again();
        }
    }
    ledger.over.store(true, Relaxed);
    publishers.into_iter().for_each(|publisher| publisher.join().expect("the publisher is well"));
    node.post("/events", &json!({ "topics": TOPICS, "event": END, "data": "" }));

    ledger.check();
    for subscriber in lossless {
        let received = subscriber.join().expect("the subscriber is well");
        received.check_order(&ledger);
        received.check_whole(&ledger);
        assert_eq!(received.gaps(), 0, "{}: nothing is missing, but a gap was reported", received.topics);
        assert!(received.connections > 2, "{}: it was never cut off", received.topics);
        let fresh = Received::fresh(addr, &ledger, received.topics, "", Some(&beginning));
        assert_eq!(fresh.items, received.items, "{}: a later subscriber receives other events", received.topics);
        let history = Received::fresh(addr, &ledger, received.topics, "&history=100000000", None);
        assert_eq!(history.items, received.items, "{}: its history is something else", received.topics);
        whole_batches(&fresh);
    }
    let mut gaps = 0;
    for subscriber in lossy {
        let received = subscriber.join().expect("the subscriber is well");
        received.check_order(&ledger);
        received.check_whole(&ledger);
        gaps += received.gaps();
    }
    assert!(gaps > 0, "no subscriber fell behind: the test shows nothing");
    let (acked, lost) = (ledger.acked().len(), ledger.lost.load(Relaxed));
    println!("sync = {sync}: {kills} kills, {acked} events acknowledged, {lost} responses lost, {gaps} gaps reported");
}

/// The position before the first event.
pub(crate) fn beginning(addr: SocketAddr) -> String {
    let mut stream = listen(addr, "/events?topics=t", None).expect("a stream");
    let from = stream.until("connection").json()["resume"]["from"].as_str().expect("a position").to_owned();
    assert!(from.ends_with("-0"), "{from}");
    from
}

/// A batch is there whole or not at all, answered or not.
fn whole_batches(received: &Received) {
    let numbers: Vec<u64> = received
        .items
        .iter()
        .filter_map(|item| match item {
            Item::Event(_, (publisher, number)) if publisher == BATCHES => Some(*number),
            _ => None,
        })
        .collect();
    for batch in numbers.chunks(BATCH_EVENTS) {
        let whole = batch.len() as u64 == BATCH && batch[0].is_multiple_of(BATCH);
        assert!(whole && batch.windows(2).all(|pair| pair[0] + 1 == pair[1]), "a part of a batch: {batch:?}");
    }
}
