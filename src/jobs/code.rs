//! Codes of errors that the engine itself gives to tasks.

/// An attempt took longer than its timeout.
pub const TIMEOUT: &str = "timeout";
/// The handler panicked.
pub const PANIC: &str = "panic";
/// The job was cancelled, or another task of a job with `failFast` failed.
pub const CANCELLED: &str = "cancelled";
/// The job's deadline passed.
pub const JOB_TIMEOUT: &str = "job_timeout";
/// The journal has no room for the result.
pub const NO_ROOM: &str = "no_room";
/// The node stopped.
pub const SHUTDOWN: &str = "shutdown";
/// In `task_retry`: the node crashed while the task ran. This uses no retry.
pub const NODE_RESTARTED: &str = "node_restarted";
/// In `task_retry`: the node stopped while the task ran. This uses no retry.
pub const NODE_STOPPED: &str = "node_stopped";
/// The node crashed each time the task ran.
pub const CRASHED: &str = "crashed";
/// The node no longer has the handler that the task names.
pub const UNKNOWN_HANDLER: &str = "unknown_handler";
/// The remote that ran the task cannot be reached any more, or no longer knows it.
pub const REMOTE_LOST: &str = "remote_lost";
/// In `task_retry`: the remote that runs the task, or should run it, cannot be reached now. This uses no retry.
pub const REMOTE_AWAY: &str = "remote_away";
/// The remote rejects the task.
pub const REMOTE_REFUSED: &str = "remote_refused";
/// The result has a form that cannot be passed on.
pub const BAD_RESULT: &str = "bad_result";
/// The input of the task cannot be read back.
pub const INPUT_LOST: &str = "input_lost";
/// The result is larger than `jobs.max_response_bytes`.
pub const RESPONSE_TOO_LARGE: &str = "response_too_large";
