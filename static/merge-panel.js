/** The merge panel: several streams of remote servers as one stream. Each event has the colour of its source. */

import { curl, identity } from "./api.js";
import { byId, el, setText } from "./dom.js";
import { EventStream, HEARTBEAT_MS } from "./event-stream.js";
import { sourceChip } from "./sources.js";

const PATH = `/api/sse-proxy/merge-streams/sse-emitter?envelope=true&heartbeatMs=${HEARTBEAT_MS}`;
const EXAMPLE = ["/api/sse/sample-parallel", "/api/sse/flow-example", "/api/sse/parallel-tasks-progress"];

/** `remote:/path` names the remote. With `/path` the node uses its default remote. */
function readSource(line) {
  const at = line.indexOf(":/");
  return line.startsWith("/") || at < 1 ? line : { remote: line.slice(0, at), path: line.slice(at + 1) };
}

function parse(text) {
  try {
    const value = JSON.parse(text);
    return value !== null && typeof value === "object" ? value : {};
  } catch {
    return {};
  }
}

/** Connects the panel to its functions. `connection` provides the token. `log.add(row)` gets the events. */
export function mergePanel(connection, log) {
  const form = byId("merge-form");
  const input = byId("merge-sources");
  let stream = null;
  let rows = new Map();

  function sources() {
    const lines = input.value.split("\n").map((line) => line.trim());
    return lines.filter((line) => line !== "").map(readSource);
  }

  function showCurl() {
    setText(
      byId("merge-curl"),
      curl("POST", PATH, { token: connection.token(), json: sources(), stream: true }),
    );
  }

  function start() {
    stream?.close();
    setText(byId("merge-error"), "");
    rows = new Map();
    byId("merge-list").replaceChildren();
    stream = new EventStream(PATH, {
      headers: identity(connection.token()),
      json: sources(),
      onEvent: take,
      onState: showState,
    });
    stream.start();
  }

  function showState(state) {
    const going = state.name === "connecting" || state.name === "live";
    const [off, on] = going ? ["merge-start", "merge-stop"] : ["merge-stop", "merge-start"];
    const hadFocus = document.activeElement === byId(off);
    byId(off).disabled = true;
    byId(on).disabled = false;
    if (hadFocus) byId(on).focus();
    if (state.name === "connecting") setText(byId("merge-line"), "Connecting…");
    if (state.name === "live") setText(byId("merge-line"), "Live");
    if (state.name === "ended") setText(byId("merge-line"), "The node ended the stream before all sources had ended.");
    if (state.name === "closed") setText(byId("merge-line"), "Stopped.");
    if (state.name === "refused") {
      const fields = (state.problem?.errors ?? []).map(({ field, detail }) => `${field}: ${detail}`);
      setText(byId("merge-error"), [state.reason, ...fields].join(" – "));
      setText(byId("merge-line"), "Not merging.");
    }
  }

  function take(event) {
    const data = parse(event.data);
    const own = ["merge_start", "merge_error", "merge_complete", "heartbeat", "disconnect"].includes(event.event);
    const source = typeof data.source === "string" ? data.source : undefined;
    const shown = own || data.data === undefined ? event.data : text(data.data);
    log.add({ time: Date.now(), event: event.event, id: own ? "" : (data.id ?? ""), topic: "merge", data: shown, source });
    if (event.event === "merge_start") begin(data);
    else if (event.event === "merge_error") mark(source, `✗ ${data.error ?? "failed"}`, "failed");
    else if (event.event === "merge_complete") end(data);
    else if (!own) count(source);
  }

  function begin({ endpoints }) {
    for (const endpoint of Array.isArray(endpoints) ? endpoints : []) {
      const name = String(endpoint?.source ?? endpoint);
      const state = el("span", { class: "merge-state" }, "0 events");
      const node = el("li", { "data-state": "open" }, sourceChip(name), state);
      rows.set(name, { node, state, events: 0 });
      byId("merge-list").append(node);
    }
  }

  function count(source) {
    const row = rows.get(source);
    if (!row) return;
    row.events += 1;
    setText(row.state, row.events === 1 ? "1 event" : `${row.events} events`);
  }

  function mark(source, words, state) {
    const row = rows.get(source);
    if (!row) return;
    row.node.dataset.state = state;
    setText(row.state, `${row.events} events, ${words}`);
  }

  function end({ completed, failed, events }) {
    stream.close();
    setText(byId("merge-line"), `Ended: ${completed} sources came to their end, ${failed} failed, ${events} events.`);
  }

  form.addEventListener("submit", (submit) => {
    submit.preventDefault();
    start();
  });
  byId("merge-stop").addEventListener("click", () => stream?.close());
  input.addEventListener("input", showCurl);
  input.value = EXAMPLE.join("\n");
  showCurl();
}

function text(value) {
  return typeof value === "string" ? value : JSON.stringify(value);
}
