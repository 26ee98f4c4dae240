//! A response that is itself an event stream: each of its events is forwarded, the last one is the result.
//!
//! It is over when the body ends, or with an event whose data is `[DONE]`: that is how streams of tokens end (chat
//! completions as `OpenAI` defined them, and all that speak alike). That event is a mark and no news: it is neither forwarded nor
//! counted, and nothing behind it is read, whether the server closes or not.

use serde_json::{Value, json};

use crate::{
    jobs::handler::{Progress, TaskError},
    sse::{Decoder, Item, Limits},
    upstream::Body,
};

/// Most bytes of one event: it becomes part of an event of ours, which has a limit too.
const EVENT_MAX: usize = 256 * 1024;

/// Most bytes of an id. It is in force until another one comes, so each event of a few bytes would carry it.
const ID_MAX: usize = 4096;

/// Most bytes that are parsed at once, which bounds the events that are kept until they are forwarded.
const PIECE: usize = 16 * 1024;

/// Data of the event behind which nothing follows.
const DONE: &str = "[DONE]";

/// Forwards the events until the stream ends. How many come is not bounded here: none is kept but the last, and a full
/// sink makes the upstream wait.
pub async fn forward(mut body: Body, max_bytes: usize, progress: &Progress) -> Result<Value, TaskError> {
    let max = EVENT_MAX.min(max_bytes);
    // A line has the name of its field with it.
    let mut decoder = Decoder::new(Limits { line: max + 64, event: max });
    let (mut count, mut last) = (0_u64, Value::Null);
    let mut events = Vec::new();
    let (mut done, mut long_id) = (false, false);
    while let Some(chunk) = body.chunk().await {
        for piece in chunk?.chunks(PIECE) {
            let taken = decoder.push(piece, |item| match item {
                _ if done || long_id => {}
                Item::Event { data: DONE, .. } => done = true,
                Item::Event { id, .. } if id.len() > ID_MAX => long_id = true,
                Item::Event { event, data, id, .. } => {
                    events.push(json!({"event": event, "data": data, "id": id}));
                }
                Item::Id(_) | Item::Comment(_) | Item::Retry(_) => {}
            });
            for event in events.drain(..) {
                count += 1;
                last.clone_from(&event);
                // How far a stream is cannot be known.
                progress.forward(0.0, event).await;
            }
            if done {
                // With the body goes its connection.
                return Ok(result(count, &last));
            }
            if long_id {
                let message = format!("the id of an event of the stream has more than {ID_MAX} bytes");
                return Err(TaskError::fatal("response_too_large", message));
            }
            taken.map_err(|error| TaskError::fatal("response_too_large", error.to_string()))?;
        }
    }
    Ok(result(count, &last))
}

fn result(count: u64, last: &Value) -> Value {
    json!({"events": count, "lastEvent": last})
}
