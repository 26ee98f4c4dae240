//! `publish`: one event into a topic.

use std::io::Read;

use clap::Args;
use serde_json::{Map, Value};

use super::{
    Failure,
    client::{Api, ClientArguments},
    text::say,
};

/// More than any node takes in one event by default; read no further.
const DATA_MAX: u64 = 64 << 20;

/// What to publish, and where.
#[derive(Args, Debug)]
pub(super) struct PublishArguments {
    #[command(flatten)]
    node: ClientArguments,
    /// The topic, such as `order:17`, `user:42`, `group:team` or `all`.
    topic: String,
    /// The payload: JSON where it is JSON, else text; `-` reads stdin; nothing is an empty payload.
    #[arg(value_name = "DATA|-", allow_negative_numbers = true)]
    data: Option<String>,
    /// The event's name, `message` unless given.
    #[arg(long, value_name = "NAME")]
    event: Option<String>,
    /// Your own id for it: the same one again appends nothing.
    #[arg(long, value_name = "KEY")]
    id: Option<String>,
    /// Asks subscribers to reconnect after so many milliseconds.
    #[arg(long, value_name = "MS")]
    retry: Option<u64>,
    /// The event is gone after so many milliseconds.
    #[arg(long, value_name = "MS")]
    ttl: Option<u64>,
}

/// Publishes and prints the node's answer.
pub(super) async fn publish(arguments: &PublishArguments) -> Result<u8, Failure> {
    let api = Api::new(&arguments.node)?;
    let text = match arguments.data.as_deref() {
        Some("-") => read_stdin().await?,
        data => data.unwrap_or_default().to_owned(),
    };
    let answer = api.json(api.post("/events", body(arguments, &text).to_string())).await?;
    say(&answer.to_string())?;
    Ok(0)
}

fn body(arguments: &PublishArguments, text: &str) -> Value {
    let mut body = Map::new();
    let mut put = |name: &str, value: Option<Value>| value.map(|value| body.insert(name.to_owned(), value));
    put("topic", Some(arguments.topic.as_str().into()));
    put("event", arguments.event.as_deref().map(Value::from));
    put("data", Some(data(text)));
    put("id", arguments.id.as_deref().map(Value::from));
    put("retry", arguments.retry.map(Value::from));
    put("ttlMs", arguments.ttl.map(Value::from));
    Value::Object(body)
}

/// JSON where it is JSON. Numbers stay text, which is the same on the wire and keeps `1.50` as it is.
fn data(text: &str) -> Value {
    match serde_json::from_str(text) {
        Ok(Value::Number(_)) | Err(_) => Value::from(text),
        Ok(json) => json,
    }
}

async fn read_stdin() -> Result<String, Failure> {
    let read = tokio::task::spawn_blocking(|| {
        let mut text = String::new();
        std::io::stdin().take(DATA_MAX).read_to_string(&mut text).map(|_| text)
    });
    let text = read.await.map_err(|error| Failure::new(error.to_string()))?;
    let mut text = text.map_err(|error| Failure::usage(format!("cannot read the payload from stdin: {error}")))?;
    // Windows shells write a byte order mark before piped input.
    if text.starts_with('\u{feff}') {
        text.remove(0);
    }
    // The line break that ends the output of `echo` and of most programs belongs to no payload.
    if text.ends_with('\n') {
        text.truncate(text.trim_end_matches('\n').trim_end_matches('\r').len());
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn data_are_json_where_they_are_json() {
        assert_eq!(data(r#"{"a": [1, null]}"#), json!({"a": [1, null]}));
        assert_eq!(data("hello {"), json!("hello {"));
        assert_eq!(data("1.50"), json!("1.50"));
        assert_eq!(data(""), json!(""));
        assert_eq!(data(r#""quoted""#), json!("quoted"));
    }

    #[test]
    fn only_what_was_given_is_sent() {
        let mut arguments = PublishArguments {
            node: ClientArguments::default(),
            topic: "t".into(),
            data: None,
            event: None,
            id: None,
            retry: None,
            ttl: None,
        };
        assert_eq!(body(&arguments, "x"), json!({"topic": "t", "data": "x"}));
        arguments.event = Some("e".into());
        arguments.id = Some("k".into());
        (arguments.retry, arguments.ttl) = (Some(5), Some(6));
        let all = json!({"topic": "t", "event": "e", "data": {}, "id": "k", "retry": 5, "ttlMs": 6});
        assert_eq!(body(&arguments, "{}"), all);
    }
}
