//! What all parts of the relays component work with.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError, atomic::Ordering::Relaxed},
    time::Duration,
};

use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{
    Config, Deps, Limits, Status,
    books::{Books, Relay},
    group::{Group, Member},
    record::{Ended, Progress},
    runner,
    spec::{Key, PlannedSource},
    state::State,
    stats::{Counters, Stats},
};
use crate::upstream::Connections;

/// The relays of a node. No lock in here is held while anything is waited for.
pub struct Shared {
    pub config: Config,
    pub deps: Deps,
    books: Mutex<Books>,
    groups: Mutex<HashMap<Key, Vec<Arc<Group>>>>,
    /// Nothing is appended after this and [`Self::tasks`] are over.
    pub stop: CancellationToken,
    pub tasks: TaskTracker,
    pub counters: Counters,
    ids: Mutex<ulid::Generator>,
}

/// How long to wait before an append is tried again.
pub const APPEND_RETRY: Duration = Duration::from_millis(250);

// === impl Shared ===

impl Shared {
    pub fn new(config: Config, deps: Deps) -> Self {
        Self {
            config,
            deps,
            books: Mutex::default(),
            groups: Mutex::default(),
            stop: CancellationToken::new(),
            tasks: TaskTracker::new(),
            counters: Counters::default(),
            ids: Mutex::new(ulid::Generator::new()),
        }
    }

    pub fn books(&self) -> MutexGuard<'_, Books> {
        self.books.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// An id that sorts behind those before it.
    pub fn new_id(&self) -> String {
        let mut ids = self.ids.lock().unwrap_or_else(PoisonError::into_inner);
        ids.generate().unwrap_or_else(|_| ulid::Ulid::new()).to_string()
    }

    pub fn limits(&self) -> Limits<'_> {
        Limits { config: &self.config, remotes: &self.deps.remotes }
    }

    /// Reads something of a relay.
    pub fn of<T>(&self, id: &str, look: impl FnOnce(&Relay) -> T) -> Option<T> {
        self.books().get(id).map(look)
    }

    /// The upstream connections of a group; they count against the user of the first relay in the group.
    pub fn connections(&self, group: &Group) -> Connections {
        let first = group.members().into_iter().next();
        let user = first.and_then(|member| self.of(&member.relay, |relay| relay.user.clone())).flatten();
        self.deps.connections.of(&user.map(Into::into))
    }

    /// Notes what was written of the sources of these.
    pub fn note(&self, members: &[Arc<Member>], progress: &Progress, state: Option<State>, error: Option<&str>) {
        let state = match &progress.ended {
            Some(Ended::Complete(_)) => Some(State::Ended),
            Some(Ended::Failed { .. }) => Some(State::Failed),
            None => state,
        };
        let mut books = self.books();
        for member in members {
            if let Some(source) = books.source_mut(&member.relay, member.index) {
                source.update(progress, state, error);
            }
        }
    }

    /// Reads a source from its start: with others that read the same, where there are any.
    pub fn attach(self: &Arc<Self>, planned: PlannedSource, member: &Arc<Member>) {
        let mut groups = self.groups();
        if groups.get(&planned.key).is_some_and(|groups| groups.iter().any(|group| group.join(member))) {
            return;
        }
        let progress = Progress::initial(&planned.start);
        self.begin_in(&mut groups, planned, vec![member.clone()], progress);
    }

    /// Reads a source from where it stands, with a connection of its own for these.
    pub fn begin(self: &Arc<Self>, planned: PlannedSource, members: Vec<Arc<Member>>, progress: Progress) {
        let mut groups = self.groups();
        self.begin_in(&mut groups, planned, members, progress);
    }

    fn begin_in(
        self: &Arc<Self>,
        groups: &mut HashMap<Key, Vec<Arc<Group>>>,
        planned: PlannedSource,
        mut members: Vec<Arc<Member>>,
        progress: Progress,
    ) {
        {
            // Whoever deletes a relay says so here before it looks for its groups: nothing is begun behind its back.
            let books = self.books();
            members.retain(|member| books.get(&member.relay).is_some_and(|relay| relay.status != Status::Deleted));
        }
        if members.is_empty() {
            return;
        }
        let group = Arc::new(Group::new(planned, members));
        groups.entry(group.planned.key).or_default().push(group.clone());
        self.tasks.spawn(runner::watch_over(self.clone(), group, progress));
    }

    /// Runs a task of relays until it ends by itself. After a panic it begins again.
    pub fn keep<F>(&self, name: &'static str, begin: impl FnMut() -> F + Send + 'static)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        self.tasks.spawn(self.deps.supervisor.clone().keep(name, begin));
    }

    /// Forgets a group that has ended.
    pub fn forget(&self, group: &Arc<Group>) {
        let mut groups = self.groups();
        if let Some(own) = groups.get_mut(&group.planned.key) {
            own.retain(|other| !Arc::ptr_eq(other, group));
            if own.is_empty() {
                groups.remove(&group.planned.key);
            }
        }
    }

    /// The groups that read the sources of a relay, with the number of each source.
    pub fn groups_of(&self, relay: &str) -> Vec<(usize, Arc<Group>)> {
        let groups = self.groups();
        let all = groups.values().flatten();
        all.flat_map(|group| group.sources_of(relay).into_iter().map(|index| (index, group.clone()))).collect()
    }

    pub fn stats(&self) -> Stats {
        let (running, kept) = {
            let books = self.books();
            (books.running() as u64, books.kept() as u64)
        };
        let Counters { events, reconnects, doubles, loops, skipped, failed, unreadable, shares_refused } =
            &self.counters;
        Stats {
            relays_running: running,
            relays_kept: kept,
            events: events.load(Relaxed),
            reconnects: reconnects.load(Relaxed),
            doubles_dropped: doubles.load(Relaxed),
            loops_dropped: loops.load(Relaxed),
            skipped: skipped.load(Relaxed),
            sources_failed: failed.load(Relaxed),
            records_unreadable: unreadable.load(Relaxed),
            shares_refused: shares_refused.load(Relaxed),
        }
    }

    fn groups(&self) -> MutexGuard<'_, HashMap<Key, Vec<Arc<Group>>>> {
        self.groups.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
