/** Small helpers for the document. Text is inserted as text, never as markup. */

/** The element with this id. The pages own their ids, so a missing id is a bug. */
export function byId(id) {
  const found = document.getElementById(id);
  if (!found) throw new Error(`no element \`${id}\``);
  return found;
}

/** Makes an element: `el("a", {href: "/x", class: "y"}, "text", child)`. An `undefined` or `false` attribute is omitted. */
export function el(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value !== undefined && value !== false) made.setAttribute(name, value === true ? "" : value);
  }
  made.append(...children.filter((child) => child !== undefined && child !== null));
  return made;
}

/** Sets text only if it changed, so that screen readers announce live regions only then. */
export function setText(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

/** Sets a message of the server, in which backticks mark code. Does this only if it changed. */
export function setMessage(node, message) {
  if (node.dataset.message === message) return;
  node.dataset.message = message;
  node.replaceChildren(...spans(message));
}

/** A message as text and `<code>`. A backtick without a second one is not changed. */
export function spans(message) {
  const parts = [];
  let at = 0;
  for (const found of message.matchAll(/`([^`]*)`/g)) {
    parts.push(message.slice(at, found.index), el("code", {}, found[1]));
    at = found.index + found[0].length;
  }
  return [...parts, message.slice(at)].filter((part) => part !== "");
}

/** Marks a field as wrong, and shows the reason in its error line `{id}-error`. An empty text marks the field as valid. */
export function fieldError(field, text) {
  setText(byId(`${field.id}-error`), text);
  field.toggleAttribute("aria-invalid", text !== "");
  if (text !== "") field.setAttribute("aria-invalid", "true");
}

/** The `errors` of a problem document as a list. Without errors there is no list. */
export function fieldList(errors) {
  if (errors.length === 0) return [];
  return [
    el("ul", {}, ...errors.map(({ field, detail }) => el("li", {}, el("code", {}, field ?? ""), " ", ...spans(detail ?? "")))),
  ];
}

/** JSON in a readable form. Text that is not JSON is not changed. */
export function pretty(text) {
  try {
    return JSON.stringify(JSON.parse(text), null, 2);
  } catch {
    return text;
  }
}

/** Parses JSON, or returns the position of the mistake: `{value}` or `{error}`. */
export function parseJson(text) {
  try {
    return { value: JSON.parse(text) };
  } catch (error) {
    return { error: placeOf(error.message, text) };
  }
}

/** Some browsers name a line, some a character, some no position. Readers need the line. */
function placeOf(message, text) {
  const position = /position (\d+)/.exec(message);
  if (!position || /line \d+/.test(message)) return message;
  const before = text.slice(0, Number(position[1])).split("\n");
  return `${message} (line ${before.length}, column ${before.at(-1).length + 1})`;
}

/** `1.4 s`, `2 min 05 s`: a readable duration. */
export function duration(ms) {
  if (ms < 1000) return `${Math.round(ms)} ms`;
  if (ms < 60_000) return `${(ms / 1000).toFixed(1)} s`;
  const seconds = Math.round(ms / 1000);
  return `${Math.floor(seconds / 60)} min ${String(seconds % 60).padStart(2, "0")} s`;
}

/** The time of day with milliseconds, for the log. */
export function clock(timestamp) {
  const date = new Date(timestamp);
  const two = (number) => String(number).padStart(2, "0");
  const ms = String(date.getMilliseconds()).padStart(3, "0");
  return `${two(date.getHours())}:${two(date.getMinutes())}:${two(date.getSeconds())}.${ms}`;
}

/** Copies text to the clipboard. False if the browser does not permit it. */
export async function copyText(text) {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    // Pages from another host over plain HTTP have no clipboard API. The old command still works there.
    const area = el("textarea", { "aria-hidden": "true", class: "offscreen" });
    area.value = text;
    document.body.append(area);
    area.select();
    const copied = document.execCommand("copy");
    area.remove();
    return copied;
  }
}
