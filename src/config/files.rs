//! `[server]`: the number of connections that the limit of open files (`ulimit -n`) permits.

use rustix::process::{Resource, getrlimit};

use super::Server;

/// The limit of open files is too low for a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "the limit of open files is {limit}, and this node needs at least {needed}: raise it (`ulimit -n`, in systemd \
     `LimitNOFILE=`), best to 1024 or more"
)]
pub struct TooFewFiles {
    limit: u64,
    needed: u64,
}

/// Open files of an idle node, without connections and segments of the journal: threads, listener, signals, log.
const OWN_FILES: u64 = 64;
/// Open files per worker thread.
const WORKER_FILES: u64 = 4;
/// Files reserved for the journal's segments, remotes and tasks, unless the limit is low.
const SPARE_FILES: u64 = 500;
/// Minimum number of files for connections, segments, remotes and tasks; with fewer, a node is not usable.
const LEAST: u64 = 16;
const MOST_CONNECTIONS: u64 = 1_000_000;

// === impl Server ===

impl Server {
    /// The maximum number of connections: the configured value, lowered if the limit of open files permits less.
    /// Without a configured value: the limit of open files minus the files for the rest of the node.
    ///
    /// # Errors
    /// When the limit is too low for a node.
    pub fn connection_limit(&self) -> Result<usize, TooFewFiles> {
        self.connections_within(getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX))
    }

    fn connections_within(&self, limit: u64) -> Result<usize, TooFewFiles> {
        let workers = match self.workers {
            0 => std::thread::available_parallelism().map_or(1, usize::from),
            set => set,
        };
        let own = OWN_FILES + WORKER_FILES * workers as u64;
        let needed = own + LEAST;
        if limit < needed {
            return Err(TooFewFiles { limit, needed });
        }
        let connections = match self.max_connections {
            // With a low limit connections get only half of the rest: segments, remotes and tasks need files too.
            0 => limit.saturating_sub(SPARE_FILES).max((limit - own) / 2).min(MOST_CONNECTIONS),
            set => (set as u64).min(limit - own),
        };
        Ok(usize::try_from(connections).unwrap_or(usize::MAX))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_limit_of_connections_leaves_files_for_the_rest_of_the_node() {
        let server = |workers, max_connections| Server { workers, max_connections, ..Server::default() };
        let cases = [
            (1024, 2, 0, Ok(524)),
            (20_000, 2, 0, Ok(19_500)),
            (u64::MAX, 2, 0, Ok(1_000_000)),
            (600, 2, 0, Ok(264)),
            (140, 2, 0, Ok(34)),
            (88, 2, 0, Ok(8)),
            (87, 2, 0, Err(TooFewFiles { limit: 87, needed: 88 })),
            (200, 64, 0, Err(TooFewFiles { limit: 200, needed: 336 })),
            (1024, 2, 100, Ok(100)),
            (1024, 2, 5000, Ok(952)),
        ];
        for (limit, workers, set, connections) in cases {
            assert_eq!(server(workers, set).connections_within(limit), connections, "{limit} files, {workers} workers");
        }
    }
}
