/** The job panel: write or choose a job, submit it, watch its tasks, cancel it, repeat its failed tasks. */

import { curl, identity, isControl, problemLine, request } from "./api.js";
import { byId, el, fieldError, fieldList, parseJson, setMessage, setText, spans } from "./dom.js";
import { EventStream, HEARTBEAT_MS } from "./event-stream.js";
import { emptyJob, foldEvent, foldSnapshot, hasEnded } from "./job-model.js";
import { clearJob, drawElapsed, drawJob } from "./job-view.js";

const CLOCK_MS = 200;

/** Sample jobs. The third one is refused if the node may not call itself, which demonstrates the egress guard. */
const EXAMPLES = {
  sample: {
    tasks: ["Process Image", "Calculate Stats", "Fetch External Data", "Call Third-party API"].map((name) => ({
      name,
      run: name,
    })),
  },
  hybrid: {
    tasks: ["Process Image", "Calculate Stats"]
      .map((name) => ({ name, run: name }))
      .concat(["Fetch External Data", "Call Third-party API"].map((name) => ({ name, run: name, remote: "reactive" }))),
  },
  http: {
    tasks: [
      { name: "Health", url: `${location.origin}/healthz`, timeoutMs: 5000 },
      { name: "Readiness", url: `${location.origin}/readyz`, timeoutMs: 5000, retryCount: 1 },
    ],
  },
  fails: {
    tasks: [
      { name: "Calculate Stats", run: "Calculate Stats" },
      { name: "Unknown path", url: `${location.origin}/no-such-path` },
    ],
  },
};

/** Connects the panel to its functions. `connection` provides the token. `log.add(row)` also gets the job's events. */
export function jobPanel(connection, log) {
  const spec = byId("job-spec");
  let stream = null;
  let job = null;
  let frame = 0;

  function showExample() {
    spec.value = JSON.stringify(EXAMPLES[byId("job-example").value], null, 2);
    checkSpec();
  }

  /** Shows a mistake during typing. Returns the job or undefined. */
  function checkSpec() {
    const parsed = parseJson(spec.value);
    fieldError(spec, parsed.error ? `This is no JSON: ${parsed.error}` : "");
    setText(
      byId("job-curl"),
      parsed.error ? "" : curl("POST", "/api/jobs", { token: connection.token(), json: parsed.value }),
    );
    return parsed.value;
  }

  async function submit() {
    const body = checkSpec();
    if (body === undefined) {
      spec.focus();
      return;
    }
    await launch("POST", "/api/jobs", body);
  }

  /** Creates a job and watches it. A refusal is shown beside the form, and the watched job stays. */
  async function launch(method, path, json) {
    showProblem(null);
    byId("job-submit").setAttribute("aria-disabled", "true");
    const answer = await request(method, path, { token: connection.token(), json });
    byId("job-submit").removeAttribute("aria-disabled");
    if (!answer.ok) return showProblem(answer);
    const { jobId, eventsUrl } = answer.body ?? {};
    if (!jobId)
      return showProblem({
        status: answer.status,
        problem: { title: "Odd answer", detail: "it names no job", errors: [] },
      });
    return watch(String(jobId), eventsUrl);
  }

  function watch(jobId, eventsUrl) {
    stream?.close();
    clearJob();
    job = emptyJob(jobId);
    const watched = job;
    const path = ownPath(eventsUrl ?? `/api/jobs/${encodeURIComponent(jobId)}/events`);
    stream = new EventStream(path, {
      headers: identity(connection.token()),
      onEvent: (event) => take(watched, event),
      onState: (state) => showStream(watched, state),
      isControl,
    });
    stream.start();
    loadSnapshot(watched);
    redraw();
  }

  /** Requests a snapshot: the events alone do not name the waiting tasks. */
  async function loadSnapshot(watched) {
    const answer = await request("GET", `/api/jobs/${encodeURIComponent(watched.jobId)}`, {
      token: connection.token(),
    });
    if (!answer.ok || watched !== job) return;
    foldSnapshot(watched, answer.body);
    redraw();
  }

  function take(watched, event) {
    const { value } = parseJson(event.data);
    log.add({
      time: Date.now(),
      event: event.event,
      id: event.id ?? "",
      topic: `job:${watched.jobId}`,
      data: event.data,
      job: watched.jobId,
      source: typeof value?.source === "string" ? value.source : undefined,
    });
    if (watched !== job) return;
    foldEvent(watched, event.event, value);
    // The server's clock is used. Each connection shows its difference to the local clock.
    if (event.event === "connection" && typeof value?.timestamp === "number")
      watched.skewMs = Date.now() - value.timestamp;
    if (event.event === "gap")
      setMessage(byId("job-stream"), "A part of this job's history is gone; what is shown may be incomplete.");
    if (event.event === "complete") stream.close();
    redraw();
  }

  function showStream(watched, state) {
    if (watched !== job) return;
    const ended = hasEnded(watched);
    const line = {
      connecting: state.attempt > 0 ? `Reconnecting (attempt ${state.attempt})…` : "Connecting…",
      live: "Live",
      offline: `Offline: ${state.reason}. Reconnecting…`,
      ended: ended ? "" : "This job has ended.",
      refused: `Cannot be watched: ${state.reason}.`,
      closed: "",
    };
    setMessage(byId("job-stream"), line[state.name] ?? "");
    if (state.name === "refused") {
      watched.gone = true;
      // The job is unknown: it has no status and no tasks.
      if (watched.tasks.size === 0) watched.status = "unknown";
    }
    redraw();
  }

  /** Draws at most once per frame, for every rate of reports. */
  function redraw() {
    if (frame !== 0) return;
    frame = requestAnimationFrame(() => {
      frame = 0;
      if (job !== null) drawJob(job);
    });
  }

  async function cancel() {
    const watched = job;
    if (watched === null) return;
    const answer = await request("DELETE", `/api/jobs/${encodeURIComponent(watched.jobId)}`, {
      token: connection.token(),
    });
    showProblem(answer.ok ? null : answer);
  }

  byId("job-example").addEventListener("change", showExample);
  spec.addEventListener("input", checkSpec);
  byId("job-form").addEventListener("submit", (event) => {
    event.preventDefault();
    if (!byId("job-submit").hasAttribute("aria-disabled")) submit();
  });
  byId("watch-form").addEventListener("submit", (event) => {
    event.preventDefault();
    const jobId = byId("watch-id").value.trim();
    if (jobId !== "") watch(jobId);
  });
  byId("job-cancel").addEventListener("click", cancel);
  byId("job-retry").addEventListener("click", () => launch("POST", `/api/jobs/${encodeURIComponent(job.jobId)}/retry`));
  setInterval(() => job !== null && !hasEnded(job) && !job.gone && drawElapsed(job), CLOCK_MS);

  showExample();
  // The dashboard links to a job with `?job=…`.
  const linked = new URLSearchParams(location.search).get("job");
  if (linked) {
    byId("watch-id").value = linked;
    watch(linked);
    byId("job-heading").scrollIntoView();
    byId("job-heading").focus();
  }
}

/** The stream's address. Every request contains the token, so an address from the server is only used as a path of this origin. */
function ownPath(address) {
  const url = new URL(address, location.href);
  url.searchParams.set("heartbeatMs", String(HEARTBEAT_MS));
  return url.pathname + url.search;
}

function showProblem(answer) {
  const box = byId("job-answer");
  box.dataset.kind = answer === null ? "ok" : "problem";
  box.replaceChildren();
  if (answer === null) return;
  box.append(el("p", {}, ...spans(`✗ ${problemLine(answer)}`)), ...fieldList(answer.problem.errors));
}
