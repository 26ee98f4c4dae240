//! Where the parts of a segment are, read from the files without the code of the program.

use std::{fs, ops::Range, path::Path};

/// Length of the header of a segment.
pub(crate) const HEADER: usize = 144;
/// Length of a frame without its items and bodies.
const FRAME: usize = 32;
/// Distance of the two slots of `journal/MARK`, and their length.
pub(crate) const SLOTS: (usize, usize) = (512, 64);
pub(crate) const HIGH_WATER_MARK: &str = "journal/MARK";

/// One commit.
#[derive(Clone)]
pub(crate) struct Frame {
    pub commit: u64,
    /// What describes the commit and its items.
    pub head: Range<usize>,
    /// The payloads of its events, and the values of its records.
    pub bodies: Range<usize>,
    /// Its end, after the zeros behind the bodies.
    pub end: usize,
}

/// The file of a segment, within the data directory.
pub(crate) fn segment(number: u32) -> String {
    format!("journal/{number:010}.seg")
}

/// All frames of a segment.
pub(crate) fn frames(bytes: &[u8]) -> Vec<Frame> {
    let (mut frames, mut at) = (Vec::new(), HEADER);
    while bytes.get(at..at + 4) == Some(b"MSFR") {
        let length = |at: usize| u32::from_le_bytes(*bytes[at..].first_chunk().expect("a length")) as usize;
        let commit = u64::from_le_bytes(*bytes[at + 16..].first_chunk().expect("a number"));
        let bodies = at + FRAME + length(at + 4);
        let end = bodies + length(at + 8);
        frames.push(Frame { commit, head: at..bodies, bodies: bodies..end, end: end.next_multiple_of(8) });
        at = end.next_multiple_of(8);
    }
    frames
}

/// Changes a byte wherever this text is in a segment of a data directory. Returns the number of changes.
pub(crate) fn change(data: &Path, text: &str) -> usize {
    let mut changes = 0;
    for entry in fs::read_dir(data.join("journal")).expect("a journal") {
        let path = entry.expect("an entry").path();
        if path.extension().is_none_or(|kind| kind != "seg") {
            continue;
        }
        let mut bytes = fs::read(&path).expect("a segment");
        let found: Vec<usize> = memchr::memmem::find_iter(&bytes, text).collect();
        found.iter().for_each(|at| bytes[*at] ^= 1);
        fs::write(&path, bytes).expect("a segment");
        changes += found.len();
    }
    changes
}
