//! Decides which task runs next; pure.
//!
//! Scheduling is round-robin over owners, then over the jobs of an owner: a free slot goes to the least recently served
//! owner, and to its least recently served job. Every second slot of an owner goes to its newest job that has not
//! started yet, if there is one. So a new job starts soon even after many others, and the others still get half of the
//! slots.
//!
//! Four limits hold at any time: slots of the node, slots of a job, slots of a handler, and an owner's [`Share`] of the
//! node's and of each handler's slots. A *lane* is the queue of one handler. A lane without free slots is skipped, so
//! it does not block other tasks of the same job.
//!
//! Cost: one turn costs O(lanes + log jobs), whatever the number of tasks.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    hash::Hash,
};

use crate::shares::{Owner, Share};

#[cfg(test)]
mod tests;

/// Tasks that wait for slots. `J` names a job and is cheap to clone.
#[derive(Debug)]
pub(crate) struct Queue<J> {
    share: Share,
    slots: usize,
    running: usize,
    waiting: usize,
    /// Increases with each turn and each new job, so ranks are unique among jobs and among owners.
    clock: u64,
    jobs: HashMap<J, Waiting>,
    owners: HashMap<Owner, Account<J>>,
    lanes: Vec<Lane>,
    /// Times that an owner was skipped because it already had its share.
    skipped: u64,
}

/// Tasks that wait for the same handler, of all jobs.
#[derive(Debug)]
struct Lane {
    slots: usize,
    running: usize,
    /// Owners with a job that has a task in this lane and a free slot of the job, ordered by their last turn.
    owners: BTreeMap<u64, Owner>,
}

/// An owner with jobs in the queue or running tasks.
#[derive(Debug)]
struct Account<J> {
    running: usize,
    jobs: usize,
    /// Its rank in the lanes.
    rank: u64,
    /// Number of turns; every second turn prefers new jobs.
    turns: u64,
    /// Ready jobs per lane; a list, since there are few lanes.
    lanes: Vec<Ready<J>>,
}

/// Jobs of one owner that have a task in one lane and a free slot of the job.
#[derive(Debug)]
struct Ready<J> {
    lane: usize,
    running: usize,
    /// Jobs that have been served, ordered by their last turn.
    served: BTreeMap<u64, J>,
    /// Jobs that have never been served, in order of arrival.
    fresh: BTreeMap<u64, J>,
}

/// A job in the queue.
#[derive(Debug)]
struct Waiting {
    owner: Owner,
    slots: usize,
    running: usize,
    /// Its rank in `served` or `fresh`.
    rank: u64,
    fresh: bool,
    /// Orders its tasks across lanes.
    pushed: u64,
    /// Its tasks by lane; few lanes, so a list.
    lanes: Vec<(usize, VecDeque<(u64, u32)>)>,
}

// === impl Queue ===

impl<J: Clone + Eq + Hash> Queue<J> {
    /// A queue for a node with `slots` slots. Lane `n` has `lanes[n]` slots of its own, or no limit.
    pub(crate) fn new(share: Share, slots: usize, lanes: &[Option<usize>]) -> Self {
        let lane =
            |slots: &Option<usize>| Lane { slots: slots.unwrap_or(usize::MAX), running: 0, owners: BTreeMap::new() };
        Self {
            share,
            slots,
            running: 0,
            waiting: 0,
            clock: 0,
            jobs: HashMap::new(),
            owners: HashMap::new(),
            lanes: lanes.iter().map(lane).collect(),
            skipped: 0,
        }
    }

    /// Adds a job; at most `slots` of its tasks run at once.
    pub(crate) fn add(&mut self, job: J, owner: Owner, slots: Option<usize>) {
        self.clock += 2;
        let rank = self.clock;
        let account = self.owners.entry(owner.clone());
        account.or_insert_with(|| Account { running: 0, jobs: 0, rank: rank - 1, turns: 0, lanes: Vec::new() }).jobs +=
            1;
        let slots = slots.unwrap_or(usize::MAX);
        self.jobs.insert(job, Waiting { owner, slots, running: 0, rank, fresh: true, pushed: 0, lanes: Vec::new() });
    }

    /// Adds a task after the other tasks of its job. Nothing happens if the job was not added.
    pub(crate) fn push(&mut self, job: &J, task: u32, lane: usize) {
        let Some(waiting) = self.jobs.get_mut(job) else { return };
        waiting.pushed += 1;
        let entry = (waiting.pushed, task);
        match waiting.lanes.iter_mut().find(|(own, _)| *own == lane) {
            Some((_, tasks)) => tasks.push_back(entry),
            None => waiting.lanes.push((lane, VecDeque::from([entry]))),
        }
        self.waiting += 1;
        self.enlist(job);
    }

    /// Takes the next task and its slots, if a task may run now.
    pub(crate) fn next(&mut self) -> Option<(J, u32)> {
        if self.running >= self.slots {
            return None;
        }
        let owner = self.choose_owner()?;
        let job = self.choose_job(&owner)?;
        self.withdraw(&job);
        let (share, lanes) = (self.share, &mut self.lanes);
        let account = self.owners.get_mut(&owner).expect("lanes name only owners that are here");
        let waiting = self.jobs.get_mut(&job).expect("owners name only jobs that are here");
        let ready = waiting.lanes.iter_mut().filter(|(lane, tasks)| {
            !tasks.is_empty() && lanes[*lane].takes(share, account.lane(*lane).running, account.rank)
        });
        let (lane, tasks) = ready.min_by_key(|(_, tasks)| tasks[0].0).expect("it was found in a free lane");
        let (_, task) = tasks.pop_front().expect("it is not empty");
        lanes[*lane].running += 1;
        account.lane_mut(*lane).running += 1;
        account.running += 1;
        account.turns += 1;
        self.clock += 2;
        waiting.rank = self.clock;
        waiting.fresh = false;
        waiting.running += 1;
        self.running += 1;
        self.waiting -= 1;
        let rank = self.clock - 1;
        for lane in &account.lanes {
            if let Some(owner) = lanes[lane.lane].owners.remove(&account.rank) {
                lanes[lane.lane].owners.insert(rank, owner);
            }
        }
        account.rank = rank;
        self.enlist(&job);
        Some((job, task))
    }

    /// Returns the slots that a task got from `next`.
    pub(crate) fn release(&mut self, job: &J, owner: &Owner, lane: usize) {
        self.running -= 1;
        self.lanes[lane].running -= 1;
        if let Some(account) = self.owners.get_mut(owner) {
            account.running -= 1;
            account.lane_mut(lane).running -= 1;
        }
        if let Some(waiting) = self.jobs.get_mut(job) {
            waiting.running -= 1;
            self.enlist(job);
        }
        self.forget(owner);
    }

    /// Removes the waiting tasks of a job; its running tasks return their slots later.
    pub(crate) fn clear(&mut self, job: &J) {
        self.withdraw(job);
        if let Some(waiting) = self.jobs.get_mut(job) {
            self.waiting -= waiting.lanes.iter().map(|(_, tasks)| tasks.len()).sum::<usize>();
            waiting.lanes.clear();
        }
    }

    /// Removes a job.
    pub(crate) fn remove(&mut self, job: &J) {
        self.clear(job);
        if let Some(Waiting { owner, .. }) = self.jobs.remove(job) {
            if let Some(account) = self.owners.get_mut(&owner) {
                account.jobs -= 1;
            }
            self.forget(&owner);
        }
    }

    /// Tasks that hold slots.
    pub(crate) fn running(&self) -> usize {
        self.running
    }

    /// Tasks that wait for slots.
    pub(crate) fn waiting(&self) -> usize {
        self.waiting
    }

    /// Times that an owner was skipped because it already had its share.
    pub(crate) fn skipped(&self) -> u64 {
        self.skipped
    }

    /// The least recently served owner that may have one more slot.
    fn choose_owner(&mut self) -> Option<Owner> {
        let mut best: Option<(u64, &Owner)> = None;
        let others = |rank: &u64| self.lanes.iter().any(|lane| lane.others(*rank));
        let mut skipped = 0;
        for (number, lane) in self.lanes.iter().enumerate().filter(|(_, lane)| lane.free()) {
            // Only owners that already have their share are skipped, and their number is at most the number of shares
            // in a pool.
            let found = lane.owners.iter().find(|(rank, owner)| {
                let account = &self.owners[*owner];
                let alone = self.running == account.running && !others(rank);
                let most = self.share.most(self.slots as u64, alone);
                let takes =
                    (account.running as u64) < most && lane.takes(self.share, account.lane(number).running, **rank);
                skipped += u64::from(!takes);
                takes
            });
            best =
                [best, found.map(|(rank, owner)| (*rank, owner))].into_iter().flatten().min_by_key(|(rank, _)| *rank);
        }
        self.skipped += skipped;
        best.map(|(_, owner)| owner.clone())
    }

    fn choose_job(&self, owner: &Owner) -> Option<J> {
        let account = &self.owners[owner];
        let free = || {
            let takes = |ready: &&Ready<J>| self.lanes[ready.lane].takes(self.share, ready.running, account.rank);
            account.lanes.iter().filter(takes)
        };
        let newest = free().filter_map(|lane| lane.fresh.last_key_value()).max_by_key(|(rank, _)| **rank);
        let eldest = free()
            .flat_map(|lane| [lane.fresh.first_key_value(), lane.served.first_key_value()])
            .flatten()
            .min_by_key(|(rank, _)| **rank);
        let chosen = if account.turns.is_multiple_of(2) { newest.or(eldest) } else { eldest };
        chosen.map(|(_, job)| job.clone())
    }

    /// Adds a job and its owner to every lane in which the job can be served.
    fn enlist(&mut self, job: &J) {
        let Some(waiting) = self.jobs.get(job).filter(|w| w.running < w.slots) else { return };
        let account = self.owners.get_mut(&waiting.owner).expect("an owner stays as long as its jobs");
        for (lane, _) in waiting.lanes.iter().filter(|(_, tasks)| !tasks.is_empty()) {
            let ready = account.lane_mut(*lane);
            let list = if waiting.fresh { &mut ready.fresh } else { &mut ready.served };
            list.entry(waiting.rank).or_insert_with(|| job.clone());
            self.lanes[*lane].owners.entry(account.rank).or_insert_with(|| waiting.owner.clone());
        }
    }

    fn withdraw(&mut self, job: &J) {
        let Some(waiting) = self.jobs.get(job) else { return };
        let account = self.owners.get_mut(&waiting.owner).expect("an owner stays as long as its jobs");
        for (lane, _) in &waiting.lanes {
            let ready = account.lane_mut(*lane);
            let list = if waiting.fresh { &mut ready.fresh } else { &mut ready.served };
            list.remove(&waiting.rank);
            if ready.fresh.is_empty() && ready.served.is_empty() {
                self.lanes[*lane].owners.remove(&account.rank);
            }
        }
    }

    /// Removes an owner that has neither jobs nor running tasks.
    fn forget(&mut self, owner: &Owner) {
        if self.owners.get(owner).is_some_and(|account| account.jobs == 0 && account.running == 0) {
            self.owners.remove(owner);
        }
    }
}

// === impl Lane ===

impl Lane {
    fn free(&self) -> bool {
        self.running < self.slots
    }

    /// True if an owner other than the one with this rank can be served in this lane.
    fn others(&self, rank: u64) -> bool {
        self.owners.len() > usize::from(self.owners.contains_key(&rank))
    }

    /// True if an owner that has `own` tasks in this lane may have one more.
    fn takes(&self, share: Share, own: usize, rank: u64) -> bool {
        if self.slots == usize::MAX {
            return true;
        }
        let alone = self.running == own && !self.others(rank);
        self.free() && (own as u64) < share.most(self.slots as u64, alone)
    }
}

// === impl Account ===

impl<J> Account<J> {
    fn lane(&self, lane: usize) -> &Ready<J> {
        self.lanes.iter().find(|ready| ready.lane == lane).expect("an owner is listed where it has had a task")
    }

    fn lane_mut(&mut self, lane: usize) -> &mut Ready<J> {
        let at = self.lanes.iter().position(|ready| ready.lane == lane).unwrap_or_else(|| {
            self.lanes.push(Ready { lane, running: 0, served: BTreeMap::new(), fresh: BTreeMap::new() });
            self.lanes.len() - 1
        });
        &mut self.lanes[at]
    }
}
