/** The stream reader by itself: the standard's rules, and what it does when a server fails it. Needs no browser. */

import assert from "node:assert/strict";
import http from "node:http";

import { EventStream, EventStreamParser, reconnectDelay, retryAfterMs } from "../../../static/event-stream.js";
import { until } from "../browser.mjs";

/** Parses the text cut into pieces of every length, which must not matter. */
function parse(text) {
  const results = [1, 2, 3, 7, text.length].map((size) => {
    const events = [];
    const retries = [];
    const parser = new EventStreamParser({ onEvent: (event) => events.push(event), onRetry: (ms) => retries.push(ms) });
    for (let at = 0; at < text.length; at += size) parser.push(text.slice(at, at + size));
    return { events, retries, lastEventId: parser.lastEventId };
  });
  for (const result of results) assert.deepEqual(result, results[0]);
  return results[0];
}

/** A server whose nth answer is the nth function; what it was asked is kept. */
async function scripted(answers, work) {
  const asked = [];
  const server = http.createServer((request, response) => {
    asked.push(request.headers);
    answers[Math.min(asked.length, answers.length) - 1](response);
  });
  await new Promise((resolve) => server.listen(0, "127.0.0.1", resolve));
  const events = [];
  const states = [];
  const stream = new EventStream(`http://127.0.0.1:${server.address().port}/`, {
    headers: { "X-Auth-Token": "Zoë" },
    silenceMs: 400,
    onEvent: (event) => events.push(event.data),
    onState: (state) => states.push(state),
  });
  try {
    stream.start();
    await work({
      stream,
      asked,
      events,
      states,
      reached: (name) => until(name, () => states.some((state) => state.name === name)),
    });
  } finally {
    stream.close();
    server.closeAllConnections();
    server.close();
  }
}

const streaming = (text, end) => (response) => {
  response.writeHead(200, { "Content-Type": "text/event-stream; charset=utf-8" });
  response.write(text);
  if (end) response.end();
};
const status =
  (code, headers = {}, body = "") =>
  (response) => {
    response.writeHead(code, headers);
    response.end(body);
  };

export const streams = {
  "stream: fields, comments, line ends and multi-line data follow the standard": async () => {
    const { events, retries } = parse(
      "\uFEFF: hello\r\nevent: a\r\ndata: one\r\ndata:  two\r\nid: 1\r\n\r\ndata\rdata:\r\rretry: 250\nretry: 1x\nevent\nnonsense: 1\ndata:x\n\n",
    );
    assert.deepEqual(events, [
      { event: "a", data: "one\n two", id: "1", lastEventId: "1" },
      { event: "message", data: "\n", id: null, lastEventId: "1" },
      { event: "message", data: "x", id: null, lastEventId: "1" },
    ]);
    assert.deepEqual(retries, [250]);
  },
  "stream: an id counts without data, an id with NUL does not, an unfinished event is dropped": async () => {
    const { events, lastEventId } = parse("id: 7\n\nid: 8\0\ndata: a\n\nevent: lost\ndata: b\n");
    assert.deepEqual(events, [{ event: "message", data: "a", id: null, lastEventId: "7" }]);
    assert.equal(lastEventId, "7");
  },
  "stream: the delay never falls below the hint, grows, and is capped": async () => {
    assert.equal(reconnectDelay(1, 3000, 0), 3000);
    assert.equal(reconnectDelay(2, 3000, 0), 6000);
    assert.equal(reconnectDelay(20, 3000, 0), 30_000);
    assert.equal(reconnectDelay(5, 60_000, 0), 60_000);
    assert.equal(reconnectDelay(1, 0, 0), 500);
    assert.equal(reconnectDelay(1, 3000, 1), 4500);
  },
  "stream: a reconnection time with any number of digits counts": async () => {
    const { retries } = parse("retry: 99999999999999999999999\n\nretry: 1e3\n\n");
    assert.deepEqual(retries, [99999999999999999999999]);
  },
  "stream: Retry-After is read as seconds and as a date, up to an hour": async () => {
    const now = Date.parse("Sun, 29 Nov 2026 11:06:15 GMT");
    assert.equal(retryAfterMs("20", now), 20_000);
    assert.equal(retryAfterMs("Sun, 29 Nov 2026 11:06:35 GMT", now), 20_000);
    assert.equal(retryAfterMs("Sunday, 29-Nov-26 11:06:35 GMT", now), 20_000);
    assert.equal(retryAfterMs("99999999999999999999999", now), 3_600_000);
    for (const value of [null, "", "soon", "-1", "Sun, 29 Nov 2026 11:00:00 GMT"]) assert.equal(retryAfterMs(value, now), 0);
  },
  "stream: a server that closes after new events is read at its own pace": async () => {
    const answers = [1, 2, 3, 4].map((n) => streaming(`retry: 10\nid: a-${n}\ndata: ${n}\n\n`, true));
    await scripted([...answers, status(204)], async ({ states, reached }) => {
      await reached("ended");
      const delays = states.filter((state) => state.name === "offline").map((state) => state.delayMs);
      assert.equal(delays.length, 4);
      assert.ok(delays.every((delay) => delay <= 750), `waited ${delays}`);
    });
  },
  "stream: it resumes after the last id, drops doubles, and 204 ends it": async () => {
    const answers = [
      streaming("retry: 10\nid: a-1\ndata: 1\n\nid: a-2\ndata: 2\n\n", true),
      streaming("id: a-2\ndata: 2\n\nid: a-3\ndata: 3\n\n", true),
      status(204),
    ];
    await scripted(answers, async ({ stream, asked, events, reached }) => {
      await reached("ended");
      assert.deepEqual(events, ["1", "2", "3"]);
      assert.equal(stream.doubles, 1);
      assert.deepEqual(
        asked.map((headers) => headers["last-event-id"]),
        [undefined, "a-2", "a-3"],
      );
      assert.equal(Buffer.from(asked[0]["x-auth-token"], "latin1").toString("utf8"), "Zoë");
    });
  },
  "stream: a server that falls silent is left and asked again": async () => {
    const answers = [streaming("id: a-1\ndata: 1\n\n", false), streaming("id: a-2\ndata: 2\n\n", false)];
    await scripted(answers, async ({ events, states }) => {
      await until("the second event", () => events.length === 2);
      const offline = states.find((state) => state.name === "offline");
      assert.match(offline.reason, /fell silent/);
    });
  },
  "stream: a refusal is final, an overload is not": async () => {
    await scripted(
      [status(503, { "Retry-After": "1" }), status(404, {}, '{"detail":"no such stream"}')],
      async ({ states, reached }) => {
        await reached("refused");
        const offline = states.find((state) => state.name === "offline");
        assert.ok(offline.delayMs >= 1000, `waited ${offline.delayMs} ms`);
        assert.equal(states.at(-1).reason, "no such stream");
      },
    );
  },
};
