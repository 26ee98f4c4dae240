/** `kill -9` while connected: the page comes back by itself, nothing is missing, nothing comes twice, a gap is told. */

import assert from "node:assert/strict";

import { badge, connect, logged, shoot, until } from "../browser.mjs";

const BACK_MS = 30_000;
const journals = (process.env.JOURNALS ?? "memory,embedded").split(",");

/** Crashes a node under a connected page; the events before and after must be there once each. */
async function crash({ node, open }, journal, before) {
  await node.start({ journal });
  const page = await open("/sse-client.html", { provokes: true });
  await connect(page, "river");
  for (const text of before) await node.sendToUser("river", text, "water");
  await until("the events before", async () => (await logged(page, "water")).length === before.length);

  await node.crash();
  await badge(page, "offline");
  assert.match(await page.textContent("#badge-text"), /^Offline – reconnecting \(attempt \d+\)$/);
  await shoot(page, `crash-${journal}-offline`);

  await node.start();
  // Some come before the page is back, some after.
  const early = ["after-1", "after-2", "after-3"];
  for (const text of early) await node.sendToUser("river", text, "water");
  await badge(page, "live", BACK_MS);
  const late = ["after-4", "after-5"];
  for (const text of late) await node.sendToUser("river", text, "water");
  await until("the last event", async () => (await logged(page, "water")).includes("after-5"));
  assert.deepEqual(await logged(page, "water"), [...before, ...early, ...late]);
  assert.equal(await page.textContent("#doubles"), "0");
  await shoot(page, `crash-${journal}-back`);
  return page;
}

async function crashAndExpectGap(tools, before) {
  const page = await crash(tools, "memory", before);
  const gaps = page.locator('#notices > li[data-kind="gap"]');
  assert.equal(await gaps.count(), 1);
  assert.equal(await gaps.isVisible(), true);
  assert.match(await gaps.textContent(), /may be missing/);
}

const checks = {
  memory: {
    "crash, memory: the page comes back, shows the gap, misses nothing new": (tools) =>
      crashAndExpectGap(tools, ["before-1", "before-2", "before-3"]),
    "crash, memory: a page that had not seen an event yet misses nothing either": (tools) =>
      crashAndExpectGap(tools, []),
  },
  embedded: {
    "crash, embedded: the page comes back without a gap": async (tools) => {
      const page = await crash(tools, "embedded", ["before-1", "before-2", "before-3"]);
      assert.equal(await page.locator('#notices > li[data-kind="gap"]').count(), 0);
    },
    "crash, embedded: a page that had not seen an event yet misses nothing": async (tools) => {
      const page = await crash(tools, "embedded", []);
      assert.equal(await page.locator('#notices > li[data-kind="gap"]').count(), 0);
    },
  },
};

/** A page of any site: `EventSource` and nothing else. */
const plain = {
  "crash: a plain EventSource that was cut before its first event gets it once, by its own means": async ({ node, open }) => {
    const settings = '[streams.ugc-updates]\ntopics = ["ugc"]\nconnected_event = "connected"\n';
    await node.start({ journal: "embedded", settings });
    for (const [name, away] of [
      ["kill", () => node.crash()],
      ["stop", () => node.halt()],
    ]) {
      const page = await open("/sse-client.html", { provokes: true });
      await page.evaluate(() => {
        window.seen = [];
        window.connected = [];
        const source = new EventSource("/api/sse/ugc-updates");
        source.addEventListener("connected", ({ data }) => window.connected.push(JSON.parse(data).resume.status));
        source.addEventListener("generation-completed", ({ data }) => window.seen.push(data));
      });
      await until("the connection", () => page.evaluate(() => window.connected.length === 1));
      await away();
      await node.start({ settings: null });
      await node.post("/events", { topic: "ugc", event: "generation-completed", data: name });
      await until("the event", () => page.evaluate(() => window.seen.length > 0), BACK_MS);
      await node.post("/events", { topic: "ugc", event: "generation-completed", data: "last" });
      await until("the last event", () => page.evaluate(() => window.seen.at(-1) === "last"));
      assert.deepEqual(await page.evaluate(() => window.seen), [name, "last"]);
      assert.equal(await page.evaluate(() => window.connected.at(-1)), "resumed");
    }
  },
};

export const crashes = Object.assign({}, plain, ...journals.map((journal) => checks[journal.trim()]));
