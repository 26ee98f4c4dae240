//! A response that is itself an event stream: each of its events is forwarded, the last one is the result.
//!
//! It is over when the body ends, or with an event whose data is `[DONE]`: that is how streams of tokens end (chat
//! completions as `OpenAI` defined them, and all that speak alike). That event is only a mark: it is neither forwarded nor
//! counted, and nothing behind it is read, whether the server closes or not. A task may name its stream's last event
//! (`endEvent`): then a body that ends without it is truncated. An event `error` is how these servers say that a stream
//! went wrong after its status was sent: it is the error of the task, unless the task says otherwise (`errorEvents`).

use serde_json::{Value, json};

use super::request::{ErrorEvents, Input};
use crate::{
    jobs::handler::{Progress, TaskError},
    sse::{Decoder, Item, Limits},
    text::excerpt,
    upstream::{self, Chunks},
};

/// Most bytes of an id. It is in force until another one comes, so each event of a few bytes would carry it.
const ID_MAX: usize = 4096;

/// Most bytes that are parsed at once, which bounds the events that are kept until they are forwarded.
const PIECE: usize = 16 * 1024;

/// Data of the event behind which nothing follows.
const DONE: &str = "[DONE]";

/// The name of the event that says what went wrong.
const ERROR: &str = "error";

/// How much of an error event without a message goes into the error, in characters.
const ERROR_EXCERPT: usize = 300;

/// What ends a stream before its body ends.
enum End {
    /// Its last event, or `[DONE]`.
    Done,
    /// An event `error` with these data.
    Failed(String),
    /// An id that is too long.
    LongId,
}

/// Forwards the events until the stream ends. How many come is not bounded here: none is kept but the last, and a full
/// sink makes the upstream wait.
pub async fn forward(
    mut body: Chunks,
    max_event_bytes: usize,
    input: &Input,
    progress: &Progress,
) -> Result<Value, TaskError> {
    // A line has the name of its field with it.
    let mut decoder = Decoder::new(Limits { line: max_event_bytes.saturating_add(64), event: max_event_bytes });
    let (mut count, mut last, mut end) = (0_u64, Value::Null, None);
    let mut events = Vec::new();
    while let Some(chunk) = body.next().await {
        for piece in chunk?.chunks(PIECE) {
            let taken = decoder.push(piece, |item| match item {
                _ if end.is_some() => {}
                Item::Event { event: ERROR, data, .. } if input.error_events == ErrorEvents::Fail => {
                    end = Some(End::Failed(data.to_owned()));
                }
                Item::Event { data: DONE, .. } => end = Some(End::Done),
                Item::Event { id, .. } if id.len() > ID_MAX => end = Some(End::LongId),
                Item::Event { event, data, id, .. } => {
                    events.push(json!({"event": event, "data": data, "id": id}));
                    if input.end_event.as_deref() == Some(event) {
                        end = Some(End::Done);
                    }
                }
                Item::Id(_) | Item::Comment(_) | Item::Retry(_) => {}
            });
            for event in events.drain(..) {
                count += 1;
                last.clone_from(&event);
                // How far a stream is cannot be known.
                progress.forward(0.0, event).await;
            }
            match end {
                // With the body goes its connection.
                Some(End::Done) => return Ok(result(count, &last)),
                Some(End::Failed(data)) => {
                    let message = format!("the stream ended with `event: error`: {}", message_of(&data));
                    return Err(TaskError::transient("error_event", message));
                }
                Some(End::LongId) => {
                    let message = format!("the id of an event of the stream has more than {ID_MAX} bytes");
                    return Err(TaskError::fatal("response_too_large", message));
                }
                None => {}
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

/// The words of an error event: `error.message`, `error`, `message` or `detail` of its data, else the data.
fn message_of(data: &str) -> String {
    let value = serde_json::from_str::<Value>(data).unwrap_or(Value::Null);
    let places = ["/error/message", "/error", "/message", "/detail"];
    let message = places.iter().find_map(|place| value.pointer(place)?.as_str()).unwrap_or(data);
    excerpt(message, ERROR_EXCERPT)
}
