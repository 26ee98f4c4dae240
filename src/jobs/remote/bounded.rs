//! What a remote says, in forms that can do no harm; pure.

use serde_json::value::RawValue;

/// Longest text that is taken from a refusal.
const LINE_MAX: usize = 1000;
/// JSON that is nested deeper is refused by most parsers (128 levels), and it will stand inside of other JSON.
const DEPTH_MAX: usize = 100;

/// One line of readable text.
pub fn line(text: &str) -> String {
    let words = text.split(|c: char| c.is_whitespace() || c.is_control()).filter(|word| !word.is_empty());
    words.collect::<Vec<_>>().join(" ").chars().take(LINE_MAX).collect()
}

/// True for JSON that anybody can parse.
pub fn shallow(json: &RawValue) -> bool {
    let (mut depth, mut quoted, mut escaped) = (0usize, false, false);
    for byte in json.get().bytes() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if quoted => escaped = true,
            b'"' => quoted = !quoted,
            b'[' | b'{' if !quoted => depth += 1,
            b']' | b'}' if !quoted => depth = depth.saturating_sub(1),
            _ => {}
        }
        if depth > DEPTH_MAX {
            return false;
        }
    }
    true
}

/// A text that names tasks by their number in what the remote got (`tasks[0].run`) names them by their ids.
pub fn by_id(text: &str, ids: &[&str]) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once("tasks[") {
        out.push_str(before);
        let named = after.split_once(']').and_then(|(number, behind)| {
            let id = ids.get(number.parse::<usize>().ok()?)?;
            Some((id, behind))
        });
        match named {
            Some((id, behind)) => {
                out.push_str(&format!("task `{id}`"));
                rest = behind;
            }
            None => {
                out.push_str("tasks[");
                rest = after;
            }
        }
    }
    out.push_str(rest);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn depth_is_counted_outside_of_strings() {
        let raw = |text: String| RawValue::from_string(text).unwrap();
        assert!(shallow(&raw(format!("{}{}", "[".repeat(100), "]".repeat(100)))));
        assert!(!shallow(&raw(format!("{}{}", "[".repeat(101), "]".repeat(101)))));
        assert!(shallow(&raw(format!(r#"["{}\"[", {{}}]"#, "[".repeat(500)))));
        assert!(shallow(&raw(format!("[{}0]", "[],".repeat(500)))));
    }

    #[test]
    fn tasks_are_named_by_their_ids() {
        assert_eq!(by_id("tasks[1].run: no; tasks[0]: x", &["a", "b"]), "task `b`.run: no; task `a`: x");
        assert_eq!(by_id("tasks[7].run tasks[x tasks[", &["a"]), "tasks[7].run tasks[x tasks[");
    }
}
