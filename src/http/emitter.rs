//! Answers a route of the host application with a stream. The application chooses user, groups and metadata.
//!
//! ```no_run
//! # use actix_web::{HttpRequest, HttpResponse, web::Data};
//! # use millstream::{http::Problem, node::Node};
//! # use std::time::Duration;
//! async fn notifications(node: Data<Node>, request: HttpRequest) -> Result<HttpResponse, Problem> {
//!     node.emitter()
//!         .user("123")
//!         .group("chat-room-1")
//!         .timeout(Duration::from_secs(300))
//!         .meta("premium", true)
//!         .on_close(|reason| println!("closed: {}", reason.as_str()))
//!         .respond(&request)
//!         .await
//! }
//! ```

use std::time::Duration;

use actix_web::{HttpRequest, HttpResponse};
use serde_json::Value;

use super::{Problem, connect::last_event_id, limited, query::Query, stream};
use crate::{
    access::Identity,
    hub::{Connect, Reason, Start},
    node::Node,
    topic::{Pattern, Topic},
};

/// A stream that will be opened; made by [`Node::emitter`]. It receives broadcasts, its user's events and those of its
/// groups and topics. It resumes with the client's `Last-Event-ID`. The status lists it under its user and groups.
///
/// No rights are checked: the host application must authorize the caller.
#[must_use = "nothing is opened before `respond`"]
pub struct Emitter<'a> {
    node: &'a Node,
    user: Option<String>,
    connect: Connect,
}

impl Node {
    /// Starts to build a stream as the response of a route of the host application, which also mounts
    /// [`App::routes`](crate::app::App::routes).
    pub fn emitter(&self) -> Emitter<'_> {
        Emitter { node: self, user: None, connect: Connect::new(&self.config.emitter) }
    }
}

// === impl Emitter ===

impl Emitter<'_> {
    /// Sets the user; the stream receives the topic `user:{user}`.
    pub fn user(mut self, user: impl Into<String>) -> Self {
        self.user = Some(user.into());
        self
    }

    /// Joins a group; the stream receives the topic `group:{group}`. May be called several times.
    pub fn group(mut self, group: impl Into<String>) -> Self {
        self.connect.groups.push(group.into());
        self
    }

    /// Subscribes to a topic, or to all topics with a prefix. May be called several times.
    pub fn topic(mut self, pattern: impl Into<Pattern>) -> Self {
        self.connect.topics.push(pattern.into());
        self
    }

    /// Ends the stream after this time; the setting is `emitter.default_timeout_ms`. Jittered by a tenth.
    pub fn timeout(mut self, lifetime: Duration) -> Self {
        self.connect.lifetime = Some(lifetime);
        self
    }

    /// Adds metadata about the client, for filtered events. At most 32 scalars and 4096 bytes in total.
    pub fn meta(mut self, name: impl Into<String>, value: impl Into<Value>) -> Self {
        self.connect.meta.0.insert(name.into(), value.into());
        self
    }

    /// Wraps the data of each event in `{topic, id, event, data, timestamp}`.
    pub fn envelope(mut self) -> Self {
        self.connect.envelope = true;
        self
    }

    /// Sets a function that is called once when the stream has ended, with the reason, on the thread of the connection.
    pub fn on_close(mut self, then: impl FnOnce(Reason) + 'static) -> Self {
        self.connect.on_close = Some(Box::new(then));
        self
    }

    /// Opens the stream.
    ///
    /// # Errors
    /// 422 if a user or group cannot be part of a topic name, or the metadata are too large; 429 if a limit is reached;
    /// 503 if the journal is not available. While the node stops, the response is a `disconnect` frame with a `retry:`.
    pub async fn respond(self, request: &HttpRequest) -> Result<HttpResponse, Problem> {
        let Self { node, user, mut connect } = self;
        connect.own.push(Topic::all());
        if let Some(user) = &user {
            connect.own.push(Topic::user(user)?);
        }
        for group in &connect.groups {
            Topic::group(group)?;
        }
        if !connect.meta.is_small() {
            return Err(Problem::wrong(
                "the metadata are too many or too large, or contain a value that is not a scalar",
            ));
        }
        if let Some(id) = last_event_id(request, &Query::of(request))? {
            connect.start = Start::After(id);
        }
        limited::hub_stream(node, request, &mut connect)?;
        let identity = user.map_or_else(Identity::anonymous, Identity::user);
        stream::open(node, request, &identity, connect).await
    }
}
