/** Jobs: bars, results, failures, cancel, retry, watching. */

import assert from "node:assert/strict";

import { shoot, until } from "../browser.mjs";

const JOB_MS = 60_000;

/** Waits for the status tag of the job that is shown. */
function status(page, wanted) {
  return until(
    `the job to be ${wanted}`,
    async () => (await page.getAttribute("#job-status", "data-state")) === wanted,
    JOB_MS,
  );
}

function states(page) {
  return page.$$eval("#job-tasks > li", (tasks) => tasks.map((task) => task.dataset.state));
}

export const jobs = {
  "jobs: the sample job runs, all bars reach the end, the result is shown": async ({ node, open }) => {
    await node.start();
    const page = await open("/sse-client.html");
    await page.click("#job-submit");
    await until("the tasks", async () => (await page.locator("#job-tasks > li").count()) === 4);
    await shoot(page, "job-running");
    await status(page, "completed");
    await until("the tasks' states", async () => (await states(page)).every((state) => state === "done"));
    assert.deepEqual(
      await page.$$eval("#job-tasks progress", (bars) => bars.map((bar) => bar.value)),
      [100, 100, 100, 100],
    );
    assert.equal(await page.$eval("#job-overall", (bar) => bar.value), 100);
    assert.match(await page.textContent("#job-summary"), /4 of 4 tasks succeeded, 0 failed/);
    assert.equal(Object.keys(JSON.parse(await page.textContent("#job-result"))).length, 4);
    assert.equal(await page.isVisible("#job-cancel"), false);
    assert.equal(await page.isVisible("#job-retry"), false);
    const names = await page.$$eval("#job-tasks .task-name", (found) => found.map((name) => name.textContent).sort());
    assert.deepEqual(names, ["Calculate Stats", "Call Third-party API", "Fetch External Data", "Process Image"]);
    await shoot(page, "job-done");
  },

  "jobs: a failing task shows its error, and can be run again": async ({ node, open }) => {
    await node.start();
    const page = await open("/sse-client.html");
    await page.selectOption("#job-example", "fails");
    await page.click("#job-submit");
    await status(page, "partial");
    const failed = page.locator('#job-tasks > li[data-state="failed"]');
    await until("the failed task", async () => (await failed.count()) === 1);
    assert.equal(await failed.locator(".task-name").textContent(), "Unknown path");
    assert.notEqual(await failed.locator(".task-error").textContent(), "");
    assert.equal(await page.locator("#job-errors > li").count(), 1);
    await shoot(page, "job-failed");

    const first = await page.textContent("#job-id");
    await page.click("#job-retry");
    await until("the new job", async () => (await page.textContent("#job-id")) !== first);
    await status(page, "failed");
    assert.equal(await page.locator("#job-tasks > li").count(), 1);
  },

  "jobs: cancel ends a job in the middle": async ({ node, open }) => {
    await node.start();
    const page = await open("/sse-client.html");
    const tasks = Array.from({ length: 100 }, (_, at) => ({ name: `Task ${at}`, run: "Process Image" }));
    await page.fill("#job-spec", JSON.stringify({ tasks, concurrency: 1 }));
    await page.click("#job-submit");
    await status(page, "running");
    await page.click("#job-cancel");
    await status(page, "cancelled");
    assert.match(await page.textContent("#job-summary"), /^Job cancelled/);
    assert.ok((await states(page)).includes("stopped"));
  },

  "jobs: mistakes are shown before sending, refusals field by field": async ({ node, open }) => {
    await node.start();
    const page = await open("/sse-client.html", { provokes: true });
    await page.fill("#job-spec", '{"tasks": [\n  {"name": "a",}\n]}');
    assert.match(await page.textContent("#job-spec-error"), /no JSON.*line 2/);
    await page.fill("#job-spec", '{"tasks": [{"name": "a", "run": "no such handler"}]}');
    assert.equal(await page.textContent("#job-spec-error"), "");
    await page.click("#job-submit");
    await until("the refusal", async () => /^✗ 422 /.test(await page.textContent("#job-answer")));
    assert.match(await page.textContent("#job-answer"), /Process Image/, "the known handlers are listed");
    await shoot(page, "job-refused");
    await page.fill("#watch-id", "no-such-job");
    await page.click("#watch");
    await until("the refusal", async () => /Cannot be watched/.test(await page.textContent("#job-stream")));
  },

  "jobs: an ended job can be watched from its start": async ({ node, open }) => {
    await node.start();
    const { jobId } = await node.post("/api/jobs", { tasks: [{ name: "Calculate Stats", run: "Calculate Stats" }] });
    const page = await open(`/sse-client.html?job=${jobId}`);
    await status(page, "completed");
    assert.equal(await page.textContent("#job-id"), jobId);
    assert.deepEqual(await states(page), ["done"]);
  },
};
