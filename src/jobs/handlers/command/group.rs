//! The process group of a program: killed as a whole, even when the node dies.
//!
//! A killed program leaves its children running; a killed group does not. No code of the node runs when the node itself
//! is killed. So a *lifeline* leads each group: a small shell that reads from a pipe, whose other end the node holds.
//! The system closes that end when the node ends, for any reason, and the shell then kills its own group.
//!
//! The lifeline starts first, and the program joins its group before `exec`. Until `exec` the forked child also holds a
//! copy of the pipe's end. So at every moment of a start the lifeline does not see the end of the pipe yet, or the
//! program is in the group that the lifeline kills.
//!
//! A process that makes a group or a session of its own (`setsid`) leaves the group; [`super::orphans`] finds it.

use std::{io, process::Stdio};

use rustix::process::{Pid, Signal, kill_process_group};
use tokio::{
    io::AsyncReadExt,
    process::{Child, Command},
};

use super::orphans::{self, Marker};

/// The script of the lifeline. Signals to the whole group must not end it before the group.
const SCRIPT: &str = "trap '' HUP INT QUIT TERM USR1 USR2; echo; read -r _; kill -s KILL 0";

/// A process group that is killed when this is dropped.
#[derive(Debug)]
pub(super) struct Group {
    /// `None` once it was killed.
    id: Option<Pid>,
    /// Leads the group. It is not waited for before the group is killed, so the id cannot belong to another process.
    lifeline: Option<Child>,
    _marker: Marker,
}

// === impl Group ===

impl Group {
    /// Starts a program in its own group, after its lifeline has started.
    ///
    /// # Errors
    /// If the program cannot be started.
    pub(super) async fn start(command: &mut Command) -> io::Result<(Self, Child)> {
        let marker = Marker::new();
        // Without a shell only the death of the node is not covered, so the start does not fail.
        let lifeline = lifeline()
            .await
            .inspect_err(|error| tracing::warn!(%error, "commands will outlive this node if it is killed"))
            .ok();
        let leader = lifeline.as_ref().and_then(pid);
        command.env(orphans::VARIABLE, marker.value());
        command.process_group(leader.map_or(0, Pid::as_raw_pid)).kill_on_drop(true);
        // On an error the lifeline is dropped, which kills it.
        let program = orphans::spawn(command)?;
        let id = leader.or_else(|| pid(&program));
        Ok((Self { id, lifeline, _marker: marker }, program))
    }

    /// Kills every remaining process of the group, including the lifeline.
    pub(super) fn kill(&mut self) {
        if let Some(id) = self.id.take() {
            // Without a lifeline the group is usually empty.
            let _ = kill_process_group(id, Signal::KILL);
        }
        self.lifeline = None;
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        self.kill();
    }
}

// === helpers ===

fn pid(child: &Child) -> Option<Pid> {
    child.id().and_then(|id| Pid::from_raw(id.try_into().ok()?))
}

/// Starts a lifeline as the leader of a new group, and waits until only KILL can end it.
async fn lifeline() -> io::Result<Child> {
    let mut command = Command::new("/bin/sh");
    command.args(["-c", SCRIPT, "millstream-lifeline"]).env_clear().envs(orphans::inherited());
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut lifeline = orphans::spawn(command.process_group(0).kill_on_drop(true))?;
    match &mut lifeline.stdout {
        Some(stdout) => drop(stdout.read_u8().await?),
        None => return Err(io::ErrorKind::BrokenPipe.into()),
    }
    Ok(lifeline)
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt;

    use super::*;

    async fn sleeper() -> (Group, Child) {
        Group::start(Command::new("sleep").arg("300")).await.expect("sleep is everywhere")
    }

    async fn killed(mut child: Child) -> bool {
        let status = tokio::time::timeout(std::time::Duration::from_secs(10), child.wait()).await;
        status.expect("it ends in time").expect("it can be waited for").signal() == Some(9)
    }

    /// When the node is killed, the system closes the node's end of the pipe.
    #[tokio::test]
    async fn a_group_does_not_outlive_the_node() {
        let (mut group, child) = sleeper().await;
        group.id = None;
        drop(group.lifeline.as_mut().expect("there is a shell").stdin.take());
        assert!(killed(child).await);
    }

    /// A script may end its own group by `kill 0`; processes that ignore that must still not outlive the node.
    #[tokio::test]
    async fn a_lifeline_survives_a_signal_to_its_group() {
        let mut command = Command::new("sh");
        command.args(["-c", "trap '' TERM; kill -s TERM 0; echo sent; exec sleep 300"]).stdout(Stdio::piped());
        let (mut group, mut child) = Group::start(&mut command).await.expect("there is a shell");
        let mut output = [0; 5];
        let stdout = child.stdout.as_mut().expect("it is piped");
        stdout.read_exact(&mut output).await.expect("the script reports the signal");
        let lifeline = group.lifeline.as_mut().expect("there is a shell");
        assert_eq!(lifeline.try_wait().expect("it can be waited for"), None);
        group.id = None;
        drop(lifeline.stdin.take());
        assert!(killed(child).await);
    }

    #[tokio::test]
    async fn a_group_is_killed_with_its_owner() {
        let (group, child) = sleeper().await;
        drop(group);
        assert!(killed(child).await);
    }
}
