/** The send form: one event to a user, a group, all clients, a topic, a filter or one emitter. Shows the response as text. */

import { curl, problemLine, request } from "./api.js";
import { byId, el, fieldError, fieldList, parseJson, setText } from "./dom.js";

const BASE = "/api/sse/managed";

/** Each target: the name of its field (null: no field), and its request. */
const TARGETS = {
  user: {
    label: "User",
    hint: "for example 123",
    make: (to, event, data) => ({
      path: `${BASE}/send/user/${encodeURIComponent(to)}?event=${encodeURIComponent(event)}`,
      json: data,
    }),
  },
  group: {
    label: "Group",
    hint: "for example ops",
    make: (to, event, data) => ({ path: `${BASE}/broadcast/group/${encodeURIComponent(to)}`, json: { event, data } }),
  },
  broadcast: { label: null, make: (_, event, data) => ({ path: `${BASE}/broadcast`, json: { event, data } }) },
  topic: {
    label: "Topic",
    hint: "for example order:42",
    make: (topic, event, data) => ({ path: "/events", json: { topic, event, data } }),
  },
  filtered: {
    label: "Filter on metadata (JSON)",
    hint: 'for example {"premium": true}',
    make: (filter, event, data) => ({
      path: `${BASE}/send/filtered`,
      json: { filter: readFilter(filter), event, data },
    }),
  },
  emitter: {
    label: "Emitter id",
    hint: "only this connection, not kept for later",
    make: (to, event, data) => ({
      path: `${BASE}/send/emitter/${encodeURIComponent(to)}?event=${encodeURIComponent(event)}`,
      json: data,
    }),
  },
};

/** A JSON object is a filter. Other text is sent unchanged, for servers that support expressions. */
function readFilter(text) {
  const parsed = parseJson(text);
  if (parsed.error && text.trimStart().startsWith("{")) throw new Error(`this is no JSON: ${parsed.error}`);
  return parsed.error ? text : parsed.value;
}

/** Connects the form to its functions. `connection` provides its token and the ids of the live connection. */
export function sendForm(connection) {
  const form = byId("send-form");

  function showTarget() {
    const { label, hint } = TARGETS[form.kind.value];
    byId("send-to-row").hidden = label === null;
    form.to.required = label !== null;
    if (label !== null) setText(byId("send-to-label"), label);
    form.to.placeholder = hint ?? "";
    form.to.value = "";
    fieldError(form.to, "");
    offerMyself();
  }

  /** Fills in the reader's own user, the most likely target of a test. Typed text stays. */
  function offerMyself() {
    const { kind, to } = form;
    if (kind.value === "user" && to.value === "") to.value = connection.userId();
    // An emitter ends with its connection, so the id of the last emitter has no use.
    if (kind.value === "emitter") to.value = connection.emitterId();
    showCurl();
  }

  /** The request that the form describes, or null. In that case mistakes are shown beside the fields. */
  function read() {
    fieldError(form.to, "");
    fieldError(form.data, "");
    const target = TARGETS[form.kind.value];
    const to = form.to.value.trim();
    if (target.label !== null && to === "") {
      fieldError(form.to, `${target.label} is missing.`);
      form.to.focus();
      return null;
    }
    let data = form.data.value;
    if (form.format.value === "json") {
      const parsed = parseJson(data);
      if (parsed.error) {
        fieldError(form.data, `This is no JSON: ${parsed.error}. Choose “Text” to send it as it is.`);
        form.data.focus();
        return null;
      }
      data = parsed.value;
    }
    try {
      return target.make(to, form.event.value.trim() || "message", data);
    } catch (error) {
      fieldError(form.to, error.message);
      form.to.focus();
      return null;
    }
  }

  async function send() {
    const made = read();
    if (made === null) return;
    byId("send").setAttribute("aria-disabled", "true");
    const answer = await request("POST", made.path, { token: connection.token(), json: made.json });
    byId("send").removeAttribute("aria-disabled");
    showAnswer(answer);
  }

  function showCurl() {
    const parsed = form.format.value === "json" ? parseJson(form.data.value) : { value: form.data.value };
    try {
      const { path, json } = TARGETS[form.kind.value].make(
        form.to.value.trim(),
        form.event.value.trim() || "message",
        parsed.value ?? null,
      );
      setText(byId("send-curl"), curl("POST", path, { token: connection.token(), json }));
    } catch (error) {
      setText(byId("send-curl"), error.message);
    }
  }

  connection.onIdentity(offerMyself);
  form.kind.addEventListener("change", showTarget);
  form.addEventListener("input", showCurl);
  form.addEventListener("submit", (submit) => {
    submit.preventDefault();
    if (!byId("send").hasAttribute("aria-disabled")) send();
  });
  showTarget();
}

function showAnswer(answer) {
  const box = byId("send-answer");
  box.dataset.kind = answer.ok ? "ok" : "problem";
  if (!answer.ok) {
    box.replaceChildren(el("p", {}, `✗ ${problemLine(answer)}`), ...fieldList(answer.problem.errors));
    return;
  }
  const answers = Array.isArray(answer.body) ? answer.body : [answer.body ?? {}];
  box.replaceChildren(...answers.map((one) => el("p", {}, answerLine(one))));
}

function answerLine({ id, topic, delivered }) {
  const where = topic ? ` into ${topic}` : "";
  const what = id ? `✓ Sent${where} with id ${id}. ` : `✓ Sent${where}. `;
  if (delivered === null || delivered === undefined) return `${what}How many emitters matched is not counted.`;
  if (delivered === 0)
    return `${what}Delivered to nobody: no emitter hears it right now${id ? "; it is kept for those who come back" : ""}.`;
  return `${what}Delivered to ${delivered} ${delivered === 1 ? "emitter" : "emitters"}.`;
}
