/**
 * Where things come from, as a coloured chip: the same source has the same colour everywhere on the page.
 *
 * The name is always written out; the colour only repeats it. `local` has the first colour, others get the next ones in
 * the order in which they show up, and share them when there are more sources than colours.
 */

import { el, setText } from "./dom.js";

const COLOURS = 8;
const colours = new Map([["local", 0]]);

function colourOf(source) {
  if (!colours.has(source)) colours.set(source, 1 + ((colours.size - 1) % (COLOURS - 1)));
  return colours.get(source);
}

/** An empty chip. */
export function sourceChip(source = "") {
  return paintSource(el("span", { class: "source" }), source);
}

/** Makes a chip show this source; none for an empty one. */
export function paintSource(chip, source) {
  chip.hidden = source === "";
  setText(chip, source);
  if (source !== "") chip.dataset.colour = String(colourOf(source));
  return chip;
}
