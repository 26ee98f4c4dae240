//! The reasons to reject a filter, and the limits that the messages name.

/// Maximum length of an expression in bytes.
pub(super) const MAX_BYTES: usize = 1024;
/// Maximum number of steps for one subscriber. A step takes about 30 ns, so that these take about 60 µs.
pub(super) const MAX_STEPS: usize = 2048;

/// Why a text is not a filter. The message names the place and the limit.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// The filter is neither an object nor a string.
    #[error("a filter is an object of names and values, or an expression as a string")]
    Form,
    /// The expression has more bytes than the limit.
    #[error("the expression has {0} bytes, at most {MAX_BYTES} are allowed")]
    Length(usize),
    /// A part of the expression occurs more often than its limit.
    #[error("the expression has too many {0}: at most {1} are allowed")]
    Many(&'static str, usize),
    /// The expression is not valid CEL.
    #[error("line {line}, column {column}: {reason}")]
    Syntax {
        /// The line of the error, from 1.
        line: usize,
        /// The column of the error in characters, from 1.
        column: usize,
        /// What the parser expected.
        reason: String,
    },
    /// The expression is valid CEL, but uses a feature that filters do not have.
    #[error("{}{reason}", at(*column))]
    Forbidden {
        /// The column of the first such word, from 1; 0 if the column is unknown.
        column: usize,
        /// The feature that is not allowed, and the allowed ones.
        reason: String,
    },
    /// The evaluation for one subscriber needs more steps than the limit.
    #[error("the expression costs {0} steps for a subscriber in 16 groups, at most {max} are allowed: shorten lists, or split it", max = MAX_STEPS)]
    Costly(usize),
}

fn at(column: usize) -> String {
    if column == 0 { String::new() } else { format!("column {column}: ") }
}
