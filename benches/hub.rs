//! The cost of the hub per event: it finds the interested subscribers, and delivers the event to them.
//!
//! All figures are for one shard, from the append until the reader has the frame.

use std::{future::poll_fn, hint::black_box, time::Duration};

use actix_rt::{System, SystemRunner};
use criterion::{BatchSize, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use millstream::{
    event::Draft,
    hub::{Config, Connect, Handle, HeartbeatKind, Subscription},
    journal::{self, Batch, Shared},
    topic::{Pattern, Topic},
};

/// A node without its HTTP side, and the streams that are open on it.
struct Node {
    system: SystemRunner,
    hub: Handle,
    journal: Shared,
    streams: Vec<Subscription>,
}

// === impl Node ===

impl Node {
    /// Opens one stream per list of patterns.
    fn with(streams: impl IntoIterator<Item = Vec<String>>) -> Self {
        let system = System::new();
        let journal: Shared = std::sync::Arc::new(journal::Memory::new(&journal::Config::default()));
        let hub = Handle::new(Config::default(), journal.clone());
        let mut node = Self { system, hub, journal, streams: Vec::new() };
        for patterns in streams {
            let mut connect = Connect::new(node.hub.config());
            connect.topics = patterns.iter().map(|text| Pattern::new(text).expect("it is a pattern")).collect();
            connect.heartbeat.kind = HeartbeatKind::None;
            let stream = node.system.block_on(async {
                let mut stream = node.hub.connect(connect).await.expect("the hub takes connections");
                next(&mut stream).await;
                stream
            });
            node.streams.push(stream);
        }
        node
    }

    /// Publishes one event, and has each of these streams read it.
    fn publish_and_read(&mut self, topic: &Topic, streams: std::ops::Range<usize>) {
        let (journal, streams) = (&self.journal, &mut self.streams[streams]);
        self.system.block_on(async {
            let event = Draft::new(topic.clone(), "tick", r#"{"price":101.25,"volume":7}"#);
            journal.append(Batch::events(vec![event])).await.expect("the journal takes events");
            for stream in streams {
                next(stream).await;
            }
        });
    }
}

async fn next(stream: &mut Subscription) {
    let frame = poll_fn(|cx| stream.poll_frame(cx)).await;
    assert!(black_box(frame).is_some(), "the stream goes on");
}

fn topic(name: &str) -> Topic {
    Topic::new(name).expect("it is a topic")
}

/// One reader among many: finding it must not depend on how many others there are.
fn matching(c: &mut Criterion) {
    let mut group = c.benchmark_group("hub/match");
    for emitters in [1_usize, 100, 10_000] {
        let mut node = Node::with((0..emitters).map(|n| vec![format!("user:{n}")]));
        let topic = topic("user:0");
        group.bench_function(BenchmarkId::new("exact", emitters), |b| b.iter(|| node.publish_and_read(&topic, 0..1)));
    }
    let mut node = Node::with((0..1000).map(|n| vec![format!("order:{n:04}:*")]));
    let topic = topic("order:0000:paid");
    group.bench_function(BenchmarkId::new("prefixes", 1000), |b| b.iter(|| node.publish_and_read(&topic, 0..1)));
    group.finish();
}

/// One event to a thousand readers: the bytes are shared.
fn fan_out(c: &mut Criterion) {
    let mut group = c.benchmark_group("hub/fan_out");
    for readers in [1_usize, 1000] {
        let mut node = Node::with((0..readers).map(|_| vec!["prices".to_owned()]));
        let topic = topic("prices");
        group.throughput(Throughput::Elements(readers as u64));
        group.bench_function(BenchmarkId::from_parameter(readers), |b| {
            b.iter(|| node.publish_and_read(&topic, 0..readers));
        });
    }
    group.finish();
}

/// The cost of a publisher's response. It is read from counters, independent of the connections.
fn delivered(c: &mut Criterion) {
    let mut group = c.benchmark_group("hub/delivered");
    for emitters in [1_usize, 10_000] {
        let node = Node::with((0..emitters).map(|n| vec![format!("user:{n}"), format!("order:{}:*", n % 1000)]));
        let topics = [topic("user:0"), topic("order:0:paid")];
        group.bench_function(BenchmarkId::from_parameter(emitters), |b| {
            b.iter(|| black_box(node.hub.delivered(black_box(&topics), false)));
        });
    }
    group.finish();
}

/// A connection that opens and closes.
fn connect(c: &mut Criterion) {
    let node = Node::with([]);
    let connect = || Connect { topics: vec![Pattern::from(topic("prices"))], ..Connect::new(node.hub.config()) };
    c.bench_function("hub/connect", |b| {
        b.iter_batched(
            connect,
            |connect| node.system.block_on(async { drop(node.hub.connect(connect).await.expect("it is taken")) }),
            BatchSize::SmallInput,
        );
    });
}

criterion_group! {
    name = benches;
    config = Criterion::default().warm_up_time(Duration::from_millis(500)).measurement_time(Duration::from_secs(2));
    targets = matching, fan_out, delivered, connect
}
criterion_main!(benches);
