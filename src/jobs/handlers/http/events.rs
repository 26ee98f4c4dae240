//! A response that is itself an event stream: each of its events is forwarded, the last one is the result.
//!
//! The stream ends with the body, or with an event whose data is `[DONE]`. Streams of tokens end like this: chat
//! completions of `OpenAI` and of compatible servers. That event is only an end marker: it is neither forwarded nor
//! counted, and nothing after it is read, whether the server closes or not. A task may name its stream's last event
//! (`endEvent`): then a body that ends without it is truncated. These servers send an event `error` when a stream fails
//! after its status was sent. It is the error of the task, unless the task ignores such events (`errorEvents`).

use serde_json::{Value, json};

use super::request::{ErrorEvents, Input};
use crate::{
    jobs::handler::{Progress, TaskError},
    sse::{Decoder, Item, Limits},
    text::excerpt,
    upstream::{self, Chunks},
};

/// Maximum length of an id. It applies until another id arrives, so each event of a few bytes would carry it.
const ID_MAX: usize = 4096;

/// Maximum number of bytes that are parsed at once, which limits the events that wait to be forwarded.
const PIECE: usize = 16 * 1024;

/// Data of the last event.
const DONE: &str = "[DONE]";

/// The name of the event with the reason of a failure.
const ERROR: &str = "error";

/// Maximum characters of an error event without a message in the error.
const ERROR_EXCERPT: usize = 300;

/// Forwards the events until the stream ends. Their number is not limited: only the last one is stored, and a full sink
/// makes the upstream wait.
pub(super) async fn forward(
    mut body: Chunks,
    max_event_bytes: usize,
    input: &Input,
    progress: &Progress,
) -> Result<Value, TaskError> {
    // The limit of a line includes the name of its field.
    let mut decoder = Decoder::new(Limits { line: max_event_bytes.saturating_add(64), event: max_event_bytes });
    let (mut count, mut last) = (0_u64, Value::Null);
    // Set if the stream ends before its body does.
    let mut end = None;
    let mut events = Vec::new();
    while let Some(chunk) = body.next().await {
        for piece in chunk?.chunks(PIECE) {
            let taken = decoder.push(piece, |item| match item {
                _ if end.is_some() => {}
                Item::Event { event: ERROR, data, .. } if input.error_events == ErrorEvents::Fail => {
                    let message = format!("the stream ended with `event: error`: {}", message_of(data));
                    end = Some(Err(TaskError::transient("error_event", message)));
                }
                Item::Event { data: DONE, .. } => end = Some(Ok(())),
                Item::Event { id, .. } if id.len() > ID_MAX => {
                    let message = format!("the id of an event of the stream has more than {ID_MAX} bytes");
                    end = Some(Err(TaskError::fatal("response_too_large", message)));
                }
                Item::Event { event, data, id, .. } => {
                    events.push(json!({"event": event, "data": data, "id": id}));
                    if input.end_event.as_deref() == Some(event) {
                        end = Some(Ok(()));
                    }
                }
                Item::Id(_) | Item::Comment(_) | Item::Retry(_) => {}
            });
            for event in events.drain(..) {
                count += 1;
                last.clone_from(&event);
                // The progress of a stream is unknown.
                progress.forward(0.0, event).await;
            }
            if let Some(end) = end {
                // Dropping the body closes its connection.
                return end.map(|()| result(count, &last));
            }
            taken.map_err(|error| {
                TaskError::fatal("response_too_large", format!("{error} (`journal.max_event_bytes`)"))
            })?;
        }
    }
    match &input.end_event {
        Some(name) => {
            let message = format!("the stream ended before its last event, `{name}`");
            Err(TaskError::transient(upstream::Error::Truncated.code(), message))
        }
        None => Ok(result(count, &last)),
    }
}

fn result(count: u64, last: &Value) -> Value {
    json!({"events": count, "lastEvent": last})
}

/// The message of an error event: `error.message`, `error`, `message` or `detail` of its data, else the data.
fn message_of(data: &str) -> String {
    let value = serde_json::from_str::<Value>(data).unwrap_or(Value::Null);
    let paths = ["/error/message", "/error", "/message", "/detail"];
    let message = paths.iter().find_map(|path| value.pointer(path)?.as_str()).unwrap_or(data);
    excerpt(message, ERROR_EXCERPT)
}
