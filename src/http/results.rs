//! Results of tasks that are being sent: one copy each, however many clients read it.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, Weak},
};

use actix_web::HttpRequest;

use super::{
    Problem,
    turn::{Size, Turn},
};
use crate::{app::Node, unsent::Share};

/// The copies. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Results(Arc<Mutex<Copies>>);

/// By job and task. What is no longer sent is gone.
type Copies = HashMap<(String, String), Weak<Share>>;

// === impl Results ===

impl Results {
    /// The result of a task, read when no answer has it yet.
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
