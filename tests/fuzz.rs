//! Mutated requests, the same ones each time: whatever comes, there is an answer below 500, and the node is well.

#[path = "support/dice.rs"]
mod dice;
mod support;

use dice::Dice;
use support::Node;

/// What parsers stumble over.
const SPLINTERS: &[&[u8]] = &[
    b"\r\n",
    b"\r\n\r\n",
    b"\n",
    b"\0",
    b"%",
    b"%00",
    b"%ff",
    b"\xff",
    b"\xc3\xa9",
    b"\"",
    b"\\",
    b"\\u0000",
    b"{",
    b"[",
    b"]",
    b"}",
    b",",
    b":",
    b" ",
    b"\t",
    b"*",
    b"..",
    b"/",
    b"?",
    b"&",
    b"=",
    b"-1",
    b"99999999999999999999",
    b"1e999",
    b"null",
    b"Content-Length: 0\r\n",
    b"Transfer-Encoding: chunked\r\n",
    b"Expect: 100-continue\r\n",
    b"Last-Event-ID: 0-1\r\n",
];

/// A request in its parts, so that a mutation of one leaves the others whole.
#[derive(Clone)]
struct Request {
    target: Vec<u8>,
    lines: Vec<u8>,
    body: Vec<u8>,
}

fn seeds() -> Vec<Request> {
    let request = |target: &str, body: &str| Request {
        target: target.into(),
        lines: "Host: localhost\r\nX-Auth-Token: 42\r\nContent-Type: application/json\r\nLast-Event-ID: abc-1\r\n"
            .into(),
        body: body.into(),
    };
    vec![
        request(
            "POST /events",
            r#"{"topic":"a","event":"e","data":{"n":[1,2.5,"x"]},"id":"k","retry":5,"ttlMs":1000}"#,
        ),
        request("POST /events", r#"[{"topic":"a","data":1},{"topics":["b","c"],"data":"x","comment":"c"}]"#),
        request("POST /api/sse/managed/send/user/42?event=note", r#"{"a":"b"}"#),
        request("POST /api/sse/managed/send/emitter/user_42", r#""text""#),
        request("POST /api/sse/managed/send/filtered", r#"{"filter":{"premium":true},"event":"e","data":1}"#),
        request(
            "POST /api/sse/managed/send/filtered",
            r#"{"filter":"metadata.level > 3 && groups.exists(g, g == 'ops')","data":1}"#,
        ),
        request("POST /api/sse/managed/broadcast/group/g", r#"{"event":"e","data":1,"id":"2"}"#),
        request("POST /api/jobs", r#"{"tasks":[{"id":"1","run":"task1","input":{}}],"concurrency":1,"failFast":true}"#),
        request("POST /api/jobs", r#"{"tasks":[{"url":"http://127.0.0.1:1/x","headers":{"a":"b"},"timeoutMs":5}]}"#),
        request("PATCH /api/sse/managed/emitters/user_42", r#"{"groups":["a"],"topics":["b*"],"meta":{"k":1}}"#),
        request(
            "GET /api/sse/managed/connect?topic=a&topics=b,c*&group=g&meta.k=1&heartbeatMs=1000&overflow=catch_up",
            "",
        ),
        request("GET /events?topics=a&lastEventId=abc-1&timeoutMs=5000&retryMs=10&envelope=true", ""),
        request("GET /events?topics=a&history=5", ""),
        request("GET /api/sse/managed/status/user/42", ""),
        request("GET /api/sse/managed/emitters?user=42&limit=5&meta.k=1", ""),
        request("GET /api/topics/a/events?limit=5&after=0-1", ""),
        request("GET /api/jobs?status=completed&limit=5", ""),
        request("DELETE /api/topics/a", ""),
    ]
}

impl Request {
    /// Changes one part, and now and then the bytes as they go over the wire.
    fn mutated(mut self, dice: &mut Dice) -> Vec<u8> {
        match dice.roll(8) {
            0 => mutate(&mut self.lines, dice),
            1..4 => mutate(&mut self.target, dice),
            4..7 => mutate(if self.body.is_empty() { &mut self.target } else { &mut self.body }, dice),
            _ => {
                let mut wire = self.wire();
                mutate(&mut wire, dice);
                // A head that never ends is the business of the framework's timeout, not of this test.
                wire.extend_from_slice(b"\r\n\r\n");
                return wire;
            }
        }
        self.wire()
    }

    fn wire(&self) -> Vec<u8> {
        let rest = format!("Connection: close\r\nContent-Length: {}\r\n\r\n", self.body.len());
        [&self.target[..], b" HTTP/1.1\r\n", &self.lines, rest.as_bytes(), &self.body].concat()
    }
}

fn mutate(request: &mut Vec<u8>, dice: &mut Dice) {
    for _ in 0..=dice.roll(2) {
        let at = dice.roll(request.len());
        let to = (at + 1 + dice.roll(12)).min(request.len());
        match dice.roll(5) {
            0 => request[at] ^= 1 << dice.roll(8),
            1 => drop(request.drain(at..to)),
            2 => {
                let again = request[at..to].to_vec();
                request.splice(at..at, again);
            }
            _ => drop(request.splice(at..at, SPLINTERS[dice.roll(SPLINTERS.len())].iter().copied())),
        }
        if request.is_empty() {
            request.push(b'\n');
        }
    }
}

#[test]
fn mutated_requests_are_answered_below_500() {
    let node = Node::start("[server]\nbody_timeout_ms = 100\n[telemetry]\nlog = \"info,actix_http=off\"");
    let seeds = seeds();
    let mut dice = Dice(42);
    let mut counts = std::collections::BTreeMap::new();
    for round in 0..1500 {
        let request = seeds[dice.roll(seeds.len())].clone().mutated(&mut dice);
        let reply = node.raw(&request);
        let shown = String::from_utf8_lossy(&request);
        assert!(reply.status == 0 || (200..500).contains(&reply.status), "round {round}: {reply:?}\n{shown}");
        *counts.entry(reply.status).or_insert(0) += 1;
    }
    // Invalid HTTP after a request ends its connection, sometimes before the request's response is sent.
    assert!(counts.get(&0).is_none_or(|unanswered| *unanswered < 30), "too many without an answer: {counts:?}");
    println!("answers by status: {counts:?}");
    assert!(counts.len() >= 6, "the mutations are too tame: {counts:?}");
    assert!(counts[&200] < 1000, "the mutations are too tame: {counts:?}");
    node.must_be_healthy();
}
