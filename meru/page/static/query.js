// What is searched for: a text, an image file (chosen, dropped or pasted), or an image of the index.

import { uploadImage } from "./api.js";
import { afterwards, byId, make } from "./dom.js";
import { moveWithArrows, settle } from "./keyboard.js";
import { formatNumber, say } from "./texts.js";
import { wordChips } from "./words.js";

const TYPING_PAUSE = 500;
const EXAMPLES = 4;

/** The shortest suggestions of an index, which are read at a glance. */
export const examplesOf = (index) =>
  [...(index.suggestions ?? [])].sort((one, other) => one.length - other.length).slice(0, EXAMPLES);

/** The form at the top left. `changed(query, typed)` is called with a new query; `typed`: by someone still typing. */
export class QueryForm {
  constructor({ changed, wordChosen, failed }) {
    Object.assign(this, { changed, wordChosen, failed, limits: {}, query: null, shown: null });
    this.input = byId("text");
    this.typed = afterwards(() => this.submit(true), TYPING_PAUSE);
    byId("query").addEventListener("submit", (event) => {
      event.preventDefault();
      this.submit(false);
    });
    this.input.addEventListener("input", (event) => {
      // While a Chinese word is being composed, its letters are no query yet.
      if (!event.isComposing) this.typed();
    });
    this.input.addEventListener("keydown", (event) => {
      if (event.key !== "Enter" || event.isComposing) return;
      event.preventDefault();
      this.submit(false);
    });
    this.input.addEventListener("compositionend", () => this.typed());
    byId("file").addEventListener("change", (event) => {
      this.take(event.target.files[0]);
      event.target.value = "";
    });
    this.acceptDrops();
    moveWithArrows(byId("words"), "button");
    moveWithArrows(byId("suggestions"), "button");
  }

  acceptDrops() {
    const hasFile = (event) => [...(event.dataTransfer?.types ?? [])].includes("Files");
    const mark = (on) => byId("drop").classList.toggle("over", on);
    document.addEventListener("dragover", (event) => {
      if (!hasFile(event)) return;
      event.preventDefault();
      mark(true);
    });
    document.addEventListener("dragleave", (event) => event.relatedTarget === null && mark(false));
    document.addEventListener("drop", (event) => {
      mark(false);
      if (!hasFile(event)) return;
      event.preventDefault();
      this.take(event.dataTransfer.files[0]);
    });
    document.addEventListener("paste", (event) => {
      const file = event.clipboardData?.files[0];
      if (!file) return;
      event.preventDefault();
      this.take(file);
    });
  }

  /** Asks for the text of the field. */
  submit(typed) {
    this.typed.cancel();
    const text = this.input.value.trim();
    if (!text || (typed && text === this.query?.text)) return;
    this.set({ text }, { typed });
  }

  /** Uploads an image file and asks for images like it. */
  async take(file) {
    if (!file) return;
    const bytes = this.limits.upload_bytes;
    if (bytes && file.size > bytes) {
      this.failed({ message: say("file_too_large", { megabytes: bytes / 2 ** 20 }) });
      return;
    }
    byId("drop").classList.add("busy");
    this.taken = file;
    try {
      const { upload } = await uploadImage(file);
      if (this.taken !== file) return;
      this.set({ upload, name: file.name || say("pasted"), picture: URL.createObjectURL(file) });
    } catch (problem) {
      this.failed(problem);
    } finally {
      byId("drop").classList.remove("busy");
    }
  }

  /** Shows a query and asks for it: {text}, {upload, name, picture} or {image, index, name, picture}. */
  set(query, { typed = false, silent = false } = {}) {
    if (this.query?.upload && this.query.picture !== query?.picture) URL.revokeObjectURL(this.query.picture);
    this.query = query;
    // An upload that is still under way has been overtaken.
    this.taken = null;
    if (!typed) this.input.value = query?.text ?? "";
    this.showPicked();
    if (!query?.text) this.showWords(null);
    if (!silent) this.changed(query, typed);
  }

  showPicked() {
    const { picture, name } = this.query ?? {};
    byId("picked").hidden = !picture;
    if (!picture) return;
    const remove = () => {
      this.set(null);
      this.input.focus();
    };
    byId("picked").replaceChildren(
      make("img", { src: picture, alt: "" }),
      make("span", {}, say("like_this_image"), make("br"), make("span", { class: "quiet" }, name)),
      make("button", { type: "button", class: "plain", "aria-label": say("remove_image"), onclick: remove }, "×"),
    );
  }

  /** Shows the words as the model reads them; a click on one asks where it looks. */
  showWords(answer) {
    this.shown = answer;
    const words = answer?.words ?? [];
    const chips = wordChips(words, (place) => this.wordChosen(place));
    byId("words").replaceChildren(...chips);
    settle(byId("words"), "button");
    byId("words-hint").hidden = !words.length;
    const note = byId("text-note");
    const notes = answer?.cut ? [say("cut", { count: answer.cut })] : [];
    if (answer?.unknown?.length) notes.push(say("unknown", { words: answer.unknown.join(", ") }));
    note.hidden = !notes.length;
    note.textContent = notes.join(" ");
  }

  /** Fits the form to the index: what it offers as examples, whether its model reads text. */
  fit(index, limits) {
    this.limits = limits;
    this.input.maxLength = limits.text_characters ?? 500;
    this.input.disabled = !index.has_text;
    this.input.placeholder = say(index.has_text ? "query_hint" : "no_text", { model: index.model });
    const offered = index.has_text ? examplesOf(index) : [];
    const buttons = offered.map((text) =>
      make(
        "button",
        { type: "button", class: "suggestion", dir: "auto", title: text, onclick: () => this.set({ text }) },
        text,
      ),
    );
    const title = make("span", { class: "quiet" }, say("suggestions"));
    byId("suggestions").replaceChildren(...(buttons.length ? [title, ...buttons] : []));
    settle(byId("suggestions"), "button");
    const megabytes = formatNumber((limits.upload_bytes ?? 0) / 2 ** 20, 0);
    byId("drop").title = limits.upload_bytes ? say("upload_limit", { megabytes }) : "";
    this.showPicked();
    if (this.shown) this.showWords(this.shown);
  }
}
