//! The control frames of another Millstream: greeting, heartbeat, gap, disconnect; pure.
//!
//! Only the greeting has an id: the position after which the stream continues. The other names mean control frames only on
//! a stream that began with a greeting: an event `heartbeat` of another server is an ordinary event.

use serde::Deserialize;

use crate::json;

/// Recognizes the control frames of one connection.
#[derive(Debug, Default)]
pub(super) struct Dialect {
    /// True after the first event.
    begun: bool,
    /// True if the first event shows that the server is a Millstream.
    is_millstream: bool,
    /// True if the server announced that it closes the connection, so the client should reconnect.
    pub announced_close: bool,
}

/// The kind of a frame.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Frame {
    /// An event.
    Event,
    /// The greeting, with the position after which the stream continues.
    Greeting(Option<String>),
    /// Another control frame.
    Control,
}

/// Names of control frames. The greeting can have another name (`[streams.NAME] connected_event`).
const CONTROL: [&str; 4] = ["connection", "heartbeat", "gap", "disconnect"];

/// The data of a greeting.
#[derive(Deserialize)]
struct Greeting {
    #[serde(rename = "emitterId")]
    _emitter_id: String,
    status: String,
    #[serde(default)]
    resume: Resume,
}

/// The data of a `disconnect` as the only event: a Millstream that stops or is full temporarily refuses a stream with it.
#[derive(Deserialize)]
struct Refusal {
    #[serde(rename = "reason")]
    _reason: String,
}

#[derive(Default, Deserialize)]
struct Resume {
    #[serde(default)]
    from: Option<String>,
    #[serde(default)]
    status: String,
}

// === impl Dialect ===

impl Dialect {
    /// Classifies the next event of the connection.
    pub(super) fn classify(&mut self, event: &str, data: &str, own_id: Option<&str>) -> Frame {
        let first = !std::mem::replace(&mut self.begun, true);
        if first && let Some(greeting) = greeting(data) {
            self.is_millstream = true;
            // With the position, no event is lost if the connection breaks before the first event. Version 0.1 sends
            // the position only in `resume`.
            let live = || greeting.resume.from.filter(|_| greeting.resume.status == "live");
            return Frame::Greeting(own_id.map(str::to_owned).or_else(live));
        }
        if own_id.is_some() {
            return Frame::Event;
        }
        if first && event == "disconnect" && json::from_slice::<Refusal>(data.as_bytes()).is_ok() {
            (self.is_millstream, self.announced_close) = (true, true);
            return Frame::Control;
        }
        if !self.is_millstream || !CONTROL.contains(&event) {
            return Frame::Event;
        }
        self.announced_close |= event == "disconnect";
        Frame::Control
    }
}

fn greeting(data: &str) -> Option<Greeting> {
    json::from_slice(data.as_bytes()).ok().filter(|greeting: &Greeting| greeting.status == "connected")
}

#[cfg(test)]
mod tests {
    use super::*;

    const HELLO: &str = r#"{"status":"connected","emitterId":"e","resume":{"from":"a-1","status":"live"}}"#;

    #[test]
    fn control_frames_are_recognized_only_after_a_greeting() {
        let mut dialect = Dialect::default();
        assert_eq!(dialect.classify("connection", HELLO, None), Frame::Greeting(Some("a-1".into())));
        assert_eq!(dialect.classify("heartbeat", "{}", None), Frame::Control);
        assert_eq!(dialect.classify("heartbeat", "{}", Some("a-2")), Frame::Event);
        assert_eq!(dialect.classify("order", "{}", None), Frame::Event);
        assert!(!dialect.announced_close);
        assert_eq!(dialect.classify("disconnect", "{}", None), Frame::Control);
        assert!(dialect.announced_close);
        let mut other = Dialect::default();
        assert_eq!(other.classify("message", "hello", None), Frame::Event);
        assert_eq!(other.classify("connection", HELLO, None), Frame::Event);
        assert_eq!(other.classify("disconnect", "{}", None), Frame::Event);
        assert!(!other.announced_close);
    }

    #[test]
    fn a_greeting_can_have_another_name() {
        let renamed = Dialect::default().classify("connected", HELLO, None);
        assert_eq!(renamed, Frame::Greeting(Some("a-1".into())));
        assert_eq!(Dialect::default().classify("connection", &HELLO.replace("connected", "x"), None), Frame::Event);
    }

    #[test]
    fn the_position_of_a_greeting_is_its_id_or_the_start_of_a_live_stream() {
        let resumed = HELLO.replace("live", "resumed");
        assert_eq!(Dialect::default().classify("connection", &resumed, None), Frame::Greeting(None));
        for hello in [HELLO, &resumed] {
            let mut dialect = Dialect::default();
            assert_eq!(dialect.classify("connection", hello, Some("a-7")), Frame::Greeting(Some("a-7".into())));
            // A later frame with this name is a published event.
            assert_eq!(dialect.classify("connection", hello, Some("a-8")), Frame::Event);
        }
    }
}
