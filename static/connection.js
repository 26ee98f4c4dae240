/** The connect form: opens the caller's stream, shows its state in the badge, and passes every event to the log. */

import { curl, identity, isControl } from "./api.js";
import { byId, duration, el, setMessage, setText, spans } from "./dom.js";
import { EventStream, HEARTBEAT_MS } from "./event-stream.js";
import { storeToken, storedToken } from "./session.js";

const NOTICES_MAX = 20;

const LABELS = {
  idle: "Idle",
  connecting: "Connecting…",
  live: "Live",
  ended: "Ended by the server",
  refused: "Refused",
  closed: "Idle",
};

/** Comma separated words without blanks. Empty words are dropped. */
function list(text) {
  return text
    .split(",")
    .map((word) => word.trim())
    .filter((word) => word !== "");
}

/** The address of the stream that the form describes. Throws with a sentence when a field is not valid. */
function streamPath(form, { resuming = false } = {}) {
  const query = new URLSearchParams();
  const topics = list(form.topics.value);
  const groups = list(form.groups.value);
  if (topics.length > 0) query.set("topics", topics.join(","));
  if (groups.length > 0) query.set("groups", groups.join(","));
  for (const pair of list(form.meta.value)) {
    const at = pair.indexOf("=");
    if (at < 1) throw new Error(`metadata are written key=value, not \`${pair}\``);
    query.set(`meta.${pair.slice(0, at).trim()}`, pair.slice(at + 1).trim());
  }
  const history = Number(form.history.value || 0);
  // A client that resumes after a position has received the history before.
  if (history > 0 && !resuming) query.set("history", String(history));
  if (form.envelope.checked) query.set("envelope", "true");
  query.set("heartbeatMs", String(HEARTBEAT_MS));
  return `${form.endpoint.value}?${query}`;
}

/**
 * Connects the form to its functions. `log.add(row)` gets the events. Returns the functions `token()`, `userId()`, `emitterId()` and
 * `onIdentity(listener)`. The listener is called when the server has sent the caller's identity.
 */
export function connectionPanel(log) {
  const form = byId("connect-form");
  let stream = null;
  let wasLive = false;
  let emitterId = "";
  let userId = "";
  let tellIdentity = () => {};

  const token = () => form.token.value.trim();

  function connect() {
    setMessage(byId("connect-error"), "");
    try {
      streamPath(form);
    } catch (error) {
      setMessage(byId("connect-error"), error.message);
      return;
    }
    storeToken(token());
    // Fields are read again for each connection of this stream, but locked while it is open. So they always show the open stream.
    const enveloped = form.envelope.checked;
    stream = new EventStream((lastEventId) => streamPath(form, { resuming: lastEventId !== "" }), {
      headers: identity(token()),
      onEvent: (event) => take(event, enveloped),
      onState: showState,
      isControl,
    });
    lock(true);
    stream.start();
  }

  function disconnect() {
    stream?.close();
    stream = null;
    emitterId = "";
    lock(false);
    setText(byId("connection-line"), "Not connected.");
  }

  function lock(locked) {
    byId("connect-fields").disabled = locked;
    const [off, on] = locked ? ["connect", "disconnect"] : ["disconnect", "connect"];
    const hadFocus = document.activeElement === byId(off) || document.activeElement === document.body;
    byId(off).disabled = true;
    byId(on).disabled = false;
    // If a focused button were disabled, the focus of a keyboard user would move to the top of the page.
    if (hadFocus) byId(on).focus();
  }

  function showState(state) {
    showBadge(state);
    byId("reconnect-now").hidden = state.name !== "offline";
    if (state.name === "offline") {
      // One line per loss, not one per attempt: an outage of an hour must not scroll a gap out of view.
      if (wasLive) notice("offline", `Offline: ${state.reason}.`);
      setText(byId("connection-line"), `Offline: ${state.reason}. Trying again in ${duration(state.delayMs)}.`);
    }
    wasLive = state.name === "live" || (wasLive && state.name === "connecting");
    if (state.name === "refused") {
      setMessage(byId("connect-error"), state.reason);
      notice("refused", `The server refused the stream: ${state.reason}.`);
    }
    if (state.name === "refused" || state.name === "ended") {
      stream = null;
      lock(false);
    }
  }

  function take(event, enveloped) {
    const row = { time: Date.now(), event: event.event, id: event.id ?? "", topic: "", data: event.data };
    if (isControl(event)) takeControl(event);
    else if (enveloped) openEnvelope(row);
    log.add(row);
    setText(byId("doubles"), String(stream?.doubles ?? 0));
    setText(byId("last-event-id"), stream?.lastEventId || "none");
  }

  function takeControl(event) {
    const data = parseObject(event.data);
    if (event.event === "connection") {
      emitterId = data.emitterId ?? "";
      userId = data.userId ?? "";
      const who = userId ? `user ${userId}` : "anonymous";
      setText(byId("connection-line"), `Connected as ${who}, emitter ${emitterId || "unknown"}.`);
      tellIdentity();
    } else if (event.event === "gap") {
      notice("gap", gapLine(data));
    } else if (event.event === "disconnect") {
      notice("disconnect", `The server ends this connection: ${data.reason ?? "no reason given"}.`);
    }
  }

  form.token.value = storedToken();
  form.token.addEventListener("change", () => storeToken(token()));
  form.addEventListener("submit", (submit) => {
    submit.preventDefault();
    if (stream === null) connect();
  });
  form.addEventListener("input", () => showCurl(form, token()));
  byId("disconnect").addEventListener("click", disconnect);
  byId("reconnect-now").addEventListener("click", () => stream?.reconnectNow());
  byId("notices-clear").addEventListener("click", clearNotices);
  // The network or the reader returned: a long back-off has no use then.
  window.addEventListener("online", () => stream?.reconnectNow());
  document.addEventListener("visibilitychange", () => document.hidden || stream?.reconnectNow());
  showBadge({ name: "idle" });
  showCurl(form, token());

  const onIdentity = (listener) => {
    tellIdentity = listener;
  };
  return { token, userId: () => userId, emitterId: () => emitterId, onIdentity };
}

function showBadge(state) {
  const badge = byId("badge");
  const retrying = state.name === "offline" || (state.name === "connecting" && state.attempt > 0);
  const attempt = Math.max(1, state.attempt ?? 1);
  badge.dataset.state = retrying ? "offline" : state.name === "closed" ? "idle" : state.name;
  setText(byId("badge-text"), retrying ? `Offline – reconnecting (attempt ${attempt})` : LABELS[state.name]);
}

/** A line that stays visible: gaps and disconnects must not scroll out of view with the log. */
function notice(kind, text) {
  const list = byId("notices");
  const time = new Date().toLocaleTimeString();
  list.append(el("li", { "data-kind": kind }, el("time", {}, time), " ", el("span", {}, ...spans(text))));
  while (list.children.length > NOTICES_MAX) list.firstElementChild.remove();
  byId("notices-panel").hidden = false;
}

function clearNotices() {
  byId("notices").replaceChildren();
  byId("notices-panel").hidden = true;
  byId("connect-form").token.focus();
}

function gapLine({ requested, reason, topics }) {
  const names = Array.isArray(topics) ? topics.map((entry) => entry?.topic ?? String(entry)) : [];
  const where = names.length > 0 ? ` on ${names.slice(0, 5).join(", ")}${names.length > 5 ? " and more" : ""}` : "";
  return `Gap: events${where} may be missing after ${requested ?? "the last position"} (${reason ?? "no reason given"}). Going on from the earliest that is kept.`;
}

function openEnvelope(row) {
  const envelope = parseObject(row.data);
  if (envelope.topic === undefined || envelope.data === undefined) return;
  row.topic = String(envelope.topic);
  row.data = typeof envelope.data === "string" ? envelope.data : JSON.stringify(envelope.data);
}

function parseObject(text) {
  try {
    const value = JSON.parse(text);
    return value !== null && typeof value === "object" ? value : {};
  } catch {
    return {};
  }
}

function showCurl(form, token) {
  try {
    setText(byId("connect-curl"), curl("GET", streamPath(form), { token, stream: true }));
  } catch (error) {
    setText(byId("connect-curl"), error.message);
  }
}
