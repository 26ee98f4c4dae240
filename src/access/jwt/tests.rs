//! The dates of a token are compared with the clock of the node.

use jsonwebtoken::{EncodingKey, Header};
use serde_json::json;

use super::*;
use crate::clock::ManualTime;

const START_MS: i64 = 1_790_000_000_000;
const START: i64 = START_MS / 1000;
const DAY_MS: i64 = 24 * 60 * 60 * 1000;
const SECRET: &[u8] = b"a secret of more than thirty-two bytes";

fn verifier() -> (Verifier, std::sync::Arc<ManualTime>) {
    let (clock, time) = Clock::by_hand(START_MS);
    let verifier = Verifier {
        fingerprint: String::new(),
        keys: Keys::One(Box::new(DecodingKey::from_secret(SECRET))),
        allowed: vec![Algorithm::HS256],
        audience: None,
        issuer: None,
        leeway: 5,
        clock,
    };
    (verifier, time)
}

fn token(nbf: i64, exp: i64) -> String {
    let claims = json!({ "sub": "42", "nbf": nbf, "exp": exp });
    jsonwebtoken::encode(&Header::new(Algorithm::HS256), &claims, &EncodingKey::from_secret(SECRET)).unwrap()
}

#[tokio::test]
async fn a_wall_clock_that_is_wrong_for_a_moment_refuses_no_token_and_accepts_none() {
    let (verifier, time) = verifier();
    let (good, old, early) =
        (token(START - 60, START + 60), token(START - 60, START - 30), token(START + 60, START + 120));
    for jump in [0, DAY_MS, -DAY_MS, 3650 * DAY_MS] {
        time.jump(jump);
        assert_eq!(verifier.verify(&good).await.unwrap().user.as_deref(), Some("42"), "{jump}");
        assert!(matches!(verifier.verify(&old).await, Err(Refused::Expired)), "{jump}");
        assert!(matches!(verifier.verify(&early).await, Err(Refused::NotYet)), "{jump}");
        time.jump(-jump);
    }
}

#[tokio::test]
async fn a_jump_that_stays_is_followed() {
    let (verifier, time) = verifier();
    let good = token(START - 60, START + 3600);
    time.jump(DAY_MS);
    time.pass_and_follow(&verifier.clock, 20);
    assert!(matches!(verifier.verify(&good).await, Err(Refused::Expired)));
}
