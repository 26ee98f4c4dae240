//! Reads the frames of a segment through a buffer.

use std::io;

use super::{
    Point,
    disk::DiskFile,
    frame::{FRAME_BYTES, Frame, HEADER_BYTES, Header},
};

/// A reader at a position of a segment.
pub(in crate::journal::embedded) struct Reader<'a> {
    file: &'a dyn DiskFile,
    /// Position of the buffer in the file.
    position: u64,
    buffer: Vec<u8>,
    /// Number of bytes of the buffer that were taken.
    taken: usize,
}

/// Bytes per read.
const WINDOW: usize = 1 << 20;
/// Frames begin at multiples of this.
const STEP: usize = 8;

/// Reads the header of a segment; `None` if it is not valid.
pub(super) fn read_header(file: &dyn DiskFile) -> io::Result<Option<Header>> {
    let mut bytes = [0; HEADER_BYTES];
    match file.read_at(&mut bytes, 0) {
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(None),
        result => result.map(|()| Header::decode(&bytes)),
    }
}

// === impl Reader ===

impl<'a> Reader<'a> {
    pub(super) fn new(file: &'a dyn DiskFile, position: u64) -> Self {
        Self { file, position, buffer: Vec::new(), taken: 0 }
    }

    /// The frame after a point, where the reader is.
    pub(super) fn frame(&mut self, after: &Point) -> io::Result<Option<Frame<'_>>> {
        self.fill_frame()?;
        Ok(Frame::decode(&self.buffer[self.taken..], after.commit, after.chain, &after.state))
    }

    /// Moves the reader to the next frame of a later commit, behind bytes that are no frame. Returns this frame and the
    /// number of these bytes; `None` at the end of the file.
    pub(super) fn next_alone(&mut self, after: &Point) -> io::Result<Option<(Frame<'_>, usize)>> {
        let mut skipped = 0;
        loop {
            self.fill(FRAME_BYTES)?;
            if self.buffer.len() - self.taken < FRAME_BYTES {
                return Ok(None);
            }
            if Frame::announced_length(&self.buffer[self.taken..]).is_some() {
                self.fill_frame()?;
                let frame = Frame::decode_alone(&self.buffer[self.taken..], &after.state);
                if frame.is_some_and(|frame| frame.commit > after.commit) {
                    break;
                }
            }
            self.take(STEP);
            skipped += STEP;
        }
        // Decoded again, since a borrow cannot leave a loop under a condition.
        Ok(Frame::decode_alone(&self.buffer[self.taken..], &after.state).map(|frame| (frame, skipped)))
    }

    /// Moves the reader behind this many bytes, which it has read. Returns them.
    pub(super) fn take(&mut self, bytes: usize) -> &[u8] {
        self.taken = (self.taken + bytes).min(self.buffer.len());
        &self.buffer[self.taken.saturating_sub(bytes)..self.taken]
    }

    /// Reads the frame at the position of the reader into the buffer, if there may be one.
    fn fill_frame(&mut self) -> io::Result<()> {
        self.fill(FRAME_BYTES)?;
        match Frame::announced_length(&self.buffer[self.taken..]) {
            Some(length) => self.fill(length),
            None => Ok(()),
        }
    }

    /// Fills the buffer with at least this many bytes, if the file has them.
    fn fill(&mut self, bytes: usize) -> io::Result<()> {
        let buffered = self.buffer.len() - self.taken;
        if buffered >= bytes {
            return Ok(());
        }
        self.buffer.drain(..self.taken);
        self.position += self.taken as u64;
        self.taken = 0;
        let rest = self.file.len()?.saturating_sub(self.position + buffered as u64);
        let wanted = (bytes - buffered).max(WINDOW);
        let length = usize::try_from(rest).unwrap_or(usize::MAX).min(wanted);
        if length == 0 {
            return Ok(());
        }
        self.buffer.resize(buffered + length, 0);
        self.file.read_at(&mut self.buffer[buffered..], self.position + buffered as u64)
    }
}
