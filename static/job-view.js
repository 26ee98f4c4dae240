/** Draws one job into the panel: bars, states, errors, the result, the summary. Keeps one row per task and updates it. */

import { byId, duration, el, setMessage, setText, spans } from "./dom.js";
import { hasEnded, overall, words } from "./job-model.js";
import { paintSource, sourceChip } from "./sources.js";

/** Each state has a sign and a word. The colour only repeats them. */
const STATES = {
  queued: "○ queued",
  running: "▶ running",
  retrying: "↻ retrying",
  done: "✓ done",
  failed: "✗ failed",
  stopped: "■ stopped",
};

/** Maximum number of errors below the tasks. Each task's card shows its own error in any case. */
const ERRORS_MAX = 10;

const rows = new Map();

/** Removes the job that was shown before. */
export function clearJob() {
  rows.clear();
  byId("job-tasks").replaceChildren();
  byId("job-view").hidden = false;
  byId("job-empty").hidden = true;
  byId("job-result-panel").hidden = true;
  setText(byId("job-summary"), "");
  byId("job-errors").replaceChildren();
}

/** Draws the current state of the job. */
export function drawJob(job) {
  const ended = hasEnded(job);
  setText(byId("job-id"), job.jobId);
  setText(byId("job-status"), words(job.status));
  byId("job-status").dataset.state = job.status;
  byId("job-retry-of").hidden = !job.retryOf;
  setText(byId("job-retry-of"), job.retryOf ? `runs the failed tasks of ${job.retryOf} again` : "");
  for (const task of job.tasks.values()) drawTask(task);
  drawOverall(job);
  drawElapsed(job);
  drawEnd(job);
  setButton(byId("job-cancel"), !ended && !job.gone);
  setButton(byId("job-retry"), ended && (job.summary?.errorCount ?? 0) > 0);
}

/** A hidden button would lose the focus. Therefore a button that was just used moves the focus to another element. */
function setButton(button, wanted) {
  if (!wanted && document.activeElement === button) byId("job-heading").focus();
  button.hidden = !wanted;
}

function drawOverall(job) {
  const percent = Math.round(overall(job));
  byId("job-overall").value = percent;
  const finished = [...job.tasks.values()].filter((task) => task.state === "done" || task.state === "failed").length;
  const total = job.totalSteps ?? job.tasks.size;
  const unknown = job.status === "unknown";
  setText(byId("job-overall-text"), unknown ? "nothing is known of this job" : `${percent} % · ${finished} of ${total} tasks finished`);
  byId("job-elapsed").hidden = unknown;
}

/** The time since the start, or the duration of an ended job. */
export function drawElapsed(job) {
  const running = job.startedAt === null ? 0 : Math.max(0, Date.now() - job.startedAt - job.skewMs);
  const taken = job.summary?.durationMs ?? running;
  setText(byId("job-elapsed"), duration(taken));
}

function drawTask(task) {
  const row = rows.get(task.taskId) ?? addRow(task);
  row.node.dataset.state = task.state;
  setText(row.name, task.name);
  setText(row.state, STATES[task.state]);
  paintSource(row.source, task.source ?? "");
  row.bar.value = task.progress;
  setText(row.percent, `${Math.round(task.progress)} %`);
  setMessage(row.message, task.message);
  const code = task.code ? ` (${task.code})` : "";
  setMessage(row.error, task.error === null ? "" : `${task.error}${code}`);
  setText(row.facts, facts(task));
  if (task.resultUrl && row.link.children.length === 0) {
    row.link.append(el("a", { href: sameOrigin(task.resultUrl) }, "open the result"));
  }
}

function facts(task) {
  const attempts = task.attempts > 1 ? `${task.attempts} attempts` : "";
  const took = task.durationMs === null ? "" : duration(task.durationMs);
  return [attempts, took].filter((fact) => fact !== "").join(" · ");
}

function addRow(task) {
  const labelId = `task-${rows.size}-name`;
  const row = {
    name: el("span", { class: "task-name", id: labelId }),
    source: sourceChip(),
    state: el("span", { class: "task-state" }),
    bar: el("progress", { max: "100", value: "0", "aria-labelledby": labelId }),
    percent: el("span", { class: "task-percent" }),
    message: el("span", { class: "task-message" }),
    error: el("span", { class: "task-error" }),
    facts: el("span", { class: "task-facts" }),
    link: el("span", { class: "task-link" }),
  };
  const head = el("div", { class: "task-head" }, row.name, row.source, row.state);
  const meter = el("div", { class: "task-meter" }, row.bar, row.percent);
  const foot = el("div", { class: "task-foot" }, row.error, row.message, row.facts, row.link);
  row.node = el("li", { class: "task", "data-task-id": task.taskId }, head, meter, foot);
  byId("job-tasks").append(row.node);
  rows.set(task.taskId, row);
  return row;
}

function drawEnd(job) {
  if (job.results !== undefined && byId("job-result-panel").hidden) {
    byId("job-result-panel").hidden = false;
    setText(
      byId("job-result"),
      job.resultsUrl ? "The results are too large for an event:" : JSON.stringify(job.results, null, 2),
    );
    const link = job.resultsUrl ? [el("a", { href: sameOrigin(job.resultsUrl) }, "see the job's tasks")] : [];
    byId("job-result-link").replaceChildren(...link);
  }
  const { summary } = job;
  if (summary === null || byId("job-summary").textContent !== "") return;
  const stopped = [...job.tasks.values()].filter((task) => task.state === "stopped").length;
  const failed = Math.max(0, (summary.errorCount ?? 0) - stopped);
  const counts = `${summary.successCount ?? 0} of ${summary.totalTasks ?? job.tasks.size} tasks succeeded, ${failed} failed${stopped > 0 ? `, ${stopped} stopped` : ""}`;
  setText(byId("job-summary"), `Job ${words(job.status)}: ${counts}, in ${duration(summary.durationMs ?? 0)}.`);
  // The cards show the tasks that were cancelled.
  const told = (Array.isArray(summary.errors) ? summary.errors : []).filter(
    ({ taskId }) => job.tasks.get(String(taskId))?.state !== "stopped",
  );
  const rest = told.length - ERRORS_MAX + (summary.errorsOmitted ?? 0);
  byId("job-errors").replaceChildren(
    ...told.slice(0, ERRORS_MAX).map(({ taskId, error }) => errorLine(job, String(taskId), error)),
    ...(rest > 0 ? [el("li", {}, `and ${rest} more`)] : []),
  );
}

function errorLine(job, taskId, error) {
  return el("li", {}, el("strong", {}, job.tasks.get(taskId)?.name ?? taskId), ": ", ...spans(String(error)));
}

function sameOrigin(address) {
  const url = new URL(address, location.href);
  return url.pathname + url.search;
}
