/** The dashboard: the node's numbers, requested every two seconds. Old numbers are marked as old. */

import { problemLine, request } from "./api.js";
import { byId, el, setMessage, setText, spans } from "./dom.js";
import { words } from "./job-model.js";
import { storeToken, storedToken } from "./session.js";

const POLL_MS = 2000;
const ANSWER_MS = 5000;
/** Maximum number of rows of a table, the busiest first. The rest is counted. */
const ROWS_MAX = 20;

const COUNTS = {
  "total-emitters": "totalEmitters",
  "total-users": "totalUsers",
  "total-groups": "totalGroups",
  "upstream-streams": "upstreamStreams",
  "dropped-events": "droppedEvents",
};

let updatedAt = null;
let timer = 0;
let round = 0;
/** The node requires another token: no request is sent before it is entered. */
let stopped = false;
/** The numbers of the whole node are for admins. Another caller is refused once, not every two seconds. */
let forAdmins = false;

async function poll() {
  clearTimeout(timer);
  if (stopped) return;
  round += 1;
  const mine = round;
  const options = { token: byId("token").value.trim(), timeoutMs: ANSWER_MS };
  const [status, jobs, relays] = await Promise.all([
    forAdmins ? null : request("GET", "/api/sse/managed/status", options),
    request("GET", "/api/jobs", options),
    request("GET", "/api/relays", options),
  ]);
  // A newer request exists (another token, the page is visible again). Only its response counts and sets the next timer.
  if (mine !== round) return;
  const answers = [status, jobs, relays].filter((answer) => answer !== null);
  stopped = answers.some((answer) => answer.status === 401);
  forAdmins ||= status?.status === 403;
  byId("node-numbers").hidden = forAdmins;
  byId("for-admins").hidden = !forAdmins;
  if (status?.ok) showStatus(status.body ?? {});
  if (jobs.ok) showJobs(jobs.body ?? {}, status?.body?.jobs?.jobsKept);
  if (relays.ok) showRelays(relays.body ?? {}, status?.body?.relays?.relaysKept);
  if (stopped) showSignIn();
  else showHealth(answers.find((answer) => !answer.ok && answer.status !== 403));
  // A hidden page sends no requests. It sends one at once when it is visible again.
  if (!document.hidden) timer = setTimeout(poll, POLL_MS);
}

/** Asks for a token, and sends no request until there is one. */
function showSignIn() {
  const entered = byId("token").value.trim() !== "";
  byId("problem").hidden = false;
  setMessage(
    byId("problem"),
    entered ? "The node does not accept this token. Enter another one above." : "This node needs a token. Enter one above.",
  );
  byId("badge").dataset.state = "idle";
  setText(byId("badge-text"), "Signed out");
  for (const id of ["jobs", "relays", "users", "groups"]) {
    byId(id).replaceChildren();
    byId(`${id}-empty`).hidden = true;
  }
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
  setMessage(byId("problem"), `${problemLine(failed)}. ${from}`);
  badge.dataset.state = "offline";
  setText(byId("badge-text"), failed.status === 0 ? "Offline – asking again" : "Refused – asking again");
}

function showStatus(status) {
  for (const [id, key] of Object.entries(COUNTS)) {
    setText(byId(id), typeof status[key] === "number" ? status[key].toLocaleString() : "–");
  }
  const topics = status.journal?.topics;
  setText(byId("total-topics"), typeof topics === "number" ? topics.toLocaleString() : "–");
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

function showJobs({ jobs = [], next }, kept) {
  fill("jobs", jobs.slice(0, ROWS_MAX).map(jobRow), countOf(jobs, next, kept), "No job yet. The test page submits one with two clicks.");
}

/** The total number: the node's count, else the rows of this page. `undefined` if there are more pages. */
function countOf(rows, next, kept) {
  if (!next) return rows.length;
  return typeof kept === "number" ? Math.max(kept, rows.length) : undefined;
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

function showRelays({ relays = [], next }, kept) {
  const rows = relays.slice(0, ROWS_MAX).map((relay) => {
    const status = String(relay.status ?? "unknown");
    const error = (relay.sources ?? []).map((source) => source.lastError).find(Boolean);
    return el(
      "tr",
      { "data-relay-id": String(relay.id) },
      el("td", {}, el("code", {}, String(relay.id))),
      el("td", { class: "optional" }, String(relay.topic ?? "")),
      el(
        "td",
        {},
        el("span", { class: "tag", "data-state": status }, words(status)),
        error ? el("p", { class: "hint" }, ...spans(error)) : undefined,
      ),
      el("td", { class: "number" }, (relay.events ?? 0).toLocaleString()),
    );
  });
  fill("relays", rows, countOf(relays, next, kept), "No relay. `POST /api/relays` makes one.");
}

/** Draws a table's rows. While a link of the table has the focus, the table is not redrawn. */
function fill(id, rows, count, none) {
  const body = byId(id);
  if (!body.contains(document.activeElement)) body.replaceChildren(...rows);
  const rest = count === undefined ? "and more" : count > ROWS_MAX ? `and ${(count - ROWS_MAX).toLocaleString()} more` : "";
  const note = byId(`${id}-empty`);
  setMessage(note, count === 0 ? none : rest);
  note.hidden = note.textContent === "";
}

byId("token").value = storedToken();
byId("token-form").addEventListener("submit", (submit) => {
  submit.preventDefault();
  storeToken(byId("token").value.trim());
  stopped = false;
  forAdmins = false;
  poll();
});
document.addEventListener("visibilitychange", () => document.hidden || poll());
poll();
