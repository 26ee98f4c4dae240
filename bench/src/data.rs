//! The data of a measured journal: its directory, and when it is synced.

use std::path::PathBuf;

use clap::Args;
use millstream::journal::SyncMode;
use tempfile::TempDir;

/// Where nodes and journals keep their data.
#[derive(Args, Clone, Debug)]
pub(crate) struct DirArguments {
    /// Directory for the data of the measurement; without it the system's directory for temporary files.
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
}

/// When a journal syncs.
#[derive(Args, Clone, Debug)]
pub(crate) struct SyncArguments {
    /// When an event is on the disk: always, interval or os.
    #[arg(id = "sync", long = "sync", value_name = "MODE", default_value = "always", value_parser = mode)]
    pub mode: SyncMode,
}

// === impl DirArguments ===

impl DirArguments {
    /// A new directory, which is deleted when it is dropped.
    ///
    /// # Errors
    /// When it cannot be created.
    pub(crate) fn create(&self) -> Result<TempDir, String> {
        let parent = self.dir.clone().unwrap_or_else(std::env::temp_dir);
        let created = tempfile::Builder::new().prefix("millstream-bench-").tempdir_in(&parent);
        created.map_err(|error| format!("cannot create a directory in `{}`: {error}", parent.display()))
    }
}

// === impl SyncArguments ===

impl SyncArguments {
    /// The mode as it is written in settings.
    pub(crate) fn name(&self) -> String {
        format!("{:?}", self.mode).to_lowercase()
    }
}

fn mode(text: &str) -> Result<SyncMode, String> {
    serde_json::from_value(text.into()).map_err(|_| "it is `always`, `interval` or `os`".to_owned())
}
