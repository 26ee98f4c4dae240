//! The position of an event, and its text form.

use std::{fmt, str::FromStr};

use serde::Serialize;

/// The position of an event in the journal, which is its `id:`.
///
/// The epoch is random. It changes whenever offsets might be reused, so a position of another epoch is unknown. Clients
/// must not interpret the text form: `<epoch in hex>-<offset>`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Position {
    /// The epoch of the journal.
    pub epoch: u64,
    /// Number of the event in its epoch. The first event has 1; 0 is before all events.
    pub offset: u64,
}

// === impl Position ===

impl Position {
    /// The position before the first event of an epoch.
    pub const fn start(epoch: u64) -> Self {
        Self { epoch, offset: 0 }
    }
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(Text::of(*self).as_str())
    }
}

impl FromStr for Position {
    type Err = ();

    fn from_str(s: &str) -> Result<Self, ()> {
        let (epoch, offset) = s.split_once('-').ok_or(())?;
        let epoch = u64::from_str_radix(epoch, 16).map_err(drop)?;
        let position = Self { epoch, offset: offset.parse().map_err(drop)? };
        // A position has one text form: `+1` and `01` are not valid.
        if position.to_string() == s { Ok(position) } else { Err(()) }
    }
}

impl Serialize for Position {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(Text::of(*self).as_str())
    }
}

/// A position as text. Each event writes its position three times. This needs no allocation, and a tenth of the time of
/// the standard library's formatting.
pub(super) struct Text {
    /// 16 digits of the epoch, a hyphen, 20 digits of the offset; filled from the end.
    bytes: [u8; 37],
    start: usize,
}

// === impl Text ===

impl Text {
    pub(super) fn of(position: Position) -> Self {
        let mut text = Self { bytes: [0; 37], start: 37 };
        text.digits::<10>(position.offset);
        text.put(b'-');
        text.digits::<16>(position.epoch);
        text
    }

    fn digits<const BASE: u64>(&mut self, mut number: u64) {
        loop {
            self.put(b"0123456789abcdef"[usize::try_from(number % BASE).expect("a digit is small")]);
            number /= BASE;
            if number == 0 {
                return;
            }
        }
    }

    fn put(&mut self, byte: u8) {
        self.start -= 1;
        self.bytes[self.start] = byte;
    }

    pub(super) fn as_str(&self) -> &str {
        std::str::from_utf8(&self.bytes[self.start..]).expect("digits and a hyphen are ASCII")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_position_has_one_text_form() {
        let position = Position { epoch: 0xabc, offset: 17 };
        assert_eq!(position.to_string(), "abc-17");
        assert_eq!("abc-17".parse(), Ok(position));
        for (epoch, offset) in [(0, 0), (u64::MAX, u64::MAX), (1 << 47, 1)] {
            assert_eq!(Position { epoch, offset }.to_string(), format!("{epoch:x}-{offset}"));
        }
        for foreign in
            ["", "abc", "abc-", "-1", "ABC-17", "abc-017", "abc-+17", "abc-17 ", "xyz-1", "abc-99999999999999999999"]
        {
            assert_eq!(foreign.parse::<Position>(), Err(()), "{foreign:?}");
        }
    }
}
