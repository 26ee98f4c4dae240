//! Which task runs next; pure.
//!
//! Jobs take turns: a free slot goes to the job that was served longest ago. Every second slot goes to the newest job
//! that was not served yet, if there is one: so a job begins at once behind a flood of others, and the flood still gets
//! half. Three bounds hold at any time: slots of the node, slots of a job, slots of a handler. A *lane* is where tasks
//! of one handler wait; a lane without free slots is passed over, so it blocks no other task of the same job.
//!
//! Cost: one turn costs O(lanes + log jobs), whatever the number of tasks.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    hash::Hash,
};

#[cfg(test)]
mod tests;

/// Decides who is next. `J` names a job and is cheap to clone.
#[derive(Debug)]
pub struct Queue<J> {
    slots: usize,
    running: usize,
    waiting: usize,
    /// Ticks with each turn and each new job; no two jobs have the same.
    clock: u64,
    /// Counts turns, for "every second".
    turns: u64,
    jobs: HashMap<J, Waiting>,
    lanes: Vec<Lane<J>>,
}

/// Tasks that wait for the same handler, of all jobs.
#[derive(Debug)]
struct Lane<J> {
    slots: usize,
    running: usize,
    /// Jobs with a task in this lane and a slot of their own, by when they were served last.
    served: BTreeMap<u64, J>,
    /// The same for jobs that were never served, by when they came.
    fresh: BTreeMap<u64, J>,
}

/// A job in the queue.
#[derive(Debug)]
struct Waiting {
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
    /// A queue for a node with `slots` slots, whose lane `n` has `lanes[n]` slots of its own, or no bound.
    pub fn new(slots: usize, lanes: &[Option<usize>]) -> Self {
        let lane = |slots: &Option<usize>| Lane {
            slots: slots.unwrap_or(usize::MAX),
            running: 0,
            served: BTreeMap::new(),
            fresh: BTreeMap::new(),
        };
        let lanes = lanes.iter().map(lane).collect();
        Self { slots, running: 0, waiting: 0, clock: 0, turns: 0, jobs: HashMap::new(), lanes }
    }

    /// Brings a job in; `slots` bounds how many of its tasks run at once.
    pub fn add(&mut self, job: J, slots: Option<usize>) {
        self.clock += 1;
        let slots = slots.unwrap_or(usize::MAX);
        self.jobs
            .insert(job, Waiting { slots, running: 0, rank: self.clock, fresh: true, pushed: 0, lanes: Vec::new() });
    }

    /// Lets a task wait for its turn behind the others of its job. A job that is not here is not served.
    pub fn push(&mut self, job: &J, task: u32, lane: usize) {
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

    /// Takes the next task and its slots, if there is a task that may run now.
    pub fn next(&mut self) -> Option<(J, u32)> {
        if self.running >= self.slots {
            return None;
        }
        let job = self.choose()?;
        self.turns += 1;
        self.withdraw(&job);
        let waiting = self.jobs.get_mut(&job).expect("lanes name only jobs that are here");
        let lanes = &self.lanes;
        let ready = waiting.lanes.iter_mut().filter(|(lane, tasks)| lanes[*lane].free() && !tasks.is_empty());
        let (lane, tasks) = ready.min_by_key(|(_, tasks)| tasks[0].0).expect("it was found in a free lane");
        let (_, task) = tasks.pop_front().expect("it is not empty");
        self.lanes[*lane].running += 1;
        self.clock += 1;
        waiting.rank = self.clock;
        waiting.fresh = false;
        waiting.running += 1;
        self.running += 1;
        self.waiting -= 1;
        self.enlist(&job);
        Some((job, task))
    }

    /// Gives the slots of a task back that `next` had taken.
    pub fn release(&mut self, job: &J, lane: usize) {
        self.running -= 1;
        self.lanes[lane].running -= 1;
        if let Some(waiting) = self.jobs.get_mut(job) {
            waiting.running -= 1;
            self.enlist(job);
        }
    }

    /// Forgets the tasks of a job that still wait; those that run give their slots back later.
    pub fn clear(&mut self, job: &J) {
        self.withdraw(job);
        if let Some(waiting) = self.jobs.get_mut(job) {
            self.waiting -= waiting.lanes.iter().map(|(_, tasks)| tasks.len()).sum::<usize>();
            waiting.lanes.clear();
        }
    }

    /// Takes a job out.
    pub fn remove(&mut self, job: &J) {
        self.clear(job);
        self.jobs.remove(job);
    }

    /// Tasks that hold slots.
    pub fn running(&self) -> usize {
        self.running
    }

    /// Tasks that wait for slots.
    pub fn waiting(&self) -> usize {
        self.waiting
    }

    fn choose(&self) -> Option<J> {
        let free = || self.lanes.iter().filter(|lane| lane.free());
        let newest = free().filter_map(|lane| lane.fresh.last_key_value()).max_by_key(|(rank, _)| **rank);
        let eldest = free()
            .flat_map(|lane| [lane.fresh.first_key_value(), lane.served.first_key_value()])
            .flatten()
            .min_by_key(|(rank, _)| **rank);
        let chosen = if self.turns.is_multiple_of(2) { newest.or(eldest) } else { eldest };
        chosen.map(|(_, job)| job.clone())
    }

    /// Enters a job in every lane where it could be served.
    fn enlist(&mut self, job: &J) {
        let Some(waiting) = self.jobs.get(job).filter(|w| w.running < w.slots) else { return };
        for (lane, _) in waiting.lanes.iter().filter(|(_, tasks)| !tasks.is_empty()) {
            let lane = &mut self.lanes[*lane];
            let list = if waiting.fresh { &mut lane.fresh } else { &mut lane.served };
            list.entry(waiting.rank).or_insert_with(|| job.clone());
        }
    }

    fn withdraw(&mut self, job: &J) {
        let Some(waiting) = self.jobs.get(job) else { return };
        for (lane, _) in &waiting.lanes {
            let lane = &mut self.lanes[*lane];
            let list = if waiting.fresh { &mut lane.fresh } else { &mut lane.served };
            list.remove(&waiting.rank);
        }
    }
}

// === impl Lane ===

impl<J> Lane<J> {
    fn free(&self) -> bool {
        self.running < self.slots
    }
}
