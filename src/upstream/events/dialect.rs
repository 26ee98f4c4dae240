//! The frames with which another Millstream speaks of a stream itself; pure.
//!
//! Only the greeting has an id, the position after which the stream continues. Other names are control frames only on a
//! stream that began with a Millstream greeting: an event `heartbeat` of another server is an ordinary event.

use serde::Deserialize;

use crate::json;

/// What one connection speaks; begins with its first event.
#[derive(Debug)]
pub struct Dialect {
    first: bool,
    spoken: bool,
    leaving: bool,
}

/// The kind of a frame.
#[derive(Debug, PartialEq, Eq)]
pub enum Frame {
    /// An event.
    Event,
    /// The greeting, with the position after which the stream continues.
    Greeting(Option<String>),
    /// Another control frame.
    Control,
}

/// The greeting may have another name (`[streams.NAME] connected_event`).
const CONTROL: [&str; 4] = ["connection", "heartbeat", "gap", "disconnect"];

/// What the first frame of a Millstream's own streams says.
#[derive(Deserialize)]
struct Greeting {
    #[serde(rename = "emitterId")]
    _emitter_id: String,
    status: String,
    #[serde(default)]
    resume: Resume,
}

/// What a Millstream sends in place of a stream that it refuses only for now (it stops, or is full): it is all that comes.
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
    /// A connection that has said nothing yet.
    pub fn new() -> Self {
        Self { first: true, spoken: false, leaving: false }
    }

    /// Hears the next event.
    pub fn hear(&mut self, event: &str, data: &str, own_id: Option<&str>) -> Frame {
        let first = std::mem::take(&mut self.first);
        if first && let Some(greeting) = greeting(data) {
            self.spoken = true;
            // With the position, a break before the first event loses nothing. Version 0.1 has the position only in
            // `resume`.
            let live = || greeting.resume.from.filter(|_| greeting.resume.status == "live");
            return Frame::Greeting(own_id.map(str::to_owned).or_else(live));
        }
        if own_id.is_some() {
            return Frame::Event;
        }
        if first && event == "disconnect" && json::from_slice::<Refusal>(data.as_bytes()).is_ok() {
            (self.spoken, self.leaving) = (true, true);
            return Frame::Control;
        }
        if !self.spoken || !CONTROL.contains(&event) {
            return Frame::Event;
        }
        self.leaving |= event == "disconnect";
        Frame::Control
    }

    /// True when the server has said that it closes, and that one may come back.
    pub fn leaving(&self) -> bool {
        self.leaving
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
    fn control_frames_are_known_after_a_greeting_only() {
        let mut dialect = Dialect::new();
        assert_eq!(dialect.hear("connection", HELLO, None), Frame::Greeting(Some("a-1".into())));
        assert_eq!(dialect.hear("heartbeat", "{}", None), Frame::Control);
        assert_eq!(dialect.hear("heartbeat", "{}", Some("a-2")), Frame::Event);
        assert_eq!(dialect.hear("order", "{}", None), Frame::Event);
        assert!(!dialect.leaving());
        assert_eq!(dialect.hear("disconnect", "{}", None), Frame::Control);
        assert!(dialect.leaving());
        let mut other = Dialect::new();
        assert_eq!(other.hear("message", "hello", None), Frame::Event);
        assert_eq!(other.hear("connection", HELLO, None), Frame::Event);
        assert_eq!(other.hear("disconnect", "{}", None), Frame::Event);
        assert!(!other.leaving());
    }

    #[test]
    fn a_greeting_may_have_another_name() {
        let renamed = Dialect::new().hear("connected", HELLO, None);
        assert_eq!(renamed, Frame::Greeting(Some("a-1".into())));
        assert_eq!(Dialect::new().hear("connection", &HELLO.replace("connected", "x"), None), Frame::Event);
    }

    #[test]
    fn the_position_of_a_greeting_is_its_id_or_where_a_live_stream_began() {
        let resumed = HELLO.replace("live", "resumed");
        assert_eq!(Dialect::new().hear("connection", &resumed, None), Frame::Greeting(None));
        for hello in [HELLO, &resumed] {
            let mut dialect = Dialect::new();
            assert_eq!(dialect.hear("connection", hello, Some("a-7")), Frame::Greeting(Some("a-7".into())));
            // A later frame with this name is a published event.
            assert_eq!(dialect.hear("connection", hello, Some("a-8")), Frame::Event);
        }
    }
}
