//! Merged streams: several remote streams as one, live.
//!
//! All sources are read at the same time, each by an [`EventSource`] that reconnects. The stream is pulled: it has no queue
//! and no task, so a slow reader slows down all sources. Sources take turns, one chunk each, so a fast source does not
//! displace the others. A source that is given up is reported in band, and the others continue. A merged stream cannot be
//! resumed; a relay can.

use std::{pin::Pin, sync::Arc, time::Duration};

use bytes::{Bytes, BytesMut};
use futures::{
    Stream, StreamExt,
    stream::{SelectAll, unfold},
};
use serde::Serialize;
use serde_json::json;
use tokio::time::{Instant, sleep_until};

use crate::{
    event::{names, now_ms},
    json::{self, Json},
    sse::Frame,
    upstream::{
        Connections,
        events::{Cursor, EventSource, RemoteEvent, Source, StreamEvent},
    },
};

mod spec;

pub use self::spec::{SourceSpec, sources};
use super::trail::Trail;

/// The form of a merged stream.
#[derive(Clone, Copy, Debug)]
pub struct Form {
    /// Data becomes `{source, event, id, data}`.
    pub envelope: bool,
    /// The heartbeat; `None` for none.
    pub heartbeat: Option<Heartbeat>,
}

/// A heartbeat.
#[derive(Clone, Copy, Debug)]
pub struct Heartbeat {
    /// The silence before a heartbeat.
    pub every: Duration,
    /// True for a comment, which clients ignore; false for an event.
    pub comment: bool,
}

/// One checked source.
#[derive(Clone, Debug)]
pub struct Planned {
    /// The name in the frames, unique in the stream.
    pub label: Arc<str>,
    /// The path, as the client wrote it.
    pub path: String,
    /// The request, and how it is repeated.
    pub source: Source,
}

/// A merged stream: frames in the order in which they are sent.
pub struct Merged {
    sources: SelectAll<Reading>,
    endpoints: Vec<Endpoint>,
    /// Unknown query parameters of the request.
    ignored: Vec<String>,
    form: Form,
    phase: Phase,
    completed: usize,
    failed: usize,
    events: u64,
}

type Reading = Pin<Box<dyn Stream<Item = (usize, StreamEvent)> + Send>>;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Phase {
    Begin,
    Live,
    Over,
}

#[derive(Serialize)]
struct Endpoint {
    source: Arc<str>,
    remote: String,
    path: String,
}

/// An event with its source.
#[derive(Serialize)]
struct Envelope<'a> {
    source: &'a str,
    event: &'a str,
    id: Option<&'a str>,
    data: Json,
}

// === impl Merged ===

impl Merged {
    /// A stream of these sources. It connects when it is first read. The first frame lists the parameters of the request
    /// that are `ignored`.
    pub fn new(plan: Vec<Planned>, connections: &Connections, form: Form, ignored: Vec<String>) -> Self {
        let (mut sources, mut endpoints) = (SelectAll::new(), Vec::with_capacity(plan.len()));
        for (index, Planned { label, path, source }) in plan.into_iter().enumerate() {
            endpoints.push(Endpoint { source: label, remote: source.remote.name().to_owned(), path });
            let reader = EventSource::new(source, Cursor::default(), connections.clone());
            let reading: Reading = Box::pin(unfold(reader, move |mut reader| async move {
                let next = reader.next().await?;
                Some(((index, next), reader))
            }));
            sources.push(reading);
        }
        Self { sources, endpoints, ignored, form, phase: Phase::Begin, completed: 0, failed: 0, events: 0 }
    }

    /// The next frames, never empty; `None` after the last frame.
    ///
    /// The future may be dropped, and the method called again: nothing is lost.
    pub async fn next(&mut self) -> Option<Bytes> {
        match self.phase {
            Phase::Begin => {
                self.phase = Phase::Live;
                let mut data = json!({ "totalStreams": self.endpoints.len(), "endpoints": self.endpoints });
                if !self.ignored.is_empty() {
                    data["ignored"] = json!(self.ignored);
                }
                return Some(frame("merge_start", &data));
            }
            Phase::Live => {}
            Phase::Over => return None,
        }
        let silent_since = Instant::now();
        loop {
            let next = match self.form.heartbeat {
                None => self.sources.next().await,
                Some(wanted) => tokio::select! {
                    biased;
                    next = self.sources.next() => next,
                    () = sleep_until(silent_since + wanted.every) => return Some(heartbeat(wanted)),
                },
            };
            match next {
                Some((index, next)) => {
                    if let Some(frames) = self.frames(index, next) {
                        return Some(frames);
                    }
                }
                None => {
                    self.phase = Phase::Over;
                    let data = json!({
                        "totalStreams": self.endpoints.len(),
                        "completed": self.completed,
                        "failed": self.failed,
                        "events": self.events,
                    });
                    return Some(frame("merge_complete", &data));
                }
            }
        }
    }

    /// The frames that follow from the next step of a source.
    fn frames(&mut self, index: usize, next: StreamEvent) -> Option<Bytes> {
        let source = &self.endpoints[index].source;
        match next {
            // The reader does not need to know of a reconnect.
            StreamEvent::Open { .. } | StreamEvent::Retry { .. } => None,
            StreamEvent::Events(events) => {
                let mut out = BytesMut::new();
                // Of all control frames of another node, only a gap concerns the reader.
                for event in events.iter().filter(|event| !event.control || event.event == "gap") {
                    self.events += u64::from(!event.control);
                    out.extend_from_slice(&passed_on(source, event, self.form.envelope));
                }
                (!out.is_empty()).then(|| out.freeze())
            }
            StreamEvent::End(_) => {
                self.completed += 1;
                None
            }
            StreamEvent::GaveUp(failure) => {
                self.failed += 1;
                let data = json!({ "source": source, "error": failure.to_string(), "code": failure.code() });
                Some(frame("merge_error", &data))
            }
        }
    }
}

/// An event without its id: an id of one source is no position of the merged stream.
fn passed_on(source: &str, event: &RemoteEvent, envelope: bool) -> Bytes {
    let way = Trail::of(event).comment();
    let RemoteEvent { event, data, id, .. } = event;
    let event = &*names::passed_on(event);
    let frame = Frame { event, comment: way.as_deref(), ..Frame::default() };
    if !envelope {
        return Frame { data: Some(data), ..frame }.encode().frame();
    }
    let id = Some(id.as_str()).filter(|id| !id.is_empty());
    let whole =
        serde_json::to_string(&Envelope { source, event, id, data: json::embed(data) }).expect("it is plain data");
    Frame { data: Some(&whole), ..frame }.encode().frame()
}

fn frame(event: &str, data: &serde_json::Value) -> Bytes {
    Frame { event, data: Some(&data.to_string()), ..Frame::default() }.encode().frame()
}

fn heartbeat(wanted: Heartbeat) -> Bytes {
    if wanted.comment {
        return crate::sse::comment("heartbeat").frame();
    }
    frame("heartbeat", &json!({ "timestamp": now_ms() }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(event: &str, data: &str, id: &str) -> RemoteEvent {
        RemoteEvent { event: event.into(), data: data.into(), id: id.into(), trail: String::new(), control: false }
    }

    #[test]
    fn an_event_is_passed_on_without_its_id() {
        assert_eq!(passed_on("s", &event("x", "a\nb", "7"), false), "event: x\ndata: a\ndata: b\n\n");
        assert_eq!(passed_on("s", &event("message", "", ""), false), "data: \n\n");
    }

    #[test]
    fn an_event_of_a_node_has_its_trail_and_is_not_taken_for_a_frame_of_this_one() {
        let gap = RemoteEvent { trail: "800000000000-1".into(), ..event("gap", "a", "9c1f00aa0b77-2") };
        assert_eq!(passed_on("s", &gap, false), ": via 800000000000-1 9c1f00aa0b77-2\nevent: remote.gap\ndata: a\n\n");
        assert_eq!(
            passed_on("s", &event("merge_complete", "", "7"), false),
            "event: remote.merge_complete\ndata: \n\n"
        );
    }

    #[test]
    fn an_envelope_has_json_without_white_space_and_anything_else_as_text() {
        let json = passed_on("s", &event("x", "{\"n\": 1.10, \"big\": 123456789012345678901}", "7"), true);
        let whole =
            "{\"source\":\"s\",\"event\":\"x\",\"id\":\"7\",\"data\":{\"n\":1.10,\"big\":123456789012345678901}}";
        assert_eq!(json, format!("event: x\ndata: {whole}\n\n"));
        let text = passed_on("s", &event("message", "[DONE", ""), true);
        assert_eq!(text, "data: {\"source\":\"s\",\"event\":\"message\",\"id\":null,\"data\":\"[DONE\"}\n\n");
    }
}
