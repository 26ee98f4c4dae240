//! What a program says on stdout, line by line; pure.

use serde_json::{Map, Value};

use super::lines::Line;
use crate::jobs::{
    handler::{Report, TaskError},
    handlers::excerpt,
};

/// How much of a line is shown, in characters.
const EXCERPT: usize = 200;

/// What has been said so far.
#[derive(Debug)]
pub struct Talk {
    program: String,
    /// The first result or error. What follows it is read but counts no more.
    pub outcome: Option<Result<Value, TaskError>>,
    progress: f64,
}

// === impl Talk ===

impl Talk {
    /// Nothing so far, by this program.
    pub fn new(program: &str) -> Self {
        Self { program: program.to_owned(), outcome: None, progress: 0.0 }
    }

    /// Takes a line and answers with what it reports.
    ///
    /// # Errors
    /// `bad_output` for a line that is too long, or that means to be ours and is not.
    pub fn take(&mut self, line: Line<'_>) -> Result<Option<Report>, TaskError> {
        let (number, bytes) = match line {
            Line::Whole(number, bytes) => (number, bytes.trim_ascii()),
            Line::Long => return Ok(None),
            Line::TooLong(number, max) => {
                return Err(self.bad(number, &format!("has more than {max} bytes; hand large results on by reference")));
            }
        };
        if bytes.is_empty() || self.outcome.is_some() {
            return Ok(None);
        }
        // Only what begins like an object is worth parsing.
        let object = if bytes[0] == b'{' { serde_json::from_slice::<Map<String, Value>>(bytes).ok() } else { None };
        match object {
            Some(object) => self.take_object(number, object, bytes),
            None => Ok(Some(self.chatter(bytes))),
        }
    }

    fn take_object(
        &mut self,
        number: u64,
        mut object: Map<String, Value>,
        bytes: &[u8],
    ) -> Result<Option<Report>, TaskError> {
        if let Some(error) = object.remove("error") {
            let message = text(error);
            let retryable = object.get("retryable") != Some(&Value::Bool(false));
            self.outcome = Some(Err(TaskError { retryable, ..TaskError::fatal("command_error", message) }));
            return Ok(None);
        }
        if let Some(result) = object.remove("result") {
            self.outcome = Some(Ok(result));
            return Ok(None);
        }
        let Some(progress) = object.remove("progress") else { return Ok(Some(self.chatter(bytes))) };
        let Some(progress) = progress.as_f64() else {
            return Err(self.bad(number, "has a `progress` that is no number"));
        };
        self.progress = progress.clamp(0.0, 100.0);
        let message = object.remove("message").filter(|message| !message.is_null()).map(text);
        let data = object.remove("data").filter(|data| !data.is_null());
        Ok(Some(Report { progress: self.progress, message, data }))
    }

    /// A line that is not ours, shown to people beside the progress so far.
    fn chatter(&self, bytes: &[u8]) -> Report {
        let message = excerpt(&String::from_utf8_lossy(bytes), EXCERPT);
        Report { progress: self.progress, message: Some(message), data: None }
    }

    fn bad(&self, number: u64, reason: &str) -> TaskError {
        TaskError::fatal("bad_output", format!("line {number} of the output of `{}` {reason}", self.program))
    }
}

/// A string as it is, anything else as JSON.
fn text(value: Value) -> String {
    match value {
        Value::String(text) => text,
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn take(talk: &mut Talk, line: &str) -> Result<Option<Report>, TaskError> {
        talk.take(Line::Whole(1, line.as_bytes()))
    }

    fn report(progress: f64, message: Option<&str>, data: Option<Value>) -> Report {
        Report { progress, message: message.map(Into::into), data }
    }

    #[test]
    fn progress_is_taken_within_its_range() {
        let mut talk = Talk::new("p");
        let half = take(&mut talk, r#"{"progress": 50, "message": "half", "data": {"n": 1}}"#);
        assert_eq!(half, Ok(Some(report(50.0, Some("half"), Some(json!({"n": 1}))))));
        assert_eq!(take(&mut talk, r#"{"progress": 170.5}"#), Ok(Some(report(100.0, None, None))));
        assert_eq!(take(&mut talk, r#"{"progress": -1, "message": null}"#), Ok(Some(report(0.0, None, None))));
        assert_eq!(take(&mut talk, "  "), Ok(None));
    }

    #[test]
    fn progress_that_is_no_number_is_an_error_that_names_the_line() {
        let error = Talk::new("p").take(Line::Whole(7, br#"{"progress": "50"}"#)).expect_err("it is no number");
        assert_eq!(error.code, "bad_output");
        assert!(error.message.contains("line 7") && error.message.contains("`p`"), "{error}");
    }

    #[test]
    fn lines_of_other_kinds_are_messages_at_the_progress_so_far() {
        let mut talk = Talk::new("p");
        assert!(take(&mut talk, r#"{"progress": 20}"#).is_ok());
        for line in ["loading", "[1]", "{oops", r#"{"progres": 50}"#, "12"] {
            assert_eq!(take(&mut talk, line), Ok(Some(report(20.0, Some(line), None))));
        }
    }

    #[test]
    fn the_first_outcome_counts() {
        let mut talk = Talk::new("p");
        assert_eq!(take(&mut talk, r#"{"result": {"a": 1}}"#), Ok(None));
        assert_eq!(take(&mut talk, r#"{"error": "late"}"#), Ok(None));
        assert_eq!(talk.outcome, Some(Ok(json!({"a": 1}))));
    }

    #[test]
    fn an_error_says_itself_whether_another_try_can_help() {
        for (line, message, retryable) in [
            (r#"{"error": "busy"}"#, "busy", true),
            (r#"{"error": "no such order", "retryable": false}"#, "no such order", false),
            (r#"{"error": {"why": 1}, "result": 2}"#, r#"{"why":1}"#, true),
        ] {
            let mut talk = Talk::new("p");
            assert_eq!(take(&mut talk, line), Ok(None));
            let error = talk.outcome.expect("it is one").expect_err("it is an error");
            assert_eq!(
                (error.code.as_str(), error.message.as_str(), error.retryable),
                ("command_error", message, retryable)
            );
        }
    }
}
