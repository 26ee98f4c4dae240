//! The position of a reader in a stream, and the detection of duplicates after a reconnect; pure.
//!
//! Ids are sticky: an event without an id has the id of the event before it, so several events can share an id. A server
//! may also resume *with* the requested event instead of after it. So duplicates are found by id and content, only in a
//! limited window, and only until the first new event.

use std::collections::VecDeque;

use http::HeaderValue;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

/// The position of a reader in a stream. The caller stores it together with the events.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Cursor {
    /// The last event id, which a reconnect sends. Empty if there is no id.
    pub last_id: String,
    /// Number of events so far, without duplicates.
    pub events: u64,
    /// Fingerprints of the last events.
    #[serde(default, skip_serializing_if = "VecDeque::is_empty")]
    recent: VecDeque<u64>,
    /// Set while a resumed connection has sent only duplicates: the index in `recent` of the next possible duplicate. A
    /// server repeats events in order and once, so each fingerprint matches one duplicate.
    #[serde(skip)]
    duplicates_from: Option<usize>,
    /// The id of the last duplicate. Events after it without an id share it.
    #[serde(skip)]
    duplicate_id: Option<String>,
}

/// Number of events in which duplicates are found.
const WINDOW: usize = 32;
/// Maximum length of an id in bytes. Servers limit header fields, so a longer id cannot be sent back. It counts as no id,
/// since each event that shares it would contain a copy.
const ID_MAX: usize = 4096;

// === impl Cursor ===

impl Cursor {
    /// Creates a cursor after the event with this id.
    pub fn after(id: impl Into<String>) -> Self {
        Self { last_id: id.into(), ..Self::default() }
    }

    /// The value of `Last-Event-ID`; `None` without an id, or if a header cannot contain the id.
    pub fn resume_id(&self) -> Option<HeaderValue> {
        if self.last_id.is_empty() || self.last_id.len() > ID_MAX {
            return None;
        }
        HeaderValue::from_bytes(self.last_id.as_bytes()).ok()
    }

    /// Call it when a connection is open: its first events may be duplicates.
    pub(super) fn on_open(&mut self) {
        self.duplicates_from = (!self.recent.is_empty() && self.resume_id().is_some()).then_some(0);
        self.duplicate_id = None;
    }

    /// Sets the last id from a block without data, or from the greeting of another Millstream.
    pub(super) fn set_id(&mut self, id: &str) {
        self.duplicate_id = None;
        self.last_id.clear();
        if id.len() <= ID_MAX {
            self.last_id.push_str(id);
        }
    }

    /// Adds an event that this or another reader of the stream has received. `id` is the event's own id, if it has one.
    /// Returns false for a duplicate, which is not added.
    pub fn add(&mut self, event: &str, data: &str, id: Option<&str>) -> bool {
        let fingerprint = fingerprint(id.or(self.duplicate_id.as_deref()).unwrap_or(&self.last_id), event, data);
        let duplicate = self
            .duplicates_from
            .and_then(|from| self.recent.iter().skip(from).position(|known| *known == fingerprint).map(|at| from + at));
        if let Some(index) = duplicate {
            self.duplicates_from = Some(index + 1).filter(|next| *next < self.recent.len());
            if let Some(id) = id {
                self.duplicate_id = Some(id.to_owned());
            }
            return false;
        }
        self.duplicates_from = None;
        let shared_id = self.duplicate_id.take();
        if let Some(id) = id.or(shared_id.as_deref()) {
            self.set_id(id);
        }
        self.events += 1;
        if self.recent.len() == WINDOW {
            self.recent.pop_front();
        }
        self.recent.push_back(fingerprint);
        true
    }
}

/// A hash of an event. It is stored, so it must not change between versions of this program.
fn fingerprint(id: &str, event: &str, data: &str) -> u64 {
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
        let new = events.iter().filter(|(data, id)| cursor.add("message", data, *id));
        new.map(|(data, _)| (*data).to_owned()).collect()
    }

    #[test]
    fn a_server_that_resumes_with_the_requested_event_makes_no_duplicate() {
        let mut cursor = Cursor::default();
        read(&mut cursor, &[("a", Some("1")), ("b", Some("2")), ("c", None)]);
        cursor.on_open();
        assert_eq!(read(&mut cursor, &[("b", Some("2")), ("c", None), ("d", Some("3")), ("b", Some("2"))]), ["d", "b"]);
        assert_eq!((cursor.last_id.as_str(), cursor.events), ("2", 5));
    }

    #[test]
    fn duplicates_without_an_own_id_are_found() {
        let mut cursor = Cursor::default();
        read(&mut cursor, &[("a", Some("1")), ("x", None), ("b", Some("2"))]);
        cursor.on_open();
        assert!(read(&mut cursor, &[("a", Some("1")), ("x", None)]).is_empty());
        // A connection that is lost among duplicates does not move the cursor.
        assert_eq!((cursor.last_id.as_str(), cursor.events), ("2", 3));
        cursor.on_open();
        assert_eq!(read(&mut cursor, &[("a", Some("1")), ("x", None), ("b", Some("2")), ("y", None)]), ["y"]);
        assert_eq!((cursor.last_id.as_str(), cursor.events), ("2", 4));
    }

    #[test]
    fn an_id_above_the_limit_counts_as_no_id() {
        let long = "x".repeat(ID_MAX + 1);
        let mut cursor = Cursor::default();
        read(&mut cursor, &[("a", Some("1")), ("b", Some(&long))]);
        assert_eq!((cursor.last_id.as_str(), cursor.resume_id()), ("", None));
        cursor.set_id("7");
        cursor.set_id(&long);
        assert_eq!(cursor.last_id, "");
    }

    #[test]
    fn events_that_share_an_id_are_distinguished_by_content() {
        let mut cursor = Cursor::default();
        read(&mut cursor, &[("a", Some("1"))]);
        cursor.on_open();
        assert_eq!(read(&mut cursor, &[("b", None), ("c", Some("1"))]), ["b", "c"]);
    }

    #[test]
    fn each_earlier_event_matches_one_duplicate() {
        let mut cursor = Cursor::default();
        read(&mut cursor, &[("a", Some("1")), ("tick", None), ("tick", None)]);
        cursor.on_open();
        assert_eq!(read(&mut cursor, &[("tick", None); 1000]).len(), 998);
    }

    #[test]
    fn without_ids_or_without_a_reconnect_no_event_is_a_duplicate() {
        let mut cursor = Cursor::default();
        assert_eq!(read(&mut cursor, &[("tick", None), ("tick", None)]).len(), 2);
        cursor.on_open();
        assert_eq!(read(&mut cursor, &[("tick", None)]).len(), 1);
        let mut cursor = Cursor::default();
        assert_eq!(read(&mut cursor, &[("a", Some("1")), ("a", Some("1"))]).len(), 2);
    }

    #[test]
    fn ids_that_a_header_cannot_contain_are_not_sent() {
        for id in [String::new(), "a\u{7f}b".into(), "x".repeat(ID_MAX + 1)] {
            assert_eq!(Cursor::after(id).resume_id(), None);
        }
        assert_eq!(Cursor::after("grüße-7").resume_id().unwrap().as_bytes(), "grüße-7".as_bytes());
    }

    #[test]
    fn the_window_is_limited_and_stored() {
        let mut cursor = Cursor::default();
        for number in 0..100 {
            cursor.add("e", "d", Some(&number.to_string()));
        }
        let stored: Cursor = serde_json::from_str(&serde_json::to_string(&cursor).unwrap()).unwrap();
        assert_eq!((stored.recent.len(), stored), (WINDOW, cursor));
    }
}
