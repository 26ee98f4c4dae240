//! The header of a JWT, which is read before any check. It is pure and separate, because it is the first code that
//! reads bytes of strangers, and has its own fuzz target.

use jsonwebtoken::Header;

/// Longest token in bytes.
const MAX_BYTES: usize = 16 << 10;

/// True if the text has the form of a JWT: three parts.
pub fn has_jwt_form(token: &str) -> bool {
    token.bytes().filter(|byte| *byte == b'.').count() == 2
}

/// The header of a token.
///
/// # Errors
/// If the token is too long, has another form, or has extensions that must be understood.
pub fn peek(token: &str) -> Result<Header, &'static str> {
    if token.len() > MAX_BYTES {
        return Err("it has more than 16 KiB");
    }
    if !has_jwt_form(token) {
        return Err("it cannot be read as a JWT");
    }
    let header = jsonwebtoken::decode_header(token).map_err(|_| "it cannot be read as a JWT")?;
    // RFC 7515, 4.1.11: a token with an unknown critical extension must be refused.
    if header.crit.is_some() {
        return Err("its header has critical extensions");
    }
    Ok(header)
}
