/** The dashboard: what the node says of itself, asked every two seconds. Old numbers are never passed off as new ones. */

import { problemLine, request } from "./api.js";
import { byId, el, setText } from "./dom.js";
import { words } from "./job-model.js";

const POLL_MS = 2000;
const ANSWER_MS = 5000;
/** Tables show so many rows, the busiest first; the rest is counted. */
const ROWS_MAX = 20;
const TOKEN_KEY = "millstream-token";

const COUNTS = {
  "total-emitters": "totalEmitters",
  "total-users": "totalUsers",
  "total-groups": "totalGroups",
  "total-topics": "totalTopics",
  "upstream-streams": "upstreamStreams",
  "dropped-events": "droppedEvents",
};

let updatedAt = null;
let timer = 0;
let round = 0;

async function poll() {
  clearTimeout(timer);
  round += 1;
  const mine = round;
  const options = { token: storedToken(), timeoutMs: ANSWER_MS };
  const [status, jobs, relays] = await Promise.all([
    request("GET", "/api/sse/managed/status", options),
    request("GET", "/api/jobs", options),
    request("GET", "/api/relays", options),
  ]);
  // Asked again meanwhile (another token, the page came back): that answer counts, and only it keeps the clock going.
  if (mine !== round) return;
  if (status.ok) showStatus(status.body ?? {});
  if (jobs.ok) showJobs(listOf(jobs.body));
  if (relays.ok) showRelays(relays.body?.relays ?? []);
  showHealth([status, jobs, relays].find((answer) => !answer.ok));
  // A hidden page asks nobody; it asks at once when it is seen again.
  if (!document.hidden) timer = setTimeout(poll, POLL_MS);
}

function showHealth(failed) {
  const badge = byId("badge");
  byId("numbers").classList.toggle("stale", failed !== undefined);
  byId("problem").hidden = failed === undefined;
  if (failed === undefined) {
    updatedAt = new Date();
    const time = byId("updated");
    time.dateTime = updatedAt.toISOString();
    setText(time, updatedAt.toLocaleTimeString());
    badge.dataset.state = "live";
    setText(byId("badge-text"), "Live");
    return;
  }
  const from =
    updatedAt === null ? "There are no numbers yet." : `The numbers are from ${updatedAt.toLocaleTimeString()}.`;
  const advice = failed.status === 401 || failed.status === 403 ? " Enter the token of an admin above." : "";
  setText(byId("problem"), `${problemLine(failed)}. ${from}${advice}`);
  badge.dataset.state = "offline";
  setText(byId("badge-text"), failed.status === 0 ? "Offline – asking again" : "Refused – asking again");
}

function showStatus(status) {
  for (const [id, key] of Object.entries(COUNTS)) {
    setText(byId(id), typeof status[key] === "number" ? status[key].toLocaleString() : "–");
  }
  showTally("users", status.emittersByUser, "No user is connected.");
  showTally("groups", status.emittersByGroup, "No group has an emitter.");
}

function showTally(id, tally, none) {
  const entries = Object.entries(tally ?? {}).sort((a, b) => b[1] - a[1] || a[0].localeCompare(b[0]));
  const rows = entries
    .slice(0, ROWS_MAX)
    .map(([name, count]) => el("tr", {}, el("td", {}, name), el("td", { class: "number" }, String(count))));
  fill(id, rows, entries.length, none);
}

/** The answer is a list, or an object that holds one. */
function listOf(body) {
  if (Array.isArray(body)) return body;
  return body?.jobs ?? body?.items ?? [];
}

function showJobs(jobs) {
  fill(
    "jobs",
    jobs.slice(0, ROWS_MAX).map(jobRow),
    jobs.length,
    "No job yet. The test page submits one with two clicks.",
  );
}

function jobRow(job) {
  const jobId = String(job.jobId ?? job.id ?? "");
  const total = job.totalTasks ?? (Array.isArray(job.tasks) ? job.tasks.length : null);
  const finished = job.finishedTasks ?? (job.successCount ?? 0) + (job.errorCount ?? 0);
  const percent = job.progress ?? (total ? (100 * finished) / total : 0);
  const status = String(job.status ?? "unknown");
  return el(
    "tr",
    { "data-job-id": jobId },
    el("td", {}, el("a", { href: `/sse-client.html?job=${encodeURIComponent(jobId)}` }, jobId)),
    el("td", {}, el("span", { class: "tag", "data-state": status }, words(status))),
    el(
      "td",
      { class: "optional" },
      el("progress", { max: "100", value: String(percent), "aria-label": `Progress of job ${jobId}` }),
    ),
    el("td", { class: "number" }, total === null ? "–" : `${finished} of ${total}`),
  );
}

function showRelays(relays) {
  const rows = relays.slice(0, ROWS_MAX).map((relay) => {
    const status = String(relay.status ?? "unknown");
    return el(
      "tr",
      { "data-relay-id": String(relay.id) },
      el("td", {}, el("a", { href: `/api/relays/${encodeURIComponent(relay.id)}` }, String(relay.id))),
      el("td", { class: "optional" }, String(relay.topic ?? "")),
      el("td", {}, el("span", { class: "tag", "data-state": status }, words(status))),
      el("td", { class: "number" }, (relay.events ?? 0).toLocaleString()),
    );
  });
  fill("relays", rows, relays.length, "No relay. `POST /api/relays` makes one.");
}

/** Draws a table's rows; where the reader's focus is on a link of it, the table waits until the focus has left. */
function fill(id, rows, count, none) {
  const body = byId(id);
  if (!body.contains(document.activeElement)) body.replaceChildren(...rows);
  const rest = count > ROWS_MAX ? `and ${count - ROWS_MAX} more` : "";
  const note = byId(`${id}-empty`);
  setText(note, count === 0 ? none : rest);
  note.hidden = note.textContent === "";
}

function storedToken() {
  try {
    return sessionStorage.getItem(TOKEN_KEY) ?? "";
  } catch {
    return byId("token").value.trim();
  }
}

byId("token").value = storedToken();
byId("token-form").addEventListener("submit", (submit) => {
  submit.preventDefault();
  try {
    sessionStorage.setItem(TOKEN_KEY, byId("token").value.trim());
  } catch {
    // Then the field itself is the store.
  }
  poll();
});
document.addEventListener("visibilitychange", () => document.hidden || poll());
poll();
