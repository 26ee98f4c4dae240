//! The log line that reports the number of missing lines before it.

use std::fmt::Write as _;

use tracing_subscriber::fmt::{
    format::Writer,
    time::{FormatTime, SystemTime},
};

use super::Format;

/// Formats notes like other log lines.
#[derive(Clone, Copy, Debug)]
pub(super) struct Note(pub(super) Format);

// === impl Note ===

impl Note {
    /// The note does not pass through `tracing`, so no filter can drop it and it appears where lines are missing.
    pub(super) fn of(self, lost: u64) -> String {
        let mut time = String::new();
        let _ = SystemTime.format_time(&mut Writer::new(&mut time));
        let (target, message) = ("millstream::telemetry", "log lines were lost");
        let mut line = String::new();
        let _ = match self.0 {
            Format::Text => writeln!(line, "{time}  WARN {target}: {message} lines={lost}"),
            Format::Json => writeln!(
                line,
                r#"{{"timestamp":"{time}","level":"WARN","fields":{{"message":"{message}","lines":{lost}}},"target":"{target}"}}"#
            ),
        };
        line
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_note_has_the_form_of_the_other_lines() {
        let text = Note(Format::Text).of(7);
        assert!(text.ends_with("Z  WARN millstream::telemetry: log lines were lost lines=7\n"), "{text}");
        let json: serde_json::Value = serde_json::from_str(&Note(Format::Json).of(7)).unwrap();
        assert_eq!((&json["level"], &json["fields"]["lines"]), (&"WARN".into(), &7.into()));
        assert!(json["timestamp"].as_str().unwrap().ends_with('Z'));
    }
}
