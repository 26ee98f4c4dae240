/**
 * Reads event streams with `fetch`, for pages that need every event name and their own headers.
 *
 * Owns the rules of WHATWG HTML 9.2 ("Server-sent events") in {@link EventStreamParser}, and the life of a connection in
 * {@link EventStream}: resume with `Last-Event-ID`, back off with jitter, detect a server that died silently.
 * It does not depend on the page or on Millstream's event names.
 */

/** A single event above this size is a fault or an attack. The connection is closed. */
const EVENT_CHARS_MAX = 16 * 1024 * 1024;
/** Minimum delay of a reconnection, for every value of `retry:`. */
const DELAY_MIN_MS = 500;
/** Maximum delay of the back-off, unless the server asks for more. */
const DELAY_MAX_MS = 30_000;
/** A connection that lasted this long was good: the next failure starts the count again. */
const HEALTHY_MS = 10_000;
/** Response headers are due at once. A server that delays them for this long counts as dead. */
const CONNECT_TIMEOUT_MS = 15_000;
/** A hint above this is treated as a mistake. It would also overflow the browser's timers, which then fire at once. */
const RETRY_MAX_MS = 3_600_000;
/** The requested interval of heartbeats (`heartbeatMs`), independent of the server's default. */
export const HEARTBEAT_MS = 15_000;
/** A server counts as dead after three missed heartbeats. */
const SILENCE_MS = 3 * HEARTBEAT_MS;
/** Statuses of class 5xx that a repeated request gets again: method, version, negotiation, a loop, an extension. */
const FINAL_5XX = [501, 505, 506, 508, 510];
/** Number of event ids that are remembered to drop duplicates. */
const SEEN_IDS_MAX = 10_000;

/** Turns text into events. Chunks may be cut at any position. An incomplete event at the end of the stream is dropped. */
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
  /** The last id of the stream, for `Last-Event-ID`. It stays until another id arrives. */
  lastEventId;

  constructor({ onEvent, onRetry = () => {}, lastEventId = "" }) {
    this.#onEvent = onEvent;
    this.#onRetry = onRetry;
    this.lastEventId = lastEventId;
  }

  /** Parses the next piece of decoded text. */
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
        // The LF of a CRLF whose CR has already ended the line, perhaps in an earlier chunk.
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
    // An id is valid from the blank line on, also in a frame without data: the standard sets it before it checks the data.
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

/** UTF-8 bytes as a byte string, the form of header values, so that a name like `Zoë` does not throw. */
export function headerValue(text) {
  return String.fromCharCode(...new TextEncoder().encode(text));
}

/** The delay before the `attempt`th reconnection: never below the server's hint, doubling, with jitter. */
export function reconnectDelay(attempt, retryMs, random = Math.random()) {
  const hint = Math.max(retryMs, DELAY_MIN_MS);
  const grown = Math.min(hint * 2 ** (attempt - 1), Math.max(DELAY_MAX_MS, hint));
  return Math.round(grown * (1 + random / 2));
}

/**
 * One event stream that reconnects by itself: `start` connects, `close` ends it permanently.
 *
 * `url` is a string or a function of the last event id. `onState` gets `{name, attempt, delayMs, reason, status, problem}`.
 * The names are `connecting`, `live`, `offline` (will reconnect), `ended` (status 204), `refused` (a status that a repeated
 * request would get again) and `closed`.
 *
 * `onEvent` gets `{event, data, id, lastEventId, first}`, where `first` marks the first event of a connection. Events with an
 * id that was already seen are dropped and counted in `doubles`. Frames that `isControl` accepts are never dropped: the id of
 * a control frame is the position of the stream, which an event may have too.
 *
 * With `json` the stream is requested by a POST. Such a stream is read `once`: it does not reconnect after its end.
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
  /** Events that arrived twice and were dropped. With a correct server this is 0. */
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

  /** Ends the stream. After this it reports only the state `closed`. */
  close() {
    if (!this.#open) return;
    this.#open = false;
    this.#abort?.abort();
    this.#wake?.();
    this.#setState({ name: "closed" });
  }

  /** Skips the rest of the back-off. */
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

  /** One connection from request to end. Returns the state that follows. */
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
      // Any byte proves that the server is alive, also a comment.
      watchdog.feed();
      const before = parser.lastEventId;
      parser.push(decoder.decode(value, { stream: true }));
      // An id can also arrive in a frame without data, which gives no event.
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
      // If a server closes often but sends new events each time, the delay does not grow.
      this.#attempt = 0;
      if (this.#seen.size > SEEN_IDS_MAX) this.#seen.delete(this.#seen.values().next().value);
    }
    try {
      this.#options.onEvent(event);
    } catch (error) {
      // A bug of the page must not look like a lost connection.
      reportError(error);
    }
  }
}

/** Aborts a connection that was silent for too long, with the cause in `reason`. */
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
      // One timer checks the clock, instead of one timer per chunk. It also detects that the machine slept.
      const left = this.#limitMs - (Date.now() - this.#fedAt);
      if (left > 0) return this.#arm(left);
      this.reason = `${this.#complaint} for ${Math.round(this.#limitMs / 1000)} s`;
      return this.#abort.abort();
    }, delayMs);
  }
}

/** The meaning of a response that is not a stream. Null if it is a stream. */
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

/** The delay of `Retry-After`, from seconds or a date, within the bound. 0 if the field is missing or not valid. */
export function retryAfterMs(value, now = Date.now()) {
  const text = (value ?? "").trim();
  const asked = /^[0-9]+$/.test(text) ? Number(text) * 1000 : Date.parse(text) - now;
  return asked > 0 ? Math.min(asked, RETRY_MAX_MS) : 0;
}
