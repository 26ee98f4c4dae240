//! A node in token mode, the people who call it, and the issuer of their JWTs.

use std::time::{SystemTime, UNIX_EPOCH};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use millstream::access::digest;
use rcgen::{KeyPair, PKCS_ECDSA_P256_SHA256, PKCS_ED25519, SignatureAlgorithm};
use serde_json::{Value, json};

use crate::support::{Node, Reply, Stream};

/// Their tokens; each token has the rights of its owner's name.
pub(crate) const ADMIN: &str = "token-of-the-admin";
pub(crate) const ALICE: &str = "token-of-alice";
pub(crate) const BOB: &str = "token-of-bob";
pub(crate) const WRONG: &str = "token-of-nobody";

/// The issuer of JWTs.
pub(crate) struct Issuer {
    pub key: KeyPair,
    algorithm: Algorithm,
}

/// The section of a token.
pub(crate) fn token(name: &str, token: &str, more: &str) -> String {
    format!("[[access.tokens]]\nname = \"{name}\"\nsha256 = \"{}\"\n{more}\n", digest(token))
}

/// Alice has rights, Bob has none of his own, the admin has all.
pub(crate) fn tokens() -> String {
    let alice = "groups = [\"staff\"]\npublish = [\"orders:*\", \"all\", \"user:*\", \"group:staff\", \"emitter:*\"]\n\
                 subscribe = [\"orders:*\"]\njobs = true\nremotes = [\"reactive\"]\nmeta = { level = 3 }";
    [
        "[access]\nmode = \"token\"\n".to_owned(),
        token("admin", ADMIN, "admin = true"),
        token("alice", ALICE, alice),
        token("bob", BOB, ""),
    ]
    .concat()
}

/// A node for the admin, Alice and Bob, and those whom the issuer knows.
pub(crate) fn node(issuer: &Issuer) -> Node {
    let keys = tempfile::tempdir().expect("a temp directory");
    let file = keys.path().join("issuer.pem");
    std::fs::write(&file, issuer.key.public_key_pem()).expect("write the key");
    // It is read at the start alone.
    let shop = "[streams.shop]\ntopics = [\"orders:*\"]\n";
    Node::start(&format!("{}{shop}[access.jwt]\npublic_key_file = \"{}\"\n", tokens(), file.display()))
}

/// A request with this token, or without one. Of a stream only the head is read.
pub(crate) fn ask(node: &Node, token: Option<&str>, method: &str, path: &str, body: Option<&Value>) -> Reply {
    let mut head = format!("{method} {path} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n", node.addr);
    if let Some(token) = token {
        head += &format!("X-Auth-Token: {token}\r\n");
    }
    let body = body.map(Value::to_string).unwrap_or_default();
    if method != "GET" {
        head += &format!("Content-Type: application/json\r\nContent-Length: {}\r\n", body.len());
    }
    node.raw(format!("{head}\r\n{body}"))
}

/// A stream that is this caller's; its first frame has come.
pub(crate) fn stream(node: &Node, token: &str, path: &str) -> (Stream, Value) {
    let mut stream = node.stream(path, &[("X-Auth-Token", token)]);
    assert_eq!(stream.status, 200, "{}", stream.head);
    let connection = stream.until("connection").json();
    (stream, connection)
}

/// Publishes as this caller; the status.
pub(crate) fn publish(node: &Node, token: &str, topic: &str, data: &str) -> u16 {
    let event = json!({ "topic": topic, "event": "news", "data": data });
    ask(node, Some(token), "POST", "/events", Some(&event)).status
}

/// This number of seconds from now, in Unix seconds.
#[expect(clippy::disallowed_methods, reason = "the wall clock of an issuer")]
pub(crate) fn seconds_from_now(seconds: i64) -> i64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_secs();
    i64::try_from(now).expect("before the year 292277026596") + seconds
}

// === impl Issuer ===

impl Issuer {
    pub(crate) fn ed25519() -> Self {
        Self::new(&PKCS_ED25519, Algorithm::EdDSA)
    }

    pub(crate) fn p256() -> Self {
        Self::new(&PKCS_ECDSA_P256_SHA256, Algorithm::ES256)
    }

    fn new(kind: &'static SignatureAlgorithm, algorithm: Algorithm) -> Self {
        Self { key: KeyPair::generate_for(kind).expect("a key"), algorithm }
    }

    /// Signs these claims.
    pub(crate) fn sign(&self, claims: &Value) -> String {
        self.sign_as(None, claims)
    }

    /// A JWT with the id of its key.
    pub(crate) fn sign_as(&self, kid: Option<&str>, claims: &Value) -> String {
        let header = Header { kid: kid.map(str::to_owned), ..Header::new(self.algorithm) };
        jsonwebtoken::encode(&header, claims, &self.private()).expect("it is signed")
    }

    fn private(&self) -> EncodingKey {
        let pem = self.key.serialize_pem();
        match self.algorithm {
            Algorithm::EdDSA => EncodingKey::from_ed_pem(pem.as_bytes()),
            _ => EncodingKey::from_ec_pem(pem.as_bytes()),
        }
        .expect("the key is good")
    }

    /// The public key as it stands in a set.
    pub(crate) fn jwk(&self, kid: &str) -> Value {
        let raw = self.key.public_key_raw();
        let text = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
        match self.algorithm {
            Algorithm::EdDSA => json!({ "kty": "OKP", "crv": "Ed25519", "x": text(raw), "kid": kid, "use": "sig" }),
            // The point is uncompressed: a byte for that form, then both coordinates.
            _ => {
                let (x, y) = raw[1..].split_at(32);
                json!({ "kty": "EC", "crv": "P-256", "x": text(x), "y": text(y), "kid": kid, "alg": "ES256" })
            }
        }
    }
}
