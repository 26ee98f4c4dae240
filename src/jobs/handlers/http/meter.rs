//! Reads a body up to a limit and reports the progress.

use bytes::{Bytes, BytesMut};

use crate::{
    jobs::{
        handler::{Progress, Reserve, TaskError},
        memory,
    },
    upstream::{self, Chunks},
};

/// Reports each full percentage once. Reports nothing if the length is unknown, or if the body came in one piece: the
/// end of the task follows immediately.
pub(crate) struct Meter<'a> {
    progress: &'a Progress,
    total: Option<u64>,
    read: u64,
    last: u64,
}

// === impl Meter ===

impl<'a> Meter<'a> {
    /// A meter for a body of `total` bytes.
    pub(crate) fn new(progress: &'a Progress, total: Option<u64>) -> Self {
        Self { progress, total: total.filter(|total| *total > 0), read: 0, last: 0 }
    }

    /// The whole body.
    ///
    /// # Errors
    /// `response_too_large` above `limit` bytes, before the body is read if its length is known; or the failure of the
    /// connection.
    pub(crate) async fn collect(
        &mut self,
        body: &mut Chunks,
        limit: usize,
        reserve: &Reserve,
    ) -> Result<Bytes, TaskError> {
        if self.total.is_some_and(|total| total > limit as u64) {
            return Err(upstream::Error::TooLarge { limit }.into());
        }
        // Memory is reserved before the bytes are read. If the length is unknown, it is reserved in two steps.
        let declared = self.total.and_then(|total| usize::try_from(total).ok());
        reserve.answer(declared.unwrap_or(0)).await;
        let mut steps = [memory::FREE, memory::SMALL].into_iter().filter(|_| declared.is_none()).peekable();
        let mut whole = BytesMut::with_capacity(declared.unwrap_or(0));
        while let Some(chunk) = body.next().await {
            let chunk = chunk?;
            if chunk.len() > limit - whole.len() {
                return Err(upstream::Error::TooLarge { limit }.into());
            }
            while steps.next_if(|step| whole.len() + chunk.len() > *step).is_some() {
                reserve.answer(steps.peek().map_or(limit, |next| limit.min(*next))).await;
            }
            whole.extend_from_slice(&chunk);
            self.add(chunk.len()).await;
        }
        Ok(whole.freeze())
    }

    async fn add(&mut self, bytes: usize) {
        let first = self.read == 0;
        self.read += bytes as u64;
        let Some(total) = self.total else { return };
        if first && self.read >= total {
            return;
        }
        let percent = (self.read.saturating_mul(100) / total).min(100);
        if percent > self.last {
            self.last = percent;
            let message = format!("{} of {} bytes", self.read, total);
            #[expect(clippy::cast_precision_loss, reason = "a percentage")]
            self.progress.report(percent as f64, message).await;
        }
    }
}
