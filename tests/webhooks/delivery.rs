//! Deliveries, and what proves them.

use base64::{Engine, engine::general_purpose::STANDARD};
use hmac::{Hmac, Mac};
use millstream::event::now_ms;
use serde_json::{Value, json};
use sha2::Sha256;

use crate::{
    OLD_SECRET,
    support::{Node, Reply},
};

fn hmac(key: &[u8], parts: &[&str]) -> Vec<u8> {
    let mac = Hmac::<Sha256>::new_from_slice(key).expect("any key");
    parts.iter().fold(mac, Mac::chain_update).finalize().into_bytes().to_vec()
}

/// One delivery, with what proves it.
pub(crate) struct Delivery {
    path: &'static str,
    pub headers: Vec<(&'static str, String)>,
    pub body: String,
}

// === impl Delivery ===

impl Delivery {
    pub(crate) fn plain(body: &Value) -> Self {
        let headers = vec![("x-token", "plain-hush-1".to_owned())];
        Self { path: "/api/webhooks/plain", headers, body: body.to_string() }
    }

    pub(crate) fn standard(id: &str, seconds: u64, body: &Value) -> Self {
        let (seconds, body) = (seconds.to_string(), body.to_string());
        let key = STANDARD.decode(&OLD_SECRET[6..]).expect("base64");
        let signature = STANDARD.encode(hmac(&key, &[id, ".", &seconds, ".", &body]));
        let headers = vec![
            ("webhook-id", id.to_owned()),
            ("webhook-timestamp", seconds),
            ("webhook-signature", format!("v1a,other v1,{signature}")),
        ];
        Self { path: "/api/webhooks/standard", headers, body }
    }

    pub(crate) fn git(id: &str, body: &Value) -> Self {
        let body = body.to_string();
        let signature = hmac(b"git-hush-2", &[&body]);
        let signature = signature.iter().fold("sha256=".to_owned(), |digits, byte| digits + &format!("{byte:02x}"));
        let headers = vec![
            ("X-GitHub-Delivery", id.to_owned()),
            ("X-GitHub-Event", "push".to_owned()),
            ("X-Hub-Signature-256", signature),
        ];
        Self { path: "/api/webhooks/git", headers, body }
    }

    /// With another value in this field.
    pub(crate) fn with(mut self, name: &str, value: &str) -> Self {
        let field = self.headers.iter_mut().find(|(field, _)| *field == name).expect("it has the field");
        value.clone_into(&mut field.1);
        self
    }

    pub(crate) fn without(mut self, name: &str) -> Self {
        self.headers.retain(|(field, _)| *field != name);
        self
    }

    pub(crate) fn body(mut self, body: &str) -> Self {
        body.clone_into(&mut self.body);
        self
    }

    pub(crate) fn send(&self, node: &Node) -> Reply {
        let mut headers = vec![("Content-Type", "application/json")];
        headers.extend(self.headers.iter().map(|(name, value)| (*name, value.as_str())));
        node.request("POST", self.path, &headers, &self.body)
    }

    /// The answer to one that is taken.
    #[track_caller]
    pub(crate) fn taken(&self, node: &Node) -> Value {
        let reply = self.send(node);
        assert_eq!(reply.status, 200, "{reply:?}");
        reply.json()
    }
}

pub(crate) fn now() -> u64 {
    now_ms() / 1000
}

pub(crate) fn order(n: u64) -> Value {
    json!({ "type": "order.paid", "data": { "n": n, "user": 42 } })
}
