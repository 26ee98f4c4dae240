/** Requests to the node that served this page. Shows its responses and refusals as text. */

import { headerValue } from "./event-stream.js";

/** A request that takes longer than this is cancelled. */
const TIMEOUT_MS = 20_000;

/** The headers that identify the caller. In open mode the token itself is the name of the user. */
export function identity(token) {
  return token === "" ? {} : { "X-Auth-Token": token };
}

/** True for a frame of the server, not of a publisher: the first frame of a connection, and frames without an id. */
export function isControl({ event, id, first }) {
  return id === null || (first && event === "connection");
}

/**
 * Sends a request and reads the response. Never throws. Returns `{ok, status, body, problem}`, where `problem` is
 * `{title, detail, errors: [{field, detail}]}` if `ok` is false.
 */
export async function request(method, path, { token = "", json, timeoutMs = TIMEOUT_MS } = {}) {
  const headers = new Headers({ Accept: "application/json" });
  for (const [name, value] of Object.entries(identity(token))) headers.set(name, headerValue(value));
  if (json !== undefined) headers.set("Content-Type", "application/json");
  try {
    const response = await fetch(path, {
      method,
      headers,
      body: json === undefined ? undefined : JSON.stringify(json),
      cache: "no-store",
      credentials: "same-origin",
      signal: AbortSignal.timeout(timeoutMs),
    });
    const text = await response.text();
    const body = parseBody(text);
    if (response.ok) return { ok: true, status: response.status, body };
    return { ok: false, status: response.status, body, problem: problemOf(response, body) };
  } catch (error) {
    const detail = error.name === "TimeoutError" ? "the server did not answer in time" : "the server cannot be reached";
    return { ok: false, status: 0, body: null, problem: { title: "No answer", detail, errors: [] } };
  }
}

function parseBody(text) {
  if (text === "") return null;
  try {
    return JSON.parse(text);
  } catch {
    return text;
  }
}

/** The problem document (RFC 9457) of a node, or only the status if a proxy before the node responded. */
function problemOf(response, body) {
  const problem = body !== null && typeof body === "object" ? body : {};
  const retryAfter = response.headers.get("Retry-After");
  const later = retryAfter ? ` Try again in ${retryAfter} s.` : "";
  return {
    title: String(problem.title ?? response.statusText ?? "Refused"),
    detail: `${problem.detail ?? `the server answered ${response.status}`}${later}`,
    errors: Array.isArray(problem.errors) ? problem.errors : [],
  };
}

/** One line for a refused request: `422 Unprocessable Content: the event has no data`. */
export function problemLine({ status, problem }) {
  return status === 0 ? `${problem.title}: ${problem.detail}` : `${status} ${problem.title}: ${problem.detail}`;
}

/** The request as a shell command. */
export function curl(method, path, { token = "", json, stream = false } = {}) {
  const words = ["curl"];
  if (stream) words.push("-N");
  if (method !== "GET") words.push("-X", method);
  if (token !== "") words.push("-H", shellWord(`X-Auth-Token: ${token}`));
  if (json !== undefined)
    words.push("-H", shellWord("Content-Type: application/json"), "-d", shellWord(JSON.stringify(json)));
  words.push(shellWord(new URL(path, location.href).href));
  return words.join(" ");
}

function shellWord(text) {
  return /^[\w./:=-]+$/.test(text) ? text : `'${text.replaceAll("'", "'\\''")}'`;
}
