//! Positions, as clients send them in `Last-Event-ID`: one position has one spelling.

use crate::event::Position;

/// Checks everything; panics with what does not hold.
pub fn check(input: &[u8]) {
    let text = String::from_utf8_lossy(input);
    if let Ok(position) = text.parse::<Position>() {
        assert_eq!(position.to_string(), text);
    }
}
