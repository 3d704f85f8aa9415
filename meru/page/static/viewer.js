// One image, enlarged, with what is known of it, and where each word of the query looks.

import { getAttention, thumbnail } from "./api.js";
import { byId, make } from "./dom.js";
import { paintHeat, paintLegend } from "./heat.js";
import { titleOf } from "./results.js";
import { formatNumber, say } from "./texts.js";
import { pressWord, wordChips } from "./words.js";

/** The dialog; hooks: `liked(index, item)`, `failed(problem)`. */
export class Viewer {
  constructor(hooks) {
    this.hooks = hooks;
    this.dialog = byId("viewer");
    this.request = null;
    this.dialog.addEventListener("close", () => {
      this.request?.abort();
      this.dialog.replaceChildren();
      this.closed?.(this.at);
    });
    this.dialog.addEventListener("click", (event) => event.target === this.dialog && this.dialog.close());
    this.dialog.addEventListener("keydown", (event) => {
      if (event.key === "ArrowRight") this.go(1);
      if (event.key === "ArrowLeft") this.go(-1);
    });
  }

  /**
   * Opens one of a list of images.
   *
   * `items`: [{image, …}] of the index; `at`: which is shown; `text`: the query, if it is one; `words`: its words;
   * `word`: place of the word whose attention is shown first; `closed(at)`: called at the end with the last one shown.
   */
  open({ index, items, at, text = null, words = [], word = null, closed = null }) {
    Object.assign(this, { index, items, at, text, words, word, closed });
    this.attention = null;
    if (!this.dialog.open) this.dialog.showModal();
    this.render();
  }

  go(step) {
    const at = this.at + step;
    if (at < 0 || at >= this.items.length) return;
    this.at = at;
    const label = document.activeElement?.dataset.key;
    this.render();
    this.dialog.querySelector(`[data-key="${label}"]`)?.focus();
  }

  render() {
    const item = this.items[this.at];
    const button = (key, run, properties = {}) =>
      make("button", { type: "button", "data-key": key, onclick: run, ...properties }, say(key));
    this.attention = null;
    this.request?.abort();
    this.picture = make("img", {
      src: thumbnail(this.index.id, item.image, 640),
      alt: say("image_of", { title: titleOf(item, this.index) }),
    });
    this.canvas = make("canvas", { hidden: true, role: "img" });
    this.note = make("p", { class: "quiet", "aria-live": "polite" });
    this.legend = make("div", { class: "legend", hidden: true });
    const missing = () => this.frame.replaceChildren(make("p", { class: "quiet" }, say("missing")));
    this.picture.addEventListener("error", missing);
    this.frame = make("div", { class: "frame" }, this.picture, this.canvas);
    const close = make(
      "button",
      { type: "button", class: "plain", "aria-label": say("close"), "data-key": "close" },
      "×",
    );
    close.addEventListener("click", () => this.dialog.close());
    this.dialog.replaceChildren(
      make("div", { class: "top" }, make("h2", { id: "viewer-title", dir: "auto" }, titleOf(item, this.index)), close),
      make(
        "div",
        { class: "sides" },
        this.frame,
        make(
          "div",
          { class: "facts" },
          this.facts(item),
          ...this.wordPart(),
          this.legend,
          this.note,
          make(
            "div",
            { class: "row" },
            button("like_this", () => this.like(item), { class: "strong" }),
          ),
        ),
      ),
      make(
        "div",
        { class: "row" },
        button("previous", () => this.go(-1), { disabled: this.at === 0 }),
        make("span", { class: "quiet" }, say("of", { at: this.at + 1, count: this.items.length })),
        button("next", () => this.go(1), { disabled: this.at === this.items.length - 1 }),
      ),
    );
    this.look(this.word);
  }

  like(item) {
    this.closed = null;
    this.dialog.close();
    this.hooks.liked(this.index, item);
  }

  facts(item) {
    const rows = [];
    const add = (key, value) => rows.push(make("dt", {}, say(key)), make("dd", { dir: "auto" }, value));
    if (item.score !== undefined) add("score", formatNumber(item.score, 3));
    if (item.radius !== undefined) add("radius", formatNumber(item.radius, 3));
    if (item.match !== null && item.match !== undefined) {
      const kind = this.index.labels === "identity" ? "person" : "class";
      add("verdict", item.match ? `✓ ${say(`same_${kind}`)}` : `✗ ${say(`other_${kind}`)}`);
    }
    if (item.name) add("file", item.name);
    return make("dl", {}, ...rows);
  }

  wordPart() {
    if (!this.text || !this.words.length) return [];
    const chips = wordChips(this.words, (place) => this.look(place === this.word ? null : place));
    return [
      make("p", { class: "quiet" }, say("look_at")),
      make("div", { class: "words", role: "group", "aria-label": say("words_label") }, ...chips),
    ];
  }

  /** Shows where a word looks; null removes the heat map. */
  async look(word) {
    this.word = word;
    pressWord(this.dialog, word);
    if (word === null) {
      this.canvas.hidden = this.legend.hidden = true;
      this.note.textContent = "";
      return;
    }
    const { image } = this.items[this.at];
    try {
      if (!this.attention) {
        this.request?.abort();
        this.request = new AbortController();
        this.frame.setAttribute("aria-busy", "true");
        const body = { index: this.index.id, text: this.text, image };
        this.attention = await getAttention(body, this.request.signal);
      }
      // In the meantime another word or image may have been chosen.
      if (this.dialog.open && this.word === word && this.items[this.at].image === image) await this.paint(word);
    } catch (problem) {
      if (problem.name !== "AbortError") this.note.textContent = problem.gone ? say("server_gone") : problem.message;
    } finally {
      this.frame.removeAttribute("aria-busy");
    }
  }

  async paint(word) {
    const { words, rows, columns, weights, note } = this.attention;
    const row = weights[words.length === this.words.length ? word : words.indexOf(this.words[word])];
    if (!row) {
      this.note.textContent = say("no_attention", { word: this.words[word] });
      return;
    }
    await this.picture.decode().catch(() => {});
    const { canvas, picture } = this;
    // The canvas is as fine as the screen, however small the image file is.
    canvas.width = Math.round(picture.clientWidth * devicePixelRatio) || 256;
    canvas.height = Math.round(picture.clientHeight * devicePixelRatio) || 256;
    canvas.hidden = this.legend.hidden = false;
    canvas.setAttribute("aria-label", say("heat_label", { word: this.words[word] }));
    paintHeat(canvas, row, rows, columns);
    const scale = make("canvas", { width: 120, height: 10, "aria-hidden": "true" });
    paintLegend(scale);
    this.legend.replaceChildren(say("less"), scale, say("more_than_others"));
    this.note.textContent = note ?? "";
  }
}
