//! Authorization: the checks of the handlers, and their refusals.
//!
//! Entities that a caller may not know of get 404, as if they did not exist: jobs, relays and emitters of other users.

use super::{Problem, Refusal, audit};
use crate::{
    access::{Identity, Mode},
    jobs::{self, spec::Spec},
    node::Node,
    relay,
    topic::{Pattern, Topic},
};

/// The kind of access to a job or a relay.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum To {
    /// Read access: its user, admins, and callers that may subscribe to its topic.
    Read,
    /// Write access: its user and admins.
    Change,
}

/// Checks that the caller may publish into all of these topics.
pub(super) fn publish<'a>(identity: &Identity, topics: impl IntoIterator<Item = &'a Topic>) -> Result<(), Problem> {
    match topics.into_iter().find(|topic| !identity.may_publish(topic)) {
        None => Ok(()),
        Some(topic) => {
            Err(Problem::refused(Refusal::Publish, format!("{} may not publish into `{topic}`", name(identity))))
        }
    }
}

/// Checks that the caller may subscribe to all of these patterns.
pub(super) fn subscribe<'a>(
    identity: &Identity,
    patterns: impl IntoIterator<Item = &'a Pattern>,
) -> Result<(), Problem> {
    match patterns.into_iter().find(|pattern| !identity.may_subscribe(pattern)) {
        None => Ok(()),
        Some(pattern) => {
            Err(Problem::refused(Refusal::Subscribe, format!("{} may not subscribe to `{pattern}`", name(identity))))
        }
    }
}

/// Checks that the caller may use this remote. The check comes first, so that the response does not reveal which
/// remotes exist.
pub(super) fn remote(identity: &Identity, remote: &str) -> Result<(), Problem> {
    if identity.rights.may_use(remote) {
        return Ok(());
    }
    let remote = remote.escape_debug();
    Err(Problem::refused(Refusal::Remote, format!("{} may not use the remote `{remote}`", name(identity))))
}

/// Checks that the caller may submit this job: run it, use its remotes, and notify its recipients.
pub(super) fn submit(identity: &Identity, spec: &Spec) -> Result<(), Problem> {
    if !identity.rights.may_submit() {
        return Err(Problem::refused(Refusal::Jobs, format!("{} may not submit jobs", name(identity))));
    }
    for named in spec.tasks.iter().filter_map(|task| task.remote.as_deref()) {
        remote(identity, named)?;
    }
    let Some(notify) = &spec.notify else { return Ok(()) };
    let topics = [
        notify.user.as_deref().map(Topic::user),
        notify.group.as_deref().map(Topic::group),
        notify.topic.as_deref().map(Topic::new),
    ];
    // A name that is not a topic is reported together with the other faults of the job.
    publish(identity, topics.iter().flatten().flatten())
}

/// Checks that the caller may create this relay: read its remotes, and publish into its topic.
pub(super) fn relay_spec(node: &Node, identity: &Identity, spec: &relay::Spec) -> Result<(), Problem> {
    let default = node.config.relay.default_remote.as_deref();
    for named in spec.sources.iter().filter_map(|source| source.remote.as_deref().or(default)) {
        remote(identity, named)?;
    }
    if spec.sources.is_empty() && !identity.is_admin() && identity.rights.remotes.is_empty() {
        return Err(Problem::refused(Refusal::Remote, format!("{} may not use any remote", name(identity))));
    }
    let topics = [
        spec.topic.as_deref().map(Topic::new),
        spec.user.as_deref().map(Topic::user),
        spec.group.as_deref().map(Topic::group),
    ];
    publish(identity, topics.iter().flatten().flatten())
}

/// Checks the caller's access to a job.
pub(super) async fn job(node: &Node, identity: &Identity, id: &str, to: To) -> Result<(), Problem> {
    let owner = async || Ok::<_, Problem>(node.jobs.summary(id).await?.user);
    match entity(node, identity, to, ("job", id), Topic::job(id).ok(), owner).await? {
        true => Ok(()),
        false => Err(jobs::Error::UnknownJob(id.to_owned()).into()),
    }
}

/// Checks the caller's access to a relay.
pub(super) async fn relay(node: &Node, identity: &Identity, id: &str, to: To) -> Result<(), Problem> {
    let owner = async || Ok::<_, Problem>(node.relays.summary(id).await?.user);
    match entity(node, identity, to, ("relay", id), Topic::relay(id).ok(), owner).await? {
        true => Ok(()),
        false => Err(relay::Error::Unknown(id.to_owned()).into()),
    }
}

/// Checks the caller's access to a job or a relay: `what` is its kind and its id. The owner is looked up only if it
/// matters.
async fn entity(
    node: &Node,
    identity: &Identity,
    to: To,
    what: (&'static str, &str),
    topic: Option<Topic>,
    owner: impl AsyncFnOnce() -> Result<Option<String>, Problem>,
) -> Result<bool, Problem> {
    // In open mode every caller is an admin without a name, so there is nothing to record.
    if identity.is_admin() && (to == To::Read || node.access.mode() == Mode::Open) {
        return Ok(true);
    }
    let owner = owner().await?;
    if identity.is_admin() {
        if identity.user != owner {
            audit::acting_for(identity, what.0, what.1, owner.as_deref());
        }
        return Ok(true);
    }
    Ok(identity.is(owner.as_deref()) || (to == To::Read && topic.is_some_and(|topic| identity.may_receive(&topic))))
}

/// The user that a list is limited to: the caller, unless an admin asks.
pub(super) fn listed(identity: &Identity, asked: Option<&str>) -> Result<Option<String>, Problem> {
    match asked {
        asked if identity.is_admin() => Ok(asked.map(str::to_owned)),
        Some(user) if !identity.is(Some(user)) => Err(Problem::refused(
            Refusal::OtherUser,
            format!("{} may list only its own; `user` is for admins", name(identity)),
        )),
        _ => Ok(Some(identity.user.clone().unwrap_or_default())),
    }
}

/// Checks that the caller may see a user's connections.
pub(super) fn user(identity: &Identity, user: &str) -> Result<(), Problem> {
    if identity.is(Some(user)) {
        return Ok(());
    }
    Err(Problem::refused(Refusal::OtherUser, format!("{} may see only its own connections", name(identity))))
}

/// Checks that the caller may see a group's connections.
pub(super) fn group(identity: &Identity, group: &str) -> Result<(), Problem> {
    if identity.is_in(group) {
        return Ok(());
    }
    let group = group.escape_debug();
    Err(Problem::refused(Refusal::OtherGroup, format!("{} is not in the group `{group}`", name(identity))))
}

fn name(identity: &Identity) -> String {
    identity.user.as_ref().map_or_else(|| "the caller".into(), |user| format!("`{}`", user.escape_debug()))
}
