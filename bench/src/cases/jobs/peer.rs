//! The bare loop: a program that only sends the same GETs (`bench/peers`), if it was built.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use serde::Deserialize;

/// The program `gets`.
#[derive(Debug)]
pub(super) struct Peer(PathBuf);

/// Its figures of a run.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Row {
    /// GETs per second.
    pub rate: f64,
    /// GETs that failed.
    pub failures: u64,
    /// CPU time of the process in seconds, if the system has it.
    pub cpu_seconds: Option<f64>,
}

/// Its path from the top of the repository.
const PATH: &str = "bench/peers/target/release/gets";

// === impl Peer ===

impl Peer {
    /// The named program, or that of this repository if it was built.
    pub(super) fn find(named: Option<&Path>) -> Option<Self> {
        match named {
            Some(path) => Some(Self(path.to_owned())),
            None => Path::new(PATH).is_file().then(|| Self(PATH.into())),
        }
    }

    /// Runs it for this number of GETs.
    ///
    /// # Errors
    /// When it cannot start, or does not print its figures.
    pub(super) fn run(&self, url: &str, count: u32, concurrency: u16) -> Result<Row, String> {
        let name = self.0.display();
        let output = Command::new(&self.0).arg(url).args([count.to_string(), concurrency.to_string()]).output();
        let output = output.map_err(|error| format!("`{name}` cannot be started: {error}"))?;
        serde_json::from_slice(&output.stdout).map_err(|_| {
            format!("`{name}` is no peer ({}): {}", output.status, String::from_utf8_lossy(&output.stderr).trim())
        })
    }
}
