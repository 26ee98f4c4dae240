//! Damage that only reading sees: it is refused there with a reason, and everything else goes on.

use std::fs;

use serde_json::json;

use crate::{store::Sound, support::Node};

#[test]
fn an_event_that_cannot_be_read_is_refused_and_other_topics_go_on() {
    let sound = Sound::with_tables();
    let dir = sound.copy();
    let table = dir.path().join("journal/store/keyspaces/1/tables/0");
    let mut bytes = fs::read(&table).expect("a table");
    // Rows stand in the order of their topics, and `a` was the first.
    let place = bytes.len() / 10;
    bytes[place] ^= 1;
    fs::write(&table, bytes).expect("a table");
    let node = Node::start_on(dir.path(), "[journal]\nmin_free_bytes = 0\nretention_bytes = 0\n");
    let refused = node.get("/api/topics/a/events?limit=1000");
    assert!(refused.problem(503).contains("the journal failed"), "{refused:?}");
    assert!(refused.header("Retry-After").is_some());
    // What could be read before it was sent.
    let told = node.stream("/events?topic=a&history=1000", &[]).rest().pop().expect("an end with a word");
    assert_eq!((told.event.as_str(), &told.json()["reason"]), ("disconnect", &json!("journal_unavailable")));
    for (topic, events) in sound.events.iter().filter(|(topic, _)| **topic != "a") {
        let mut stream = node.stream(&format!("/events?topic={topic}&history=1000"), &[]);
        for (_, data) in events {
            assert_eq!(stream.next_own().data, *data, "{topic}");
        }
    }
    // Publishing into the topic and listening to what comes go on too.
    let mut live = node.stream("/events?topic=a", &[]);
    live.until("connection");
    let id = node.publish("a", "e", &json!("later"));
    assert_eq!(live.next_own().id, id);
    node.must_be_healthy();
}
