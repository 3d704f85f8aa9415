// A name that is changed in place: a button that becomes a field.

import { make } from "./dom.js";
import { say } from "./texts.js";

const LONGEST = 80; // characters; the server takes no more

/**
 * The button. `name()`: the name given so far, or ""; `shown()`: what is shown for it; `save(name)`: keeps a new one;
 * `failed(problem)`: it could not be kept.
 */
export function changeableName({ name, shown, save, failed }) {
  const text = document.createTextNode(shown());
  const pencil = make("span", { "aria-hidden": "true" }, " ✎");
  const button = make("button", { type: "button", class: "name", dir: "auto", title: say("rename") }, text, pencil);
  const label = () => button.setAttribute("aria-label", say("rename_label", { name: shown() }));
  label();
  button.addEventListener("click", () => edit());

  /** Puts a field in the button's place; Enter keeps what is written, Escape what was there. */
  function edit() {
    const field = make("input", {
      class: "naming",
      value: name(),
      placeholder: shown(),
      maxlength: LONGEST,
      "aria-label": say("new_name"),
    });
    let done = false;
    const finish = async (keep, refocus) => {
      // Leaving the field by Enter or Escape also takes the focus from it.
      if (done) return;
      done = true;
      const written = field.value.trim();
      if (keep && written !== name()) await save(written).catch(failed);
      text.textContent = shown();
      label();
      field.replaceWith(button);
      if (refocus) button.focus();
    };
    field.addEventListener("keydown", (event) => {
      if (event.key === "Enter" && !event.isComposing) finish(true, true);
      if (event.key === "Escape") finish(false, true);
    });
    field.addEventListener("blur", () => finish(true, false));
    button.replaceWith(field);
    field.focus();
    field.select();
  }

  return button;
}
