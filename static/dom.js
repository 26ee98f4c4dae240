/** Small helpers around the document. Text goes in as text, never as markup. */

/** The element with this id; the pages own their ids, so a missing one is a mistake of ours. */
export function byId(id) {
  const found = document.getElementById(id);
  if (!found) throw new Error(`no element \`${id}\``);
  return found;
}

/** Makes an element: `el("a", {href: "/x", class: "y"}, "text", child)`. An `undefined` or `false` attribute is left out. */
export function el(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value !== undefined && value !== false) made.setAttribute(name, value === true ? "" : value);
  }
  made.append(...children.filter((child) => child !== undefined && child !== null));
  return made;
}

/** Sets text only where it changed, so that live regions speak only when there is something new. */
export function setText(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

/** Sets a message of the server, in which backticks mark code, only where it changed. */
export function setMessage(node, message) {
  if (node.dataset.message === message) return;
  node.dataset.message = message;
  node.replaceChildren(...spans(message));
}

/** A message as text and `<code>`; a backtick without a partner stays as it is. */
export function spans(message) {
  const parts = [];
  let at = 0;
  for (const found of message.matchAll(/`([^`]*)`/g)) {
    parts.push(message.slice(at, found.index), el("code", {}, found[1]));
    at = found.index + found[0].length;
  }
  return [...parts, message.slice(at)].filter((part) => part !== "");
}

/** Marks a field as wrong (or right again, with an empty text) and says why in its error line `{id}-error`. */
export function fieldError(field, text) {
  setText(byId(`${field.id}-error`), text);
  field.toggleAttribute("aria-invalid", text !== "");
  if (text !== "") field.setAttribute("aria-invalid", "true");
}

/** The `errors` of a problem document as a list; nothing where there are none. */
export function fieldList(errors) {
  if (errors.length === 0) return [];
  return [
    el("ul", {}, ...errors.map(({ field, detail }) => el("li", {}, el("code", {}, field ?? ""), " ", ...spans(detail ?? "")))),
  ];
}

/** JSON as people read it; text that is no JSON stays as it is. */
export function pretty(text) {
  try {
    return JSON.stringify(JSON.parse(text), null, 2);
  } catch {
    return text;
  }
}

/** Parses JSON, or answers with the place of the mistake: `{value}` or `{error}`. */
export function parseJson(text) {
  try {
    return { value: JSON.parse(text) };
  } catch (error) {
    return { error: placeOf(error.message, text) };
  }
}

/** Some browsers name a line, some a character, some neither; people want the line. */
function placeOf(message, text) {
  const position = /position (\d+)/.exec(message);
  if (!position || /line \d+/.test(message)) return message;
  const before = text.slice(0, Number(position[1])).split("\n");
  return `${message} (line ${before.length}, column ${before.at(-1).length + 1})`;
}

/** `1.4 s`, `2 min 05 s`: a duration for people. */
export function duration(ms) {
  if (ms < 1000) return `${Math.round(ms)} ms`;
  if (ms < 60_000) return `${(ms / 1000).toFixed(1)} s`;
  const seconds = Math.round(ms / 1000);
  return `${Math.floor(seconds / 60)} min ${String(seconds % 60).padStart(2, "0")} s`;
}

/** The time of day with milliseconds, as logs want it. */
export function clock(timestamp) {
  const date = new Date(timestamp);
  const two = (number) => String(number).padStart(2, "0");
  const ms = String(date.getMilliseconds()).padStart(3, "0");
  return `${two(date.getHours())}:${two(date.getMinutes())}:${two(date.getSeconds())}.${ms}`;
}

/** Puts text on the clipboard; false where the browser does not let us. */
export async function copyText(text) {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    // Pages that came over plain HTTP from elsewhere have no clipboard API; the old way still works there.
    const area = el("textarea", { "aria-hidden": "true", class: "offscreen" });
    area.value = text;
    document.body.append(area);
    area.select();
    const copied = document.execCommand("copy");
    area.remove();
    return copied;
  }
}
