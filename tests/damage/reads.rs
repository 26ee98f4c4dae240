//! Damage that only a read detects: the read reports it, and everything else continues.

use serde_json::json;

use crate::{
    segments::change,
    store::Sound,
    support::{Node, eventually, steady::noise},
};

#[test]
fn an_event_that_cannot_be_read_is_a_gap_and_all_others_go_on() {
    let sound = Sound::with_segments();
    let dir = sound.copy();
    // Two events of one topic that follow each other, with events of other topics between them.
    let damaged = &sound.events["a"][3..5];
    for (_, data) in damaged {
        assert!(change(dir.path(), &data[..100]) > 0, "the event is in no segment");
    }
    let node = Node::start_on(dir.path(), "[journal]\nmin_free_bytes = 0\nretention_bytes = 0\n");
    let whole: Vec<&String> = sound.events["a"].iter().map(|(_, data)| data).collect();
    // All readable events arrive in order, with one report of the unreadable ones.
    let mut stream = node.stream("/events?topic=a&history=1000", &[]);
    let (mut read, mut gaps) = (Vec::new(), 0);
    while read.last() != whole.last().map(|data| (*data).clone()).as_ref() {
        let event = stream.next();
        match event.event.as_str() {
            "gap" => {
                assert_eq!(event.json()["reason"], "damaged");
                gaps += 1;
            }
            "e" => read.push(event.data),
            other => assert_eq!(other, "connection"),
        }
    }
    assert_eq!(gaps, 1);
    let readable = whole.iter().filter(|data| damaged.iter().all(|(_, own)| own != **data));
    assert!(read.iter().eq(readable.copied()), "in order, all others, and nothing else");
    // The stream is an ordinary one from here on.
    let id = node.publish("a", "e", &json!("soon"));
    assert_eq!(stream.next_own().id, id);
    // The same page by page.
    let (mut paged, mut gaps, mut after) = (0, 0, String::new());
    loop {
        let page = node.get(&format!("/api/topics/a/events?limit=1000{after}")).json();
        paged += page["events"].as_array().expect("a page").len();
        gaps += usize::from(page["gap"] == true);
        let next = format!("&after={}", page["lastEventId"].as_str().expect("an id"));
        if next == after {
            break;
        }
        after = next;
    }
    assert_eq!((paged, gaps), (read.len() + 1, 1));
    for (topic, events) in sound.events.iter().filter(|(topic, _)| **topic != "a") {
        let mut stream = node.stream(&format!("/events?topic={topic}&history=1000"), &[]);
        for (_, data) in events {
            assert_eq!(stream.next_own().data, *data, "{topic}");
        }
    }
    // Publishing into the topic and its live streams continue too.
    let mut live = node.stream("/events?topic=a", &[]);
    live.until("connection");
    let id = node.publish("a", "e", &json!("later"));
    assert_eq!(live.next_own().id, id);
    node.must_be_healthy();
}

/// Records stand side by side: one that is damaged must not take its neighbours along, nor what works with them.
#[test]
fn damage_of_a_record_costs_that_record_alone() {
    const JOBS: usize = 20;
    let data = tempfile::tempdir().expect("a temp directory");
    let settings = "[journal]\nmin_free_bytes = 0\n";
    let mut node = Node::start_on(data.path(), settings);
    // Records are JSON, which would have two characters for a backslash.
    let markers: Vec<String> = (0..JOBS).map(|_| noise(64).replace('\\', "/")).collect();
    let jobs: Vec<String> = markers
        .iter()
        .map(|marker| {
            let job = node
                .post("/api/jobs", &json!({ "tasks": [{ "run": "Calculate Stats", "input": { "mark": marker } }] }));
            node.stream(job["eventsUrl"].as_str().expect("a path"), &[]).rest();
            job["jobId"].as_str().expect("an id").to_owned()
        })
        .collect();
    node.post("/api/admin/journal/compact", &json!({}));
    assert_eq!(node.terminate(), Some(0));
    assert!(change(data.path(), &markers[JOBS / 2]) > 0, "the record is in no segment");
    node.start_again();
    let listed = eventually(|| {
        let reply = node.get("/api/jobs?limit=1000");
        (reply.status == 200).then(|| reply.json())
    });
    let listed = listed["jobs"].as_array().expect("a list").clone();
    let missing = jobs.iter().filter(|job| listed.iter().all(|row| row["jobId"] != json!(job))).count();
    assert!(missing <= 1, "{missing} of {JOBS} jobs are missing");
    assert_eq!(node.metric("millstream_job_records_unreadable_total"), 1.0);
    assert_eq!(node.json("POST", "/api/jobs", &json!({ "tasks": [{ "run": "Calculate Stats" }] })).status, 202);
}
