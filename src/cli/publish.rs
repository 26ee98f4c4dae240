//! `publish`: publishes one event.

use std::io::Read;

use clap::Args;
use serde::Serialize;

use super::{
    Failure,
    client::{Api, ClientArguments},
    text::print_line,
};
use crate::json::{self, Json};

/// Maximum size of the payload that is read. It is above the default limit of a node.
const DATA_MAX: u64 = 64 << 20;

/// The event and its topic.
#[derive(Args, Debug)]
pub(super) struct PublishArguments {
    #[command(flatten)]
    node: ClientArguments,
    /// Topic, such as `order:17`, `user:42`, `group:team` or `all`.
    topic: String,
    /// Payload: JSON if it is valid JSON, else text; `-` reads stdin; empty by default.
    #[arg(value_name = "DATA|-", allow_negative_numbers = true)]
    data: Option<String>,
    /// Name of the event; default: `message`.
    #[arg(long, value_name = "NAME")]
    event: Option<String>,
    /// Your event id; an event with a known id is not appended again.
    #[arg(long, value_name = "KEY")]
    id: Option<String>,
    /// Reconnection time for subscribers in milliseconds.
    #[arg(long, value_name = "MS")]
    retry: Option<u64>,
    /// Time to live of the event in milliseconds.
    #[arg(long, value_name = "MS")]
    ttl: Option<u64>,
}

/// Publishes the event and prints the response of the node.
pub(super) async fn publish(arguments: &PublishArguments) -> Result<u8, Failure> {
    let api = Api::new(&arguments.node)?;
    let text = match arguments.data.as_deref() {
        Some("-") => read_stdin().await?,
        data => data.unwrap_or_default().to_owned(),
    };
    let answer = api.json(api.post("/events", body(arguments, &text))).await?;
    print_line(&answer.to_string())?;
    Ok(0)
}

/// The body of the request.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Body<'a> {
    topic: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    event: Option<&'a str>,
    /// JSON if the text is valid JSON, else a JSON string.
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
    // `echo` and most programs end their output with a line break, which is not part of the payload.
    if text.ends_with('\n') {
        text.truncate(text.trim_end_matches('\n').trim_end_matches('\r').len());
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn valid_json_is_sent_as_json() {
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
    fn only_given_fields_are_sent() {
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
