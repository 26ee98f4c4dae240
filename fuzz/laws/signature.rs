//! Signatures of deliveries, for every content of the header fields and the body.
//!
//! An input is lines: id, timestamp, signatures as in `webhook-signature`, signature as in `x-hub-signature-256`, secret as in
//! `x-secret-key`. The rest is the body. A missing line is a missing field.

use base64::{Engine, engine::general_purpose::STANDARD};
use hmac::{Hmac, Mac};
use sha2::Sha256;

use crate::signature::{Refusal, Scheme, Verifier};

/// The secret of the schemes `secret-header` and `github`.
pub const SECRET: &str = "minha-senha-secreta";
/// A secret of Standard Webhooks.
pub const WHSEC: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
/// The time of the clock, in Unix milliseconds.
pub const NOW_MS: u64 = 1_614_265_330_000;
const TOLERANCE_MS: u64 = 300_000;

/// The header fields and the body of an input.
struct Delivery<'a> {
    lines: [Option<&'a [u8]>; 5],
    body: &'a [u8],
}

/// Checks the law. Panics with the property that does not hold.
pub fn check(input: &[u8]) {
    let _ = judge(input);
}

/// Checks the law, and returns the verdict of each of the three schemes.
pub fn judge(input: &[u8]) -> [Result<(), Refusal>; 3] {
    let delivery = Delivery::of(input);
    let answers =
        [Scheme::StandardWebhooks, Scheme::Github, Scheme::SecretHeader].map(|scheme| delivery.judged(scheme));
    let [id, timestamp, signatures, github, secret] = delivery.lines;
    let signed = standard(id.unwrap_or_default(), timestamp.unwrap_or_default(), delivery.body);
    let known = |signatures: &[u8]| signatures.split(|byte| *byte == b' ').any(|one| one == signed.as_bytes());
    let well_formed = well_formed(id, timestamp);
    assert_eq!(answers[0].is_ok(), well_formed && signatures.is_some_and(known), "standard-webhooks");
    let hexed = github_of(delivery.body);
    let same = |given: &[u8]| given.starts_with(b"sha256=") && given[7..].eq_ignore_ascii_case(&hexed.as_bytes()[7..]);
    assert_eq!(answers[1].is_ok(), github.is_some_and(same), "github");
    assert_eq!(answers[2].is_ok(), secret == Some(SECRET.as_bytes()), "secret-header");
    a_right_signature_is_found_and_a_bit_less_is_not(&delivery, &signed, well_formed);
    answers
}

impl<'a> Delivery<'a> {
    fn of(input: &'a [u8]) -> Self {
        let mut parts = input.splitn(6, |byte| *byte == b'\n');
        let lines = std::array::from_fn(|_| parts.next());
        Self { lines, body: parts.next().unwrap_or_default() }
    }

    fn judged(&self, scheme: Scheme) -> Result<(), Refusal> {
        let secret = if scheme == Scheme::StandardWebhooks { WHSEC } else { SECRET };
        let verifier =
            Verifier::new(scheme, &[secret.to_owned()], "X-Secret-Key", TOLERANCE_MS).expect("a good secret");
        let header = |name: &str| {
            let names = ["webhook-id", "webhook-timestamp", "webhook-signature", "x-hub-signature-256", "x-secret-key"];
            self.lines[names.iter().position(|known| *known == name)?]
        };
        let mut claim = verifier.claim(header, NOW_MS)?;
        // The body is passed in two pieces, whose sizes depend on the input.
        let (first, last) =
            self.body.split_at(self.body.first().map_or(0, |byte| usize::from(*byte) % self.body.len()));
        claim.update(first);
        claim.update(last);
        claim.prove().map(drop)
    }
}

/// This holds for every other content of the field.
fn a_right_signature_is_found_and_a_bit_less_is_not(delivery: &Delivery<'_>, signed: &str, well_formed: bool) {
    let judged = |signature: &str| {
        let around = delivery.lines[2].unwrap_or_default();
        let field = [around, b" ", signature.as_bytes(), b" ", around].concat();
        let lines = [delivery.lines[0], delivery.lines[1], Some(&field[..]), None, None];
        Delivery { lines, body: delivery.body }.judged(Scheme::StandardWebhooks).is_ok()
    };
    assert_eq!(judged(signed), well_formed);
    let other = if signed.as_bytes()[3] == b'A' { 'B' } else { 'A' };
    let already =
        delivery.lines[2].is_some_and(|field| field.split(|byte| *byte == b' ').any(|one| one == signed.as_bytes()));
    assert_eq!(judged(&format!("v1,{other}{}", &signed[4..])), well_formed && already);
}

/// The rules of the standard for id and timestamp, as a slow program.
fn well_formed(id: Option<&[u8]>, timestamp: Option<&[u8]>) -> bool {
    let (Some(id), Some(timestamp)) = (id, timestamp) else { return false };
    let digits = !timestamp.is_empty() && timestamp.iter().all(u8::is_ascii_digit);
    let seconds = std::str::from_utf8(timestamp).ok().and_then(|text| text.parse::<u64>().ok());
    let near = |seconds: u64| i128::from(seconds) * 1000 - i128::from(NOW_MS);
    let in_time = seconds.is_some_and(|seconds| near(seconds).abs() < i128::from(TOLERANCE_MS));
    !id.is_empty() && !id.contains(&b'.') && digits && in_time
}

fn mac(key: &[u8], parts: &[&[u8]]) -> Vec<u8> {
    let mac = Hmac::<Sha256>::new_from_slice(key).expect("any key");
    parts.iter().fold(mac, Mac::chain_update).finalize().into_bytes().to_vec()
}

fn standard(id: &[u8], timestamp: &[u8], body: &[u8]) -> String {
    let key = STANDARD.decode(&WHSEC[6..]).expect("base64");
    format!("v1,{}", STANDARD.encode(mac(&key, &[id, b".", timestamp, b".", body])))
}

fn github_of(body: &[u8]) -> String {
    let signature = mac(SECRET.as_bytes(), &[body]);
    signature.iter().fold("sha256=".to_owned(), |digits, byte| digits + &format!("{byte:02x}"))
}
