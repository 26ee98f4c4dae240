//! Names of control frames, which describe the stream itself. Published events cannot have these names. Events of
//! other servers with such a name get a prefix when they are passed on. Pure.

use std::borrow::Cow;

/// Prefix of a control-frame name from another server.
const PREFIX: &str = "remote.";

/// True for the name of a control frame of the node: `connection`, `heartbeat`, `gap`, `disconnect`, `relay_…`,
/// `merge_…`.
pub fn is_control(name: &str) -> bool {
    matches!(name, "connection" | "heartbeat" | "gap" | "disconnect")
        || ["relay_", "merge_"].iter().any(|begin| name.starts_with(begin))
}

/// The name with which a relay publishes an event of another server.
pub fn passed_on(name: &str) -> Cow<'_, str> {
    if is_control(name) { Cow::Owned(format!("{PREFIX}{name}")) } else { Cow::Borrowed(name) }
}

/// The name of a relayed event on its original server.
pub fn original(name: &str) -> &str {
    name.strip_prefix(PREFIX).filter(|name| is_control(name)).unwrap_or(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_of_control_frames_are_changed_and_only_once() {
        for name in ["connection", "heartbeat", "gap", "disconnect", "relay_open", "relay_", "merge_complete"] {
            let passed = passed_on(name);
            assert_eq!(passed, format!("remote.{name}"));
            assert_eq!((passed_on(&passed), original(&passed)), (Cow::Borrowed(&*passed), name));
        }
        for name in ["", "message", "complete", "error", "progress", "task_start", "Gap", "relay", "remote.x", "merged"]
        {
            assert_eq!((passed_on(name), original(name)), (Cow::Borrowed(name), name));
        }
    }
}
