//! `publish`: one event into a topic.

use std::io::Read;

use clap::Args;
use serde::Serialize;

use super::{
    Failure,
    client::{Api, ClientArguments},
    text::say,
};
use crate::json::{self, Json};

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
    let answer = api.json(api.post("/events", body(arguments, &text))).await?;
    say(&answer.to_string())?;
    Ok(0)
}

/// The event as the node takes it.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Body<'a> {
    topic: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    event: Option<&'a str>,
    /// JSON where the text is JSON, else the text.
    data: Json,
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    retry: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    ttl_ms: Option<u64>,
}

fn body(arguments: &PublishArguments, text: &str) -> String {
    let body = Body {
        topic: &arguments.topic,
        event: arguments.event.as_deref(),
        data: json::embed(text),
        id: arguments.id.as_deref(),
        retry: arguments.retry,
        ttl_ms: arguments.ttl,
    };
    serde_json::to_string(&body).expect("plain data serialises")
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
    use super::*;

    #[test]
    fn data_are_json_where_they_are_json() {
        for (text, expected) in [
            (r#"{"a": [1, null]}"#, r#"{"a":[1,null]}"#),
            ("hello {", r#""hello {""#),
            ("1.50", "1.50"),
            ("[ 1e400, -0 ]", "[1e400,-0]"),
            ("", r#""""#),
            (r#""quoted""#, r#""quoted""#),
        ] {
            assert_eq!(json::embed(text).get(), expected);
        }
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
        assert_eq!(body(&arguments, "x"), r#"{"topic":"t","data":"x"}"#);
        arguments.event = Some("e".into());
        arguments.id = Some("k".into());
        (arguments.retry, arguments.ttl) = (Some(5), Some(6));
        assert_eq!(body(&arguments, "{}"), r#"{"topic":"t","event":"e","data":{},"id":"k","retry":5,"ttlMs":6}"#);
    }
}
