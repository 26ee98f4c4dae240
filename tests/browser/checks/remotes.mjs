/** Two nodes: jobs that run on both, and streams of the other one merged into one. */

import assert from "node:assert/strict";

import { logged, shoot, until } from "../browser.mjs";

const JOB_MS = 60_000;

async function both({ node, other }) {
  await other.start();
  await node.start({ remote: other });
}

export const remotes = {
  "remotes: a job that runs on both nodes shows where each task runs": async ({ node, other, open }) => {
    await both({ node, other });
    const page = await open("/sse-client.html");
    await page.selectOption("#job-example", "hybrid");
    await page.click("#job-submit");
    await until(
      "the job's end",
      async () => (await page.getAttribute("#job-status", "data-state")) === "completed",
      JOB_MS,
    );
    const tasks = await page.$$eval("#job-tasks > li", (found) =>
      found.map((task) => {
        const chip = task.querySelector(".source");
        return [task.querySelector(".task-name").textContent, chip.textContent, chip.dataset.colour];
      }),
    );
    tasks.sort(([a], [b]) => a.localeCompare(b));
    assert.deepEqual(tasks, [
      ["Calculate Stats", "local", "0"],
      ["Call Third-party API", "reactive", "1"],
      ["Fetch External Data", "reactive", "1"],
      ["Process Image", "local", "0"],
    ]);
    await shoot(page, "hybrid-job");
  },

  "remotes: streams are merged, each event with its source, and a dead one harms no other": async ({
    node,
    other,
    open,
  }) => {
    await both({ node, other });
    const page = await open("/sse-client.html");
    await page.fill(
      "#merge-sources",
      "/api/sse/sample-parallel\nreactive:/api/sse/flow-example\n/api/sse/no-such-stream",
    );
    await page.click("#merge-start");
    await until("the end", async () => /^Ended/.test(await page.textContent("#merge-line")), JOB_MS);
    assert.match(await page.textContent("#merge-line"), /2 sources came to their end, 1 failed/);
    const rows = await page.$$eval("#merge-list > li", (found) =>
      found.map((row) => [row.dataset.state, row.textContent, row.querySelector(".source").dataset.colour]),
    );
    assert.equal(rows.length, 3);
    assert.deepEqual(rows.map(([state]) => state).sort(), ["failed", "open", "open"]);
    assert.equal(new Set(rows.map(([, , colour]) => colour)).size, 3, "each source has its own colour");
    assert.match(rows.find(([state]) => state === "failed")[1], /404/);
    assert.equal((await logged(page, "complete")).length, 2);
    assert.equal((await logged(page, "merge_complete")).length, 1);
    await shoot(page, "merged");
  },

  "remotes: the dashboard shows relays and what they have brought": async ({ node, other, open }) => {
    await both({ node, other });
    const board = await open("/");
    const sources = [{ remote: "reactive", path: "/events?topics=news" }];
    const { id } = await node.post("/api/relays", { topic: "news", sources, repeat: "forever" });
    await until("the stream", async () => (await board.textContent("#upstream-streams")) === "1");
    await other.post("/events", { topic: "news", data: { n: 1 } });
    const row = board.locator(`#relays tr[data-relay-id="${id}"]`);
    await until("the event", async () => (await row.locator(".number").textContent()) === "1");
    assert.match(await row.textContent(), /news\s*running/);
    await shoot(board, "dashboard-relays");
  },

  "remotes: a merge that cannot be is refused with the reason": async ({ node, open }) => {
    await node.start();
    const page = await open("/sse-client.html", { provokes: true });
    await page.fill("#merge-sources", "nobody:/api/sse/x");
    await page.click("#merge-start");
    await until("the refusal", async () => /nobody/.test(await page.textContent("#merge-error")));
    assert.equal(await page.isEnabled("#merge-start"), true);
  },
};
