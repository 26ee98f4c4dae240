//! Which relays there are; pure.

use std::{
    collections::{BTreeMap, HashSet},
    sync::Arc,
};

use serde::Serialize;
use tokio::sync::Mutex as Gate;
use utoipa::ToSchema;

use super::{
    Spec, Status,
    state::{SourceState, SourceView, Summary, View},
};
use crate::{
    durable,
    shares::{Denied, Share},
    topic::Topic,
};

/// What is known of all relays.
#[derive(Default)]
pub struct Books {
    relays: BTreeMap<String, Relay>,
    /// Relays that are being made, and bytes of their specs.
    promised: Vec<(Option<String>, usize)>,
}

/// A relay.
pub struct Relay {
    pub id: String,
    /// Who made it.
    pub user: Option<String>,
    pub spec: Arc<Spec>,
    /// Of its spec.
    pub bytes: usize,
    pub target: Option<Topic>,
    pub created_at: u64,
    pub status: Status,
    pub ended_at: Option<u64>,
    /// The time of the end by the monotonic clock, from which the age is measured.
    pub ended: Option<u64>,
    pub sources: Vec<SourceState>,
    /// Held by whoever begins, ends or changes this relay.
    pub gate: Arc<Gate<()>>,
}

/// Most bytes of all specs: they are in memory and in the journal. Above the half ended relays leave, the oldest first.
const MAX_SPEC_BYTES: usize = 64 << 20;

/// Which relays to list.
pub type Filter = durable::Filter<Status>;

/// A page of relays, newest first.
#[derive(Clone, Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = RelayListing, examples(json!({
    "relays": [{
        "id": "01JB0000000000000000000000", "topic": "orders:all", "status": "running",
        "eventsUrl": "/api/relays/01JB0000000000000000000000/events", "createdAt": 1_790_000_000_000_u64, "events": 17,
    }],
    "next": null,
})))]
pub struct Listing {
    /// The relays.
    pub relays: Vec<Summary>,
    /// Pass it as `after` for the next page; `None` when this is the last.
    pub next: Option<String>,
}

// === impl Relay ===

impl Relay {
    /// Where the API says that it is.
    fn summary(&self) -> Summary {
        Summary {
            id: self.id.clone(),
            user: self.user.clone(),
            topic: self.target.as_ref().map_or_else(|| format!("relay:{}", self.id), ToString::to_string),
            status: self.status,
            events_url: events_url(&self.id),
            created_at: self.created_at,
            ended_at: self.ended_at,
            events: self.events(),
        }
    }

    /// Events of all its sources.
    pub fn events(&self) -> u64 {
        self.sources.iter().map(|source| source.events).sum()
    }

    fn view(&self) -> View {
        let spec = self.spec.redacted();
        let rows = self.sources.iter().zip(&spec.sources).map(|(state, source)| SourceView {
            label: source.label.clone().unwrap_or_default(),
            remote: source.remote.clone().unwrap_or_default(),
            path: source.path.clone(),
            state: state.state,
            events: state.events,
            last_event_id: Some(state.last_event_id.clone()).filter(|id| !id.is_empty()),
            reconnects: state.reconnects,
            last_error: state.last_error.clone(),
            since: state.since,
        });
        View { summary: self.summary(), sources: rows.collect(), spec }
    }
}

// === impl Books ===

impl Books {
    /// Reserves a slot for a relay of this user; `share` limits the slots and spec bytes of one user.
    ///
    /// # Errors
    /// When no slot or no space for specs is free, or the user already holds its share.
    pub fn promise(&mut self, max: usize, share: Share, user: Option<&str>, bytes: usize) -> Result<(), Denied> {
        let [all, own] = [None, Some(user)].map(|of| {
            let running = self.relays.values().filter(|relay| of.is_none_or(|user| relay.user.as_deref() == user));
            let promised = self.promised.iter().filter(|(own, _)| of.is_none_or(|user| own.as_deref() == user));
            let count = running.clone().filter(|relay| !relay.status.ended()).count() + promised.clone().count();
            (count, running.map(|relay| relay.bytes).chain(promised.map(|(_, bytes)| *bytes)).sum::<usize>())
        });
        if all.0 >= max || all.1 + bytes > MAX_SPEC_BYTES {
            return Err(Denied::Pool);
        }
        let most = |total: usize, alone| share.most(total as u64, alone);
        if own.0 as u64 >= most(max, own.0 == all.0) || (own.1 + bytes) as u64 > most(MAX_SPEC_BYTES, own.1 == all.1) {
            return Err(Denied::Share);
        }
        self.promised.push((user.map(str::to_owned), bytes));
        Ok(())
    }

    /// Gives the place back.
    pub fn break_promise(&mut self, user: Option<&str>, bytes: usize) {
        let at = self.promised.iter().position(|(own, held)| own.as_deref() == user && *held == bytes);
        if let Some(at) = at {
            self.promised.swap_remove(at);
        }
    }

    fn bytes(&self) -> usize {
        self.relays.values().map(|relay| relay.bytes).sum()
    }

    pub fn insert(&mut self, relay: Relay) {
        self.relays.insert(relay.id.clone(), relay);
    }

    pub fn remove(&mut self, id: &str) -> Option<Relay> {
        self.relays.remove(id)
    }

    pub fn get(&self, id: &str) -> Option<&Relay> {
        self.relays.get(id)
    }

    pub fn get_mut(&mut self, id: &str) -> Option<&mut Relay> {
        self.relays.get_mut(id)
    }

    /// A source, if its relay is still there.
    pub fn source_mut(&mut self, id: &str, index: usize) -> Option<&mut SourceState> {
        self.relays.get_mut(id)?.sources.get_mut(index)
    }

    pub fn view(&self, id: &str) -> Option<View> {
        self.relays.get(id).map(Relay::view)
    }

    pub fn summary(&self, id: &str) -> Option<Summary> {
        self.relays.get(id).map(Relay::summary)
    }

    pub fn list(&self, filter: &Filter) -> Listing {
        let (relays, next) =
            durable::list(&self.relays, filter, |relay| (relay.status, relay.user.as_deref()), Relay::summary);
        Listing { relays, next }
    }

    pub fn running(&self) -> usize {
        self.relays.values().filter(|relay| !relay.status.ended()).count()
    }

    pub fn kept(&self) -> usize {
        self.relays.len() - self.running()
    }

    /// Relays whose retention has expired at this monotonic time, and the oldest relays above `most`.
    pub fn leaving(&self, now: u64, retention_ms: u64, most: usize) -> Vec<String> {
        let mut ended: Vec<_> =
            self.relays.values().filter_map(|relay| Some((relay.ended?, relay.id.as_str()))).collect();
        ended.sort_unstable();
        let mut beyond: HashSet<_> = ended.iter().take(ended.len().saturating_sub(most)).map(|(_, id)| *id).collect();
        let mut too_much = self.bytes().saturating_sub(MAX_SPEC_BYTES / 2);
        for (_, id) in &ended {
            if too_much == 0 {
                break;
            }
            too_much = too_much.saturating_sub(self.relays.get(*id).map_or(0, |relay| relay.bytes));
            beyond.insert(id);
        }
        let over = |(at, id): &&(u64, &str)| at.saturating_add(retention_ms) <= now || beyond.contains(id);
        ended.iter().filter(over).map(|(_, id)| (*id).to_owned()).collect()
    }
}

/// Where the events of a relay are to be had.
pub fn events_url(id: &str) -> String {
    format!("/api/relays/{id}/events")
}
