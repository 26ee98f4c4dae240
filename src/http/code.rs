//! The stable codes of problems, for programs. `docs/errors.md` lists them.

use actix_web::http::StatusCode;
use serde::Serialize;
use utoipa::ToSchema;

/// The kind of error, for programs. A code keeps its meaning; new codes may be added.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
#[schema(as = ProblemCode)]
pub enum Code {
    /// 400: the request, or one of its header fields, cannot be parsed.
    Malformed,
    /// 400: the body is not valid JSON.
    MalformedJson,
    /// 400: the route does not know this query parameter.
    UnknownParameter,
    /// 400: the value of a query parameter is wrong.
    InvalidParameter,
    /// 401: there is no credential, or it is not valid.
    Unauthenticated,
    /// 403: the caller may not do this.
    Forbidden,
    /// 403: in open mode, the `Host` is not a name of this machine.
    HostNotAllowed,
    /// 403: the request comes from a web page of another site.
    OriginNotAllowed,
    /// 403: the settings of the remote do not permit the path.
    PathNotAllowed,
    /// 404: the resource of this path does not exist.
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
    /// 405: the path does not support this method; `Allow` lists the supported methods.
    MethodNotAllowed,
    /// 408: the body did not arrive in time.
    BodyTimeout,
    /// 409: the current state does not permit the request.
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
    /// 413: the request has more events than the rate limit can ever allow.
    TooManyEvents,
    /// 415: the body is of another media type.
    UnsupportedMediaType,
    /// 415: the body is compressed.
    UnsupportedEncoding,
    /// 422: the body can be parsed, but has wrong values; `errors` names the fields.
    Invalid,
    /// 422: the topic name is not valid.
    InvalidTopic,
    /// 422: the idempotency key was used for a different request.
    KeyReused,
    /// 429: too many requests or events.
    RateLimited,
    /// 429: too many open streams.
    TooManyStreams,
    /// 429: too many unfinished jobs.
    TooManyJobs,
    /// 429, 503: too many unused tickets.
    TooManyTickets,
    /// 4xx: the remote rejected the request with this status.
    UpstreamRefused,
    /// 502: the remote failed, or its response is not a stream.
    UpstreamFailed,
    /// 504: the remote did not respond in time.
    UpstreamTimeout,
    /// 508: the request is in a loop: it has passed this node before.
    LoopDetected,
    /// 503: the maximum number of streams from remotes is open.
    UpstreamBusy,
    /// 503: the request cannot be served now.
    Unavailable,
    /// 503: the node has its maximum number of connections.
    NodeFull,
    /// 503: too many responses wait for clients that do not read them.
    TooManyAnswers,
    /// 503: the node is stopping.
    NodeStopping,
    /// 503: the node has just started and still restores its jobs and relays.
    NodeStarting,
    /// 503: the journal cannot be written or read now.
    JournalUnavailable,
    /// 503: the node has no secret for this webhook.
    WebhookOff,
    /// 500: a fault of the node.
    Internal,
}

// === impl Code ===

impl Code {
    /// The default code of a status.
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
