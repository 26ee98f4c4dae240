//! The log line that reports the number of missing lines before it.

use tracing_subscriber::fmt::{
    format::Writer,
    time::{FormatTime, SystemTime},
};

use super::Format;

/// Formats a note like the other log lines. It does not pass through `tracing`, so no filter can drop it and it appears
/// where lines are missing.
pub(super) fn note(form: Format, lost: u64) -> String {
    let mut time = String::new();
    let _ = SystemTime.format_time(&mut Writer::new(&mut time));
    let (target, message) = ("millstream::telemetry", "log lines were lost");
    match form {
        Format::Text => format!("{time}  WARN {target}: {message} lines={lost}\n"),
        Format::Json => {
            let fields = format!(r#"{{"message":"{message}","lines":{lost}}}"#);
            format!(r#"{{"timestamp":"{time}","level":"WARN","fields":{fields},"target":"{target}"}}"#) + "\n"
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_note_has_the_form_of_the_other_lines() {
        let text = note(Format::Text, 7);
        assert!(text.ends_with("Z  WARN millstream::telemetry: log lines were lost lines=7\n"), "{text}");
        let json: serde_json::Value = serde_json::from_str(&note(Format::Json, 7)).unwrap();
        assert_eq!((&json["level"], &json["fields"]["lines"]), (&"WARN".into(), &7.into()));
        assert!(json["timestamp"].as_str().unwrap().ends_with('Z'));
    }
}
