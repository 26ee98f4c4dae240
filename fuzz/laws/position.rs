//! Positions in `Last-Event-ID` of clients: each position has exactly one spelling.

use crate::event::Position;

/// Checks the law. Panics with the property that does not hold.
pub fn check(input: &[u8]) {
    let text = String::from_utf8_lossy(input);
    if let Ok(position) = text.parse::<Position>() {
        assert_eq!(position.to_string(), text);
    }
}
