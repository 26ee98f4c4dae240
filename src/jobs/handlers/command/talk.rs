//! The output of a program on stdout, line by line; pure.
//!
//! An object may extend over several lines, as programs print it for people. A line that starts a result or an error
//! and cannot be parsed is an error itself: it is never shown as a message while the task succeeds without its result.

use std::{borrow::Cow, collections::HashMap};

use serde_json::value::RawValue;

use super::lines::{LINE_MAX, Line};
use crate::{
    jobs::handler::{Report, TaskError},
    json::{self, Json, Scanner},
    text::excerpt,
};

/// Maximum characters of a line in a message.
const EXCERPT: usize = 200;

/// The output so far.
#[derive(Debug)]
pub(super) struct Talk {
    program: String,
    /// The first result or error. Later output is read but ignored.
    pub outcome: Option<Result<Json, TaskError>>,
    progress: f64,
    begun: Option<Begun>,
}

/// An object whose end was not read yet.
#[derive(Debug)]
struct Begun {
    /// The number of its first line.
    number: u64,
    text: Vec<u8>,
    scanner: Scanner,
}

// === impl Talk ===

impl Talk {
    /// The talk of this program, without output.
    pub(super) fn new(program: &str) -> Self {
        Self { program: program.to_owned(), outcome: None, progress: 0.0, begun: None }
    }

    /// Takes a line and returns its reports.
    ///
    /// # Errors
    /// `bad_output` for a line that is too long, or that starts a result or an error and is not valid.
    pub(super) fn take(&mut self, line: Line<'_>) -> Result<Vec<Report>, TaskError> {
        let (number, bytes) = match line {
            Line::Whole(number, bytes) => (number, json::without_mark(bytes).trim_ascii()),
            Line::Long => return Ok(Vec::new()),
            Line::TooLong(number, max) => {
                return Err(self.bad(number, &format!("has more than {max} bytes; pass large results by reference")));
            }
        };
        if self.outcome.is_some() {
            return Ok(Vec::new());
        }
        if let Some(begun) = self.begun.take() {
            return self.continue_object(begun, number, bytes);
        }
        match bytes.first() {
            None => Ok(Vec::new()),
            // Only a line that begins like an object is parsed.
            Some(b'{') => {
                // Nesting is limited by the length of a line; the depth of a result is checked later.
                let mut scanner = Scanner::new(usize::MAX);
                match scanner.push(bytes) {
                    Ok(()) if scanner.done() => self.whole(number, bytes),
                    Ok(()) => {
                        self.begun = Some(Begun { number, text: bytes.to_vec(), scanner });
                        Ok(Vec::new())
                    }
                    Err(what) => self.broken(number, bytes, &what.to_string()).map(|report| vec![report]),
                }
            }
            Some(_) => Ok(vec![self.chatter(bytes)]),
        }
    }

    /// The error for a result that the program did not finish, if there is one.
    pub(super) fn unfinished(&self) -> Option<TaskError> {
        let begun = self.begun.as_ref().filter(|begun| is_outcome(&begun.text))?;
        Some(self.bad(begun.number, "begins a result that has no end"))
    }

    fn continue_object(&mut self, mut begun: Begun, number: u64, bytes: &[u8]) -> Result<Vec<Report>, TaskError> {
        let fits = begun.text.len() + bytes.len() < LINE_MAX;
        let pushed = begun.scanner.push(bytes);
        if pushed.is_ok() && fits {
            begun.text.push(b'\n');
            begun.text.extend_from_slice(bytes);
            if begun.scanner.done() {
                return self.whole(begun.number, &begun.text);
            }
            self.begun = Some(begun);
            return Ok(Vec::new());
        }
        let what = match pushed {
            Err(what) => what.to_string(),
            Ok(()) => format!("more than {LINE_MAX} bytes; pass large results by reference"),
        };
        let mut reports = vec![self.broken(begun.number, &begun.text, &what)?];
        // It was not a part of that object, and may be a report itself.
        reports.extend(self.take(Line::Whole(number, bytes))?);
        Ok(reports)
    }

    /// Takes a complete object.
    fn whole(&mut self, number: u64, bytes: &[u8]) -> Result<Vec<Report>, TaskError> {
        let text = String::from_utf8_lossy(bytes);
        let Ok(fields) = serde_json::from_str::<HashMap<String, &RawValue>>(&text) else {
            return self.broken(number, bytes, "it cannot be read").map(|report| vec![report]);
        };
        let given = |name: &str| fields.get(name).map(|value| value.get()).filter(|value| *value != "null");
        // An error or a message with a broken character is still useful to people.
        if let Some(error) = fields.get("error") {
            let retryable = given("retryable") != Some("false");
            self.outcome = Some(Err(TaskError { retryable, ..TaskError::fatal("command_error", plain(error.get())) }));
            return Ok(Vec::new());
        }
        if let Some(result) = fields.get("result") {
            if std::str::from_utf8(bytes).is_err() {
                return Err(self.bad(number, "has a result that is not UTF-8"));
            }
            // As with HTTP tasks, a result that is nested too deep for an event is returned as text.
            let result = result.get();
            self.outcome = Some(Ok(Json::result(result).unwrap_or_else(|_| Json::from(result))));
            return Ok(Vec::new());
        }
        let Some(progress) = fields.get("progress") else { return Ok(vec![self.chatter(bytes)]) };
        let Ok(progress) = progress.get().parse::<f64>() else {
            return Err(self.bad(number, "has a `progress` that is not a number"));
        };
        self.progress = progress.clamp(0.0, 100.0);
        let data = given("data").map(|data| Json::result(data).unwrap_or_else(|_| Json::from(data)));
        Ok(vec![Report { progress: self.progress, message: given("message").map(plain), data }])
    }

    /// A text that is not an object: an error if it starts an outcome, else a message.
    fn broken(&self, number: u64, bytes: &[u8], what: &str) -> Result<Report, TaskError> {
        if !is_outcome(bytes) {
            return Ok(self.chatter(bytes));
        }
        let shown = excerpt(&String::from_utf8_lossy(bytes), EXCERPT);
        Err(self.bad(number, &format!("has a result or an error that is not JSON ({what}): {shown}")))
    }

    /// A line of another kind, shown to people with the progress so far.
    fn chatter(&self, bytes: &[u8]) -> Report {
        let message = excerpt(&String::from_utf8_lossy(bytes), EXCERPT);
        Report { progress: self.progress, message: Some(message), data: None }
    }

    fn bad(&self, number: u64, reason: &str) -> TaskError {
        TaskError::fatal("bad_output", format!("line {number} of the output of `{}` {reason}", self.program))
    }
}

/// A string as it is, anything else as JSON.
fn plain(text: &str) -> String {
    serde_json::from_str(text).unwrap_or_else(|_| json::compact(text).map_or_else(|_| text.to_owned(), Cow::into_owned))
}

/// True for text that begins like an object and has `result` or `error` among its own names, even if it is not JSON.
fn is_outcome(bytes: &[u8]) -> bool {
    if bytes.first() != Some(&b'{') || bytes[1..].trim_ascii_start().first() != Some(&b'"') {
        return false;
    }
    let (mut depth, mut at) = (0_usize, 0);
    while let Some(byte) = bytes.get(at) {
        match byte {
            b'{' | b'[' => depth += 1,
            b'}' | b']' => depth = depth.saturating_sub(1),
            b'"' => {
                let start = at + 1;
                at = start;
                while bytes.get(at).is_some_and(|byte| *byte != b'"') {
                    at += if bytes[at] == b'\\' { 2 } else { 1 };
                }
                let name = bytes.get(start..at).unwrap_or_default();
                let behind = bytes.get(at + 1..).unwrap_or_default().trim_ascii_start().first();
                if depth == 1 && matches!(name, b"result" | b"error") && behind == Some(&b':') {
                    return true;
                }
            }
            _ => {}
        }
        at += 1;
    }
    false
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn take(talk: &mut Talk, line: &str) -> Result<Vec<Report>, TaskError> {
        talk.take(Line::Whole(1, line.as_bytes()))
    }

    fn report(progress: f64, message: Option<&str>, data: Option<Value>) -> Report {
        Report { progress, message: message.map(Into::into), data: data.map(Into::into) }
    }

    #[test]
    fn progress_is_taken_within_its_range() {
        let mut talk = Talk::new("p");
        let half = take(&mut talk, r#"{"progress": 50, "message": "half", "data": {"n": 1}}"#);
        assert_eq!(half, Ok(vec![report(50.0, Some("half"), Some(json!({"n": 1})))]));
        assert_eq!(take(&mut talk, r#"{"progress": 170.5}"#), Ok(vec![report(100.0, None, None)]));
        assert_eq!(take(&mut talk, r#"{"progress": -1, "message": null}"#), Ok(vec![report(0.0, None, None)]));
        assert_eq!(take(&mut talk, "  "), Ok(vec![]));
    }

    #[test]
    fn progress_that_is_no_number_is_an_error_that_names_the_line() {
        let error = Talk::new("p").take(Line::Whole(7, br#"{"progress": "50"}"#)).expect_err("it is not a number");
        assert_eq!(error.code, "bad_output");
        assert!(error.message.contains("line 7") && error.message.contains("`p`"), "{error}");
    }

    #[test]
    fn lines_of_other_kinds_are_messages_with_the_present_progress() {
        let mut talk = Talk::new("p");
        assert!(take(&mut talk, r#"{"progress": 20}"#).is_ok());
        for line in ["loading", "[1]", "{oops", r#"{"progres": 50}"#, "12"] {
            assert_eq!(take(&mut talk, line), Ok(vec![report(20.0, Some(line), None)]));
        }
    }

    #[test]
    fn the_first_outcome_counts() {
        let mut talk = Talk::new("p");
        assert_eq!(take(&mut talk, r#"{"result": {"a": 1}}"#), Ok(vec![]));
        assert_eq!(take(&mut talk, r#"{"error": "late"}"#), Ok(vec![]));
        assert_eq!(talk.outcome, Some(Ok(json!({"a": 1}).into())));
    }

    #[test]
    fn an_error_decides_itself_whether_it_is_retried() {
        for (line, message, retryable) in [
            (r#"{"error": "busy"}"#, "busy", true),
            (r#"{"error": "no such order", "retryable": false}"#, "no such order", false),
            (r#"{"error": {"why": 1}, "result": 2}"#, r#"{"why":1}"#, true),
        ] {
            let mut talk = Talk::new("p");
            assert_eq!(take(&mut talk, line), Ok(vec![]));
            let error = talk.outcome.expect("it is one").expect_err("it is an error");
            assert_eq!(
                (error.code.as_str(), error.message.as_str(), error.retryable),
                ("command_error", message, retryable)
            );
        }
    }
    fn outcome(lines: &[&[u8]]) -> Option<Result<String, String>> {
        let mut talk = Talk::new("p");
        for (number, line) in (1..).zip(lines) {
            if let Err(error) = talk.take(Line::Whole(number, line)) {
                return Some(Err(error.code));
            }
        }
        let unfinished = talk.unfinished().map(Err);
        talk.outcome
            .or(unfinished)
            .map(|outcome| outcome.map(|result| result.get().to_owned()).map_err(|error| error.code))
    }

    #[test]
    fn a_result_keeps_its_digits_and_its_escapes() {
        let line = br#"{"result": {"n": 1.10, "z": 123456789012345678901234567890, "e": 1e400, "t": "\u00e9"}}"#;
        let unchanged = r#"{"n":1.10,"z":123456789012345678901234567890,"e":1e400,"t":"\u00e9"}"#;
        assert_eq!(outcome(&[line]), Some(Ok(unchanged.into())));
        let report = &Talk::new("p").take(Line::Whole(1, br#"{"progress": 1e400, "data": [1E5]}"#)).unwrap()[0];
        assert_eq!((report.progress, report.data.as_ref().map(Json::get)), (100.0, Some("[1E5]")));
    }

    #[test]
    fn a_result_that_is_nested_too_deep_is_its_text() {
        let deep = format!("{}{}", "[".repeat(300), "]".repeat(300));
        assert_eq!(outcome(&[format!("{{\"result\": {deep}}}").as_bytes()]), Some(Ok(format!("\"{deep}\""))));
    }

    #[test]
    fn a_result_may_extend_over_several_lines_and_begin_with_a_byte_order_mark() {
        let lines: [&[u8]; 5] = [b"\xEF\xBB\xBF{", b"  \"result\": {", b"    \"a\": 1.10", b"", b"  } }"];
        assert_eq!(outcome(&lines), Some(Ok(r#"{"a":1.10}"#.into())));
        assert_eq!(outcome(&[b"\xEF\xBB\xBF{\"result\": 1}"]), Some(Ok("1".into())));
        // A line that only begins like an object does not hide the following lines.
        assert_eq!(outcome(&[b"{", b"{\"result\": 2}"]), Some(Ok("2".into())));
    }

    #[test]
    fn an_outcome_that_cannot_be_read_is_an_error_and_no_message() {
        let bad = Some(Err("bad_output".to_owned()));
        let long = format!("{{\"result\": \"{}\",", "x".repeat(LINE_MAX - 20));
        for lines in [
            &[&br#"{"result": NaN}"#[..]][..],
            &[br#"{"seconds": Infinity, "result": 1}"#],
            &[br#"{"result": 1} done"#],
            &[br#"{"result": "\udce9"}"#],
            &[br#"{"error": None}"#],
            &[b"{\"result\": \"\xe9\"}"],
            &[br#"{"result": [1,"#],
            &[br#"{"result": [1,"#, br#"{"progress": 50}"#],
            &[b"{", br#""result": "#, b"oops"],
            &[long.as_bytes(), br#""more": 1"#],
        ] {
            let shown: Vec<_> = lines.iter().map(|line| excerpt(&String::from_utf8_lossy(line), 60)).collect();
            assert_eq!(outcome(lines), bad, "{shown:?}");
        }
        assert_eq!(outcome(&[b"{\"error\": \"caf\xe9\"}"]), Some(Err("command_error".into())));
        for chatter in [&br#"{oops "result": 1"#[..], br#"{"level": "info", "of": {"result": NaN}}"#, b"\xe9"] {
            assert_eq!(outcome(&[chatter]), None);
        }
    }
}
