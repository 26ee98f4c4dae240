//! `watch`: prints the events of a stream as they arrive, and reconnects.

use std::{collections::HashMap, time::Duration};

use clap::Args;
use indexmap::IndexMap;
use serde::Deserialize;
use serde_json::{Value, value::RawValue};

use super::{
    Failure,
    client::{Api, ClientArguments, Message, Next, Stream},
    print_error,
    text::{duration_text, escape_controls, print_line, utc},
};
use crate::upstream::{self, Url};

/// Maximum time without data for streams of other servers, which may have no heartbeats.
const FOREIGN_IDLE: Duration = Duration::from_mins(5);

/// The stream, its end, and the form of the output.
#[derive(Args, Debug)]
pub(super) struct WatchArguments {
    #[command(flatten)]
    node: ClientArguments,
    /// Topics of the node (`order:*` for a prefix, `*` for all), or one URL of any event stream.
    #[arg(value_name = "URL|TOPIC", required = true)]
    what: Vec<String>,
    /// Begin after this event id.
    #[arg(long, value_name = "ID")]
    since_id: Option<String>,
    /// Begin with the last N events.
    #[arg(long, value_name = "N", conflicts_with = "since_id")]
    history: Option<u64>,
    /// End after the first event with this name.
    #[arg(long, value_name = "EVENT")]
    until: Option<String>,
    /// End after N events.
    #[arg(long, value_name = "N")]
    count: Option<u64>,
    /// Print each event as a JSON line, with the known fields of `{id, topic, event, data, timestamp}`. The default is the
    /// columns time (UTC), topic, id, event and data; unknown columns are `-`.
    #[arg(long)]
    json: bool,
    /// Also print control frames: connection, heartbeat, gap, disconnect.
    #[arg(long)]
    all: bool,
}

/// Fields of an envelope beside those of the event.
#[derive(Deserialize)]
struct Envelope<'a> {
    topic: String,
    timestamp: u64,
    #[serde(borrow)]
    data: &'a RawValue,
}

/// Prints events until `--until`, `--count`, or the end of the stream.
pub(super) async fn watch(arguments: &WatchArguments) -> Result<u8, Failure> {
    if arguments.count == Some(0) {
        return Ok(0);
    }
    let api = Api::new(&arguments.node)?;
    let (url, foreign) = target(&api, arguments)?;
    let mut stream = Stream::new(&api, url, arguments.since_id.clone());
    if foreign {
        stream = stream.idle(FOREIGN_IDLE);
    }
    // Only streams of the node have envelopes.
    let enveloped = !foreign;
    let mut seen = 0;
    loop {
        match stream.next().await? {
            Next::Event(message) => {
                warn(&message);
                if message.is_control() && !arguments.all {
                    continue;
                }
                print_line(&if arguments.json { row(&message, enveloped) } else { line(&message, enveloped) })?;
                seen += u64::from(!message.is_control());
                let named = arguments.until.as_ref().is_some_and(|until| *until == message.event);
                if named || arguments.count.is_some_and(|count| seen >= count) {
                    return Ok(0);
                }
            }
            Next::Lost { reason, wait } => {
                print_error(&format!(
                    "connection lost ({}); trying again in {}",
                    escape_controls(&reason),
                    duration_text(wait)
                ));
            }
            Next::End => {
                return match &arguments.until {
                    Some(until) => Err(Failure::new(format!("the stream ended before an event `{until}`"))),
                    None => Ok(0),
                };
            }
        }
    }
}

/// The URL, and whether it is a full URL of any server.
fn target(api: &Api, arguments: &WatchArguments) -> Result<(Url, bool), Failure> {
    let is_url = |text: &String| text.starts_with("http://") || text.starts_with("https://");
    if let [one] = arguments.what.as_slice()
        && is_url(one)
    {
        let mut url = upstream::parse_url(one).map_err(|error| Failure::usage(format!("`{one}`: {error}")))?;
        if let Some(count) = arguments.history {
            url.query_pairs_mut().append_pair("history", &count.to_string());
        }
        return Ok((url, true));
    }
    if let Some(url) = arguments.what.iter().find(|what| is_url(what)) {
        return Err(Failure::usage(format!("`{url}`: watch one URL, or topics of one node")));
    }
    let mut url = api.url("/events");
    {
        let mut query = url.query_pairs_mut();
        for topic in &arguments.what {
            query.append_pair("topic", topic);
        }
        if let Some(count) = arguments.history {
            query.append_pair("history", &count.to_string());
        }
        query.append_pair("envelope", "true");
    }
    Ok((url, false))
}

/// Prints to stderr that events are missing, or why the stream ends.
fn warn(message: &Message) {
    if !message.is_control() {
        return;
    }
    let value = message.value();
    let reason = value.get("reason").and_then(Value::as_str).unwrap_or("unknown");
    match &*message.event {
        "gap" => print_error(&format!("gap ({}): events are missing here", escape_controls(reason))),
        "disconnect" => print_error(&format!("the node ends the stream ({})", escape_controls(reason))),
        _ => {}
    }
}

/// Time, topic, id, event and data. A control frame is not in the journal, so the first three are `-`.
fn line(message: &Message, enveloped: bool) -> String {
    let own = message.id.as_deref().filter(|_| !message.is_control());
    let envelope = own.filter(|_| enveloped).and_then(|_| serde_json::from_str::<Envelope<'_>>(&message.data).ok());
    let (id, event) = (escape_controls(own.unwrap_or("-")), escape_controls(&message.event));
    let Some(Envelope { topic, timestamp, data }) = envelope else {
        return format!("- - {id} {event} {}", escape_controls(&message.data));
    };
    // Text is a JSON string in an envelope; JSON is embedded.
    let text = serde_json::from_str::<String>(data.get());
    let data = text.as_deref().unwrap_or_else(|_| data.get());
    format!("{} {} {id} {event} {}", utc(timestamp), escape_controls(&topic), escape_controls(data))
}

fn row(message: &Message, enveloped: bool) -> String {
    // Raw, so that data keep their digits.
    let envelope = serde_json::from_str::<HashMap<&str, &RawValue>>(&message.data).ok();
    let envelope = envelope.filter(|_| enveloped && !message.is_control() && message.id.is_some());
    let Some(envelope) = envelope else { return message.row() };
    let mut row = IndexMap::new();
    // In a fixed order, independent of the node.
    for name in ["id", "topic", "alsoIn", "event", "data", "timestamp", "origin", "source", "publisherId"] {
        if let Some(value) = envelope.get(name) {
            row.insert(name, *value);
        }
    }
    serde_json::to_string(&row).expect("plain data serialises")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn arguments(what: &[&str]) -> WatchArguments {
        WatchArguments {
            node: ClientArguments::default(),
            what: what.iter().map(|&what| what.to_owned()).collect(),
            since_id: None,
            history: None,
            until: None,
            count: None,
            json: false,
            all: false,
        }
    }

    #[test]
    fn topics_belong_to_the_node_and_a_url_is_used_unchanged() {
        let api = Api::at("http://h:1").unwrap();
        let mut both = arguments(&["order:*", "user:ä"]);
        (both.history, both.json) = (Some(3), true);
        let (url, foreign) = target(&api, &both).unwrap();
        assert_eq!(url.as_str(), "http://h:1/events?topic=order%3A*&topic=user%3A%C3%A4&history=3&envelope=true");
        assert!(!foreign);
        let (url, foreign) = target(&api, &arguments(&["https://x/y?z=1"])).unwrap();
        assert_eq!((url.as_str(), foreign), ("https://x/y?z=1", true));
        assert!(target(&api, &arguments(&["https://x/y", "t"])).is_err());
    }

    #[test]
    fn an_event_is_one_line() {
        let message = Message { event: "note".into(), data: "a\nb".into(), id: Some("e-1".into()), first: false };
        assert_eq!(line(&message, false), "- - e-1 note a\\nb");
        let message = Message { id: None, ..message };
        assert_eq!(line(&message, false), "- - - note a\\nb");
        let greeting = Message { event: "connection".into(), data: "{}".into(), id: Some("e-1".into()), first: true };
        assert_eq!(line(&greeting, true), "- - - connection {}");
    }

    #[test]
    fn a_line_of_the_node_has_time_and_topic() {
        for (data, displayed) in [
            (r#"{"b":1.10,"a":1e400}"#, r#"{"b":1.10,"a":1e400}"#),
            (r#""two\nlines""#, "two\\nlines"),
            ("7", "7"),
            ("null", "null"),
        ] {
            let data =
                format!(r#"{{"topic":"t:1","id":"e-1","event":"note","data":{data},"timestamp":1796000000005}}"#);
            let message = Message { event: "note".into(), data, id: Some("e-1".into()), first: false };
            assert_eq!(line(&message, true), format!("2026-11-30T00:53:20.005Z t:1 e-1 note {displayed}"));
        }
    }

    #[test]
    fn a_row_has_the_fields_of_the_envelope() {
        let data = r#"{"topic":"t","id":"e-1","event":"note","data":{"a":1},"timestamp":5}"#;
        let message = Message { event: "note".into(), data: data.into(), id: Some("e-1".into()), first: false };
        assert_eq!(row(&message, true), r#"{"id":"e-1","topic":"t","event":"note","data":{"a":1},"timestamp":5}"#);
        let escape_controls = Message { data: "text".into(), ..message };
        assert_eq!(row(&escape_controls, false), r#"{"id":"e-1","event":"note","data":"text"}"#);
    }
}
