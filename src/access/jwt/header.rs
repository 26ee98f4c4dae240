//! What a JWT says of its own making, read before anything is checked. Pure, and apart from the rest: it is the first
//! thing that reads the bytes of strangers, and is fuzzed alone.

use jsonwebtoken::Header;

/// Longest token in bytes.
const MAX_BYTES: usize = 16 << 10;

/// True for what has the form of a JWT: three parts.
pub fn looks_like_one(token: &str) -> bool {
    token.bytes().filter(|byte| *byte == b'.').count() == 2
}

/// The header of a token.
///
/// # Errors
/// Says why it is none: too long, not of the form, or with extensions that must be understood.
pub fn peek(token: &str) -> Result<Header, &'static str> {
    if token.len() > MAX_BYTES {
        return Err("it has more than 16 KiB");
    }
    if !looks_like_one(token) {
        return Err("it cannot be read as a JWT");
    }
    let header = jsonwebtoken::decode_header(token).map_err(|_| "it cannot be read as a JWT")?;
    // RFC 7515, 4.1.11: who does not understand an extension that is marked critical must refuse.
    if header.crit.is_some() {
        return Err("its header has critical extensions");
    }
    Ok(header)
}
