//! The scanner: one pass over a JSON text that checks it and finds its white space. It builds no tree.
//!
//! It needs one bit of memory per level of nesting. The grammar is that of RFC 8259. In addition, `\u` escapes must form
//! complete surrogate pairs: half of a pair is not a character, and readers differ in their treatment of it.

use std::borrow::Cow;

/// Maximum nesting of arrays and objects. Common readers (serde, Jackson, Go, Python) accept at least this.
pub const MAX_DEPTH: usize = 128;
/// Maximum nesting of the result of a task. It is lower because a result becomes part of events, envelopes and aggregated
/// results, which must be readable too.
pub const MAX_RESULT_DEPTH: usize = 100;

/// Why a text is not accepted, and the place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{what} at line {line} column {column}")]
pub struct Invalid {
    /// The fault.
    pub what: What,
    /// The line, from 1.
    pub line: usize,
    /// The column in bytes, from 1.
    pub column: usize,
}

/// A fault of a JSON text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum What {
    /// The text ends too early.
    #[error("unexpected end of the text")]
    End,
    /// Something else than expected.
    #[error("expected {0}")]
    Expected(&'static str),
    /// A control character in a string.
    #[error("a control character in a string must be escaped")]
    Control,
    /// A backslash that does not begin a valid escape.
    #[error("invalid escape")]
    Escape,
    /// Half of a surrogate pair.
    #[error("half of a surrogate pair")]
    Surrogate,
    /// The nesting is deeper than the limit.
    #[error("nested deeper than {0} levels")]
    Deep(usize),
    /// Text after the value.
    #[error("more text after the value")]
    Trailing,
}

/// The expected next token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Next {
    Value,
    /// After `[`.
    ItemOrEnd,
    /// After `{`.
    KeyOrEnd,
    Key,
    Colon,
    /// After a value in an array or object.
    CommaOrEnd,
    /// The value is complete.
    Done,
}

/// Scans a text in pieces. A string, number or word must not be split. Lines are such pieces.
#[derive(Debug)]
pub(crate) struct Scanner {
    next: Next,
    depth: usize,
    max_depth: usize,
    /// One bit for each of the innermost levels; 1 is an object.
    levels: u64,
    /// The bits of the outer levels.
    outer: Vec<u64>,
}

/// A piece that is being scanned.
struct Piece<'a> {
    bytes: &'a [u8],
    at: usize,
}

/// A fault, and its byte offset.
type Fault = (What, usize);

// === impl Invalid ===

impl Invalid {
    fn new(text: &[u8], (what, at): Fault) -> Self {
        let before = &text[..at.min(text.len())];
        let line_start = before.iter().rposition(|byte| *byte == b'\n').map_or(0, |newline| newline + 1);
        let line = 1 + memchr::memchr_iter(b'\n', before).count();
        Self { what, line, column: 1 + at - line_start }
    }
}

/// Checks a whole text and removes its white space.
pub(super) fn compact(text: &str, max_depth: usize) -> Result<Cow<'_, str>, Invalid> {
    let mut out = String::new();
    let mut scanner = Scanner::new(max_depth);
    let mut copied = 0;
    let scanned = scanner.run(text.as_bytes(), |from, to| {
        if out.capacity() == 0 {
            out.reserve(text.len());
        }
        out.push_str(&text[copied..from]);
        copied = to;
    });
    let done = scanned.and_then(|()| if scanner.done() { Ok(()) } else { Err((What::End, text.len())) });
    done.map_err(|fault| Invalid::new(text.as_bytes(), fault))?;
    if copied == 0 {
        return Ok(Cow::Borrowed(text));
    }
    out.push_str(&text[copied..]);
    Ok(Cow::Owned(out))
}

// === impl Scanner ===

impl Scanner {
    /// A scanner with this limit of nesting.
    pub(crate) fn new(max_depth: usize) -> Self {
        Self { next: Next::Value, depth: 0, max_depth, levels: 0, outer: Vec::new() }
    }

    /// Scans a piece.
    ///
    /// # Errors
    /// If JSON cannot continue with this piece.
    pub(crate) fn push(&mut self, piece: &[u8]) -> Result<(), What> {
        self.run(piece, |_, _| {}).map_err(|(what, _)| what)
    }

    /// True when the value is complete.
    pub(crate) fn done(&self) -> bool {
        self.next == Next::Done
    }

    /// Scans a piece. `space` is called with the range of each run of insignificant white space.
    fn run(&mut self, bytes: &[u8], mut space: impl FnMut(usize, usize)) -> Result<(), Fault> {
        let mut piece = Piece { bytes, at: 0 };
        while let Some(byte) = piece.peek() {
            if matches!(byte, b' ' | b'\n' | b'\t' | b'\r') {
                let from = piece.at;
                piece.skip_space();
                space(from, piece.at);
                continue;
            }
            self.next = match (self.next, byte) {
                (Next::Value | Next::ItemOrEnd, b'{') => self.open(&mut piece, true)?,
                (Next::Value | Next::ItemOrEnd, b'[') => self.open(&mut piece, false)?,
                (Next::ItemOrEnd, b']') | (Next::KeyOrEnd, b'}') => self.close(&mut piece),
                (Next::Value | Next::ItemOrEnd, _) => {
                    piece.scalar(byte)?;
                    self.after_value()
                }
                (Next::Key | Next::KeyOrEnd, b'"') => {
                    piece.string()?;
                    Next::Colon
                }
                (Next::Colon, b':') => {
                    piece.at += 1;
                    Next::Value
                }
                (Next::CommaOrEnd, b',') => {
                    piece.at += 1;
                    if self.in_object() { Next::Key } else { Next::Value }
                }
                (Next::CommaOrEnd, b'}') if self.in_object() => self.close(&mut piece),
                (Next::CommaOrEnd, b']') if !self.in_object() => self.close(&mut piece),
                (next, _) => return Err((next.missing(self.in_object()), piece.at)),
            };
        }
        Ok(())
    }

    fn open(&mut self, piece: &mut Piece<'_>, object: bool) -> Result<Next, Fault> {
        if self.depth == self.max_depth {
            return Err((What::Deep(self.max_depth), piece.at));
        }
        if self.depth > 0 && self.depth.is_multiple_of(64) {
            self.outer.push(self.levels);
        }
        self.levels = self.levels << 1 | u64::from(object);
        self.depth += 1;
        piece.at += 1;
        Ok(if object { Next::KeyOrEnd } else { Next::ItemOrEnd })
    }

    fn close(&mut self, piece: &mut Piece<'_>) -> Next {
        piece.at += 1;
        self.depth -= 1;
        self.levels >>= 1;
        if self.depth > 0 && self.depth.is_multiple_of(64) {
            self.levels = self.outer.pop().unwrap_or_default();
        }
        self.after_value()
    }

    fn after_value(&self) -> Next {
        if self.depth == 0 { Next::Done } else { Next::CommaOrEnd }
    }

    fn in_object(&self) -> bool {
        self.levels & 1 == 1
    }
}

// === impl Next ===

impl Next {
    fn missing(self, in_object: bool) -> What {
        What::Expected(match self {
            Self::Value | Self::ItemOrEnd => "a value",
            Self::KeyOrEnd => "a name in quotes or `}`",
            Self::Key => "a name in quotes",
            Self::Colon => "`:`",
            Self::CommaOrEnd if in_object => "`,` or `}`",
            Self::CommaOrEnd => "`,` or `]`",
            Self::Done => return What::Trailing,
        })
    }
}

// === impl Piece ===

/// Bytes at which a run of plain characters in a string ends.
const SPECIAL: [bool; 256] = {
    let mut special = [false; 256];
    let mut byte = 0;
    while byte < 0x20 {
        special[byte] = true;
        byte += 1;
    }
    special[b'"' as usize] = true;
    special[b'\\' as usize] = true;
    special
};

impl Piece<'_> {
    fn peek(&self) -> Option<u8> {
        self.bytes.get(self.at).copied()
    }

    fn skip_space(&mut self) {
        while matches!(self.peek(), Some(b' ' | b'\n' | b'\t' | b'\r')) {
            self.at += 1;
        }
    }

    fn scalar(&mut self, first: u8) -> Result<(), Fault> {
        match first {
            b'"' => self.string(),
            b'-' | b'0'..=b'9' => self.number(),
            b't' => self.word("true"),
            b'f' => self.word("false"),
            b'n' => self.word("null"),
            _ => Err((What::Expected("a value"), self.at)),
        }
    }

    fn word(&mut self, word: &'static str) -> Result<(), Fault> {
        if !self.bytes[self.at..].starts_with(word.as_bytes()) {
            return Err((What::Expected("a value"), self.at));
        }
        self.at += word.len();
        Ok(())
    }

    fn number(&mut self) -> Result<(), Fault> {
        if self.peek() == Some(b'-') {
            self.at += 1;
        }
        // A zero must not be followed by digits.
        if self.peek() == Some(b'0') {
            self.at += 1;
        } else {
            self.digits()?;
        }
        if self.peek() == Some(b'.') {
            self.at += 1;
            self.digits()?;
        }
        if matches!(self.peek(), Some(b'e' | b'E')) {
            self.at += 1;
            if matches!(self.peek(), Some(b'+' | b'-')) {
                self.at += 1;
            }
            self.digits()?;
        }
        Ok(())
    }

    fn digits(&mut self) -> Result<(), Fault> {
        let from = self.at;
        while self.peek().is_some_and(|byte| byte.is_ascii_digit()) {
            self.at += 1;
        }
        if self.at == from { Err((What::Expected("a digit"), from)) } else { Ok(()) }
    }

    fn string(&mut self) -> Result<(), Fault> {
        self.at += 1;
        loop {
            let rest = &self.bytes[self.at..];
            let plain = rest.iter().position(|byte| SPECIAL[usize::from(*byte)]);
            let Some(plain) = plain else { return Err((What::End, self.bytes.len())) };
            self.at += plain;
            match self.bytes[self.at] {
                b'"' => {
                    self.at += 1;
                    return Ok(());
                }
                b'\\' => self.escape()?,
                _ => return Err((What::Control, self.at)),
            }
        }
    }

    fn escape(&mut self) -> Result<(), Fault> {
        let start = self.at;
        match self.bytes.get(start + 1) {
            Some(b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't') => self.at += 2,
            Some(b'u') => match self.unit()? {
                0xD800..0xDC00 if matches!(self.unit(), Ok(0xDC00..0xE000)) => {}
                0xD800..0xE000 => return Err((What::Surrogate, start)),
                _ => {}
            },
            _ => return Err((What::Escape, start)),
        }
        Ok(())
    }

    /// The code unit of `\uXXXX`.
    fn unit(&mut self) -> Result<u16, Fault> {
        let fault = (What::Escape, self.at);
        let digits =
            self.bytes.get(self.at..self.at + 6).and_then(|escape| escape.strip_prefix(b"\\u")).ok_or(fault)?;
        let unit = digits
            .iter()
            .try_fold(0, |unit: u16, digit| Some(unit << 4 | u16::try_from(char::from(*digit).to_digit(16)?).ok()?));
        self.at += 6;
        unit.ok_or(fault)
    }
}
