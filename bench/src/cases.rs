//! The cases: one file each. A case runs on a thread that may block, and each of its waits has a limit.

use clap::Subcommand;

use crate::report::Report;

mod fanout;
mod idle;
mod jobs;
mod journal;
mod laggards;
mod publish;
mod relay;
mod replay;

/// A measurement with its arguments.
#[derive(Debug, Subcommand)]
pub(crate) enum Case {
    /// Many subscribers, few publishers: latency, throughput, and whether every event arrives once and in order.
    Fanout(fanout::FanoutArguments),
    /// Many subscribers without events: how fast they connect, and the cost of each.
    Idle(idle::IdleArguments),
    /// Many subscribers that reconnect at the same time and resume.
    Replay(replay::ReplayArguments),
    /// Publishing over HTTP into the journal on disk: batches beside the journal's own rate, one publisher beside eight.
    Publish(publish::PublishArguments),
    /// Live delivery beside clients that replay a long history, and beside clients that read nothing.
    Laggards(laggards::LaggardsArguments),
    /// Reading a stream through the node instead of from its source, beside nginx if it is installed.
    Relay(relay::RelayArguments),
    /// A job of many HTTP tasks, beside a bare loop that sends the same requests.
    Jobs(jobs::JobsArguments),
    /// The journal on disk, without HTTP: appending, opening, resuming, disk and memory.
    Journal(journal::JournalArguments),
}

// === impl Case ===

impl Case {
    /// Measures.
    ///
    /// # Errors
    /// The reason why nothing was measured.
    pub(crate) fn run(&self) -> Result<Report, String> {
        match self {
            Self::Fanout(case) => case.run(),
            Self::Idle(case) => case.run(),
            Self::Replay(case) => case.run(),
            Self::Publish(case) => case.run(),
            Self::Laggards(case) => case.run(),
            Self::Relay(case) => case.run(),
            Self::Jobs(case) => case.run(),
            Self::Journal(case) => case.run(),
        }
    }
}
