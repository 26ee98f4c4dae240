//! Static tokens: where they may stand in a request, how they are made, revoked and kept out of sight.

use std::{
    io::Write,
    process::{Command, Stdio},
};

use millstream::access::digest;
use rustix::process::Signal;
use serde_json::{Value, json};

use crate::{
    rig::{ADMIN, ALICE, BOB, WRONG, ask, publish, stream, token, tokens},
    support::{Node, eventually},
};

#[test]
fn a_token_is_taken_from_header_bearer_cookie_and_query_alike() {
    let node = Node::start(&tokens());
    let cookie = format!("theme=dark; millstream_token={ALICE}");
    let bearer = format!("Bearer {ALICE}");
    let query = format!("/events?topics=orders:*&access_token={ALICE}");
    let plain = "/events?topics=orders:*";
    for (path, headers) in [
        (plain, vec![("X-Auth-Token", ALICE)]),
        (plain, vec![("Authorization", bearer.as_str())]),
        (plain, vec![("Cookie", cookie.as_str())]),
        (query.as_str(), vec![]),
        // A credential that the client sets itself takes precedence over those that its browser adds.
        (plain, vec![("X-Auth-Token", ALICE), ("Cookie", "millstream_token=token-of-bob")]),
        // In token mode this names no user.
        (plain, vec![("X-Auth-Token", ALICE), ("X-User-ID", "bob")]),
    ] {
        let mut stream = node.stream(path, &headers);
        assert_eq!(stream.status, 200, "{path} {headers:?}");
        assert_eq!(stream.until("connection").json()["userId"], "alice", "{path} {headers:?}");
    }
    let wrong = node.request("GET", "/api/jobs", &[("X-Auth-Token", WRONG), ("Cookie", &cookie)], "");
    assert!(wrong.problem(401).contains("not known"), "a wrong token is not made good by a cookie: {wrong:?}");
    assert_eq!(node.request("GET", "/api/jobs", &[("X-User-ID", "alice")], "").status, 401);
    assert!(!node.log().contains(ALICE), "a token stands in the log");
}

#[test]
fn a_page_of_another_site_cannot_use_the_cookie() {
    let node = Node::start(&format!("{}[server]\ncors_origins = [\"https://app.example\"]\n", tokens()));
    let cookie = format!("millstream_token={ALICE}");
    let own = format!("http://{}", node.addr);
    for (name, value, status) in [
        ("Origin", "https://evil.example", 403),
        ("Origin", "null", 403),
        ("Sec-Fetch-Site", "cross-site", 403),
        ("Sec-Fetch-Site", "same-site", 403),
        ("Origin", own.as_str(), 200),
        ("Origin", "https://app.example", 200),
        ("Sec-Fetch-Site", "same-origin", 200),
    ] {
        let reply = node.request("GET", "/api/jobs", &[("Cookie", &cookie), (name, value)], "");
        assert_eq!(reply.status, status, "{name}: {value}: {reply:?}");
    }
    // A token in a header was put there on purpose.
    let header = [("X-Auth-Token", ALICE), ("Origin", "https://evil.example")];
    assert_eq!(node.request("GET", "/api/jobs", &header, "").status, 200);
}

#[test]
fn a_revoked_token_ends_its_streams_and_no_others() {
    let node = Node::start(&tokens());
    let (mut alice, _) = stream(&node, ALICE, "/events?topics=orders:*");
    let (mut admin, _) = stream(&node, ADMIN, "/events");
    // An unreadable file changes nothing.
    let good = std::fs::read_to_string(node.config_file()).expect("the settings");
    std::fs::write(node.config_file(), "[access]\nmode = \"nothing\"").expect("write");
    node.signal(Signal::HUP);
    eventually(|| node.log().contains("the current ones stay valid").then_some(()));
    assert_eq!(publish(&node, ALICE, "orders:1", "still"), 200);
    assert_eq!(alice.until("news").data, "still");
    // An editor that has just begun to write leaves a file that permits every caller.
    std::fs::write(node.config_file(), "").expect("write");
    node.signal(Signal::HUP);
    eventually(|| node.log().contains("which needs a restart").then_some(()));
    assert_eq!(publish(&node, ALICE, "orders:1", "as before"), 200);
    assert_eq!(alice.until("news").data, "as before");
    // Without Alice's section, and with Bob's changed.
    let cut = good.find("[[access.tokens]]\nname = \"alice\"").expect("her section");
    let end = cut + good[cut + 1..].find("[[access.tokens]]").expect("the next section") + 1;
    std::fs::write(node.config_file(), format!("{}{}", &good[..cut], &good[end..])).expect("write");
    node.signal(Signal::HUP);
    assert_eq!(alice.until("disconnect").json(), json!({ "reason": "token_expired" }));
    assert!(alice.over());
    assert_eq!(publish(&node, ALICE, "orders:1", "no more"), 401);
    assert_eq!(publish(&node, ADMIN, "orders:1", "for the others"), 200);
    loop {
        if admin.until("news").data == "for the others" {
            break;
        }
    }
    assert_eq!(ask(&node, Some(BOB), "GET", "/api/jobs", None).status, 200);
    eventually(|| node.log().contains("static tokens were read again").then_some(()));
}

fn program(arguments: &[&str], stdin: &str) -> (i32, String, String) {
    let mut child = Command::new(env!("CARGO_BIN_EXE_millstream"))
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("start the program");
    child.stdin.take().expect("piped").write_all(stdin.as_bytes()).expect("write");
    let done = child.wait_with_output().expect("it ends");
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("text");
    (done.status.code().unwrap_or(-1), text(done.stdout), text(done.stderr))
}

#[test]
fn a_new_token_works_with_its_printed_section() {
    let arguments = [
        "token",
        "make",
        "--name",
        "the \"build\"",
        "--user",
        "ci",
        "--publish",
        "builds:*",
        "--subscribe",
        "builds:*",
    ];
    let (code, made, message) = program(&arguments, "");
    assert_eq!(code, 0);
    let made = made.strip_suffix('\n').expect("one line").to_owned();
    assert!(made.len() >= 43 && !made.contains(char::is_whitespace), "stdout has the token alone, 256 bits: {made}");
    let section = &message[message.find("[[access.tokens]]").expect("the section")..];
    let (section, hint) = section.split_once("\nIt receives no broadcasts").expect("a hint");
    assert!(hint.contains("--subscribe all") && !message.contains(&made), "the section holds the hash alone");
    let node = Node::start(&format!("[access]\nmode = \"token\"\n{section}"));
    assert_eq!((publish(&node, &made, "builds:1", "x"), publish(&node, &made, "orders:1", "x")), (200, 403));
    let dir = tempfile::tempdir().expect("a temp directory");
    let file = dir.path().join("node.toml");
    let append = ["token", "make", "--name", "more", "--subscribe", "all", "--append", file.to_str().expect("UTF-8")];
    assert_eq!(program(&append, "").0, 1, "a file that is not there is not made");
    std::fs::write(&file, "[access]\nmode = \"token\"").expect("write");
    let (code, _, message) = program(&append, "");
    assert_eq!((code, message.as_str()), (0, ""), "nothing but the token is printed");
    let settings = std::fs::read_to_string(&file).expect("the settings");
    assert!(settings.starts_with("[access]\nmode = \"token\"\n\n[[access.tokens]]\nname = \"more\"\n"), "{settings}");
    assert_eq!(program(&["check-config", "--config", file.to_str().expect("UTF-8")], "").0, 0);
    let (code, shown, _) = program(&["token", "inspect"], &made);
    assert_eq!(code, 0);
    assert!(section.contains(serde_json::from_str::<Value>(&shown).expect("JSON")["sha256"].as_str().expect("a hash")));
    let (code, _, error) = program(&["token", "make", "--name", "x", "--publish", "a b"], "");
    assert!(code == 64 && error.contains("white space"), "{code} {error}");
    let (code, _, error) = program(&["token", "inspect"], "");
    assert!(code == 64 && error.contains("stdin"), "{code} {error}");
}

#[test]
fn settings_that_permit_no_caller_or_the_wrong_ones_are_refused() {
    let dir = tempfile::tempdir().expect("a temp directory");
    let file = dir.path().join("config.toml");
    for (settings, message) in [
        ("[access]\nmode = \"token\"".to_owned(), "permits no caller"),
        (token("a", ALICE, ""), "permits every caller, but there are tokens"),
        (token("a", "", ""), "of an empty text"),
        (
            format!(
                "{}{}",
                token("a", ALICE, ""),
                token("b", ALICE, "").replace(&digest(ALICE), &digest(ALICE).to_uppercase())
            ),
            "the same hash",
        ),
        (token("a", ALICE, "").replace("sha256 = \"", "sha256 = \"0"), "64 hexadecimal digits"),
        (format!("{}{}", token("a", ALICE, ""), token("a", BOB, "")), "the same name"),
        (format!("{}{}", token("a", ALICE, ""), token("b", ALICE, "")), "the same hash"),
        (token("a", ALICE, "subscribed = []"), "did you mean `subscribe`"),
        (token("a", ALICE, "subscribe = [\"a*b\"]"), "must be the last character"),
        (token("a b", ALICE, ""), "cannot name a user"),
        ("[access.jwt]\naudience = \"x\"".to_owned(), "exactly one of"),
        ("[access.jwt]\nsecret_env = \"MILLSTREAM_TEST_NOT_SET\"\nalgorithms = [\"RS256\"]".to_owned(), "does not fit"),
        ("[access.jwt]\nsecret_env = \"X\"\nalgorithms = [\"none\"]".to_owned(), "must be HS256"),
        ("[access.jwt]\njwks_url = \"file:///etc/passwd\"".to_owned(), "jwks_url"),
    ] {
        std::fs::write(&file, &settings).expect("write");
        let (code, _, error) = program(&["check-config", "--config", file.to_str().expect("text")], "");
        assert!(code == 64 && error.contains(message), "{settings}\n-> {code} {error}");
    }
    std::fs::write(&file, tokens()).expect("write");
    let (code, shown, error) = program(&["check-config", "--config", file.to_str().expect("text")], "");
    assert_eq!(code, 0, "{error}");
    assert!(!shown.contains(ALICE), "it knows no token");
}

#[test]
fn in_open_mode_a_page_of_another_site_starts_nothing() {
    let node = Node::start("");
    for (path, site, status) in [
        ("/api/sse/sample-parallel", "cross-site", 403),
        ("/api/sse/sample-parallel", "same-site", 403),
        ("/events", "cross-site", 403),
        ("/", "cross-site", 200),
        ("/api/jobs", "same-origin", 200),
        ("/api/jobs", "none", 200),
    ] {
        let reply = node.raw_get(path, format!("Sec-Fetch-Site: {site}\r\nSec-Fetch-Mode: no-cors\r\n"));
        assert_eq!(reply.status, status, "{path} {site}: {reply:?}");
    }
    let line = eventually(|| node.log().lines().find(|line| line.contains("access refused")).map(str::to_owned));
    assert!(line.contains("pages of other sites"), "the reason is in the line: {line}");
    // A topic may well be called so.
    assert_eq!(node.raw_get("/api/topics?pattern=ticket:*", "").status, 200);
    assert_eq!(node.raw_get("/events?topics=ticket=7", "").status, 200);
}

#[test]
fn what_admins_do_is_noted_though_they_do_not_wait_for_the_answer() {
    let node = Node::start(&tokens());
    let job = json!({ "tasks": [{ "run": "task1" }] });
    let job = ask(&node, Some(ALICE), "POST", "/api/jobs", Some(&job)).json()["jobId"].clone();
    let path = format!("/api/jobs/{}", job.as_str().expect("a job"));
    let _ = ask(&node, Some(ADMIN), "DELETE", &path, None);
    let line = eventually(|| {
        node.log().lines().find(|line| line.contains("an admin acts on another user's entity")).map(str::to_owned)
    });
    assert!(line.contains("owner=\"alice\"") && line.contains("token=\"admin\""), "{line}");
    let (_alice, connection) = stream(&node, ALICE, "/events");
    let emitter = connection["emitterId"].as_str().expect("an id").to_owned();
    let path = format!("/api/sse/managed/emitters/{emitter}");
    assert_eq!(ask(&node, Some(ADMIN), "PATCH", &path, Some(&json!({ "topics": [] }))).status, 200);
    eventually(|| {
        node.log().lines().any(|line| line.contains("what=\"emitter\"") && line.contains(&emitter)).then_some(())
    });
    let mut socket = node.socket();
    let head = format!("DELETE /api/topics/orders:7 HTTP/1.1\r\nHost: {}\r\nX-Auth-Token: {ADMIN}\r\n\r\n", node.addr);
    socket.write_all(head.as_bytes()).expect("send");
    drop(socket);
    eventually(|| {
        node.log().lines().any(|line| line.contains("an admin acts") && line.contains("orders:7")).then_some(())
    });
}
