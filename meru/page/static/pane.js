// One index: its results and its disk, and the requests for them.

import { search } from "./api.js";
import { byId, make } from "./dom.js";
import { Disk } from "./disk.js";
import { Results } from "./results.js";
import { say } from "./texts.js";

/** Hooks: `answered(pane)`, `opened(pane, rank)`, `liked(pane, result)`, `more()`, `failed(problem)`. */
export class Pane {
  constructor(index, hooks) {
    Object.assign(this, { index, hooks, answer: null, running: null, wanted: null, hasCloud: false, share: 0 });
    const own = {
      answer: () => this.answer,
      opened: (rank) => hooks.opened(this, rank),
      liked: (result) => hooks.liked(this, result),
      pointed: (image) => this.point(image),
    };
    this.results = new Results(index, own);
    this.disk = new Disk(index, own);
    this.title = make("h2");
    this.summary = make("p", { class: "quiet" });
    this.more = make("button", { type: "button", class: "more", hidden: true, onclick: () => hooks.more() });
    const list = make(
      "div",
      { class: "ranking" },
      make("div", { class: "about" }, this.title, this.summary),
      this.results.element,
      this.more,
    );
    this.element = make("section", { class: "pane" }, list, this.disk.element);
    this.disk.element.hidden = true;
    this.name();
  }

  /**
   * Asks for a query at a generality. One request runs at a time, and of those that wait only the newest is kept: while
   * the slider moves, results follow as fast as they can be had, in the right order. A new query stops the old request.
   */
  ask(body, { fresh }) {
    if (fresh) this.stop();
    this.wanted = { body, fresh };
    if (!this.running) this.run();
  }

  /** Shows that the query is a text, which the model does not read. */
  leaveOut() {
    this.stop();
    this.answer = null;
    this.results.show([]);
    this.disk.element.hidden = true;
    this.more.hidden = true;
    this.name();
  }

  stop() {
    this.running?.abort();
    this.running = null;
    this.wanted = null;
    this.element.removeAttribute("aria-busy");
  }

  async run() {
    const { body, fresh } = this.wanted;
    const request = new AbortController();
    this.wanted = null;
    this.running = request;
    this.element.setAttribute("aria-busy", "true");
    if (!this.answer) this.name();
    try {
      const answer = await search({ ...body, index: this.index.id, cloud: !this.hasCloud }, request.signal);
      if (this.running !== request) return;
      this.hasCloud = true;
      this.share = body.generality;
      this.show(answer, fresh);
    } catch (problem) {
      if (this.running === request) this.hooks.failed(problem);
    } finally {
      if (this.running === request) {
        this.running = null;
        if (this.wanted) this.run();
        else this.element.removeAttribute("aria-busy");
        // After an error, nothing is being searched for any more.
        if (!this.answer) this.name();
      }
    }
  }

  show(answer, fresh) {
    this.answer = answer;
    this.results.show(answer.results);
    this.disk.element.hidden = false;
    // The slider may have moved on since this was asked; the marker stays with the slider.
    this.disk.show(answer, Number(byId("generality").value), fresh);
    this.name();
    this.hooks.answered(this, fresh);
  }

  /** Writes all texts, in the present language. */
  name() {
    this.title.textContent = `${this.index.name} · ${this.index.model}`;
    this.element.setAttribute("aria-label", say("pane_label", { index: this.index.name }));
    this.more.textContent = say("more");
    if (this.answer) this.summary.textContent = this.describe();
    else this.summary.textContent = this.running || this.wanted ? say("searching") : this.reason();
  }

  reason() {
    return this.index.has_text ? "" : say("no_text", { model: this.index.model });
  }

  describe() {
    const { results, milliseconds } = this.answer;
    const parts = [say("results", { count: results.length })];
    const known = results.filter((result) => result.match !== null && result.match !== undefined);
    const labels = new Set(results.map((result) => result.label).filter(Boolean));
    if (known.length) {
      const kind = this.index.labels === "identity" ? "person" : "class";
      parts.push(say(`matches_${kind}`, { count: known.filter((result) => result.match).length }));
    } else if (labels.size) {
      parts.push(say(this.index.labels === "identity" ? "persons" : "classes", { count: labels.size }));
    }
    if (milliseconds) {
      const spent = Math.max(1, Math.round((milliseconds.embed ?? 0) + (milliseconds.search ?? 0)));
      parts.push(say("milliseconds", { count: spent }));
    }
    return parts.join(" · ");
  }

  /** Shows everything again, after the language has changed. */
  again() {
    this.name();
    if (!this.answer) return;
    this.results.show(this.answer.results);
    this.disk.show(this.answer, Number(byId("generality").value), false);
  }

  point(image) {
    this.results.point(image);
    this.disk.point(image);
  }
}
