/**
 * The `eventsource` package of npm against a real node: what browsers do, in the hands of a server-side client.
 *
 *   npm ci && node eventsource.mjs [part of a check's name]
 *
 * MILLSTREAM_BIN  the program (default ../../target/debug/millstream)
 *
 * Ends with one line, `N passed, N failed`; the exit status is 1 when one failed.
 */

import assert from "node:assert/strict";
import path from "node:path";

import { EventSource } from "eventsource";

import { runChecks } from "../checks.mjs";
import { Node, Wire } from "./node.mjs";

const CHECK_MS = 60_000;
const WAIT_MS = 20_000;
const CONTROL = ["connection", "heartbeat", "gap", "disconnect"];
const OF_A_RELAY = ["relay_open", "relay_retry", "relay_gap", "relay_error", "relay_complete", "relay_end"];
const OF_A_JOB = ["task_start", "task_progress", "task_retry", "task_complete", "error", "progress", "aggregated_result", "complete"];

const binary = path.resolve(import.meta.dirname, process.env.MILLSTREAM_BIN ?? "../../target/debug/millstream");

const checks = {
  async "a user hears what is sent to them, under its name and with its id"({ node, connect }) {
    const stream = await connect(node.origin, "/api/sse/managed/connect", { user: "ada", names: ["greeting"] });
    const plain = await node.post("/api/sse/managed/send/user/ada", { text: "one\ntwo" });
    const named = await node.post("/api/sse/managed/send/user/ada?event=greeting", "hello");
    assert.equal(plain.delivered, 1);
    await stream.until("both events", () => stream.events.length === 2);
    assert.deepEqual(
      stream.events.map(({ type, data, lastEventId }) => [type, data, lastEventId]),
      [
        ["message", JSON.stringify({ text: "one\ntwo" }), plain.id],
        ["greeting", "hello", named.id],
      ],
    );
  },

  async "a client that is cut before its first event gets what came meanwhile, once"({ start, wireTo, connect }) {
    const node = await start({ durable: true });
    const wire = await wireTo(node);
    const ways = {
      reset: () => {},
      stop: () => node.stop({ keep: true }).then(() => node.start()),
      kill: () => node.crash().then(() => node.start()),
    };
    for (const [way, away] of Object.entries(ways)) {
      const paths = ["/events?topic=first", "/api/sse/managed/connect?topic=first", "/api/sse/managed/connect/group/ops?topic=first"];
      const streams = await Promise.all(paths.map((where) => connect(wire.origin, where)));
      wire.down();
      await away();
      const { id } = await node.post("/events", { topic: "first", data: way });
      wire.up();
      for (const stream of streams) {
        await stream.until(`the event after ${way}`, () => stream.events.length > 0);
        assert.equal(JSON.parse(stream.controls("connection").at(-1).data).resume.status, "resumed");
      }
      const last = await node.post("/events", { topic: "first", data: "last" });
      for (const stream of streams) {
        await stream.until("the last event", () => stream.events.at(-1).data === "last");
        assert.deepEqual(stream.events.map((event) => event.lastEventId), [id, last.id]);
        stream.source.close();
      }
    }
  },

  async "a job and a relay whose client is cut before their first event are seen whole"({ start, wireTo, connect }) {
    const remote = await start({});
    const node = await start({ durable: true, remote: remote.origin });
    const wire = await wireTo(node);
    const job = await node.post("/api/jobs", { tasks: [{ run: "Calculate Stats" }] });
    const source = { remote: "reactive", path: "/api/sse/sample-parallel" };
    const relay = await node.post("/api/relays", { topic: "relayed", sources: [source] });
    for (const [eventsUrl, topic, names] of [
      [job.eventsUrl, `job:${job.jobId}`, OF_A_JOB],
      [relay.eventsUrl, `relay:${relay.id}`, [...OF_A_JOB, ...OF_A_RELAY]],
    ]) {
      const stream = await connect(wire.origin, eventsUrl, { names });
      wire.cut();
      await stream.until("the end", () => stream.source.readyState === EventSource.CLOSED);
      const history = await node.get(`/api/topics/${topic}/events?limit=1000`);
      assert.deepEqual(stream.events.map((event) => event.lastEventId), history.events.map((event) => event.id));
    }
  },

  async "control frames leave the last event id alone"({ node, wire, connect }) {
    const stream = await connect(wire.origin, "/events?topic=quiet&heartbeatMs=1000");
    const sent = await node.post("/events", { topic: "quiet", data: "x" });
    await stream.until("the event and a heartbeat", () => stream.events.length === 1 && stream.controls("heartbeat").length > 0);
    wire.cut();
    await stream.until("the second connection", () => stream.controls("connection").length === 2);
    const { resume } = JSON.parse(stream.controls("connection")[1].data);
    assert.deepEqual(resume, { from: sent.id, status: "resumed" });
  },

  async "nothing is missing and nothing comes twice over a wire that is cut again and again"({ node, wire, connect }) {
    const stream = await connect(wire.origin, "/events?topic=ticks");
    const sent = [];
    for (let n = 1; n <= 300; n += 1) {
      sent.push((await node.post("/events", { topic: "ticks", data: n })).id);
      if (n % 75 === 0) wire.cut();
    }
    await stream.until("all events", () => stream.events.length >= sent.length);
    const last = await node.post("/events", { topic: "ticks", data: "last" });
    await stream.until("the last event", () => stream.events.at(-1).data === "last");
    assert.deepEqual(stream.events.map((event) => event.lastEventId), [...sent, last.id]);
    assert.ok(stream.controls("connection").length > 1, "the wire was cut, so there was more than one connection");
    assert.equal(JSON.parse(stream.controls("connection").at(-1).data).resume.status, "resumed");
    assert.deepEqual(stream.controls("gap"), []);
  },

  async "a node that crashed and forgot says so, and the stream goes on"({ node, connect }) {
    const stream = await connect(node.origin, "/events?topic=news");
    const before = await node.post("/events", { topic: "news", data: "before" });
    await stream.until("the first event", () => stream.events.length === 1);
    await node.crash();
    await stream.until("the loss of the connection", () => stream.source.readyState === EventSource.CONNECTING);
    await node.start();
    await stream.until("the gap", () => stream.controls("gap").length === 1);
    const gap = JSON.parse(stream.controls("gap")[0].data);
    assert.equal(gap.requested, before.id);
    assert.equal(gap.reason, "foreign");
    const after = await node.post("/events", { topic: "news", data: "after" });
    await stream.until("the event after the crash", () => stream.events.length === 2);
    assert.equal(stream.events[1].lastEventId, after.id);
  },

  async "a job is followed over cuts to its end, and then the client stops by itself"({ node, wire, connect }) {
    const names = ["Process Image", "Calculate Stats", "Fetch External Data", "Call Third-party API"];
    const tasks = names.map((run) => ({ run }));
    tasks.push({ id: "unreachable", url: "http://127.0.0.1:9/", timeoutMs: 2000 });
    const job = await node.post("/api/jobs", { tasks });
    const stream = await connect(wire.origin, job.eventsUrl, { names: OF_A_JOB });
    await stream.until("progress", () => stream.named("task_progress").length > 0);
    wire.cut();
    await stream.until("the second connection", () => stream.controls("connection").length > 1);
    await stream.until("the end", () => stream.source.readyState === EventSource.CLOSED);
    assert.equal(stream.refusals.at(-1), 204);

    const history = await node.get(`/api/topics/job:${job.jobId}/events?limit=1000`);
    assert.deepEqual(stream.events.map((event) => event.lastEventId), history.events.map((event) => event.id));
    const complete = JSON.parse(stream.events.at(-1).data);
    assert.deepEqual([complete.status, complete.successCount, complete.errorCount], ["partial", 4, 1]);
    assert.equal(stream.named("task_start").length, 5);
    assert.equal(JSON.parse(stream.named("error")[0].data).taskId, "unreachable");

    const late = await connect(node.origin, job.eventsUrl, { names: OF_A_JOB });
    await late.until("the end", () => late.named("complete").length === 1);
    assert.deepEqual(late.events.map((event) => event.data), stream.events.map((event) => event.data));
  },

  async "a sample is one job, however often its stream comes back"({ node, wire, start, connect }) {
    const proxy = await start({ remote: node.origin });
    const proxied = "/api/sse-proxy/reactive/sample-parallel/sse-emitter";
    for (const [origin, where] of [[wire.origin, "/api/sse/parallel-tasks-progress"], [proxy.origin, proxied]]) {
      const before = (await node.get("/api/jobs")).jobs.length;
      const stream = await connect(origin, where, { names: OF_A_JOB });
      await stream.until("an event", () => stream.events.length > 0);
      wire.cut();
      await stream.until("the end", () => stream.source.readyState === EventSource.CLOSED);
      assert.equal(stream.refusals.at(-1), 204);
      assert.equal(stream.named("complete").length, 1);
      assert.equal((await node.get("/api/jobs")).jobs.length, before + 1);
    }
  },

  async "a stream through the proxy goes on over a crash of the remote"({ start, connect }) {
    const remote = await start({ durable: true });
    const proxy = await start({ remote: remote.origin });
    const stream = await connect(proxy.origin, "/api/sse-proxy/reactive/events?topics=news");
    const before = await remote.post("/events", { topic: "news", data: "before" });
    await stream.until("the first event", () => stream.events.length === 1);
    await remote.crash();
    // While the remote is away the proxy says when to come back, and the client does not give up.
    await stream.until("a refusal for now", () => stream.controls("disconnect").length > 0);
    assert.equal(JSON.parse(stream.controls("disconnect")[0].data).reason, "upstream_unavailable");
    await remote.start();
    const after = await remote.post("/events", { topic: "news", data: "after" });
    await stream.until("the event after the crash", () => stream.events.length === 2);
    assert.deepEqual(stream.events.map((event) => event.lastEventId), [before.id, after.id]);
    assert.equal(JSON.parse(stream.controls("connection").at(-1).data).resume.status, "resumed");
  },
};

/** A client that remembers what it was told. */
class Stream {
  events = [];
  refusals = [];
  #controls = [];

  constructor(url, user, names) {
    const fetchAs = (input, init) => fetch(input, { ...init, headers: { ...init.headers, ...(user ? { "X-Auth-Token": user } : {}) } });
    this.source = new EventSource(url, { fetch: fetchAs });
    for (const name of CONTROL) this.source.addEventListener(name, (event) => this.#controls.push(event));
    for (const name of new Set(["message", ...names])) {
      // An event called `error` comes with data; the client's own errors do not.
      this.source.addEventListener(name, (event) => event.data !== undefined && this.events.push(event));
    }
    this.source.addEventListener("error", (event) => event.code !== undefined && this.refusals.push(event.code));
  }

  controls(name) {
    return this.#controls.filter((event) => event.type === name);
  }

  named(name) {
    return this.events.filter((event) => event.type === name);
  }

  async until(what, probe) {
    const end = Date.now() + WAIT_MS;
    while (!probe()) {
      assert.ok(Date.now() < end, `waited ${WAIT_MS} ms in vain for ${what}; ${this.events.length} events so far`);
      await new Promise((resolve) => setTimeout(resolve, 10));
    }
  }
}

/** Each check gets a node and a wire of its own, so that none can lean on another. */
async function run(check) {
  const node = await new Node(binary).start();
  const wire = await new Wire().start(node);
  const others = [];
  const wires = [wire];
  const wireTo = async (other) => {
    wires.push(await new Wire().start(other));
    return wires.at(-1);
  };
  const start = async (settings) => {
    others.push(await new Node(binary, settings).start());
    return others.at(-1);
  };
  const streams = [];
  const connect = async (origin, where, { user = null, names = [] } = {}) => {
    const url = new URL(where, origin);
    url.searchParams.set("retryMs", "50");
    const stream = new Stream(url, user, names);
    streams.push(stream);
    await stream.until("the connection", () => stream.controls("connection").length > 0);
    return stream;
  };
  try {
    await check({ node, wire, start, wireTo, connect });
  } catch (error) {
    error.message += `\nthe node's last words:\n${node.log()}`;
    throw error;
  } finally {
    for (const { source } of streams) source.close();
    for (const one of wires) await one.stop();
    for (const other of [...others, node]) await other.stop();
  }
}

const wanted = process.argv[2] ?? "";
const failed = await runChecks(checks, run, { wanted, ms: CHECK_MS });
process.exit(failed === 0 ? 0 : 1);
