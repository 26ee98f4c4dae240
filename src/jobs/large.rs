//! Work on large texts: on a thread for blocking work, one at a time.
//!
//! A large text would delay the other tasks of an async thread. One at a time keeps memory low: the allocator returns a
//! block to the thread that allocated it, and reuses or releases it only when that thread allocates again or exits. With
//! a thread for each text, the blocks of all of them would stay for as long as the pool keeps its idle threads (10 s).

use tokio::{sync::Semaphore, task::spawn_blocking};

static TURN: Semaphore = Semaphore::const_new(1);

/// Runs work on a large text.
///
/// # Panics
/// When the work panics.
pub async fn run<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    let _turn = TURN.acquire().await.expect("the semaphore is never closed");
    spawn_blocking(work).await.expect("the work does not panic")
}
