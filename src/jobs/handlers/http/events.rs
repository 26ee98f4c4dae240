//! A response that is itself an event stream: each of its events is forwarded, the last one is the result.

use serde_json::{Value, json};

use crate::{
    jobs::handler::{Progress, TaskError},
    sse::{Decoder, Item, Limits},
    upstream::Body,
};

/// Most bytes of one event: it becomes part of an event of ours, which has a limit too.
const EVENT_MAX: usize = 256 * 1024;

/// Forwards the events until the stream ends. How many come is not bounded here: none is kept but the last, and a full
/// sink makes the upstream wait.
pub async fn forward(mut body: Body, max_bytes: usize, progress: &Progress) -> Result<Value, TaskError> {
    let max = EVENT_MAX.min(max_bytes);
    // A line has the name of its field with it.
    let mut decoder = Decoder::new(Limits { line: max + 64, event: max });
    let (mut count, mut last) = (0_u64, Value::Null);
    let mut events = Vec::new();
    while let Some(chunk) = body.chunk().await {
        let taken = decoder.push(&chunk?, |item| {
            if let Item::Event { event, data, id, .. } = item {
                events.push(json!({"event": event, "data": data, "id": id}));
            }
        });
        for event in events.drain(..) {
            count += 1;
            last.clone_from(&event);
            // How far a stream is cannot be known.
            progress.forward(0.0, event).await;
        }
        taken.map_err(|error| TaskError::fatal("response_too_large", error.to_string()))?;
    }
    Ok(json!({"events": count, "lastEvent": last}))
}
