//! Detects that the data directory was removed, moved or replaced. Removed files can be written while they are open, but
//! their content is lost when the process ends: such writes must not be acknowledged.

use std::{
    fs,
    io::ErrorKind,
    os::unix::fs::MetadataExt,
    path::PathBuf,
    time::{Duration, Instant},
};

use super::{data_dir::DataDir, salvage};

/// The files of a journal in use.
pub(super) struct OwnFiles {
    dir: PathBuf,
    store: PathBuf,
    /// Device and inode number of each file.
    files: Vec<(PathBuf, (u64, u64))>,
    seen: Option<Instant>,
}

/// Interval of the check. Events that are acknowledged within this time after a removal may be lost.
const CHECK_EVERY: Duration = Duration::from_millis(20);

// === impl OwnFiles ===

impl OwnFiles {
    /// Records the identity of the files.
    pub(super) fn of(data_dir: &DataDir) -> Self {
        let paths = [data_dir.lock(), data_dir.high_water_mark(), data_dir.store()];
        let files = paths.into_iter().filter_map(|path| {
            let about = fs::metadata(&path).ok()?;
            Some((path, (about.dev(), about.ino())))
        });
        Self { dir: data_dir.dir().to_owned(), store: data_dir.store(), files: files.collect(), seen: None }
    }

    /// Fails if a file is missing or was replaced. Other errors are ignored: the writes report them.
    pub(super) fn check(&mut self) -> Result<(), String> {
        if self.seen.is_some_and(|seen| seen.elapsed() < CHECK_EVERY) {
            return Ok(());
        }
        self.seen = None;
        for (path, own) in &self.files {
            let same = match fs::metadata(path) {
                Ok(about) => (about.dev(), about.ino()) == *own,
                Err(error) => !matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory),
            };
            if !same {
                return Err(self.removed(path));
            }
        }
        let log = |entry: std::io::Result<fs::DirEntry>| entry.is_ok_and(|entry| salvage::is_log(&entry.path()));
        if fs::read_dir(&self.store).is_ok_and(|entries| !entries.into_iter().any(log)) {
            return Err(self.removed(&self.store.join("*.jnl")));
        }
        self.seen = Some(Instant::now());
        Ok(())
    }

    fn removed(&self, what: &std::path::Path) -> String {
        format!(
            "the data directory `{}` was removed, moved or replaced while the node runs (`{}` is another file now): new events \
             would be lost; restore the directory, or restart the node",
            self.dir.display(),
            what.display()
        )
    }
}
