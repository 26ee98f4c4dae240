//! A hub over a journal whose reads can be blocked, and a reader that decodes frames.

use std::{future::poll_fn, sync::Arc, task::Poll, time::Duration};

use serde_json::Value;
use tokio::time::timeout;

use super::held::Held;
use crate::{
    clock::Clock,
    event::{Draft, Filter, Meta, Position},
    hub::{Bounds, Config, Connect, EmitterStatus, Handle, HeartbeatKind, Selector, Start, Subscription},
    journal::{self, Batch, Journal},
    sse::{Decoder, Item, Limits},
    supervise::Supervisor,
    topic::{Pattern, Topic},
    unsent::Unsent,
};

/// A node without its HTTP side.
pub(super) struct Rig {
    pub(super) hub: Handle,
    pub(super) journal: Arc<Held>,
}

/// The reading end of a stream.
pub(super) struct Reader {
    subscription: Subscription,
}

/// One frame.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Got {
    /// Its event name; `:` for a comment.
    pub(super) name: String,
    pub(super) data: String,
    pub(super) id: Option<String>,
    pub(super) retry: Option<u64>,
}

/// Longer than any step of a test. On a paused clock it costs no time.
const DEADLINE: Duration = Duration::from_secs(300);
/// A stream without a frame for this time will send none.
const SILENCE: Duration = Duration::from_millis(50);

// === impl Rig ===

impl Rig {
    /// Default settings.
    pub(super) fn new() -> Self {
        Self::with(Config::default(), &journal::Config::default())
    }

    /// A tiny outbox: this number of events, or one KiB.
    pub(super) fn tiny(outbox_events: usize) -> Self {
        Self::with(Config { outbox_events, outbox_bytes: 1024, ..Config::default() }, &journal::Config::default())
    }

    pub(super) fn with(config: Config, journal: &journal::Config) -> Self {
        // From here on, time passes only when all tasks wait for it.
        tokio::time::pause();
        Self::beside(config, journal)
    }

    /// Another rig on the same thread.
    pub(super) fn second() -> Self {
        Self::beside(Config::default(), &journal::Config::default())
    }

    fn beside(config: Config, journal: &journal::Config) -> Self {
        Self::by_clock(config, journal, Clock::system())
    }

    /// A rig that uses this clock.
    pub(super) fn by_clock(config: Config, journal: &journal::Config, clock: Clock) -> Self {
        let journal = Held::new(journal, clock.clone());
        Self { hub: Handle::supervised(config, journal.clone(), Supervisor::default(), clock), journal }
    }

    /// A rig with this limit on waiting history bytes, over all readers.
    pub(super) fn with_pages(max_page_bytes: usize) -> Self {
        tokio::time::pause();
        let (clock, supervisor) = (Clock::system(), Supervisor::default());
        let journal = Held::new(&journal::Config::default(), clock.clone());
        let unsent = Unsent::new(Duration::from_secs(60), usize::MAX);
        let bounds = Bounds { unsent, max_page_bytes };
        Self { hub: Handle::of_node(Config::default(), journal.clone(), supervisor, clock, bounds), journal }
    }

    /// A connection to these topics that gets no heartbeats.
    pub(super) fn connect(&self, topics: &[&str]) -> Connect {
        let mut connect = Connect::new(self.hub.config());
        connect.topics = patterns(topics);
        connect.heartbeat.kind = HeartbeatKind::None;
        connect
    }

    pub(super) async fn open(&self, connect: Connect) -> Reader {
        Reader { subscription: self.hub.connect(connect).await.unwrap() }
    }

    /// A live reader of these topics that has seen its `connection` frame.
    pub(super) async fn live(&self, topics: &[&str]) -> Reader {
        self.greeted(self.connect(topics)).await
    }

    /// A reader that starts at this position; it has not read its first frames.
    pub(super) async fn from(&self, topics: &[&str], start: Start) -> Reader {
        self.open(Connect { start, ..self.connect(topics) }).await
    }

    /// A reader that has seen its `connection` frame.
    pub(super) async fn greeted(&self, connect: Connect) -> Reader {
        let mut reader = self.open(connect).await;
        assert_eq!(reader.next().await.name, "connection");
        reader
    }

    pub(super) async fn publish(&self, topic: &str, data: &str) -> Position {
        self.append(vec![draft(&[topic], data)]).await[0]
    }

    /// Publishes `data` 0, 1, … in one batch.
    pub(super) async fn burst(&self, topic: &str, data: std::ops::Range<usize>) -> Vec<Position> {
        self.append(data.map(|number| draft(&[topic], &number.to_string())).collect()).await
    }

    pub(super) async fn append(&self, drafts: Vec<Draft>) -> Vec<Position> {
        let receipts = self.journal.append(Batch::events(drafts)).await.unwrap();
        receipts.into_iter().map(|receipt| receipt.position).collect()
    }

    pub(super) async fn status(&self, reader: &Reader) -> EmitterStatus {
        let mut list = self.hub.emitters(Selector::Id(reader.id())).await;
        assert_eq!(list.len(), 1);
        list.remove(0)
    }
}

// === impl Reader ===

impl Reader {
    pub(super) fn new(subscription: Subscription) -> Self {
        Self { subscription }
    }

    pub(super) fn id(&self) -> String {
        self.subscription.emitter_id().to_string()
    }

    pub(super) fn into_inner(self) -> Subscription {
        self.subscription
    }

    /// The next frame, or `None` at the end.
    pub(super) async fn read(&mut self) -> Option<Got> {
        let frame = timeout(DEADLINE, poll_fn(|cx| self.subscription.poll_frame(cx))).await;
        frame.expect("the stream returns a frame or ends").map(|frame| Got::decode(&frame.frame()))
    }

    /// The next frame of a stream that continues.
    pub(super) async fn next(&mut self) -> Got {
        self.read().await.expect("the stream continues")
    }

    /// Polls for a frame once.
    pub(super) async fn poll(&mut self) -> Option<Got> {
        match poll_fn(|cx| Poll::Ready(self.subscription.poll_frame(cx))).await {
            Poll::Ready(frame) => Some(Got::decode(&frame.expect("the stream continues").frame())),
            Poll::Pending => None,
        }
    }

    /// All frames until no more arrive.
    pub(super) async fn frames(&mut self) -> Vec<Got> {
        let mut frames = Vec::new();
        while let Ok(frame) = timeout(SILENCE, poll_fn(|cx| self.subscription.poll_frame(cx))).await {
            frames.push(Got::decode(&frame.expect("the stream continues").frame()));
        }
        frames
    }

    /// All frames until the stream ends.
    pub(super) async fn rest(&mut self) -> Vec<Got> {
        let mut frames = Vec::new();
        while let Some(frame) = self.read().await {
            frames.push(frame);
        }
        frames
    }

    /// The payloads of all events until no more arrive; any other frame is a failure.
    pub(super) async fn events(&mut self) -> Vec<String> {
        events(&self.frames().await)
    }
}

// === impl Got ===

impl Got {
    /// A frame holds one event or one comment, and is complete.
    fn decode(frame: &[u8]) -> Self {
        let (mut got, mut items) = (Self::default(), 0);
        let each = |item: Item<'_>| match item {
            Item::Event { event, data, id, own_id } => {
                (got.name, got.data) = (event.to_owned(), data.to_owned());
                got.id = own_id.then(|| id.to_owned());
                items += 1;
            }
            Item::Id(_) => {}
            Item::Comment(text) => {
                (got.name, got.data) = (":".to_owned(), text.to_owned());
                items += 1;
            }
            Item::Retry(retry) => got.retry = Some(retry),
        };
        Decoder::new(Limits::default()).push(frame, each).unwrap();
        assert!(items == 1 && frame.ends_with(b"\n\n"), "{:?}", String::from_utf8_lossy(frame));
        got
    }

    pub(super) fn json(&self) -> Value {
        serde_json::from_str(&self.data).unwrap()
    }

    /// Reason of a `gap` or a `disconnect`.
    pub(super) fn reason(&self) -> String {
        self.json()["reason"].as_str().unwrap().to_owned()
    }
}

/// The payloads of frames that are all events.
pub(super) fn events(frames: &[Got]) -> Vec<String> {
    let payload = |got: &Got| {
        assert!(got.id.is_some(), "an event was expected, not {got:?}");
        got.data.clone()
    };
    frames.iter().map(payload).collect()
}

pub(super) fn numbers(range: std::ops::Range<usize>) -> Vec<String> {
    range.map(|number| number.to_string()).collect()
}

pub(super) fn topic(name: &str) -> Topic {
    Topic::new(name).unwrap()
}

pub(super) fn patterns(texts: &[&str]) -> Vec<Pattern> {
    texts.iter().map(|text| Pattern::new(text).unwrap()).collect()
}

pub(super) fn draft(topics: &[&str], data: &str) -> Draft {
    Draft { topics: topics.iter().map(|name| topic(name)).collect(), data: data.into(), ..Draft::default() }
}

pub(super) fn meta(json: &str) -> Meta {
    serde_json::from_str(json).unwrap()
}

pub(super) fn filtered(draft: Draft, json: &str) -> Draft {
    Draft { filter: Some(Filter::from_json(serde_json::from_str(json).unwrap()).unwrap()), ..draft }
}

/// Runs all other tasks until they wait.
pub(super) async fn settle() {
    tokio::time::sleep(Duration::from_millis(1)).await;
}
