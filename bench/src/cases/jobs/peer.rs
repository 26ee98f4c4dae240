//! The floor: the same GETs by a program that does nothing else (`peers/`), if it was built.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use serde::Deserialize;

/// The program `gets`.
#[derive(Debug)]
pub struct Peer(PathBuf);

/// What it says of a run.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Row {
    /// GETs per second.
    pub rate: f64,
    /// GETs that failed.
    pub failures: u64,
    /// CPU time of the process in seconds, where the system tells.
    pub cpu_seconds: Option<f64>,
}

/// Where it is built, from the repository.
const BESIDE: &str = "bench/peers/target/release/gets";

// === impl Peer ===

impl Peer {
    /// The program that was named, or the one of this repository if it is there.
    pub fn find(named: Option<&Path>) -> Option<Self> {
        match named {
            Some(path) => Some(Self(path.to_owned())),
            None => Path::new(BESIDE).is_file().then(|| Self(BESIDE.into())),
        }
    }

    /// Lets it do so many GETs.
    ///
    /// # Errors
    /// When it cannot be started or says nothing that can be read.
    pub fn run(&self, url: &str, count: u32, concurrency: u16) -> Result<Row, String> {
        let name = self.0.display();
        let output = Command::new(&self.0).arg(url).args([count.to_string(), concurrency.to_string()]).output();
        let output = output.map_err(|error| format!("`{name}` cannot be started: {error}"))?;
        serde_json::from_slice(&output.stdout).map_err(|_| {
            format!("`{name}` is no peer ({}): {}", output.status, String::from_utf8_lossy(&output.stderr).trim())
        })
    }
}
