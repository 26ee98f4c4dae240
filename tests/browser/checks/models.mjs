/** The folding of a job's events, by itself. Needs no browser. */

import assert from "node:assert/strict";

import { emptyJob, foldEvent, foldSnapshot, hasEnded, overall } from "../../../static/job-model.js";

const STORY = [
  ["task_start", { taskId: "a", taskName: "A", source: "local", timestamp: 1000 }],
  ["task_start", { taskId: "b", taskName: "B", source: "reactive", timestamp: 1001 }],
  ["task_progress", { taskId: "a", progress: 40, message: "half way" }],
  ["task_retry", { taskId: "b", attempt: 2, delayMs: 200, error: "refused", code: "connect" }],
  ["task_complete", { taskId: "a", taskName: "A", result: 1, attempts: 1, durationMs: 5 }],
  ["progress", { step: 1, totalSteps: 2, progress: 50 }],
  ["error", { taskId: "b", taskName: "B", error: "refused", code: "connect", attempts: 2 }],
  ["aggregated_result", { results: { a: 1, b: { error: "refused" } } }],
  ["complete", { status: "partial", totalTasks: 2, successCount: 1, errorCount: 1, errors: [], durationMs: 9 }],
];

function told(story) {
  const job = emptyJob("j");
  for (const [name, data] of story) foldEvent(job, name, data);
  return job;
}

export const models = {
  "job model: events told twice change nothing": async () => {
    const once = told(STORY);
    assert.equal(once.status, "partial");
    assert.deepEqual(
      [...once.tasks.values()].map(({ state, attempts, error }) => ({ state, attempts, error })),
      [
        { state: "done", attempts: 1, error: null },
        { state: "failed", attempts: 2, error: "refused" },
      ],
    );
    const twice = told(STORY.flatMap((event) => [event, event]));
    assert.deepEqual(twice, once);
  },
  "job model: late progress does not bring a finished task back": async () => {
    const job = told([...STORY.slice(0, 5), STORY[2]]);
    assert.equal(job.tasks.get("a").state, "done");
    assert.equal(job.tasks.get("a").progress, 100);
  },
  "job model: cancelled tasks are stopped, not failed": async () => {
    const job = told([
      STORY[0],
      ["error", { taskId: "a", error: "the job was cancelled", code: "cancelled" }],
      ["complete", { status: "cancelled", totalTasks: 1, successCount: 0, errorCount: 1 }],
    ]);
    assert.equal(job.tasks.get("a").state, "stopped");
    assert.ok(hasEnded(job));
  },
  "job model: a snapshot adds waiting tasks and never overrules the stream": async () => {
    const job = told(STORY.slice(0, 3));
    foldSnapshot(job, {
      tasks: [
        { taskId: "a", taskName: "A" },
        { taskId: "c", taskName: "C" },
      ],
    });
    assert.equal(job.tasks.get("a").state, "running");
    assert.equal(job.tasks.get("c").state, "queued");
    assert.equal(overall(told([])), 0);
  },
  "job model: nonsense is ignored": async () => {
    const job = told([
      ["nonsense", {}],
      ["toString", {}],
      ["complete", null],
      ["error", { error: "no task" }],
      ["progress", "x"],
    ]);
    assert.deepEqual(job, emptyJob("j"));
  },
};
