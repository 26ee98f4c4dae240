//! Detects that the data directory was removed, moved or replaced. Removed files can still be written while they are
//! open, but their content is lost at the end of the process: such writes must not be acknowledged.

use std::{
    fs,
    io::ErrorKind,
    os::unix::fs::MetadataExt,
    path::PathBuf,
    time::{Duration, Instant},
};

use super::{place::Place, salvage};

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
    pub(super) fn of(place: &Place) -> Self {
        let paths = [place.lock(), place.mark(), place.store()];
        let files = paths.into_iter().filter_map(|path| {
            let about = fs::metadata(&path).ok()?;
            Some((path, (about.dev(), about.ino())))
        });
        Self { dir: place.dir().to_owned(), store: place.store(), files: files.collect(), seen: None }
    }

    /// Fails with the missing file. Other errors of the file system are ignored here: the writes themselves report
    /// them.
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
                return Err(self.gone(path));
            }
        }
        let log = |entry: std::io::Result<fs::DirEntry>| entry.is_ok_and(|entry| salvage::is_log(&entry.path()));
        if fs::read_dir(&self.store).is_ok_and(|entries| !entries.into_iter().any(log)) {
            return Err(self.gone(&self.store.join("*.jnl")));
        }
        self.seen = Some(Instant::now());
        Ok(())
    }

    fn gone(&self, what: &std::path::Path) -> String {
        format!(
            "the data directory `{}` was removed, moved or replaced while the node runs (`{}` is not the file it was): what \
             is published now would be lost; put it back, or restart the node",
            self.dir.display(),
            what.display()
        )
    }
}
