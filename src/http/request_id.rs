//! The id of a request: `X-Request-Id` of its response, and the field `id` of its log lines.

use actix_web::http::header::{HeaderMap, HeaderName, HeaderValue};

pub(super) const NAME: HeaderName = HeaderName::from_static("x-request-id");

/// Maximum length of a client's id, in bytes; a longer id is replaced.
const LONGEST: usize = 128;

/// The client's id if it is safe in log lines, else a random id.
pub(super) fn of(headers: &HeaderMap) -> HeaderValue {
    let mut sent = headers.get_all(&NAME);
    match (sent.next(), sent.next()) {
        (Some(own), None) if is_sane(own.as_bytes()) => own.clone(),
        _ => {
            let random: [u8; 16] = rand::random();
            let digit = |at: usize| random[at / 2] >> (4 * (at % 2)) & 15;
            let digits: [u8; 32] = std::array::from_fn(|at| b"0123456789abcdef"[usize::from(digit(at))]);
            HeaderValue::from_bytes(&digits).expect("digits are header text")
        }
    }
}

fn is_sane(id: &[u8]) -> bool {
    let plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"-._~+/=:@|".contains(byte);
    (1..=LONGEST).contains(&id.len()) && id.iter().all(plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kept(lines: &[&[u8]]) -> bool {
        let mut headers = HeaderMap::new();
        for line in lines {
            headers.append(NAME, HeaderValue::from_bytes(line).unwrap());
        }
        let id = of(&headers);
        assert!(is_sane(id.as_bytes()));
        lines.first().is_some_and(|line| id.as_bytes() == *line)
    }

    #[test]
    fn a_sane_id_of_the_client_is_kept_and_any_other_is_replaced() {
        for id in ["a", "4bf92f3577b34da6a3ce929d0e0e4736", "lb-1/req:7@eu|x=1+2~z.", &"x".repeat(128)] {
            assert!(kept(&[id.as_bytes()]), "{id}");
        }
        for id in ["", "a b", "a,b", "a\"b", "{a}", "caf\u{e9}", "a\tb", &"x".repeat(129)] {
            assert!(!kept(&[id.as_bytes()]), "{id}");
        }
        assert!(!kept(&[]) && !kept(&[b"a", b"b"]), "of two ids neither counts");
    }
}
