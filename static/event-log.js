/**
 * The event log: the received events, newest at the bottom, bounded.
 *
 * Rows are collected and drawn once per frame, so that a burst of a thousand events costs one layout. While the page is
 * hidden nothing is drawn. The waiting rows have the same bound.
 */

import { byId, clock, copyText, el, pretty, setText } from "./dom.js";
import { sourceChip } from "./sources.js";

/** Maximum number of rows. Older rows are dropped and counted. */
const ROWS_MAX = 2000;
/** How close to the end counts as "at the end", in pixels. */
const NEAR_END = 24;
/** The one-line form of data is cut at this length. A click shows the whole data. */
const PREVIEW_CHARS = 300;

/** Connects the log's controls. Returns `{add(row)}`. A row is `{time, event, id, topic, data}` and may name its `job` and `source`. */
export function eventLog() {
  const body = byId("log-body");
  const view = byId("log-view");
  const rows = [];
  const waiting = [];
  const names = new Map();
  let dropped = 0;
  let scheduled = false;
  let following = true;

  function add(row) {
    waiting.push(row);
    if (waiting.length > ROWS_MAX) {
      waiting.shift();
      dropped += 1;
    }
    if (!scheduled) {
      scheduled = true;
      requestAnimationFrame(draw);
    }
  }

  function draw() {
    scheduled = false;
    const filter = currentFilter();
    const fragment = document.createDocumentFragment();
    for (const row of waiting.splice(0)) {
      row.node = drawRow(row);
      row.node.hidden = !matches(row, filter);
      fragment.append(row.node);
      rows.push(row);
      remember(row.event);
    }
    body.append(fragment);
    const surplus = rows.length - ROWS_MAX;
    if (surplus > 0) {
      for (const old of rows.splice(0, surplus)) old.node.remove();
      dropped += surplus;
    }
    showCount();
    if (following) view.scrollTop = view.scrollHeight;
  }

  /** Adds each event name once to the name filter. */
  function remember(name) {
    if (names.has(name) || names.size > 200) return;
    const option = el("option", { value: name }, name);
    names.set(name, option);
    byId("filter-name").append(option);
  }

  function refilter() {
    const filter = currentFilter();
    for (const row of rows) row.node.hidden = !matches(row, filter);
    showCount();
    if (following) view.scrollTop = view.scrollHeight;
  }

  function showCount() {
    const shown = rows.reduce((count, row) => count + (row.node.hidden ? 0 : 1), 0);
    const all = shown === rows.length ? `${shown} events` : `${shown} of ${rows.length} events`;
    setText(byId("log-count"), all);
    const older = `The ${dropped} oldest were dropped: the log keeps the last ${ROWS_MAX}.`;
    setText(byId("log-dropped"), dropped > 0 ? older : "");
    byId("log-empty").hidden = shown > 0;
    setText(
      byId("log-empty"),
      rows.length === 0 ? "Nothing yet. Connect, then send something." : "No event matches the filter.",
    );
  }

  function clear() {
    rows.length = 0;
    waiting.length = 0;
    dropped = 0;
    body.replaceChildren();
    showCount();
  }

  async function copy() {
    const shown = rows.filter((row) => !row.node.hidden).map(exported);
    const copied = await copyText(JSON.stringify(shown, null, 2));
    setText(byId("log-note"), copied ? `Copied ${shown.length} events.` : "The browser does not allow copying.");
    setTimeout(() => setText(byId("log-note"), ""), 4000);
  }

  view.addEventListener("scroll", () => {
    following = view.scrollHeight - view.scrollTop - view.clientHeight < NEAR_END;
    byId("log-follow").hidden = following;
  });
  byId("log-follow").addEventListener("click", () => {
    following = true;
    view.scrollTop = view.scrollHeight;
    view.focus();
  });
  for (const id of ["filter-text", "filter-name", "hide-heartbeats", "hide-jobs"])
    byId(id).addEventListener("input", refilter);
  byId("log-clear").addEventListener("click", clear);
  byId("log-copy").addEventListener("click", copy);
  showCount();
  return { add };
}

function currentFilter() {
  return {
    text: byId("filter-text").value.trim().toLowerCase(),
    name: byId("filter-name").value,
    heartbeats: !byId("hide-heartbeats").checked,
    jobs: !byId("hide-jobs").checked,
  };
}

function matches(row, filter) {
  if (row.event === "heartbeat" && !filter.heartbeats) return false;
  if (row.job !== undefined && !filter.jobs) return false;
  if (filter.name !== "" && row.event !== filter.name) return false;
  if (filter.text === "") return true;
  return `${row.event}\n${row.id}\n${row.topic}\n${row.source ?? ""}\n${row.data}`.toLowerCase().includes(filter.text);
}

function drawRow(row) {
  const preview = row.data.replace(/\s+/g, " ").slice(0, PREVIEW_CHARS) || "(empty)";
  const details = el("details", {}, el("summary", {}, preview));
  // Most rows are never opened. The long form of a row is created when it is opened.
  details.addEventListener("toggle", () => {
    if (details.open && details.children.length === 1) details.append(longForm(row));
  });
  return el(
    "tr",
    { role: "row", "data-event": row.event, "data-id": row.id },
    cell("time", clock(row.time)),
    cell("name", row.event),
    cell("topic", row.source ? sourceChip(row.source) : row.topic || "–", row.source ?? row.topic),
    cell("id", row.id || "–", row.id),
    cell("data", details),
  );
}

/** The roles are explicit because narrow pages display rows as blocks. A browser then no longer treats them as rows. */
function cell(name, content, title) {
  return el("td", { role: "cell", class: name, title: title || undefined }, content);
}

function longForm(row) {
  const facts = [row.id && `id ${row.id}`, row.topic && `topic ${row.topic}`].filter(Boolean).join(" · ");
  return el("div", {}, el("p", { class: "facts" }, facts || "no id"), el("pre", { tabindex: "0" }, pretty(row.data)));
}

function exported({ time, event, id, topic, source, data }) {
  let value = data;
  try {
    value = JSON.parse(data);
  } catch {
    // The text is not JSON: it is shown unchanged.
  }
  return { time: new Date(time).toISOString(), event, id: id || undefined, topic: topic || undefined, source, data: value };
}
