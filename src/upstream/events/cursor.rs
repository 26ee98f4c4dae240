//! How far a stream has been read, and what of a resumed one is not new; pure.
//!
//! Ids are sticky: an event without one has that of the event before it, so several events may share an id. A server
//! may also resume *with* the event that was named instead of after it. Doubles are therefore looked for by id and
//! content, only in a bounded window, and only until the first event that is new.

use std::collections::VecDeque;

use http::HeaderValue;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

/// How far a stream has been read; to be stored with what was read.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Cursor {
    /// The last event id: what a reconnect sends. Empty where there is none.
    pub last_id: String,
    /// Events taken so far.
    pub events: u64,
    /// Marks of the last events, by which one is known that comes again.
    #[serde(default, skip_serializing_if = "VecDeque::is_empty")]
    recent: VecDeque<u64>,
    /// The connection is a resumed one, and all that it brought so far was known: what else may come again stands in
    /// `recent` from here on. What comes again does so in order and once, so each mark stands for one double.
    #[serde(skip)]
    seeking: Option<usize>,
    /// The id of the last event that came again: events behind it that have none of their own share it.
    #[serde(skip)]
    again: Option<String>,
}

/// Whether an event is new.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Taken {
    New,
    Double,
}

/// So many events back a double is known as one.
const WINDOW: usize = 32;
/// Longest id that can be sent back, in bytes; servers bound the fields that they take. A longer one counts as none:
/// it would be of no use, and each event that shares it would cost its length.
const ID_MAX: usize = 4096;

// === impl Cursor ===

impl Cursor {
    /// A cursor after the event with this id.
    pub fn after(id: impl Into<String>) -> Self {
        Self { last_id: id.into(), ..Self::default() }
    }

    /// The value of `Last-Event-ID`; `None` where there is no id, or none that a header can hold.
    pub fn resume_id(&self) -> Option<HeaderValue> {
        if self.last_id.is_empty() || self.last_id.len() > ID_MAX {
            return None;
        }
        HeaderValue::from_bytes(self.last_id.as_bytes()).ok()
    }

    /// Takes an event that another reader of the same stream had; `id` is the one in force.
    pub fn note(&mut self, event: &str, data: &str, id: &str) {
        self.take(event, data, Some(id));
    }

    /// A connection has begun.
    pub(super) fn reopened(&mut self) {
        self.seeking = (!self.recent.is_empty() && self.resume_id().is_some()).then_some(0);
        self.again = None;
    }

    /// Sets the last id from a block without data, or from the greeting of another Millstream.
    pub(super) fn set(&mut self, id: &str) {
        self.again = None;
        self.last_id.clear();
        if id.len() <= ID_MAX {
            self.last_id.push_str(id);
        }
    }

    /// An event has come; `id` where it had one of its own.
    pub(super) fn take(&mut self, event: &str, data: &str, id: Option<&str>) -> Taken {
        let mark = mark(id.or(self.again.as_deref()).unwrap_or(&self.last_id), event, data);
        let known = self
            .seeking
            .and_then(|from| self.recent.iter().skip(from).position(|known| *known == mark).map(|at| from + at));
        if let Some(at) = known {
            self.seeking = Some(at + 1).filter(|next| *next < self.recent.len());
            if let Some(id) = id {
                self.again = Some(id.to_owned());
            }
            return Taken::Double;
        }
        self.seeking = None;
        let again = self.again.take();
        if let Some(id) = id.or(again.as_deref()) {
            self.set(id);
        }
        self.events += 1;
        if self.recent.len() == WINDOW {
            self.recent.pop_front();
        }
        self.recent.push_back(mark);
        Taken::New
    }
}

/// The same for the same event in every version of this program.
fn mark(id: &str, event: &str, data: &str) -> u64 {
    let mut hash = Sha256::new();
    for text in [id, event, data] {
        hash.update((text.len() as u64).to_le_bytes());
        hash.update(text.as_bytes());
    }
    let digest = hash.finalize();
    u64::from_le_bytes(digest[..8].try_into().expect("a digest has 32 bytes"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(cursor: &mut Cursor, events: &[(&str, Option<&str>)]) -> Vec<String> {
        let new = events.iter().filter(|(data, id)| cursor.take("message", data, *id) == Taken::New);
        new.map(|(data, _)| (*data).to_owned()).collect()
    }

    #[test]
    fn a_server_that_resumes_with_the_named_event_makes_no_double() {
        let mut cursor = Cursor::default();
        read(&mut cursor, &[("a", Some("1")), ("b", Some("2")), ("c", None)]);
        cursor.reopened();
        assert_eq!(read(&mut cursor, &[("b", Some("2")), ("c", None), ("d", Some("3")), ("b", Some("2"))]), ["d", "b"]);
        assert_eq!((cursor.last_id.as_str(), cursor.events), ("2", 5));
    }

    #[test]
    fn events_without_ids_of_their_own_are_known_again_further_back() {
        let mut cursor = Cursor::default();
        read(&mut cursor, &[("a", Some("1")), ("x", None), ("b", Some("2"))]);
        cursor.reopened();
        assert!(read(&mut cursor, &[("a", Some("1")), ("x", None)]).is_empty());
        // A break in the middle of what is known leaves the cursor where it was.
        assert_eq!((cursor.last_id.as_str(), cursor.events), ("2", 3));
        cursor.reopened();
        assert_eq!(read(&mut cursor, &[("a", Some("1")), ("x", None), ("b", Some("2")), ("y", None)]), ["y"]);
        assert_eq!((cursor.last_id.as_str(), cursor.events), ("2", 4));
    }

    #[test]
    fn an_id_that_no_server_would_take_back_is_none_and_costs_nothing() {
        let long = "x".repeat(ID_MAX + 1);
        let mut cursor = Cursor::default();
        read(&mut cursor, &[("a", Some("1")), ("b", Some(&long))]);
        assert_eq!((cursor.last_id.as_str(), cursor.resume_id()), ("", None));
        cursor.set("7");
        cursor.set(&long);
        assert_eq!(cursor.last_id, "");
    }

    #[test]
    fn events_that_share_an_id_are_told_apart_by_what_they_say() {
        let mut cursor = Cursor::default();
        read(&mut cursor, &[("a", Some("1"))]);
        cursor.reopened();
        assert_eq!(read(&mut cursor, &[("b", None), ("c", Some("1"))]), ["b", "c"]);
    }

    #[test]
    fn each_event_of_before_stands_for_one_double() {
        let mut cursor = Cursor::default();
        read(&mut cursor, &[("a", Some("1")), ("tick", None), ("tick", None)]);
        cursor.reopened();
        assert_eq!(read(&mut cursor, &[("tick", None); 1000]).len(), 998);
    }

    #[test]
    fn without_ids_and_without_a_reconnect_nothing_is_a_double() {
        let mut cursor = Cursor::default();
        assert_eq!(read(&mut cursor, &[("tick", None), ("tick", None)]).len(), 2);
        cursor.reopened();
        assert_eq!(read(&mut cursor, &[("tick", None)]).len(), 1);
        let mut cursor = Cursor::default();
        assert_eq!(read(&mut cursor, &[("a", Some("1")), ("a", Some("1"))]).len(), 2);
    }

    #[test]
    fn ids_that_no_header_can_hold_are_not_sent() {
        for id in [String::new(), "a\u{7f}b".into(), "x".repeat(ID_MAX + 1)] {
            assert_eq!(Cursor::after(id).resume_id(), None);
        }
        assert_eq!(Cursor::after("grüße-7").resume_id().unwrap().as_bytes(), "grüße-7".as_bytes());
    }

    #[test]
    fn the_window_is_bounded_and_survives_its_text_form() {
        let mut cursor = Cursor::default();
        for number in 0..100 {
            cursor.take("e", "d", Some(&number.to_string()));
        }
        let back: Cursor = serde_json::from_str(&serde_json::to_string(&cursor).unwrap()).unwrap();
        assert_eq!((back.recent.len(), back), (WINDOW, cursor));
    }
}
