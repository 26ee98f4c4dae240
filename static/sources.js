/**
 * The source of an event as a coloured chip: a source has the same colour everywhere on the page.
 *
 * The name is always written, and the colour only repeats it. `local` has the first colour. Other sources get the next colours
 * in order of their appearance, and share them when there are more sources than colours.
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

/** Shows this source in a chip. An empty source hides the chip. */
export function paintSource(chip, source) {
  chip.hidden = source === "";
  setText(chip, source);
  if (source !== "") chip.dataset.colour = String(colourOf(source));
  return chip;
}
