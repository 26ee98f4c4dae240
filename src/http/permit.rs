//! May they? The questions that the handlers ask of a caller, and the refusals.
//!
//! What somebody may not even know of is answered as if it were not there: jobs, relays and emitters of others are 404.

use super::{Problem, Refusal, audit};
use crate::{
    access::{Identity, Mode},
    jobs::{self, spec::Spec},
    node::Node,
    relay,
    topic::{Pattern, Topic},
};

/// What a caller wants of a job or a relay.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum To {
    /// To see it: its user, admins, and who may hear its topic.
    Read,
    /// To change it: its user and admins.
    Change,
}

/// Whether the caller may publish into all of these.
pub(super) fn publish<'a>(identity: &Identity, topics: impl IntoIterator<Item = &'a Topic>) -> Result<(), Problem> {
    match topics.into_iter().find(|topic| !identity.may_publish(topic)) {
        None => Ok(()),
        Some(topic) => {
            Err(Problem::refused(Refusal::Publish, format!("{} may not publish into `{topic}`", name(identity))))
        }
    }
}

/// Whether the caller may hear all of these.
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

/// Whether the caller may use this remote. It is asked before it is said whether there is one.
pub(super) fn remote(identity: &Identity, remote: &str) -> Result<(), Problem> {
    if identity.rights.may_use(remote) {
        return Ok(());
    }
    let remote = remote.escape_debug();
    Err(Problem::refused(Refusal::Remote, format!("{} may not use the remote `{remote}`", name(identity))))
}

/// Whether the caller may submit this job: run it, on the remotes that it names, and tell whom it is to tell.
pub(super) fn submit(identity: &Identity, spec: &Spec) -> Result<(), Problem> {
    if !identity.rights.may_submit() {
        return Err(Problem::refused(Refusal::Jobs, format!("{} may not submit jobs", name(identity))));
    }
    for named in spec.tasks.iter().filter_map(|task| task.remote.as_deref()) {
        remote(identity, named)?;
    }
    let Some(told) = &spec.notify else { return Ok(()) };
    let topics = [
        told.user.as_deref().map(Topic::user),
        told.group.as_deref().map(Topic::group),
        told.topic.as_deref().map(Topic::new),
    ];
    // One that is no topic is refused with all else that is wrong with the job.
    publish(identity, topics.iter().flatten().flatten())
}

/// Whether the caller may make this relay: read those remotes, and publish into that topic.
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

/// Whether the caller may do this with the job.
pub(super) async fn job(node: &Node, identity: &Identity, id: &str, to: To) -> Result<(), Problem> {
    let owner = async || Ok::<_, Problem>(node.jobs.summary(id).await?.user);
    match entity(node, identity, to, ("job", id), Topic::job(id).ok(), owner).await? {
        true => Ok(()),
        false => Err(jobs::Error::UnknownJob(id.to_owned()).into()),
    }
}

/// Whether the caller may do this with the relay.
pub(super) async fn relay(node: &Node, identity: &Identity, id: &str, to: To) -> Result<(), Problem> {
    let owner = async || Ok::<_, Problem>(node.relays.summary(id).await?.user);
    match entity(node, identity, to, ("relay", id), Topic::relay(id).ok(), owner).await? {
        true => Ok(()),
        false => Err(relay::Error::Unknown(id.to_owned()).into()),
    }
}

/// Whether the caller may do this with a job or a relay: `what` is its kind and its id. The owner is looked up only if
/// it matters.
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
    Ok(identity.is(owner.as_deref()) || (to == To::Read && topic.is_some_and(|topic| identity.may_hear(&topic))))
}

/// The user that a list is about: the caller, unless an admin asks.
pub(super) fn listed(identity: &Identity, asked: Option<&str>) -> Result<Option<String>, Problem> {
    match asked {
        asked if identity.is_admin() => Ok(asked.map(str::to_owned)),
        Some(user) if !identity.is(Some(user)) => Err(Problem::refused(
            Refusal::OtherUser,
            format!("{} sees its own alone; `user` is for admins", name(identity)),
        )),
        _ => Ok(Some(identity.user.clone().unwrap_or_default())),
    }
}

/// Whether the caller may know of a user's connections.
pub(super) fn user(identity: &Identity, user: &str) -> Result<(), Problem> {
    if identity.is(Some(user)) {
        return Ok(());
    }
    Err(Problem::refused(Refusal::OtherUser, format!("{} sees its own connections alone", name(identity))))
}

/// Whether the caller may know of a group's connections.
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
