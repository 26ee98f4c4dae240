//! Attempts between their decision and their start; pure.
//!
//! Where jobs outlive the process an attempt starts only once the journal has what was said before it: a task that takes
//! the node down with it must leave a trace, else it would be taken for one that never ran, for ever.

use super::Attempt;

/// Attempts on their way. Never more than there are slots.
pub struct Starts {
    write_ahead: bool,
    /// Decided; what was said before them waits in the outbox, or is on its way already.
    decided: Vec<Attempt>,
    /// What was said before them is in flight.
    in_flight: Vec<Attempt>,
    ready: Vec<Attempt>,
}

// === impl Starts ===

impl Starts {
    pub fn new(write_ahead: bool) -> Self {
        Self { write_ahead, decided: Vec::new(), in_flight: Vec::new(), ready: Vec::new() }
    }

    pub fn push(&mut self, attempt: Attempt) {
        self.decided.push(attempt);
    }

    /// All that waited in the outbox is in flight now.
    pub fn sent(&mut self) {
        self.in_flight.append(&mut self.decided);
    }

    /// What was in flight has arrived.
    pub fn arrived(&mut self) {
        self.ready.append(&mut self.in_flight);
    }

    /// Attempts to start now; `nothing_pending` when no event waits or is in flight.
    pub fn take(&mut self, nothing_pending: bool) -> Vec<Attempt> {
        if nothing_pending || !self.write_ahead {
            self.ready.append(&mut self.decided);
        }
        if !self.write_ahead {
            self.ready.append(&mut self.in_flight);
        }
        std::mem::take(&mut self.ready)
    }
}
