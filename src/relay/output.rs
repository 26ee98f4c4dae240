//! The events that a relay publishes: the events of its sources, and events about the state of each source; pure.

use std::sync::Arc;

use serde::Serialize;

use super::{Status, member::Member, record::Reason, trail::Trail};
use crate::{
    event::{Draft, Event, Invalid, SharedEvent, names, now_ms},
    json::{self, Json},
    topic::Topic,
    upstream::events::{End, RemoteEvent},
};

/// The name of the last event of a relay.
pub const LAST_EVENT: &str = "relay_end";
/// Maximum length of an upstream id that is stored with an event or reported, in bytes.
pub(super) const MAX_ORIGIN: usize = 1024;
/// Space for the fields of a state event beside the remote's text: names, ids and label, doubled for escapes.
const STATE_BYTES: usize = 2048;

/// One item that an upstream brings to its relays.
#[derive(Clone, Debug)]
pub(super) enum RelayOutput {
    /// An event of the source.
    Event(Arrival),
    /// An event about the source itself.
    Source(SourceEvent),
    /// A stored event of another member of the same upstream, for a member that joins later.
    Copy(SharedEvent),
}

/// An event of a source, and the result of loop detection.
#[derive(Clone, Debug)]
pub(super) struct Arrival {
    pub(super) event: RemoteEvent,
    /// The positions that the event had in the journals on its way.
    pub(super) trail: Trail,
    pub(super) returned: Returned,
    /// If set, the loop is reported with this number of dropped events.
    pub(super) report: Option<u64>,
}

/// Whether an event has already been in a topic of this node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Returned {
    /// It is new.
    No,
    /// It has already been in these topics.
    In(Vec<Topic>),
    /// An event with the same origin arrived a short time ago.
    Repeated,
    /// It has more hops than any path without a loop.
    TooFar,
}

/// An event about the state of a source.
#[derive(Clone, Debug, Serialize)]
#[serde(untagged, rename_all_fields = "camelCase")]
pub(super) enum SourceEvent {
    /// A connection is open.
    Open { reconnects: u64, resumed_after: Option<String>, may_have_missed: bool },
    /// A connection was lost, or could not be made; another attempt follows.
    Retry { attempt: u32, retry_in_ms: u64, error: String, code: String },
    /// The remote reports that events are missing.
    Gap { gap: Json },
    /// An event was not stored.
    Skipped { event: String, origin: Option<String>, bytes: usize, error: String, code: &'static str },
    /// An event was dropped because it returned.
    Loop { event: String, origin: Option<String>, via: Vec<String>, dropped: u64, error: String, code: &'static str },
    /// The source was given up.
    Error(Reason),
    /// The source was read to its end.
    Complete { events: u64, end: End },
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct SourceEventData<'a> {
    relay_id: &'a str,
    source: &'a str,
    #[serde(flatten)]
    event: &'a SourceEvent,
    timestamp: u64,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct EndData<'a> {
    relay_id: &'a str,
    status: Status,
    sources: usize,
    events: u64,
    timestamp: u64,
}

/// Members with the same label: their topics, their publisher, and themselves.
type Audience<'a> = (Vec<Topic>, String, Vec<&'a Member>);

// === impl SourceEvent ===

impl SourceEvent {
    fn name(&self) -> &'static str {
        match self {
            Self::Open { .. } => "relay_open",
            Self::Retry { .. } => "relay_retry",
            Self::Gap { .. } => "relay_gap",
            Self::Skipped { .. } => "relay_skipped",
            Self::Loop { .. } => "relay_loop",
            Self::Error(_) => "relay_error",
            Self::Complete { .. } => "relay_complete",
        }
    }

    /// The event for one member.
    pub(super) fn draft(&self, member: &Member) -> Draft {
        let data = SourceEventData { relay_id: &member.relay, source: &member.label, event: self, timestamp: now_ms() };
        state(&member.relay, member.topics.clone(), self.name(), &data)
    }

    /// A gap that a remote reports. Its data is left out if it does not fit into an event of this node.
    pub(super) fn gap(data: &str, max_event_bytes: usize) -> Self {
        // Measured in its final form: escapes make a text that is not JSON longer.
        let gap = json::embed(data);
        let fits = gap.get().len().saturating_add(STATE_BYTES) <= max_event_bytes;
        Self::Gap { gap: if fits { gap } else { Json::null() } }
    }

    /// An event that is not stored, because it is invalid on this node.
    fn skipped(event: &RemoteEvent, invalid: &Invalid) -> Self {
        let code = match invalid {
            Invalid::TooLarge { .. } => "event_too_large",
            _ => "event_name",
        };
        Self::Skipped {
            event: printable_name(event),
            origin: origin(&event.id),
            bytes: event.data.len(),
            error: invalid.to_string(),
            code,
        }
    }
}

// === impl Arrival ===

impl Arrival {
    /// An event before the journal was searched for it; `repeated`: an event with the same origin arrived a short time ago.
    pub(super) fn new(event: RemoteEvent, trail: Trail, repeated: bool) -> Self {
        let returned = match (trail.too_long(), repeated) {
            (true, _) => Returned::TooFar,
            (_, true) => Returned::Repeated,
            _ => Returned::No,
        };
        Self { event, trail, returned, report: None }
    }

    /// True if the event is a loop for this member.
    pub(super) fn has_returned(&self, member: &Member) -> bool {
        match &self.returned {
            Returned::No => false,
            Returned::In(topics) => member.topics.iter().any(|topic| topics.contains(topic)),
            Returned::Repeated | Returned::TooFar => true,
        }
    }

    /// The report of the loop for this member, if there is one.
    fn loop_report(&self, member: &Member) -> Option<SourceEvent> {
        let dropped = self.report?;
        let (error, code) = match &self.returned {
            Returned::No => return None,
            Returned::In(topics) => {
                let topic = member.topics.iter().find(|topic| topics.contains(topic))?;
                (format!("the event has been in `{topic}` before"), "loop")
            }
            Returned::Repeated => {
                ("an event that began at the same place has come within a minute".to_owned(), "repeated")
            }
            Returned::TooFar => (format!("the event has come through more than {} nodes", Trail::MAX), "too_many_hops"),
        };
        let (event, origin) = (printable_name(&self.event), origin(&self.event.id));
        Some(SourceEvent::Loop { event, origin, via: self.trail.words(), dropped, error, code })
    }
}

/// The last event of a relay.
pub(super) fn end(id: &str, topics: Vec<Topic>, status: Status, sources: usize, events: u64) -> Draft {
    state(id, topics, LAST_EVENT, &EndData { relay_id: id, status, sources, events, timestamp: now_ms() })
}

/// An event of the relay itself.
fn state(relay: &str, topics: Vec<Topic>, name: &str, data: &impl Serialize) -> Draft {
    Draft {
        topics,
        event: name.to_owned(),
        data: serde_json::to_string(data).expect("plain data serialises"),
        publisher: format!("relay:{relay}"),
        ..Draft::default()
    }
}

/// The events to append for these members. An event of the source becomes one event in the topics of all members with the
/// same label. An event about the source becomes one event for each member.
pub(super) fn drafts(outputs: &[RelayOutput], members: &[Arc<Member>], max_event_bytes: usize) -> Vec<Draft> {
    let mut drafts = Vec::with_capacity(outputs.len());
    let everyone: Vec<&Member> = members.iter().map(Arc::as_ref).collect();
    let audiences = audiences(&everyone);
    for output in outputs {
        match output {
            RelayOutput::Source(event) => drafts.extend(everyone.iter().map(|member| event.draft(member))),
            RelayOutput::Copy(event) => drafts.extend(everyone.iter().map(|member| copied(event, member))),
            RelayOutput::Event(arrival) => {
                let (back, new): (Vec<&Member>, Vec<_>) =
                    everyone.iter().partition(|member| arrival.has_returned(member));
                drafts.extend(back.iter().filter_map(|member| Some(arrival.loop_report(member)?.draft(member))));
                let narrowed = (!back.is_empty()).then(|| self::audiences(&new));
                for (topics, publisher, sharing) in narrowed.as_ref().unwrap_or(&audiences) {
                    let draft = relayed(&arrival.event, arrival.trail.comment(), topics.clone(), publisher.clone());
                    match draft.check(max_event_bytes) {
                        Ok(()) => drafts.push(draft),
                        Err(invalid) => {
                            let event = SourceEvent::skipped(&arrival.event, &invalid);
                            drafts.extend(sharing.iter().map(|member| event.draft(member)));
                        }
                    }
                }
            }
        }
    }
    drafts
}

fn copied(event: &Event, member: &Member) -> Draft {
    let remote = RemoteEvent {
        event: event.name().to_owned(),
        data: event.data.to_string(),
        id: event.origin.as_deref().unwrap_or_default().to_owned(),
        trail: String::new(),
        control: false,
    };
    // If both relays have the same target, the event is in that topic already.
    let topics = member.topics.iter().filter(|topic| !event.topics.contains(topic)).cloned().collect();
    relayed(&remote, event.comment.as_deref().map(str::to_owned), topics, member.publisher())
}

/// True for an event that is reported and not stored: it is too large, or no stream can carry its name.
pub(super) fn unfit(event: &RemoteEvent, max_event_bytes: usize) -> bool {
    event.data.len() + event.event.len() > max_event_bytes || event.event.contains('\0')
}

/// An event of a source as an event of this node.
fn relayed(event: &RemoteEvent, comment: Option<String>, topics: Vec<Topic>, publisher: String) -> Draft {
    Draft {
        topics,
        event: if event.event == "message" { String::new() } else { names::passed_on(&event.event).into_owned() },
        comment,
        data: event.data.clone(),
        origin: origin(&event.id),
        publisher,
        ..Draft::default()
    }
}

fn audiences<'a>(members: &[&'a Member]) -> Vec<Audience<'a>> {
    let mut audiences: Vec<Audience<'a>> = Vec::new();
    for member in members {
        let at = audiences.iter().position(|(_, _, sharing)| sharing[0].label == member.label);
        let at = at.unwrap_or_else(|| {
            audiences.push((Vec::new(), member.publisher(), Vec::new()));
            audiences.len() - 1
        });
        let (topics, _, sharing) = &mut audiences[at];
        for topic in &member.topics {
            if !topics.contains(topic) {
                topics.push(topic.clone());
            }
        }
        sharing.push(member);
    }
    audiences
}

/// The name of an event, without control characters and not too long for a report.
fn printable_name(event: &RemoteEvent) -> String {
    event.event.chars().filter(|c| !c.is_control()).take(255).collect()
}

fn origin(id: &str) -> Option<String> {
    (1..=MAX_ORIGIN).contains(&id.len()).then(|| id.to_owned())
}
