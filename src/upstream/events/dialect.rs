//! The frames with which another Millstream speaks of a stream itself; pure.
//!
//! They have no id, and are known as such only on a stream that began with a Millstream's greeting: an event that
//! somebody else calls `heartbeat` is an event like any other.

use serde::Deserialize;

/// What one connection speaks; begins with its first event.
#[derive(Debug)]
pub struct Dialect {
    first: bool,
    spoken: bool,
    leaving: bool,
}

/// What a frame without an id of its own is.
#[derive(Debug, PartialEq, Eq)]
pub enum Frame {
    /// An event.
    Event,
    /// The greeting; with the position at which a live stream began.
    Greeting(Option<String>),
    /// Another control frame.
    Control,
}

/// Frames without an id; the greeting may have another name (`[streams.NAME] connected_event`).
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
    pub fn hear(&mut self, event: &str, data: &str, own_id: bool) -> Frame {
        let first = std::mem::take(&mut self.first);
        if own_id {
            return Frame::Event;
        }
        if first && let Some(greeting) = greeting(data) {
            self.spoken = true;
            // A break before the first event then loses nothing.
            return Frame::Greeting(greeting.resume.from.filter(|_| greeting.resume.status == "live"));
        }
        if first && event == "disconnect" && serde_json::from_str::<Refusal>(data).is_ok() {
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
    serde_json::from_str(data).ok().filter(|greeting: &Greeting| greeting.status == "connected")
}

#[cfg(test)]
mod tests {
    use super::*;

    const HELLO: &str = r#"{"status":"connected","emitterId":"e","resume":{"from":"a-1","status":"live"}}"#;

    #[test]
    fn control_frames_are_known_after_a_greeting_only() {
        let mut dialect = Dialect::new();
        assert_eq!(dialect.hear("connection", HELLO, false), Frame::Greeting(Some("a-1".into())));
        assert_eq!(dialect.hear("heartbeat", "{}", false), Frame::Control);
        assert_eq!(dialect.hear("heartbeat", "{}", true), Frame::Event);
        assert_eq!(dialect.hear("order", "{}", false), Frame::Event);
        assert!(!dialect.leaving());
        assert_eq!(dialect.hear("disconnect", "{}", false), Frame::Control);
        assert!(dialect.leaving());
        let mut other = Dialect::new();
        assert_eq!(other.hear("message", "hello", false), Frame::Event);
        assert_eq!(other.hear("connection", HELLO, false), Frame::Event);
        assert_eq!(other.hear("disconnect", "{}", false), Frame::Event);
        assert!(!other.leaving());
    }

    #[test]
    fn a_greeting_may_have_another_name_and_a_position_only_where_it_is_live() {
        let renamed = Dialect::new().hear("connected", HELLO, false);
        assert_eq!(renamed, Frame::Greeting(Some("a-1".into())));
        let resumed = Dialect::new().hear("connection", &HELLO.replace("live", "resumed"), false);
        assert_eq!(resumed, Frame::Greeting(None));
        assert_eq!(Dialect::new().hear("connection", &HELLO.replace("connected", "x"), false), Frame::Event);
        assert_eq!(Dialect::new().hear("connection", HELLO, true), Frame::Event);
    }
}
