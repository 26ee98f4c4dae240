//! Event streams for the OpenAPI document: the schemas of their frames.
//!
//! OpenAPI 3.1 cannot describe a stream of items. By convention, the schema of a `text/event-stream` is that of one
//! frame with the fields of the HTML standard; the description lists the kinds of frames.

use utoipa::ToSchema;

/// A frame of a stream over topics.
///
/// - `connection {status, emitterId, userId, groups, topics, timestamp, resume: {from, status: live|resumed|gap}}`: the first
///   frame, with `retry:` and `id:`, the position after which the stream continues.
/// - `gap {requested, reason: unknown|foreign|future|trimmed|damaged|dropped, topics: [{topic, earliest}], dropped?}`:
///   history is missing; the stream continues with the earliest event that exists.
/// - The events, in journal order, each with `id:`, a position to resume from.
/// - `heartbeat {timestamp}` after silence (or a comment, or nothing: `heartbeat`).
/// - `disconnect {reason}`: the node ends the stream; with `retry:` if the client should reconnect. A client that is
///   refused only for now (the node is full or stopping) gets this frame alone.
///
/// The other control frames have no `id:`.
#[derive(ToSchema)]
#[schema(examples(json!({ "id": "9c1f00aa0b77-12", "event": "paid", "data": "{\"total\":12}" })))]
#[expect(dead_code, reason = "it is the document's view of a body that is written by the hub")]
pub(super) struct TopicFrame {
    /// The event's position in the journal; send it as `Last-Event-ID` to resume after it.
    #[schema(pattern = "^[0-9a-f]+-[0-9]+$", nullable = false)]
    id: Option<String>,
    /// Its name; `message` if it has no name.
    #[schema(nullable = false)]
    event: Option<String>,
    /// Its data; control frames have JSON.
    data: String,
    /// Reconnection time in milliseconds.
    #[schema(nullable = false)]
    retry: Option<u64>,
}

/// A frame of a job's events, until `complete`.
///
/// All events carry `jobId` and `timestamp`. Of each task: `task_start {taskId, taskName, source}`,
/// `task_progress {taskId, progress, message?, data?}`, `task_retry {taskId, attempt, delayMs, error, code}`. At its end
/// `task_complete {taskId, taskName, result, attempts, durationMs}` or `error {taskId, taskName, error, code, retryable,
/// attempts}`. After each task `progress {step, totalSteps, progress}`. At the end `aggregated_result {results}` and
/// `complete {status, totalTasks, successCount, errorCount, errors, durationMs}`. The control frames are those of every stream
/// over topics (`TopicFrame`); `connection` also has `jobId` and `eventsUrl`.
#[derive(ToSchema)]
#[schema(examples(json!({
    "id": "9c1f00aa0b77-12", "event": "task_start",
    "data": "{\"taskId\":\"image\",\"taskName\":\"Process Image\",\"source\":\"local\",\"jobId\":\"01JB0000000000000000000000\",\"timestamp\":1790000000000}",
})))]
#[expect(dead_code, reason = "it is the document's view of a body that is written by the hub")]
pub(super) struct JobFrame {
    /// The event's position in the journal; send it as `Last-Event-ID` to resume after it.
    #[schema(pattern = "^[0-9a-f]+-[0-9]+$", nullable = false)]
    id: Option<String>,
    /// The name of the event.
    event: JobEvent,
    /// JSON; with `envelope=true` the event within `{topic, id, event, data, timestamp}`.
    data: String,
    /// Reconnection time in milliseconds.
    #[schema(nullable = false)]
    retry: Option<u64>,
}

/// Names of the frames of a job's stream.
#[derive(ToSchema)]
#[serde(rename_all = "snake_case")]
#[expect(dead_code, reason = "it is the document's view of a body that is written by the hub")]
enum JobEvent {
    Connection,
    Gap,
    Heartbeat,
    Disconnect,
    TaskStart,
    TaskProgress,
    TaskRetry,
    TaskComplete,
    Error,
    Progress,
    AggregatedResult,
    Complete,
}

/// A frame of a relay's events, until `relay_end`.
///
/// Events of the sources are passed on as received, except for `id:` and for names of control frames, which get the
/// prefix `remote.`. These events report the state of a source: `relay_open`,
/// `relay_retry {source, attempt, retryInMs, error}`, `relay_gap`, `relay_error {source, error, code}` and
/// `relay_complete {source, events, end: 204|end_event|closed|unknown}`.
/// `relay_loop {source, event, origin, via, dropped, error, code}` reports events that returned to a topic where they
/// had already been. The control frames are those of every stream over topics (`TopicFrame`); `connection` also has
/// `relayId` and `eventsUrl`.
#[derive(ToSchema)]
#[schema(examples(json!({
    "id": "9c1f00aa0b77-12", "event": "relay_retry",
    "data": "{\"source\":\"sample\",\"attempt\":1,\"retryInMs\":1200,\"error\":\"connection reset\",\"code\":\"connection_lost\"}",
})))]
#[expect(dead_code, reason = "it is the document's view of a body that is written by the hub")]
pub(super) struct RelayFrame {
    /// The event's position in the journal; send it as `Last-Event-ID` to resume after it.
    #[schema(pattern = "^[0-9a-f]+-[0-9]+$", nullable = false)]
    id: Option<String>,
    /// Its name; `message` if it has no name.
    #[schema(nullable = false)]
    event: Option<String>,
    /// Its data; the relay's own frames have JSON.
    data: String,
    /// Reconnection time in milliseconds.
    #[schema(nullable = false)]
    retry: Option<u64>,
}

/// A frame of several remote streams as one. It has no `id:`: a merged stream cannot be resumed.
///
/// `merge_start {totalStreams, endpoints: [{source, remote, path}]}` comes first. The events follow in order of
/// arrival; names of control frames get the prefix `remote.`. `merge_error {source, error, code}` reports a source that
/// failed. When all sources have ended, `merge_complete {totalStreams, completed, failed, events}` is the last frame.
/// Heartbeats fill silence. `disconnect {reason}` means that the node is stopping.
#[derive(ToSchema)]
#[schema(examples(json!({
    "event": "merge_start",
    "data": "{\"totalStreams\":1,\"endpoints\":[{\"source\":\"flow\",\"remote\":\"reactive\",\"path\":\"/api/sse/flow-example\"}]}",
})))]
#[expect(dead_code, reason = "it is the document's view of a body that is passed on")]
pub(super) struct MergedFrame {
    /// Its name; `message` if it has no name.
    #[schema(nullable = false)]
    event: Option<String>,
    /// Its data; the node's own frames have JSON.
    data: String,
    /// Reconnection time in milliseconds.
    #[schema(nullable = false)]
    retry: Option<u64>,
}

/// A frame of a remote, unchanged. The node adds only comments during silence. If the stream is refused only for now,
/// the single frame is `disconnect {reason, detail}` with `retry:`.
#[derive(ToSchema)]
#[schema(examples(json!({ "id": "4d20ab12cc00-31", "event": "whatever", "data": "the remote sends" })))]
#[expect(dead_code, reason = "it is the document's view of a body that is passed on")]
pub(super) struct RemoteFrame {
    /// The remote's own id.
    #[schema(nullable = false)]
    id: Option<String>,
    /// Its name; `message` if it has no name.
    #[schema(nullable = false)]
    event: Option<String>,
    /// Any data that the remote sends.
    #[schema(nullable = false)]
    data: Option<String>,
    /// Reconnection time in milliseconds.
    #[schema(nullable = false)]
    retry: Option<u64>,
}
