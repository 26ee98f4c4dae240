//! The hot paths of the core: writing and reading the wire format, appending to the journal and reading from it.
//!
//! `cargo bench --bench core`, or with a name after `--` for a part: `encode`, `decode`, `append`, `read`.

use std::{hint::black_box, sync::Arc};

use criterion::{BatchSize, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use futures::FutureExt;
use millstream::{
    event::Draft,
    journal::{Batch, BoxFuture, Config, Memory, Query, Shared},
    sse::{Decoder, Frame, Item, Limits},
    topic::{Pattern, Topic},
};

/// Payload of a TCP segment over Ethernet, in bytes.
const SEGMENT: usize = 1460;

// === the wire format ===

fn encode(c: &mut Criterion) {
    let mut group = c.benchmark_group("encode");
    let line = "The quick brown fox jumps over the lazy dog, again and again. ";
    let payloads = [
        ("100 B", line.repeat(2)[..100].to_owned()),
        ("1 kB", line.repeat(17)[..1000].to_owned()),
        ("1 kB in 20 lines", vec![&line[..49]; 20].join("\n")),
    ];
    for (name, data) in &payloads {
        group.throughput(Throughput::Bytes(data.len() as u64));
        group.bench_with_input(BenchmarkId::from_parameter(name), data, |b, data| {
            let frame =
                Frame { id: Some("8c2f91a0b3d4-123456"), event: "progress", data: Some(data), ..Frame::default() };
            b.iter(|| black_box(frame).encode());
        });
    }
    group.finish();
}

/// A stream of `count` events, in chunks of the size of network segments, through one decoder.
fn decode(c: &mut Criterion) {
    let mut group = c.benchmark_group("decode");
    for (name, size, count) in [("200 B events", 200, 1000), ("100 kB events", 100_000, 10)] {
        let data = "x".repeat(size);
        let frame = Frame { id: Some("8c2f91a0b3d4-123456"), event: "progress", data: Some(&data), ..Frame::default() };
        let stream = frame.encode().frame().repeat(count);
        group.throughput(Throughput::Bytes(stream.len() as u64));
        group.bench_with_input(BenchmarkId::from_parameter(name), &stream, |b, stream| {
            b.iter(|| {
                let mut decoder = Decoder::new(Limits::default());
                let mut events = 0;
                for chunk in stream.chunks(SEGMENT) {
                    decoder
                        .push(chunk, |item| events += usize::from(matches!(item, Item::Event { .. })))
                        .expect("it fits");
                }
                assert_eq!(events, count);
            });
        });
    }
    group.finish();
}

// === the journal ===

/// The memory journal never waits, so the measurement includes no runtime.
fn now<T>(future: BoxFuture<'_, T>) -> T {
    future.now_or_never().expect("the journal in memory never waits")
}

fn topics(count: usize) -> Vec<Topic> {
    (0..count).map(|number| Topic::new(format!("order:{number}")).expect("a good name")).collect()
}

fn batch(topics: &[Topic], first: usize, size: usize) -> Batch {
    let draft = |number: usize| Draft::new(topics[number % topics.len()].clone(), "progress", "x".repeat(200));
    Batch::events((first..first + size).map(draft).collect())
}

/// A journal whose topics are as full as their retention permits, which is the usual state of a node.
fn full_journal(topics: &[Topic], retention_events: usize) -> Shared {
    let config = Config { retention_events: retention_events as u64, ..Config::default() };
    let journal: Shared = Arc::new(Memory::new(&config));
    for round in 0..retention_events {
        now(journal.append(batch(topics, round * topics.len(), topics.len()))).expect("a good batch");
    }
    journal
}

fn append(c: &mut Criterion) {
    let mut group = c.benchmark_group("append");
    for topic_count in [1, 1000] {
        let topics = topics(topic_count);
        let journal = full_journal(&topics, 100);
        let mut first = 0;
        for size in [1, 100] {
            group.throughput(Throughput::Elements(size as u64));
            let id = BenchmarkId::new(format!("batches of {size}"), format!("{topic_count} topics"));
            let mut make = || {
                first += size;
                batch(&topics, first, size)
            };
            let append = |batch| now(journal.append(batch)).expect("a good batch");
            group.bench_function(id, |b| b.iter_batched(&mut make, append, BatchSize::SmallInput));
        }
    }
    group.finish();
}

/// The read of a client that requests `history=1000`.
fn read(c: &mut Criterion) {
    let mut group = c.benchmark_group("read");
    let topics = topics(100);
    let journal = full_journal(&topics, 1000);
    let last = |patterns: &Arc<[Pattern]>| {
        let after = now(journal.before_last(patterns.clone(), 1000)).expect("it is there");
        let query = Query { patterns: patterns.clone(), after, floor: after, limit: 1000, max_bytes: usize::MAX };
        now(journal.read(query)).expect("it is there").events.len()
    };
    group.throughput(Throughput::Elements(1000));
    for (name, pattern) in [("one topic", Pattern::from(topics[50].clone())), ("all topics", Pattern::any())] {
        let patterns: Arc<[Pattern]> = Arc::new([pattern]);
        assert_eq!(last(&patterns), 1000, "{name}");
        group.bench_function(BenchmarkId::new("last 1000", name), |b| b.iter(|| last(black_box(&patterns))));
    }
    group.finish();
}

criterion_group!(benches, encode, decode, append, read);
criterion_main!(benches);
