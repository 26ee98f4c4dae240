/**
 * Reading of event streams with `fetch`, for pages that need every event name and their own headers.
 *
 * Owns the rules of WHATWG HTML 9.2 ("Server-sent events") in {@link EventStreamParser}, and the life of a connection in
 * {@link EventStream}: resume with `Last-Event-ID`, back off with jitter, notice a server that died silently.
 * Knows nothing of the page and nothing of Millstream's event names.
 */

/** A single event above this is no event stream but a fault or an attack; the connection is given up. */
const EVENT_CHARS_MAX = 16 * 1024 * 1024;
/** Never reconnect faster than this, whatever `retry:` says. */
const DELAY_MIN_MS = 500;
/** Backing off stops growing here, unless the server itself asks for more. */
const DELAY_MAX_MS = 30_000;
/** A connection that lived this long was a good one: the next failure starts counting anew. */
const HEALTHY_MS = 10_000;
/** Response headers are due at once; a server that holds them back this long is taken for dead. */
const CONNECT_TIMEOUT_MS = 15_000;
/** A hint above this is taken for a mistake; it would also overflow the browser's timers, which then fire at once. */
const RETRY_MAX_MS = 3_600_000;
/** The pace of heartbeats to ask a server for (`heartbeatMs`), whatever its default is. */
export const HEARTBEAT_MS = 15_000;
/** Whoever misses three of them is dead. */
const SILENCE_MS = 3 * HEARTBEAT_MS;
/** Refusals of class 5xx that a repeat meets again: method, version, negotiation, a loop, an extension. */
const FINAL_5XX = [501, 505, 506, 508, 510];
/** How many event ids are remembered to drop doubles. */
const SEEN_IDS_MAX = 10_000;

/** Turns text into events. Feed it chunks cut anywhere; what is incomplete at the end of the stream is dropped. */
export class EventStreamParser {
  #onEvent;
  #onRetry;
  #line = "";
  #skipLf = false;
  #first = true;
  #data = "";
  #hasData = false;
  #event = "";
  #ownId = null;
  /** The sticky id of the stream, as `Last-Event-ID` wants it. */
  lastEventId;

  constructor({ onEvent, onRetry = () => {}, lastEventId = "" }) {
    this.#onEvent = onEvent;
    this.#onRetry = onRetry;
    this.lastEventId = lastEventId;
  }

  /** Takes the next piece of decoded text. */
  push(text) {
    let from = 0;
    if (this.#first && text.length > 0) {
      this.#first = false;
      if (text.charCodeAt(0) === 0xfeff) from = 1;
    }
    for (let at = from; at < text.length; at += 1) {
      const code = text.charCodeAt(at);
      if (code !== 10 && code !== 13) {
        this.#skipLf = false;
        continue;
      }
      if (code === 10 && this.#skipLf) {
        // The second half of a CRLF whose CR has already ended the line, perhaps in an earlier chunk.
        this.#skipLf = false;
        from = at + 1;
        continue;
      }
      this.#skipLf = code === 13;
      const line = this.#line + text.slice(from, at);
      this.#line = "";
      from = at + 1;
      this.#takeLine(line);
    }
    this.#line += text.slice(from);
    if (this.#line.length + this.#data.length > EVENT_CHARS_MAX)
      throw new RangeError("an event is too large to be kept");
  }

  #takeLine(line) {
    if (line === "") return this.#dispatch();
    const colon = line.indexOf(":");
    if (colon === 0) return undefined;
    const field = colon < 0 ? line : line.slice(0, colon);
    let value = colon < 0 ? "" : line.slice(colon + 1);
    if (value.startsWith(" ")) value = value.slice(1);
    if (field === "data") {
      this.#data += `${value}\n`;
      this.#hasData = true;
    } else if (field === "event") {
      this.#event = value;
    } else if (field === "id") {
      if (!value.includes("\0")) this.#ownId = value;
    } else if (field === "retry" && /^[0-9]+$/.test(value)) {
      this.#onRetry(Number(value));
    }
    return undefined;
  }

  #dispatch() {
    // An id counts from the blank line on, also in a frame without data: the standard sets it before it looks at data.
    if (this.#ownId !== null) this.lastEventId = this.#ownId;
    if (this.#hasData) {
      this.#onEvent({
        event: this.#event || "message",
        data: this.#data.slice(0, -1),
        id: this.#ownId,
        lastEventId: this.lastEventId,
      });
    }
    this.#data = "";
    this.#hasData = false;
    this.#event = "";
    this.#ownId = null;
  }
}

/** UTF-8 bytes as the byte string that header values are made of, so that a name like `Zoë` does not throw. */
export function headerValue(text) {
  return String.fromCharCode(...new TextEncoder().encode(text));
}

/** How long to wait before the `attempt`th reconnection: never below the server's hint, doubling, with jitter. */
export function reconnectDelay(attempt, retryMs, random = Math.random()) {
  const hint = Math.max(retryMs, DELAY_MIN_MS);
  const grown = Math.min(hint * 2 ** (attempt - 1), Math.max(DELAY_MAX_MS, hint));
  return Math.round(grown * (1 + random / 2));
}

/**
 * One event stream that stays: `start` connects, `close` ends it for good, everything between is its own affair.
 *
 * `url` is a string or a function of the last event id. `onState` hears `{name, attempt, delayMs, reason, status, problem}`
 * with the names `connecting`, `live`, `offline` (will reconnect), `ended` (the server said 204), `refused` (a status that
 * repeating cannot help) and `closed`. `onEvent` hears `{event, data, id, lastEventId, first}`, where `first` marks the
 * first event of a connection; events whose own id was already seen are dropped and counted in `doubles`. What `isControl`
 * accepts is never dropped: the id of a control frame is the position of the stream, which an event may have too.
 *
 * With `json` the stream is asked for by a POST; such a stream is read `once`: its end is the end.
 */
export class EventStream {
  #options;
  #headers;
  #abort = null;
  #wake = null;
  #open = false;
  #retryMs = 1000;
  #attempt = 0;
  #seen = new Set();
  #state = { name: "idle" };
  #first = true;
  /** The id to resume after; empty before the first event with an id. */
  lastEventId;
  /** Events that came twice and were dropped. A server that keeps its promises leaves this at 0. */
  doubles = 0;

  constructor(url, { headers = {}, json, lastEventId = "", silenceMs = SILENCE_MS, onEvent, onState = () => {}, isControl = () => false }) {
    this.#options = { url, json, once: json !== undefined, silenceMs, onEvent, onState, isControl };
    this.#headers = Object.entries(headers).map(([name, value]) => [name, headerValue(value)]);
    this.lastEventId = lastEventId;
  }

  get state() {
    return this.#state;
  }

  start() {
    if (this.#open) return;
    this.#open = true;
    this.#run();
  }

  /** Ends the stream; nothing is heard of it afterwards but the state `closed`. */
  close() {
    if (!this.#open) return;
    this.#open = false;
    this.#abort?.abort();
    this.#wake?.();
    this.#setState({ name: "closed" });
  }

  /** Does not wait for the rest of the back-off. */
  reconnectNow() {
    this.#wake?.();
  }

  #setState(state) {
    this.#state = state;
    this.#options.onState(state);
  }

  async #run() {
    while (this.#open) {
      this.#setState({ name: "connecting", attempt: this.#attempt });
      const end = await this.#connectOnce();
      if (!this.#open) return;
      if (end.name !== "offline" || this.#options.once) {
        this.#open = false;
        this.#setState(end.name === "offline" ? { ...end, name: "refused" } : end);
        return;
      }
      this.#attempt += 1;
      const delayMs = Math.max(reconnectDelay(this.#attempt, this.#retryMs), end.retryAfterMs ?? 0);
      this.#setState({ ...end, attempt: this.#attempt, delayMs });
      await this.#sleep(delayMs);
    }
  }

  #sleep(delayMs) {
    return new Promise((resolve) => {
      const timer = setTimeout(resolve, delayMs);
      this.#wake = () => {
        clearTimeout(timer);
        resolve();
      };
    });
  }

  /** One connection from request to end; answers with the state that follows. */
  async #connectOnce() {
    const abort = new AbortController();
    this.#abort = abort;
    const watchdog = new Watchdog(abort);
    let liveSince = null;
    try {
      watchdog.watch(CONNECT_TIMEOUT_MS, "the server did not answer");
      const response = await fetch(this.#url(), this.#request(abort.signal));
      const refusal = await refusalOf(response);
      if (refusal) return refusal;
      liveSince = Date.now();
      watchdog.watch(this.#options.silenceMs, "the server fell silent");
      this.#setState({ name: "live", attempt: this.#attempt });
      await this.#read(response.body, watchdog);
      return { name: this.#options.once ? "ended" : "offline", reason: "the server ended the stream" };
    } catch (error) {
      const lost = liveSince === null ? "the server cannot be reached" : "the connection broke off";
      if (error instanceof RangeError) return { name: "refused", reason: error.message };
      return { name: "offline", reason: watchdog.reason ?? lost };
    } finally {
      watchdog.stop();
      abort.abort();
      if (liveSince !== null && Date.now() - liveSince >= HEALTHY_MS) this.#attempt = 0;
    }
  }

  #url() {
    const { url } = this.#options;
    return typeof url === "function" ? url(this.lastEventId) : url;
  }

  #request(signal) {
    const headers = new Headers([["Accept", "text/event-stream"], ...this.#headers]);
    if (this.lastEventId !== "") headers.set("Last-Event-ID", headerValue(this.lastEventId));
    const { json } = this.#options;
    if (json !== undefined) headers.set("Content-Type", "application/json");
    const [method, body] = json === undefined ? ["GET"] : ["POST", JSON.stringify(json)];
    return { method, body, headers, signal, cache: "no-store", credentials: "same-origin" };
  }

  async #read(body, watchdog) {
    const decoder = new TextDecoder("utf-8", { ignoreBOM: true });
    this.#first = true;
    const parser = new EventStreamParser({
      lastEventId: this.lastEventId,
      onEvent: (event) => this.#take(event),
      onRetry: (ms) => {
        this.#retryMs = Math.min(ms, RETRY_MAX_MS);
      },
    });
    const reader = body.getReader();
    for (;;) {
      const { done, value } = await reader.read();
      if (done || !this.#open) return;
      // Any byte is a sign of life, a comment too.
      watchdog.feed();
      const before = parser.lastEventId;
      parser.push(decoder.decode(value, { stream: true }));
      // An id can also come in a frame without data, of which no event tells.
      if (parser.lastEventId !== before) this.lastEventId = parser.lastEventId;
    }
  }

  #take(parsed) {
    if (!this.#open) return;
    const event = { ...parsed, first: this.#first };
    this.#first = false;
    if (event.id) this.lastEventId = event.id;
    if (event.id && !this.#options.isControl(event)) {
      if (this.#seen.has(event.id)) {
        this.doubles += 1;
        return;
      }
      this.#seen.add(event.id);
      // A server that closes often and brings something new each time is read at its own pace.
      this.#attempt = 0;
      if (this.#seen.size > SEEN_IDS_MAX) this.#seen.delete(this.#seen.values().next().value);
    }
    try {
      this.#options.onEvent(event);
    } catch (error) {
      // A fault of the page must not look like a lost connection.
      reportError(error);
    }
  }
}

/** Aborts a connection on which nothing came for too long; says why in `reason`. */
class Watchdog {
  #abort;
  #timer = null;
  #limitMs = 0;
  #fedAt = 0;
  #complaint = "";
  reason = null;

  constructor(abort) {
    this.#abort = abort;
  }

  watch(limitMs, complaint) {
    this.#limitMs = limitMs;
    this.#complaint = complaint;
    this.feed();
    this.#arm(limitMs);
  }

  feed() {
    this.#fedAt = Date.now();
  }

  stop() {
    clearTimeout(this.#timer);
  }

  #arm(delayMs) {
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => {
      // One timer that looks at the clock, instead of one per chunk; it also finds out about a machine that slept.
      const left = this.#limitMs - (Date.now() - this.#fedAt);
      if (left > 0) return this.#arm(left);
      this.reason = `${this.#complaint} for ${Math.round(this.#limitMs / 1000)} s`;
      return this.#abort.abort();
    }, delayMs);
  }
}

/** What an answer means that is not a stream; null when it is one. */
async function refusalOf(response) {
  const { status } = response;
  if (status === 200) {
    const type = response.headers.get("Content-Type") ?? "";
    if (/^text\/event-stream\s*(;|$)/i.test(type)) return null;
    return { name: "refused", status, reason: `the answer is no event stream but ${type || "of no type"}` };
  }
  if (status === 204) return { name: "ended", status, reason: "the stream has ended" };
  const problem = await response.json().catch(() => null);
  const reason = problem?.detail ?? problem?.title ?? `the server answered ${status}`;
  const passing = (status >= 500 && !FINAL_5XX.includes(status)) || [408, 425, 429].includes(status);
  if (!passing) return { name: "refused", status, reason, problem };
  return { name: "offline", status, reason, retryAfterMs: retryAfterMs(response.headers.get("Retry-After")) };
}

/** What `Retry-After` asks for, as seconds or as a date, within the bound; 0 where it says nothing that can be read. */
export function retryAfterMs(value, now = Date.now()) {
  const text = (value ?? "").trim();
  const asked = /^[0-9]+$/.test(text) ? Number(text) * 1000 : Date.parse(text) - now;
  return asked > 0 ? Math.min(asked, RETRY_MAX_MS) : 0;
}
