/** The dashboard shows what is, and says when it does not know. */

import assert from "node:assert/strict";

import { badge, connect, shoot, until } from "../browser.mjs";

export const dashboard = {
  "dashboard: emitters and jobs are counted live": async ({ node, open }) => {
    await node.start();
    const board = await open("/");
    await badge(board, "live");
    assert.equal(await board.textContent("#total-emitters"), "0");
    const client = await open("/sse-client.html");
    await connect(client, "vera", { groups: "ops" });
    await until("the emitter", async () => (await board.textContent("#total-emitters")) === "1");
    assert.match(await board.textContent("#users"), /vera\s*1/);
    assert.match(await board.textContent("#groups"), /ops\s*1/);
    const { jobId } = await node.post("/api/jobs", { tasks: [{ name: "Calculate Stats", run: "Calculate Stats" }] });
    await until(
      "the job",
      async () => (await board.locator(`#jobs tr[data-job-id="${jobId}"] .tag[data-state=completed]`).count()) === 1,
      60_000,
    );
    await shoot(board, "dashboard");
    await board.click(`#jobs tr[data-job-id="${jobId}"] a`);
    await until("the job's page", async () => (await board.getAttribute("#job-status", "data-state")) === "completed");
  },

  "dashboard: a node that is gone is said to be gone": async ({ node, open }) => {
    await node.start();
    const board = await open("/", { provokes: true });
    await badge(board, "live");
    await node.crash();
    await badge(board, "offline");
    assert.match(await board.textContent("#problem"), /cannot be reached.*numbers are from/s);
    await shoot(board, "dashboard-offline");
    await node.start();
    await badge(board, "live");
    assert.equal(await board.isVisible("#problem"), false);
  },

  "dashboard: topics of the journal and jobs beyond the table are counted": async ({ node, open }) => {
    await node.start();
    for (const topic of ["a", "b", "c"]) await node.post("/events", { topic, data: 1 });
    for (let job = 0; job < 22; job += 1)
      await node.post("/api/jobs", { tasks: [{ name: "Calculate Stats", run: "Calculate Stats" }] });
    const board = await open("/");
    await badge(board, "live");
    // Each job's history is a topic.
    await until("the topics", async () => (await board.textContent("#total-topics")) === "25");
    assert.equal(await board.locator("#jobs tr").count(), 20);
    assert.equal(await board.textContent("#jobs-empty"), "and 2 more");
    assert.equal(await board.textContent("#relays-empty code"), "POST /api/relays");
  },

  "dashboard: a link to a job shows the job, its buttons above its tasks": async ({ node, open }) => {
    await node.start();
    const tasks = ["a", "b", "c"].map((id) => ({ id, run: "Calculate Stats" }));
    const { jobId } = await node.post("/api/jobs", { tasks: [...tasks, { id: "d", url: "http://127.0.0.1:9/" }] });
    const page = await open(`/sse-client.html?job=${jobId}`);
    await until("the end", async () => (await page.getAttribute("#job-status", "data-state")) === "partial", 60_000);
    const heading = await page.locator("#job-heading").boundingBox();
    assert.ok(heading.y >= 0 && heading.y < 1000, `the job is in sight: ${heading.y}`);
    const [button, list] = [await page.locator("#job-retry").boundingBox(), await page.locator("#job-tasks").boundingBox()];
    assert.ok(button.y < list.y, "the buttons stand above the tasks");
    assert.ok((await page.locator("#job-errors code").count()) > 0, "code in messages is shown as code");
    assert.ok(!(await page.textContent("#job-errors")).includes("`"));
  },

  "dashboard: an unknown job is said to be unknown": async ({ node, open }) => {
    await node.start();
    const page = await open("/sse-client.html?job=01J00000000000000000000000", { provokes: true });
    await until("the refusal", async () => (await page.getAttribute("#job-status", "data-state")) === "unknown");
    assert.match(await page.textContent("#job-stream"), /Cannot be watched/);
    assert.match(await page.textContent("#job-overall-text"), /nothing is known/);
    await shoot(page, "job-unknown");
  },
};
