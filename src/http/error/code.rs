//! The codes of problems: words that programs can rely on. `docs/errors.md` lists them.

use actix_web::http::StatusCode;
use serde::Serialize;
use utoipa::ToSchema;

/// What is wrong, for programs. A code keeps its meaning; more may be added.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
#[schema(as = ProblemCode)]
pub enum Code {
    /// 400: the request, or a header field of it, cannot be read.
    Malformed,
    /// 400: the body is no JSON.
    MalformedJson,
    /// 400: the route does not know this query parameter.
    UnknownParameter,
    /// 400: the value of a query parameter is wrong.
    InvalidParameter,
    /// 401: there is no credential, or it is not valid.
    Unauthenticated,
    /// 403: the caller may not do this.
    Forbidden,
    /// 403: open mode, and the `Host` is not one of this machine.
    HostNotAllowed,
    /// 403: a web page of another site called.
    OriginNotAllowed,
    /// 403: the settings of the remote do not permit the path.
    PathNotAllowed,
    /// 404: what the path names does not exist.
    NotFound,
    /// 404: no route has this path.
    UnknownRoute,
    /// 404: no such job.
    UnknownJob,
    /// 404: the job has no such task, or the task has no result.
    UnknownResult,
    /// 404: no such relay.
    UnknownRelay,
    /// 404: no such emitter; it may have disconnected.
    UnknownEmitter,
    /// 404: no named stream has this name.
    UnknownStream,
    /// 404: no webhook has this name.
    UnknownWebhook,
    /// 404: no remote has this name.
    UnknownRemote,
    /// 404: the samples are switched off.
    SamplesDisabled,
    /// 405: the path does not take this method; `Allow` names those that it takes.
    MethodNotAllowed,
    /// 408: the body did not come in time.
    BodyTimeout,
    /// 409: the state does not permit it now.
    Conflict,
    /// 409: the job has ended.
    JobEnded,
    /// 409: the job has not ended.
    JobNotEnded,
    /// 409: no task of the job failed.
    NothingFailed,
    /// 413: the body is too large.
    BodyTooLarge,
    /// 413: an event is too large.
    EventTooLarge,
    /// 413: more events at once than the limit ever lets pass.
    TooManyEvents,
    /// 415: the body is of another media type.
    UnsupportedMediaType,
    /// 415: the body is compressed.
    UnsupportedEncoding,
    /// 422: the body can be read, and is wrong; `errors` names the fields.
    Invalid,
    /// 422: this is no topic.
    InvalidTopic,
    /// 422: the idempotency key stands for something else.
    KeyReused,
    /// 429: too many requests or events.
    RateLimited,
    /// 429: too many open streams.
    TooManyStreams,
    /// 429: too many unfinished jobs.
    TooManyJobs,
    /// 429, 503: too many tickets wait for their use.
    TooManyTickets,
    /// 4xx: the remote refused, with this status.
    UpstreamRefused,
    /// 502: the remote failed, or has no stream there.
    UpstreamFailed,
    /// 504: the remote did not answer in time.
    UpstreamTimeout,
    /// 508: the request goes in a loop: it has been at this node before.
    LoopDetected,
    /// 503: there is no room for another stream of a remote.
    UpstreamBusy,
    /// 503: it cannot be done now.
    Unavailable,
    /// 503: the node has as many connections as it takes.
    NodeFull,
    /// 503: too many answers wait for clients that do not take them.
    TooManyAnswers,
    /// 503: the node is stopping.
    NodeStopping,
    /// 503: the node has just started, and reads what it has kept.
    NodeStarting,
    /// 503: the journal takes or gives no events now.
    JournalUnavailable,
    /// 503: the node has no secret for this webhook.
    WebhookOff,
    /// 500: a fault of the node.
    Internal,
}

// === impl Code ===

impl Code {
    /// The word for a status that says it all.
    pub(super) fn of(status: StatusCode) -> Self {
        match status.as_u16() {
            401 => Self::Unauthenticated,
            403 => Self::Forbidden,
            404 => Self::NotFound,
            405 => Self::MethodNotAllowed,
            408 => Self::BodyTimeout,
            409 => Self::Conflict,
            413 => Self::BodyTooLarge,
            415 => Self::UnsupportedMediaType,
            422 => Self::Invalid,
            429 => Self::RateLimited,
            502 => Self::UpstreamFailed,
            503 => Self::Unavailable,
            504 => Self::UpstreamTimeout,
            508 => Self::LoopDetected,
            400..=499 => Self::Malformed,
            _ => Self::Internal,
        }
    }
}
