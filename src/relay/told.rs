//! What a relay says in its topics: the events of its sources as they are, and its own states beside them.

use std::sync::Arc;

use serde::Serialize;

use super::{Status, group::Member, trail::Trail};
use crate::{
    event::{Draft, Invalid, names, now_ms},
    json::{self, Json},
    topic::Topic,
    upstream::events::{End, RemoteEvent},
};

/// The name of a relay's last event.
pub const LAST_EVENT: &str = "relay_end";
/// Longest upstream id that is kept with an event or told, in bytes.
pub const MAX_ORIGIN: usize = 1024;
/// What a state takes beside what a remote has said: names, ids, label, twice over for escapes.
const STATE_BYTES: usize = 2048;

/// Something to say.
#[derive(Clone, Debug)]
pub enum Told {
    /// An event of the source.
    Event(Arrival),
    /// What the relay has to say of the source.
    State(State),
}

/// An event of a source, and whether it has been here before.
#[derive(Clone, Debug)]
pub struct Arrival {
    pub event: RemoteEvent,
    /// Where it has been.
    pub trail: Trail,
    pub back: Back,
    /// It is to be reported as a loop, with the number of those so far.
    pub report: Option<u64>,
}

/// What is known of an event's return.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Back {
    /// It is new here.
    No,
    /// It has been in these topics.
    In(Vec<Topic>),
    /// It has come from where it began a second time.
    Repeated,
    /// It has more hops than a way has that is no loop.
    TooFar,
}

/// A state of a source.
#[derive(Clone, Debug, Serialize)]
#[serde(untagged, rename_all_fields = "camelCase")]
pub enum State {
    /// A connection is open.
    Open { reconnects: u64, resumed_after: Option<String>, may_have_missed: bool },
    /// A connection was lost or not made.
    Retry { attempt: u32, retry_in_ms: u64, error: String, code: String },
    /// The remote has lost events.
    Gap { gap: Json },
    /// An event that cannot be kept.
    Skipped { event: String, origin: Option<String>, bytes: usize, error: String, code: &'static str },
    /// Events that came back to where they had been.
    Loop { event: String, origin: Option<String>, via: Vec<String>, dropped: u64, error: String, code: &'static str },
    /// The source was given up.
    Error { error: String, code: String },
    /// The source was read to its end.
    Complete { events: u64, end: End },
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct StateData<'a> {
    relay_id: &'a str,
    source: &'a str,
    #[serde(flatten)]
    state: &'a State,
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

// === impl State ===

impl State {
    fn name(&self) -> &'static str {
        match self {
            Self::Open { .. } => "relay_open",
            Self::Retry { .. } => "relay_retry",
            Self::Gap { .. } => "relay_gap",
            Self::Skipped { .. } => "relay_skipped",
            Self::Loop { .. } => "relay_loop",
            Self::Error { .. } => "relay_error",
            Self::Complete { .. } => "relay_complete",
        }
    }

    /// The state as an event of one relay.
    fn draft(&self, member: &Member) -> Draft {
        let data = StateData { relay_id: &member.relay, source: &member.label, state: self, timestamp: now_ms() };
        let data = serde_json::to_string(&data).expect("plain data serialises");
        Draft {
            topics: member.topics.clone(),
            event: self.name().to_owned(),
            data,
            publisher: format!("relay:{}", member.relay),
            ..Draft::default()
        }
    }

    /// What a remote said of its own gap; left out where it is longer than an event of this node may be.
    pub fn gap(data: &str, max_event_bytes: usize) -> Self {
        // Measured as it is written: a text that is not JSON may have grown by its escapes.
        let gap = json::embed(data);
        let fits = gap.get().len().saturating_add(STATE_BYTES) <= max_event_bytes;
        Self::Gap { gap: if fits { gap } else { Json::null() } }
    }
}

/// The event with which a relay ends.
pub fn end(id: &str, topics: Vec<Topic>, status: Status, sources: usize, events: u64) -> Draft {
    let data = EndData { relay_id: id, status, sources, events, timestamp: now_ms() };
    Draft {
        topics,
        event: LAST_EVENT.to_owned(),
        data: serde_json::to_string(&data).expect("plain data serialises"),
        publisher: format!("relay:{id}"),
        ..Draft::default()
    }
}

/// The topics of a relay: where it was asked to publish, and its own.
pub fn topics(id: &str, target: Option<&Topic>) -> Vec<Topic> {
    let own = Topic::relay(id).expect("an id is a short word");
    target.cloned().into_iter().chain([own]).collect()
}

/// What is to be appended so that all of these hear it: an event of the source is one event in the topics of all who
/// have given the source the same label, a state is one event for each.
pub fn drafts(told: &[Told], members: &[Arc<Member>], max_event_bytes: usize) -> Vec<Draft> {
    let mut drafts = Vec::with_capacity(told.len());
    let shares = shares(members);
    for told in told {
        match told {
            Told::State(state) => {
                drafts.extend(members.iter().map(|member| state.draft(member)));
            }
            Told::Event(arrival) => {
                let (back, new): (Vec<_>, Vec<_>) = members.iter().cloned().partition(|member| arrival.is_back(member));
                drafts.extend(back.iter().filter_map(|member| Some(arrival.looped(member)?.draft(member))));
                let (event, own) = (&arrival.event, shares_of_new(&back, &new));
                for (topics, publisher, sharing) in own.as_ref().unwrap_or(&shares) {
                    let draft = relayed(event, &arrival.trail, topics.clone(), publisher.clone());
                    match draft.check(max_event_bytes) {
                        Ok(()) => drafts.push(draft),
                        Err(invalid) => {
                            let state = skipped(event, &invalid);
                            drafts.extend(sharing.iter().map(|member| state.draft(member)));
                        }
                    }
                }
            }
        }
    }
    drafts
}

/// An event of a source as an event of this node.
pub fn relayed(event: &RemoteEvent, trail: &Trail, topics: Vec<Topic>, publisher: String) -> Draft {
    Draft {
        topics,
        event: if event.event == "message" { String::new() } else { names::passed_on(&event.event).into_owned() },
        comment: trail.comment(),
        data: event.data.clone(),
        origin: origin(&event.id),
        publisher,
        ..Draft::default()
    }
}

/// Who publishes what a source brings.
pub fn publisher(member: &Member) -> String {
    format!("relay:{}/{}", member.relay, member.label)
}

/// The shares without those for whom an event is a loop; `None` where it is one for nobody.
fn shares_of_new<'a>(back: &[Arc<Member>], new: &'a [Arc<Member>]) -> Option<Vec<Share<'a>>> {
    (!back.is_empty()).then(|| shares(new))
}

type Share<'a> = (Vec<Topic>, String, Vec<&'a Member>);

fn shares(members: &[Arc<Member>]) -> Vec<Share<'_>> {
    let mut shares: Vec<Share<'_>> = Vec::new();
    for member in members {
        let known = shares.iter_mut().find(|(_, _, sharing)| sharing[0].label == member.label);
        let share = match known {
            Some(share) => share,
            None => {
                shares.push((Vec::new(), publisher(member), Vec::new()));
                shares.last_mut().expect("it was just put there")
            }
        };
        share.0.extend(member.topics.iter().filter(|topic| !share.0.contains(topic)).cloned().collect::<Vec<_>>());
        share.2.push(member);
    }
    shares
}

// === impl Arrival ===

impl Arrival {
    /// An event that is new, as far as can be known without asking the journal.
    pub fn new(event: RemoteEvent, trail: Trail, repeated: bool) -> Self {
        let back = match (trail.too_long(), repeated) {
            (true, _) => Back::TooFar,
            (_, true) => Back::Repeated,
            _ => Back::No,
        };
        Self { event, trail, back, report: None }
    }

    /// True where this one has had the event before.
    pub fn is_back(&self, member: &Member) -> bool {
        match &self.back {
            Back::No => false,
            Back::In(topics) => member.topics.iter().any(|topic| topics.contains(topic)),
            Back::Repeated | Back::TooFar => true,
        }
    }

    /// What is reported of the loop to this one, if anything.
    fn looped(&self, member: &Member) -> Option<State> {
        let dropped = self.report?;
        let (error, code) = match &self.back {
            Back::No => return None,
            Back::In(topics) => {
                let topic = member.topics.iter().find(|topic| topics.contains(topic))?;
                (format!("the event has been in `{topic}` before"), "loop")
            }
            Back::Repeated => ("an event that began at the same place has come within a minute".to_owned(), "repeated"),
            Back::TooFar => (format!("the event has come through more than {} nodes", Trail::MAX), "too_many_hops"),
        };
        let event = name(&self.event);
        Some(State::Loop { event, origin: origin(&self.event.id), via: self.trail.words(), dropped, error, code })
    }
}

fn skipped(event: &RemoteEvent, invalid: &Invalid) -> State {
    let code = match invalid {
        Invalid::TooLarge { .. } => "event_too_large",
        _ => "event_name",
    };
    State::Skipped {
        event: name(event),
        origin: origin(&event.id),
        bytes: event.data.len(),
        error: invalid.to_string(),
        code,
    }
}

/// An event's name, fit to be told.
fn name(event: &RemoteEvent) -> String {
    event.event.chars().filter(|c| !c.is_control()).take(255).collect()
}

fn origin(id: &str) -> Option<String> {
    (1..=MAX_ORIGIN).contains(&id.len()).then(|| id.to_owned())
}

/// True for an event that would be told of and not kept.
pub fn unfit(event: &RemoteEvent, max_event_bytes: usize) -> bool {
    event.data.len() + event.event.len() > max_event_bytes || event.event.contains('\0')
}
