//! Results of tasks that are being sent: one copy in memory, shared by all clients that read it.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, Weak},
};

use actix_web::HttpRequest;

use super::{
    Problem,
    turn::{Size, Turn},
};
use crate::{node::Node, unsent::Share};

/// The copies. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub(super) struct Results(Arc<Mutex<Copies>>);

/// Copies by job and task. A copy is freed when no response sends it any more.
type Copies = HashMap<(String, String), Weak<Share>>;

// === impl Results ===

impl Results {
    /// Returns the shared copy of a result; reads the result if there is no copy yet.
    pub(super) async fn get(
        &self,
        node: &Node,
        request: &HttpRequest,
        job: &str,
        task: &str,
    ) -> Result<Arc<Share>, Problem> {
        let key = (job.to_owned(), task.to_owned());
        if let Some(copy) = self.find(&key) {
            return Ok(copy);
        }
        // The bytes are not counted until the read has finished.
        Turn::take(node, request, Size::Large).await?;
        if let Some(copy) = self.find(&key) {
            return Ok(copy);
        }
        let result = node.jobs.result(job, task).await?;
        let copy = node.unsent.share(result.json);
        let mut copies = self.0.lock().expect("no code that holds the lock panics");
        copies.retain(|_, copy| copy.strong_count() > 0);
        copies.insert(key, Arc::downgrade(&copy));
        Ok(copy)
    }

    fn find(&self, key: &(String, String)) -> Option<Arc<Share>> {
        self.0.lock().expect("no code that holds the lock panics").get(key)?.upgrade()
    }
}
