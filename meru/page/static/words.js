// The words of a query as buttons, in the query and beside an enlarged image.

import { make } from "./dom.js";

// English, as are the models' captions.
const FUNCTION_WORDS = new Set(
  "a an the and or of with on in at to from by for its it is are has have this that his her as be was which".split(" "),
);

/** A button for each word but punctuation; `choose(place of the word)`. Words such as "the" are fainter. */
export function wordChips(words, choose) {
  const chips = [];
  words.forEach((word, place) => {
    if (!/[\p{L}\p{N}]/u.test(word)) return;
    const kind = FUNCTION_WORDS.has(word.toLowerCase()) ? "word minor" : "word";
    const properties = { type: "button", class: kind, "data-place": place, "data-key": `word-${place}` };
    chips.push(make("button", { ...properties, onclick: () => choose(place) }, word));
  });
  return chips;
}

/** Says of each button inside an element whether it is the chosen one. */
export function pressWord(element, chosen) {
  for (const chip of element.querySelectorAll(".word")) {
    chip.setAttribute("aria-pressed", String(Number(chip.dataset.place) === chosen));
  }
}
