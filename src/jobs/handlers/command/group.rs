//! The process group of a program: killed as a whole, even when the node dies.
//!
//! A killed program leaves its children behind; a killed group does not. When the node itself is killed nobody would
//! kill the group, so beside each program waits a *lifeline*: a tiny shell that reads from a pipe whose other end the
//! node holds. The system closes that end when the node is gone, in whatever way; the shell then kills the group.
//! A process that makes a group or session of its own (`setsid`) gets away, as daemons mean to.

use std::{io, process::Stdio};

use rustix::process::{Pid, Signal, kill_process_group};
use tokio::process::{Child, Command};

/// What the lifeline runs. The group is an argument, not part of the text.
const SCRIPT: &str = r#"read -r _; kill -s KILL -- "-$1""#;

/// A process group that is killed when this is dropped.
#[derive(Debug)]
pub struct Group {
    /// Gone once it was killed: afterwards the id may come to belong to somebody else.
    id: Option<Pid>,
    lifeline: Option<Child>,
}

// === impl Group ===

impl Group {
    /// The group of a child that was started as the leader of one and has not been waited for.
    pub fn led_by(leader: &Child) -> Self {
        let id = leader.id().and_then(|id| Pid::from_raw(id.try_into().ok()?));
        let lifeline = id.and_then(|id| {
            // Without it all works but for the death of the node, so a machine without a shell is no reason to fail.
            hold(id).inspect_err(|error| tracing::warn!(%error, "commands will outlive this node if it is killed")).ok()
        });
        Self { id, lifeline }
    }

    /// Kills every process of the group that is still there.
    pub fn kill(&mut self) {
        if let Some(id) = self.id.take() {
            // Nobody left to kill is the usual case.
            let _ = kill_process_group(id, Signal::KILL);
        }
        // Before its pipe closes: it must not kill what then may have the group's id.
        if let Some(mut lifeline) = self.lifeline.take() {
            let _ = lifeline.start_kill();
        }
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Starts a lifeline for a group. It has a group of its own, so that neither a signal to the node's group nor the end
/// of the program's group takes it away too soon.
fn hold(id: Pid) -> io::Result<Child> {
    Command::new("/bin/sh")
        .args(["-c", SCRIPT, "millstream-lifeline", &id.as_raw_nonzero().to_string()])
        .env_clear()
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .process_group(0)
        .kill_on_drop(true)
        .spawn()
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt;

    use super::*;

    fn sleeper() -> Child {
        Command::new("sleep").arg("300").process_group(0).kill_on_drop(true).spawn().expect("sleep is everywhere")
    }

    async fn killed(mut child: Child) -> bool {
        let status = tokio::time::timeout(std::time::Duration::from_secs(10), child.wait()).await;
        status.expect("it is gone in time").expect("it can be waited for").signal() == Some(9)
    }

    /// What happens when the node is killed: the system closes the node's end of the pipe.
    #[tokio::test]
    async fn a_group_does_not_outlive_the_node() {
        let child = sleeper();
        let mut group = Group::led_by(&child);
        group.id = None;
        drop(group.lifeline.as_mut().expect("there is a shell").stdin.take());
        assert!(killed(child).await);
    }

    #[tokio::test]
    async fn a_group_is_killed_with_its_owner() {
        let child = sleeper();
        drop(Group::led_by(&child));
        assert!(killed(child).await);
    }
}
