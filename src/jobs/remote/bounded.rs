//! What a remote says, in forms that can do no harm; pure.

/// Longest text that is taken from a refusal.
const LINE_MAX: usize = 1000;

/// One line of readable text.
pub fn line(text: &str) -> String {
    let words = text.split(|c: char| c.is_whitespace() || c.is_control()).filter(|word| !word.is_empty());
    words.collect::<Vec<_>>().join(" ").chars().take(LINE_MAX).collect()
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
    fn tasks_are_named_by_their_ids() {
        assert_eq!(by_id("tasks[1].run: no; tasks[0]: x", &["a", "b"]), "task `b`.run: no; task `a`: x");
        assert_eq!(by_id("tasks[7].run tasks[x tasks[", &["a"]), "tasks[7].run tasks[x tasks[");
    }
}
