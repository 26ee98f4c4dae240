//! A directory for the time of a measurement.

use std::path::{Path, PathBuf};

/// Goes when it is dropped, with all that is in it.
#[derive(Debug)]
pub struct Scratch(PathBuf);

// === impl Scratch ===

impl Scratch {
    /// Makes one below `parent`, or where the system has its temporary files.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn new(parent: Option<&Path>) -> Result<Self, String> {
        let parent = parent.map_or_else(std::env::temp_dir, Path::to_owned);
        let path = parent.join(format!("millstream-bench-{}", ulid::Ulid::new()));
        std::fs::create_dir_all(&path).map_err(|error| format!("cannot make `{}`: {error}", path.display()))?;
        Ok(Self(path))
    }

    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_dir_all(&self.0) {
            crate::complain(&format!("`{}` is left behind: {error}", self.0.display()));
        }
    }
}
