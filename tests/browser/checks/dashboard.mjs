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
};
