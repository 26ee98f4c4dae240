//! JWTs: who signed them, what they say, and when they end.

use std::sync::{Mutex, mpsc};

use futures::executor::block_on;
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use serde_json::{Value, json};
use wiremock::{
    Mock, MockBuilder, Request, ResponseTemplate,
    matchers::{method, path},
};

use crate::{
    mock::Mocked,
    rig::{ADMIN, Issuer, ask, node, seconds_from_now, stream, tokens},
    support::{Node, PATIENCE, upstream::Upstream},
};

/// Requests for the issuer's keys.
fn jwks() -> MockBuilder {
    Mock::given(method("GET")).and(path("/jwks"))
}

fn status(node: &Node, token: &str) -> (u16, String) {
    let reply = ask(node, Some(token), "GET", "/api/jobs", None);
    let detail = if reply.status == 200 { String::new() } else { reply.problem(reply.status) };
    (reply.status, detail)
}

#[test]
fn claims_say_who_it_is_and_what_they_may() {
    let issuer = Issuer::ed25519();
    let node = node(&issuer);
    let granted =
        json!({ "groups": ["ops"], "subscribe": ["orders:*"], "publish": ["orders:*"], "meta": { "level": 3 } });
    let carol = issuer.sign(&json!({ "sub": "carol", "exp": seconds_from_now(600), "millstream": granted }));
    let (_stream, connection) = stream(&node, &carol, "/events");
    assert_eq!(connection["userId"], "carol");
    assert_eq!(connection["topics"], json!(["group:ops", "user:carol", "orders:*"]));
    let plain = issuer.sign(&json!({ "sub": "dave", "exp": seconds_from_now(600) }));
    let (_stream, connection) = stream(&node, &plain, "/events");
    assert_eq!(connection["topics"], json!(["user:dave"]), "without rights there is its own topic");
    assert_eq!(ask(&node, Some(&plain), "GET", "/events?topics=orders:1", None).status, 403);
    let admin = issuer.sign(&json!({ "sub": "eve", "exp": seconds_from_now(600), "millstream": { "admin": true } }));
    assert_eq!(ask(&node, Some(&admin), "GET", "/metrics", None).status, 200);
    let shown = ask(&node, Some(ADMIN), "GET", "/api/sse/managed/emitters?user=carol", None).json();
    assert_eq!(shown["emitters"][0]["meta"], json!({ "level": 3 }));
}

/// RFC 7519, 2: a `NumericDate` may have a fraction, and JSON an exponent.
#[test]
fn dates_may_have_fractions_and_exponents() {
    let issuer = Issuer::ed25519();
    let node = node(&issuer);
    let (past, future) = (seconds_from_now(-60), seconds_from_now(600));
    for (name, value) in [
        ("exp", format!("{future}.5")),
        ("exp", format!("{future}.0")),
        ("exp", "1.79595e10".to_owned()),
        ("exp", "1e30".to_owned()),
        ("nbf", format!("{past}.25")),
        ("iat", format!("{past}.75")),
    ] {
        let mut claims = json!({ "sub": "carol", "exp": future });
        claims[name] = serde_json::from_str(&value).expect("a number");
        let (status, detail) = status(&node, &issuer.sign(&claims));
        assert_eq!(status, 200, "{name} = {value}: {detail}");
    }
    let expired = json!({ "sub": "carol", "exp": seconds_from_now(-600) as f64 + 0.5 });
    assert!(status(&node, &issuer.sign(&expired)).1.contains("expired"));
}

#[test]
fn what_is_not_a_good_token_is_refused_with_the_reason() {
    let (issuer, stranger) = (Issuer::ed25519(), Issuer::ed25519());
    let node = node(&issuer);
    let good = json!({ "sub": "carol", "exp": seconds_from_now(600) });
    let with = |name: &str, value: Value| {
        let mut claims = good.clone();
        claims[name] = value;
        issuer.sign(&claims)
    };
    let signed = issuer.sign(&good);
    // The classic: the public key, which is no secret, as the secret of a symmetric algorithm.
    let public = EncodingKey::from_secret(issuer.key.public_key_pem().as_bytes());
    let confused = jsonwebtoken::encode(&Header::new(Algorithm::HS256), &good, &public).expect("signed");
    let parts: Vec<&str> = signed.split('.').collect();
    let none = format!("eyJhbGciOiJub25lIn0.{}.", parts[1]);
    let claims_of = |token: &str| token.split('.').nth(1).expect("claims").to_owned();
    let swapped = format!("{}.{}.{}", parts[0], claims_of(&with("sub", json!("admin"))), parts[2]);
    for (token, message) in [
        (issuer.sign(&json!({ "sub": "carol" })), "has no `exp`"),
        (issuer.sign(&json!({ "exp": seconds_from_now(600) })), "sub"),
        (with("exp", json!(seconds_from_now(-600))), "expired"),
        (with("nbf", json!(seconds_from_now(600))), "not valid yet"),
        (with("sub", json!("a b")), "cannot name a user"),
        (with("sub", json!("")), "cannot name a user"),
        (with("millstream", json!({ "groups": [""] })), "group"),
        (with("exp", json!("tomorrow")), "claims cannot be read"),
        (with("exp", json!(-1.5)), "expired"),
        (with("exp", json!(true)), "claims cannot be read"),
        (with("millstream", json!({ "subscibe": [] })), "unknown field `subscibe`"),
        (with("millstream", json!({ "groups": ["a,b"] })), "group"),
        (with("millstream", json!({ "meta": { "deep": {} } })), "metadata"),
        (stranger.sign(&good), "signature"),
        (swapped, "signature"),
        (confused, "HS256 is not accepted"),
        (none, "cannot be read"),
        (format!("{signed}x"), "signature"),
        ("a.b.c".to_owned(), "cannot be read"),
        (format!("{}.{}.{}", "a".repeat(20_000), "b", "c"), ""),
    ] {
        let (status, detail) = status(&node, &token);
        assert!([400, 401, 431].contains(&status) && detail.contains(message), "{message}: {status} {detail}");
    }
    assert_eq!(status(&node, &signed).0, 200);
}

#[test]
fn a_token_that_expires_in_mid_stream_ends_it() {
    let issuer = Issuer::p256();
    let keys = tempfile::tempdir().expect("a temp directory");
    let file = keys.path().join("issuer.pem");
    std::fs::write(&file, issuer.key.public_key_pem()).expect("write the key");
    let jwt = format!("[access.jwt]\npublic_key_file = \"{}\"\nleeway_ms = 0\n", file.display());
    let node = Node::start(&format!("{}{jwt}", tokens()));
    let claims = json!({ "sub": "carol", "exp": seconds_from_now(2), "millstream": { "remotes": ["reactive"] } });
    let token = issuer.sign(&claims);
    let (mut hub, _) = stream(&node, &token, "/events");
    let headers = [("X-Auth-Token", token.as_str()), ("Content-Type", "application/json")];
    let body = json!(["/events"]).to_string();
    let path = "/api/sse-proxy/merge-streams/sse-emitter";
    let mut merged = crate::support::Stream::open(node.socket(), "POST", path, &headers, &body);
    assert_eq!(merged.until("merge_start").json()["totalStreams"], 1);
    for stream in [&mut hub, &mut merged] {
        assert_eq!(stream.until("disconnect").json(), json!({ "reason": "token_expired" }));
        assert!(stream.over());
    }
    assert_eq!(status(&node, &token).0, 401);
    let closed = ask(&node, Some(ADMIN), "GET", "/metrics", None).text();
    assert!(closed.contains("streams_closed_total{reason=\"token_expired\"} 1"), "{closed}");
}

#[test]
fn audience_and_issuer_must_be_those_of_the_settings() {
    let issuer = Issuer::ed25519();
    let keys = tempfile::tempdir().expect("a temp directory");
    let file = keys.path().join("issuer.pem");
    std::fs::write(&file, issuer.key.public_key_pem()).expect("write the key");
    let jwt = format!(
        "[access]\nmode = \"token\"\n[access.jwt]\npublic_key_file = \"{}\"\naudience = \"millstream\"\nissuer = \"https://id.example\"\n",
        file.display()
    );
    let node = Node::start(&jwt);
    let good =
        json!({ "sub": "c", "exp": seconds_from_now(600), "aud": ["x", "millstream"], "iss": "https://id.example" });
    assert_eq!(status(&node, &issuer.sign(&good)).0, 200);
    for (name, value, message) in [
        ("aud", json!("other"), "another audience"),
        ("iss", json!("https://evil.example"), "another issuer"),
        ("aud", Value::Null, "aud"),
        ("iss", Value::Null, "iss"),
    ] {
        let mut claims = good.clone();
        match value {
            Value::Null => drop(claims.as_object_mut().expect("an object").remove(name)),
            value => claims[name] = value,
        }
        let (status, detail) = status(&node, &issuer.sign(&claims));
        assert!(status == 401 && detail.contains(message), "{name}: {status} {detail}");
    }
}

#[test]
fn keys_are_fetched_once_and_again_when_the_issuer_has_new_ones() {
    let (first, second) = (Issuer::ed25519(), Issuer::p256());
    let (old_keys, new_keys) = (
        json!({ "keys": [first.jwk("one"), { "kty": "oct", "k": "c2VjcmV0", "kid": "sym" }] }),
        json!({ "keys": [second.jwk("two")] }),
    );
    let server = Mocked::start([]);
    let serve = |keys: &Value| jwks().respond_with(ResponseTemplate::new(200).set_body_json(keys)).expect(1..);
    let before = server.scoped(serve(&old_keys).named("the keys before"));
    let node = Node::start(&format!(
        "[access]\nmode = \"token\"\n[access.jwt]\njwks_url = \"{}\"\njwks_refresh_ms = 1000\njwks_pause_ms = 100\n",
        server.url("/jwks")
    ));
    let claims = json!({ "sub": "carol", "exp": seconds_from_now(600) });
    let (old, new) = (first.sign_as(Some("one"), &claims), second.sign_as(Some("two"), &claims));
    for _ in 0..5 {
        assert_eq!(status(&node, &old).0, 200);
    }
    assert!(block_on(before.received_requests()).len() <= 2, "keys are kept");
    assert!(status(&node, &new).1.contains("not among those"));
    let symmetric = Header { kid: Some("sym".into()), ..Header::new(Algorithm::HS256) };
    let symmetric = jsonwebtoken::encode(&symmetric, &claims, &EncodingKey::from_secret(b"secret")).expect("signed");
    assert_eq!(status(&node, &symmetric).0, 401, "a key that all the world may read is no secret");
    // It begins to answer when the mock before it is dropped.
    let _after = server.scoped(serve(&new_keys).named("the keys after"));
    drop(before);
    crate::support::eventually(|| (status(&node, &new).0 == 200).then_some(()));
    crate::support::eventually(|| (status(&node, &old).0 == 401).then_some(()));
}

#[test]
fn without_the_issuers_keys_requests_get_503_and_retry_after() {
    let issuer = Issuer::ed25519();
    let gone = Upstream::start(|_, _| {}).url("/jwks");
    let node = Node::start(&format!("{}[access.jwt]\njwks_url = \"{gone}\"\n", tokens()));
    let token = issuer.sign_as(Some("one"), &json!({ "sub": "carol", "exp": seconds_from_now(600) }));
    for _ in 0..2 {
        let reply = ask(&node, Some(&token), "GET", "/api/jobs", None);
        assert!(reply.problem(503).contains("cannot be checked now"), "{reply:?}");
        assert!(reply.header("Retry-After").is_some());
    }
    assert_eq!(ask(&node, Some(ADMIN), "GET", "/api/jobs", None).status, 200, "static tokens need no keys");
}

/// One answer that comes drop by drop must not keep the keys away: the issuer is asked once more.
#[test]
fn a_slow_response_does_not_delay_the_keys() {
    use std::{
        io::Write,
        sync::atomic::{AtomicUsize, Ordering::SeqCst},
        time::{Duration, Instant},
    };
    let issuer = Issuer::ed25519();
    let keys = json!({ "keys": [issuer.jwk("one")] }).to_string();
    let asked = AtomicUsize::new(0);
    let server = Upstream::start(move |_, socket| {
        let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", keys.len());
        drop(socket.write_all(head.as_bytes()));
        if asked.fetch_add(1, SeqCst) > 0 {
            drop(socket.write_all(keys.as_bytes()));
            return;
        }
        let pause = mpsc::channel::<()>();
        for byte in keys.as_bytes() {
            if socket.write_all(&[*byte]).is_err() {
                return;
            }
            // Nothing ever comes: this is the pause between two drops.
            let _ = pause.1.recv_timeout(Duration::from_secs(2));
        }
    });
    let node =
        Node::start(&format!("[access]\nmode = \"token\"\n[access.jwt]\njwks_url = \"{}\"\n", server.url("/jwks")));
    let claims = json!({ "sub": "carol", "exp": seconds_from_now(600) });
    let begun = Instant::now();
    crate::support::eventually(|| (status(&node, &issuer.sign_as(Some("one"), &claims)).0 == 200).then_some(()));
    // The whole answer would take minutes.
    assert!(begun.elapsed() < Duration::from_secs(25), "{:?}", begun.elapsed());
}

/// The fetch belongs to no request: a client that disconnects must not stop it for the others, and known keys do not
/// wait.
#[test]
fn a_client_that_leaves_does_not_keep_the_keys_from_the_others() {
    use std::io::Write;
    let issuer = Issuer::ed25519();
    let keys = json!({ "keys": [issuer.jwk("one")] });
    let (arrived, asked) = mpsc::channel();
    let (release, released) = mpsc::channel();
    let released = Mutex::new(released);
    let slow = move |_: &Request| {
        let _ = arrived.send(());
        let _ = released.lock().expect("it is not poisoned").recv_timeout(PATIENCE);
        ResponseTemplate::new(200).set_body_json(&keys)
    };
    let server = Mocked::start([jwks().respond_with(slow).expect(1)]);
    let node = Node::start(&format!(
        "[access]\nmode = \"token\"\n[access.jwt]\njwks_url = \"{}\"\njwks_pause_ms = 60000\n",
        server.url("/jwks")
    ));
    let claims = json!({ "sub": "carol", "exp": seconds_from_now(600) });
    let (good, strange) = (issuer.sign_as(Some("one"), &claims), issuer.sign_as(Some("other"), &claims));
    let mut socket = node.socket();
    let head = format!("GET /api/jobs HTTP/1.1\r\nHost: {}\r\nX-Auth-Token: {strange}\r\n\r\n", node.addr);
    socket.write_all(head.as_bytes()).expect("send");
    asked.recv_timeout(PATIENCE).expect("the keys are fetched");
    drop(socket);
    release.send(()).expect("the response waits");
    assert_eq!(status(&node, &good).0, 200);
}
