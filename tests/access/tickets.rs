//! Tickets and sessions: for clients that can send no header.

use serde_json::json;

use crate::{
    rig::{ADMIN, ALICE, BOB, Issuer, ask, node, publish, seconds_from_now, tokens},
    support::{Node, Reply, Stream, eventually},
};

fn ticket(node: &Node, token: &str) -> String {
    let reply = ask(node, Some(token), "POST", "/api/tickets", None);
    assert_eq!(reply.status, 201, "{reply:?}");
    assert_eq!(reply.header("Cache-Control"), Some("no-store"));
    reply.json()["ticket"].as_str().expect("a ticket").to_owned()
}

fn cookie_of(stream: &Stream) -> String {
    let cookie = stream.header("Set-Cookie").unwrap_or_else(|| panic!("a cookie: {}", stream.head));
    assert!(cookie.contains("HttpOnly") && cookie.contains("SameSite=Strict") && cookie.contains("Path=/"), "{cookie}");
    assert!(!cookie.contains("Secure"), "there is no TLS here: {cookie}");
    cookie.split(';').next().expect("name and value").to_owned()
}

fn get(node: &Node, path: &str, cookie: &str) -> Reply {
    node.raw_get(path, format!("Cookie: {cookie}\r\n"))
}

#[test]
fn a_ticket_opens_one_stream_and_its_cookie_the_next_ones() {
    let mut node = Node::start(&tokens());
    let path = format!("/events?topics=orders:*&ticket={}", ticket(&node, ALICE));
    let mut stream = node.stream(&path, &[]);
    assert_eq!((stream.status, stream.until("connection").json()["userId"].clone()), (200, json!("alice")));
    let cookie = cookie_of(&stream);
    assert!(!cookie.contains(ALICE));
    assert_eq!(publish(&node, ALICE, "orders:1", "one"), 200);
    let seen = stream.until("news");
    // The connection breaks; the browser asks the same again, with its cookie and where it was.
    drop(stream);
    assert_eq!(publish(&node, ALICE, "orders:1", "two"), 200);
    assert!(node.get(&path).problem(401).contains("was used"), "without the cookie it is a stranger's");
    let headers = [("Cookie", cookie.as_str()), ("Last-Event-ID", seen.id.as_str())];
    assert_eq!(node.stream(&path, &headers).until("news").data, "two");
    // A session outlives the node.
    node.restart();
    eventually(|| (node.get("/readyz").status == 200).then_some(()));
    assert_eq!(node.stream(&path, &headers).until("news").data, "two");
    // Beside its ticket it opens the stream, and nothing else.
    assert_eq!(get(&node, "/events", &cookie).status, 401);
    assert_eq!(get(&node, "/api/jobs", &cookie).status, 401);
    let headers = [("Cookie", cookie.as_str()), ("Content-Type", "application/json")];
    let event = json!({ "topic": "orders:1", "data": 1 }).to_string();
    assert!(node.request("POST", &path, &headers, &event).problem(401).contains("GET alone"));
    let more = path.replace("/events", "/api/tickets");
    assert_eq!(node.request("POST", &more, &headers, "").status, 401, "no ticket from a session");
    let foreign = [("Cookie", cookie.as_str()), ("Origin", "https://evil.example")];
    assert_eq!(node.request("GET", &path, &foreign, "").status, 403);
    for secret in [&cookie, path.split("ticket=").nth(1).expect("the ticket")] {
        assert!(!node.log().contains(secret), "a credential stands in the log");
    }
}

#[test]
fn a_head_uses_up_no_ticket() {
    let node = Node::start(&tokens());
    let path = format!("/events?topics=orders:*&ticket={}", ticket(&node, ALICE));
    for _ in 0..2 {
        let head = node.request("HEAD", &path, &[], "");
        assert_eq!((head.status, head.header("Content-Type")), (200, Some("text/event-stream")), "{head:?}");
        assert_eq!(head.header("Set-Cookie"), None);
    }
    assert_eq!(node.stream(&path, &[]).until("connection").json()["userId"], "alice");
    assert_eq!(node.request("HEAD", &path, &[], "").status, 401, "it is used up now");
}

#[test]
fn a_session_ends_with_the_token_behind_it() {
    let node = Node::start(&tokens());
    let path = format!("/events?ticket={}", ticket(&node, ALICE));
    let mut stream = node.stream(&path, &[]);
    let cookie = cookie_of(&stream);
    let without = std::fs::read_to_string(node.config_file())
        .expect("the settings")
        .replace("name = \"alice\"", "name = \"anna\"");
    std::fs::write(node.config_file(), without).expect("write");
    let waiting = ticket(&node, ALICE);
    node.signal(rustix::process::Signal::HUP);
    assert_eq!(stream.until("disconnect").json()["reason"], "token_expired");
    assert_eq!(get(&node, &path, &cookie).status, 401);
    assert_eq!(node.get(&format!("/events?ticket={waiting}")).status, 401, "nor is a ticket worth more than its token");
    assert_eq!(get(&node, &path, "millstream_session=forged.by.somebody").status, 401);
}

#[test]
fn a_session_lives_no_longer_than_the_jwt_behind_it() {
    let issuer = Issuer::ed25519();
    let node = node(&issuer);
    // With the leeway of five seconds it has about one left.
    let token = issuer.sign(&json!({ "sub": "carol", "exp": seconds_from_now(-3) }));
    let path = format!("/events?ticket={}", ticket(&node, &token));
    let mut stream = node.stream(&path, &[]);
    let cookie = cookie_of(&stream);
    assert_eq!(stream.until("connection").json()["userId"], "carol");
    assert_eq!(stream.until("disconnect").json()["reason"], "token_expired");
    assert_eq!(get(&node, &path, &cookie).status, 401);
}

#[test]
fn tickets_wait_no_longer_than_the_settings_say_and_are_not_hoarded() {
    let settings = tokens().replace("mode = \"token\"", "mode = \"token\"\nticket_ms = 1000");
    let node = Node::start(&settings);
    let late = ticket(&node, ALICE);
    let issued = std::time::Instant::now();
    eventually(|| (issued.elapsed().as_millis() > 1000).then_some(()));
    assert_eq!(node.get(&format!("/events?ticket={late}")).status, 401);
    let mut full = None;
    for _ in 0..=101 {
        let reply = ask(&node, Some(ALICE), "POST", "/api/tickets", None);
        if reply.status != 201 {
            full = Some(reply);
            break;
        }
    }
    if let Some(full) = full {
        assert!(full.problem(429).contains("wait for their use"), "{full:?}");
        assert!(full.header("Retry-After").is_some());
    } else {
        assert!(issued.elapsed().as_millis() > 2000, "a hundred tickets were issued within their life");
    }
    assert_eq!(ask(&node, Some(ADMIN), "POST", "/api/tickets", None).status, 201, "others get theirs");
}

#[test]
fn in_open_mode_a_ticket_names_the_user() {
    let node = Node::start("");
    let ticket = node.request("POST", "/api/tickets", &[("X-User-ID", "42")], "").json();
    assert_eq!(ticket["expiresInMs"], 30_000);
    let path = format!("/api/sse/managed/connect?ticket={}", ticket["ticket"].as_str().expect("a ticket"));
    let mut stream = node.stream(&path, &[]);
    assert_eq!(stream.until("connection").json()["userId"], "42");
    let cookie = cookie_of(&stream);
    assert_eq!(node.stream(&path, &[("Cookie", &cookie)]).until("connection").json()["userId"], "42");
    assert_eq!(node.get(&path).status, 401);
}

/// Two tabs of one browser share its cookies.
#[test]
fn the_session_of_one_user_is_none_at_the_address_of_another() {
    let node = Node::start(&tokens());
    let (alices, bobs) = (ticket(&node, ALICE), ticket(&node, BOB));
    let (alices, bobs) = (format!("/events?ticket={alices}"), format!("/events?ticket={bobs}"));
    drop(node.stream(&alices, &[]));
    let bob = cookie_of(&node.stream(&bobs, &[]));
    assert_eq!(get(&node, &alices, &bob).status, 401);
    assert_eq!(node.stream(&bobs, &[("Cookie", &bob)]).until("connection").json()["userId"], "bob");
}

#[test]
fn a_page_of_another_site_puts_no_session_into_the_browser() {
    let node = Node::start(&tokens());
    let path = format!("/events?ticket={}", ticket(&node, ALICE));
    let stream = node.stream(&path, &[("Sec-Fetch-Site", "cross-site"), ("Sec-Fetch-Mode", "navigate")]);
    assert_eq!((stream.status, stream.header("Set-Cookie")), (200, None));
}

#[test]
fn a_session_of_open_mode_is_worth_nothing_in_token_mode() {
    let mut node = Node::start("");
    let ticket = node.request("POST", "/api/tickets", &[("X-User-ID", "eve")], "").json();
    let path = format!("/events?ticket={}", ticket["ticket"].as_str().expect("a ticket"));
    let cookie = cookie_of(&node.stream(&path, &[]));
    assert_eq!(get(&node, &path, &cookie).status, 200);
    node.configure(&tokens());
    node.restart();
    eventually(|| (node.get("/readyz").status == 200).then_some(()));
    assert_eq!(get(&node, &path, &cookie).status, 401);
}

#[test]
fn a_session_ends_with_the_issuer_of_its_jwt() {
    let issuer = Issuer::ed25519();
    let mut node = node(&issuer);
    let token = issuer.sign(&json!({ "sub": "carol", "exp": seconds_from_now(600) }));
    let path = format!("/events?ticket={}", ticket(&node, &token));
    let cookie = cookie_of(&node.stream(&path, &[]));
    assert_eq!(get(&node, &path, &cookie).status, 200);
    node.configure(&tokens());
    node.restart();
    eventually(|| (node.get("/readyz").status == 200).then_some(()));
    assert_eq!(get(&node, &path, &cookie).status, 401);
}

/// HEAD, JSON, a wrong request and a refused stream leave a ticket valid; the stream that it then opens uses it up.
#[test]
fn only_a_stream_that_opens_uses_a_ticket_up() {
    let node = Node::start(&tokens());
    let ticket = ticket(&node, ALICE);
    for (method, path, status) in [
        ("HEAD", "/events", None),
        ("GET", "/api/jobs", Some(400)),
        ("GET", "/events?topics=secret:*", Some(403)),
        ("GET", "/events?topics=a%20b", Some(422)),
        ("GET", "/events?history=x", Some(400)),
        ("GET", "/api/jobs/none/events", Some(404)),
        ("POST", "/events", Some(401)),
    ] {
        let separator = if path.contains('?') { '&' } else { '?' };
        let reply = node.request(method, &format!("{path}{separator}ticket={ticket}"), &[("Accept", "*/*")], "");
        assert!(status.is_none_or(|status| reply.status == status), "{method} {path}: {reply:?}");
        assert!(reply.header("Set-Cookie").is_none(), "{method} {path} begins no session");
    }
    let path = format!("/events?ticket={ticket}");
    let mut stream = node.stream(&path, &[]);
    assert_eq!((stream.status, stream.until("connection").json()["userId"].clone()), (200, json!("alice")));
    cookie_of(&stream);
    assert!(node.get(&path).problem(401).contains("was used"));
}

#[test]
fn a_stream_that_is_refused_for_now_leaves_its_ticket_valid() {
    let limits = "[[limits.routes]]\npath = \"/api/sse/managed/connect\"\nrequests = 1\nwindow_ms = 60000\n";
    let node = Node::start(&format!("{}{limits}", tokens()));
    let (first, second) = (ticket(&node, ALICE), ticket(&node, ALICE));
    let connect = |ticket: &str| format!("/api/sse/managed/connect?ticket={ticket}");
    drop(node.stream(&connect(&first), &[]));
    let mut refused = node.stream(&connect(&second), &[("Accept", "text/event-stream")]);
    assert_eq!((refused.status, refused.header("Set-Cookie")), (200, None));
    assert_eq!(refused.until("disconnect").json()["reason"], "rate_limited");
    let mut stream = node.stream(&format!("/events?ticket={second}"), &[]);
    assert_eq!(stream.until("connection").json()["userId"], "alice");
}

/// Requests that race with one ticket open one stream.
#[test]
fn of_two_requests_with_one_ticket_one_opens_its_stream() {
    let node = Node::start(&tokens());
    for _ in 0..10 {
        let path = format!("/events?ticket={}", ticket(&node, ALICE));
        let open = std::thread::scope(|scope| {
            let racers: Vec<_> = (0..4).map(|_| scope.spawn(|| node.stream(&path, &[]).status)).collect();
            racers.into_iter().map(|racer| racer.join().expect("no panic")).filter(|status| *status == 200).count()
        });
        assert_eq!(open, 1);
    }
}
