//! Detects that the data directory was removed, moved or replaced. Removed files can be written while they are open, but
//! their content is lost when the process ends: such writes must not be acknowledged.

use std::{
    fs,
    io::ErrorKind,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use super::{data_dir::DataDir, segments::name_of};

/// The files of a journal in use.
pub(super) struct OwnFiles {
    dir: PathBuf,
    journal: PathBuf,
    /// Device and inode number of each file. The last one is the active segment.
    files: Vec<(PathBuf, Option<(u64, u64)>)>,
    seen: Option<Instant>,
}

/// Interval of the check. Events that are acknowledged within this time after a removal may be lost.
const CHECK_EVERY: Duration = Duration::from_millis(20);

// === impl OwnFiles ===

impl OwnFiles {
    /// Records the identity of the files.
    pub(super) fn of(data_dir: &DataDir, active: u32) -> Self {
        let journal = data_dir.journal();
        let paths = [data_dir.lock(), data_dir.high_water_mark(), journal.join(name_of(active))];
        let files = paths.into_iter().map(|path| (path.clone(), identity(&path).ok()));
        Self { dir: data_dir.dir().to_owned(), files: files.collect(), journal, seen: None }
    }

    /// Records the identity of another active segment.
    pub(super) fn follow(&mut self, active: u32) {
        let path = self.journal.join(name_of(active));
        let own = identity(&path).ok();
        self.files.pop();
        self.files.push((path, own));
    }

    /// Fails if a file is missing or was replaced. Other errors are ignored: the writes report them.
    pub(super) fn check(&mut self) -> Result<(), String> {
        if self.seen.is_some_and(|seen| seen.elapsed() < CHECK_EVERY) {
            return Ok(());
        }
        self.seen = None;
        for (path, own) in &self.files {
            let same = match identity(path) {
                Ok(found) => own.is_none_or(|own| found == own),
                Err(error) => !matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory),
            };
            if !same {
                return Err(self.removed(path));
            }
        }
        self.seen = Some(Instant::now());
        Ok(())
    }

    fn removed(&self, what: &Path) -> String {
        format!(
            "the data directory `{}` was removed, moved or replaced while the node runs (`{}` is another file now): new events \
             would be lost; restore the directory, or restart the node",
            self.dir.display(),
            what.display()
        )
    }
}

fn identity(path: &Path) -> std::io::Result<(u64, u64)> {
    fs::metadata(path).map(|about| (about.dev(), about.ino()))
}
