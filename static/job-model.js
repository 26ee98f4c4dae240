/**
 * The state of a job, computed from its events, without document and network.
 *
 * The events may start with the whole history and may overlap a snapshot. An event that is applied twice changes nothing.
 */

const TASK_EVENTS = new Set(["task_start", "task_progress", "task_retry", "task_complete", "error"]);
const ENDED = new Set(["completed", "partial", "failed", "cancelled", "timed_out"]);

/** The state before the first event. */
export function emptyJob(jobId) {
  return {
    jobId,
    status: "queued",
    tasks: new Map(),
    totalSteps: null,
    steps: 0,
    progress: 0,
    startedAt: null,
    skewMs: 0,
    summary: null,
    results: undefined,
    resultsUrl: null,
  };
}

/** True if the job has ended: no more events will follow. */
export function hasEnded(job) {
  return ENDED.has(job.status);
}

/** Applies a snapshot (`GET /api/jobs/{id}`), so that tasks which have not started yet are shown too. */
export function foldSnapshot(job, snapshot) {
  const tasks = Array.isArray(snapshot?.tasks) ? snapshot.tasks : [];
  if (tasks.length > 0) job.totalSteps ??= tasks.length;
  job.retryOf ??= snapshot?.retryOf;
  for (const task of tasks) {
    const taskId = task.taskId ?? task.id;
    // The events of the stream are newer than the snapshot.
    if (taskId === undefined || job.tasks.has(String(taskId))) continue;
    taskOf(job, taskId, task.taskName ?? task.name).source = task.source ?? null;
  }
}

/** Applies one event to the job. Unknown names, and data that are not an object, are ignored. */
export function foldEvent(job, name, data) {
  if (data === null || typeof data !== "object") return;
  if (!Object.hasOwn(FOLDS, name)) return;
  // Publishers may also choose the name `error`. Without a task it is not an event of a job.
  if (TASK_EVENTS.has(name) && data.taskId === undefined) return;
  job.startedAt ??= typeof data.timestamp === "number" ? data.timestamp : Date.now();
  FOLDS[name](job, data);
  if (TASK_EVENTS.has(name) && data.source) taskOf(job, data.taskId).source = String(data.source);
}

const FOLDS = {
  task_start(job, data) {
    const task = taskOf(job, data.taskId, data.taskName);
    if (task.state === "queued") task.state = "running";
    running(job);
  },
  task_progress(job, data) {
    const task = taskOf(job, data.taskId, data.taskName);
    if (isOver(task)) return;
    task.state = "running";
    if (typeof data.progress === "number") task.progress = Math.min(100, Math.max(0, data.progress));
    if (data.message) task.message = String(data.message);
    running(job);
  },
  task_retry(job, data) {
    const task = taskOf(job, data.taskId, data.taskName);
    if (isOver(task)) return;
    task.state = "retrying";
    task.attempts = data.attempt ?? task.attempts;
    const delay = typeof data.delayMs === "number" ? `, again in ${data.delayMs} ms` : "";
    task.message = `${data.error ?? "failed"}${delay}`;
  },
  task_complete(job, data) {
    const task = taskOf(job, data.taskId, data.taskName);
    Object.assign(task, { state: "done", progress: 100, message: "", error: null });
    task.attempts = data.attempts ?? task.attempts;
    task.durationMs = data.durationMs ?? null;
    task.resultUrl = data.resultUrl ?? null;
  },
  error(job, data) {
    const task = taskOf(job, data.taskId, data.taskName);
    const why = String(data.error ?? "failed");
    // After the cancel of a job, a hundred failures would be noise.
    if (data.code === "cancelled") Object.assign(task, { state: "stopped", message: why });
    else Object.assign(task, { state: "failed", message: "", error: why, code: data.code ?? null });
    task.attempts = data.attempts ?? task.attempts;
  },
  progress(job, data) {
    job.totalSteps = data.totalSteps ?? job.totalSteps;
    job.steps = data.step ?? job.steps;
    job.progress = data.progress ?? job.progress;
    running(job);
  },
  aggregated_result(job, data) {
    job.results = data.results;
    job.resultsUrl = data.resultsUrl ?? null;
  },
  complete(job, data) {
    job.status = ENDED.has(data.status) ? data.status : "completed";
    job.totalSteps = data.totalTasks ?? job.totalSteps;
    job.summary = data;
    // Tasks that did not end (cancelled, out of time) keep their progress, and show this state.
    for (const task of job.tasks.values()) {
      if (!isOver(task))
        Object.assign(task, { state: "stopped", message: `not finished: the job is ${words(job.status)}` });
    }
  },
};

function taskOf(job, taskId, taskName) {
  const key = String(taskId);
  if (!job.tasks.has(key)) {
    job.tasks.set(key, {
      taskId: key,
      name: key,
      source: null,
      state: "queued",
      progress: 0,
      message: "",
      attempts: 1,
      error: null,
      code: null,
      durationMs: null,
      resultUrl: null,
    });
  }
  const task = job.tasks.get(key);
  if (taskName) task.name = String(taskName);
  return task;
}

function isOver(task) {
  return task.state === "done" || task.state === "failed" || task.state === "stopped";
}

function running(job) {
  if (job.status === "queued") job.status = "running";
}

/** Progress of the whole job, 0 to 100: finished steps by the server's count, finer if tasks report their own progress. */
export function overall(job) {
  if (job.status === "completed") return 100;
  const total = job.totalSteps ?? job.tasks.size;
  if (total === 0) return job.progress;
  let sum = 0;
  for (const task of job.tasks.values()) sum += task.state === "failed" ? 100 : task.progress;
  return Math.min(100, Math.max(job.progress, sum / total));
}

/** `timed_out` as readable text. */
export function words(status) {
  return status.replaceAll("_", " ");
}
