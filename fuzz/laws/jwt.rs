//! The header of a JWT, with untrusted content.

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};

use crate::header::{has_jwt_form, peek};

/// Checks the law. Panics with the property that does not hold.
pub fn check(input: &[u8]) {
    let token = String::from_utf8_lossy(input);
    let seen = peek(&token);
    assert_eq!(seen, peek(&token), "the same each time");
    let Ok(header) = seen else { return };
    assert!(has_jwt_form(&token) && token.len() <= 16 << 10);
    let first = token.split('.').next().expect("a text has a first part");
    let json = URL_SAFE_NO_PAD.decode(first).expect("a header is base64url");
    let json: serde_json::Value = serde_json::from_slice(&json).expect("a header is JSON");
    let named = json["alg"].as_str().expect("a header names its algorithm");
    assert!(!named.eq_ignore_ascii_case("none"), "no token is good without a signature");
    assert_eq!(format!("{:?}", header.alg), named, "it is the one that is named");
    assert!(json["crit"].is_null());
    assert_eq!(header.kid.as_deref(), json["kid"].as_str());
}
