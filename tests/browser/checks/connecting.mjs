/** Connect, send, filter: the everyday use of the test page. */

import assert from "node:assert/strict";

import { badge, connect, logged, shoot, until } from "../browser.mjs";

async function send(page, kind, to, data, event = "message") {
  await page.selectOption("#send-kind", kind);
  if (to !== null) await page.fill("#send-to", to);
  await page.fill("#send-event", event);
  await page.fill("#send-data", data);
  await page.click("#send");
}

export const connecting = {
  "connect: the badge goes live, an event sent to the user appears once": async ({ node, open }) => {
    await node.start();
    const page = await open("/sse-client.html");
    assert.equal(await page.textContent("#badge-text"), "Idle");
    await connect(page, "123");
    assert.equal(await page.textContent("#badge-text"), "Live");
    await until("the connection frame", async () => (await logged(page, "connection")).length === 1);
    assert.match(await page.textContent("#connection-line"), /user 123/);

    await send(page, "user", "123", '{"text": "first"}', "greeting");
    await until("the answer", async () => /Delivered to 1 emitter\./.test(await page.textContent("#send-answer")));
    await until("the event", async () => (await logged(page, "greeting")).length > 0);
    await send(page, "user", "123", '{"text": "second"}', "greeting");
    await until("the second event", async () => (await logged(page, "greeting")).length > 1);
    assert.deepEqual(await logged(page, "greeting"), ['{"text":"first"}', '{"text":"second"}']);
    assert.notEqual(await page.textContent("#last-event-id"), "none");

    await page.click("#log-body tr[data-event=greeting] summary");
    assert.match(await page.textContent("#log-body tr[data-event=greeting] pre"), /"text": "first"/);
    await shoot(page, "connected");
    await page.click("#disconnect");
    await badge(page, "idle");
    assert.equal(await page.isEnabled("#connect"), true);
  },

  "connect: every kind of target reaches the page, each event once": async ({ node, open }) => {
    await node.start();
    const page = await open("/sse-client.html");
    await page.check("#envelope");
    await connect(page, "ada", { topics: "order:*", groups: "ops", meta: "premium=true" });
    await send(page, "group", "ops", '"to the group"', "one");
    await until("the group's event", async () => (await logged(page, "one")).length === 1);
    await send(page, "broadcast", null, '"to all"', "two");
    await until("the broadcast", async () => (await logged(page, "two")).length === 1);
    await send(page, "topic", "order:42", '"to the topic"', "three");
    await until("the topic's event", async () => (await logged(page, "three")).length === 1);
    assert.equal(await page.textContent("#log-body tr[data-event=three] td.topic"), "order:42");
    await send(page, "filtered", '{"premium": true}', '"to the filter"', "four");
    await until("the filtered event", async () => (await logged(page, "four")).length === 1);
    await send(page, "filtered", '{"premium": false}', '"to others"', "five");
    await until("the answer", async () => /not counted/.test(await page.textContent("#send-answer")));
    await page.selectOption("#send-kind", "emitter");
    await page.fill("#send-event", "six");
    await page.click("#send");
    await until("the emitter's event", async () => (await logged(page, "six")).length === 1);
    for (const name of ["one", "two", "three", "four"]) assert.equal((await logged(page, name)).length, 1, name);
    assert.equal((await logged(page, "five")).length, 0);
    assert.equal(await page.textContent("#doubles"), "0");
  },

  "connect: text stays text, markup is shown and not run": async ({ node, open }) => {
    await node.start();
    const page = await open("/sse-client.html");
    await connect(page, "eve");
    await page.check('input[name="format"][value="text"]');
    await send(page, "user", "eve", "<img src=x onerror=alert(1)>\nsecond line");
    await until("the event", async () => (await logged(page, "message")).length === 1);
    assert.equal(await page.locator("#log-body img").count(), 0);
    await page.click("#log-body tr[data-event=message] summary");
    assert.equal(
      await page.textContent("#log-body tr[data-event=message] pre"),
      "<img src=x onerror=alert(1)>\nsecond line",
    );
  },

  "connect: mistakes are named beside the field, refusals in words": async ({ node, open }) => {
    await node.start();
    const page = await open("/sse-client.html", { provokes: true });
    await send(page, "user", "123", '{"text": ');
    assert.match(await page.textContent("#send-data-error"), /no JSON/);
    assert.equal(await page.getAttribute("#send-data", "aria-invalid"), "true");
    await send(page, "user", "", "{}");
    assert.match(await page.textContent("#send-to-error"), /missing/);
    await send(page, "topic", "job:1", "{}");
    await until("the refusal", async () => /^✗ 422 /.test(await page.textContent("#send-answer")));
    await page.fill("#meta", "nonsense");
    await page.click("#connect");
    assert.match(await page.textContent("#connect-error"), /key=value/);
    await shoot(page, "mistakes");
  },

  "connect: the log filters, stays bounded and says so": async ({ node, open }) => {
    await node.start();
    const page = await open("/sse-client.html");
    await connect(page, "max", { topics: "flood" });
    for (let from = 0; from < 2100; from += 100) {
      await node.post(
        "/events",
        Array.from({ length: 100 }, (_, at) => ({ topic: "flood", event: "drop", data: `n${from + at}` })),
      );
    }
    await node.sendToUser("max", "needle", "last");
    await until("the last event", async () => (await logged(page, "last")).length === 1);
    assert.equal(await page.locator("#log-body tr").count(), 2000);
    assert.match(await page.textContent("#log-dropped"), /\d+ oldest were dropped/);
    const drops = await logged(page, "drop");
    assert.deepEqual(
      drops,
      Array.from({ length: 1999 }, (_, at) => `n${at + 101}`),
      "in order, none missing",
    );

    await page.fill("#filter-text", "needle");
    assert.equal(await page.textContent("#log-count"), "1 of 2000 events");
    await page.fill("#filter-text", "");
    await page.selectOption("#filter-name", "last");
    assert.equal(await page.locator("#log-body tr:visible").count(), 1);
    await page.click("#log-clear");
    assert.equal(await page.locator("#log-body tr").count(), 0);
  },

  "connect: history comes first, then what is new": async ({ node, open }) => {
    await node.start();
    for (const text of ["a", "b", "c"]) await node.sendToUser("hana", text);
    const page = await open("/sse-client.html");
    await connect(page, "hana", { history: "2" });
    await node.sendToUser("hana", "d");
    await until("the new event", async () => (await logged(page, "message")).includes("d"));
    assert.deepEqual(await logged(page, "message"), ["b", "c", "d"]);
  },
};
