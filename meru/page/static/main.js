// Puts the page together: what is searched for, in which indexes, and where it is shown.

import { readAddress, writeAddress } from "./address.js";
import { getState, thumbnail, uploadResult } from "./api.js";
import { afterwards, byId, make } from "./dom.js";
import { Groups } from "./groups.js";
import { announce, clearProblem, serverAnswered, showProblem } from "./notices.js";
import { Pane } from "./pane.js";
import { examplesOf, QueryForm } from "./query.js";
import { titleOf } from "./results.js";
import { currentLanguage, preferredLanguage, say, useLanguage } from "./texts.js";
import { Viewer } from "./viewer.js";
import { Walk } from "./walk.js";

const TOP = 24;

class Page {
  constructor(state) {
    this.state = state;
    this.panes = [];
    this.top = TOP;
    this.view = "search";
    const failed = (problem, back) => showProblem(problem, back ?? (() => this.search()));
    this.failed = failed;
    this.form = new QueryForm({
      changed: (query, typed) => this.search({ added: !typed }),
      wordChosen: (word) => this.open(this.panes[0], this.opened ?? 0, word),
      failed,
    });
    this.walk = new Walk({
      moved: (share) => this.panes.forEach((pane) => pane.disk.walk(share)),
      changed: () => this.search({ fresh: false }),
    });
    this.viewer = new Viewer({ liked: (index, item) => this.like(index, item), failed });
    this.groups = new Groups({ opened: (index, items, at) => this.viewer.open({ index, items, at }), failed });
    this.write = afterwards((options) => writeAddress(this.address(), options), 250);
    byId("version").textContent = state.version ? `v${state.version}` : "";
    byId("index").addEventListener("change", () => this.choose(byId("index").value, byId("beside").value));
    byId("beside").addEventListener("change", () => this.choose(byId("index").value, byId("beside").value));
    byId("language").addEventListener("click", () => this.switchLanguage());
    for (const view of ["search", "groups"]) byId(`tab-${view}`).addEventListener("click", () => this.showView(view));
    byId("tabs").addEventListener("keydown", (event) => {
      if (event.key !== "ArrowLeft" && event.key !== "ArrowRight") return;
      this.showView(this.view === "search" ? "groups" : "search");
      byId(`tab-${this.view}`).focus();
    });
    addEventListener("popstate", () => this.restore());
  }

  address() {
    const [first, second] = this.panes.map((pane) => pane.index.id);
    const { query } = this.form;
    return {
      query,
      generality: this.walk.share,
      index: first,
      beside: second,
      view: this.view,
      language: currentLanguage(),
    };
  }

  /** Shows what the address asks for. */
  restore() {
    const asked = readAddress();
    const indexes = this.state.indexes;
    const index = indexes.find(({ id }) => id === asked.index) ?? indexes[0];
    this.walk.share = asked.generality;
    if (asked.text) this.form.set({ text: asked.text }, { silent: true });
    else if (asked.image !== null) this.form.set(this.imageQuery(index, { image: asked.image }), { silent: true });
    else this.form.set(this.example(index), { silent: true });
    this.choose(index.id, asked.beside ?? "");
    this.showView(asked.view);
  }

  /** Something to see at once: the first suggestion, or the first image where the model reads no text. */
  example(index) {
    const text = index.has_text && examplesOf(index)[0];
    return text ? { text } : index.has_text ? null : this.imageQuery(index, { image: 0 });
  }

  imageQuery(index, item) {
    const picture = thumbnail(index.id, item.image, 128);
    return {
      image: item.image,
      index: index.id,
      name: titleOf(item, index) || say("image_number", { number: item.image }),
      picture,
    };
  }

  /** Shows one index, or two side by side, and searches in them. */
  choose(first, second) {
    const byName = (id) => this.state.indexes.find((index) => index.id === id);
    const wanted = [byName(first), second === first ? null : byName(second)].filter(Boolean);
    const hooks = {
      answered: (pane, fresh) => this.answered(pane, fresh),
      opened: (pane, rank) => this.open(pane, rank),
      liked: (pane, result) => this.like(pane.index, result),
      more: () => this.more(),
      failed: (problem) => this.failed(problem),
    };
    const old = this.panes;
    this.panes = wanted.map((index) => old.find((pane) => pane.index === index) ?? new Pane(index, hooks));
    old.filter((pane) => !this.panes.includes(pane)).forEach((pane) => pane.stop());
    byId("panes").classList.toggle("beside", this.panes.length > 1);
    byId("panes").replaceChildren(...this.panes.map((pane) => pane.element));
    this.fillChoices();
    this.form.fit(wanted[0], this.state.limits ?? {});
    const { query } = this.form;
    // A text cannot be asked of a model without a text tower.
    if (!query || (query.text && !wanted[0].has_text)) this.form.set(this.example(wanted[0]), { silent: true });
    this.search();
  }

  fillChoices() {
    const [first, second] = this.panes.map((pane) => pane.index);
    const name = (index) => `${index.name} · ${index.model} · ${say("images", { count: index.images })}`;
    const option = (index, chosen) => make("option", { value: index.id, selected: index === chosen }, name(index));
    byId("index").replaceChildren(...this.state.indexes.map((index) => option(index, first)));
    const others = this.state.indexes.filter((index) => index !== first);
    byId("beside").replaceChildren(
      make("option", { value: "" }, say("none")),
      ...others.map((index) => option(index, second)),
    );
    byId("beside-label").hidden = !others.length;
    byId("tabs").hidden = !this.state.indexes.some((index) => index.clusters);
  }

  /** Asks all indexes for the present query; `fresh`: it is a new query; `added`: Back returns to the one before. */
  async search({ fresh = true, added = false } = {}) {
    const { query } = this.form;
    if (fresh) {
      this.top = TOP;
      this.opened = 0;
    }
    if (added) writeAddress(this.address(), { added });
    else this.write();
    if (!query) return;
    clearProblem();
    for (const pane of this.panes) {
      if (query.text && !pane.index.has_text) {
        pane.leaveOut();
        continue;
      }
      try {
        const body = { text: null, upload: null, image: null, ...(await this.ask(query, pane.index)) };
        if (query !== this.form.query) return;
        pane.ask({ ...body, generality: this.walk.share, top: this.top }, { fresh });
      } catch (problem) {
        this.failed(problem);
      }
    }
  }

  /** The query as one index understands it: another index may not have the image, and gets a copy. */
  async ask(query, index) {
    if (query.text) return { text: query.text };
    if (query.upload) return { upload: query.upload };
    if (query.index === index.id) return { image: query.image };
    const owner = this.state.indexes.find(({ id }) => id === query.index);
    query.copy ??= uploadResult(owner.id, query.image);
    return { upload: (await query.copy).upload };
  }

  answered(pane, fresh) {
    serverAnswered();
    if (pane === this.panes[0] && this.form.query?.text) this.form.showWords(pane.answer.query);
    this.showWalk();
    const limit = Math.min(this.state.limits?.top ?? 100, pane.index.images);
    pane.more.hidden = pane.answer.results.length >= limit || pane.answer.results.length < this.top;
    if (fresh || this.panes[0] === pane) announce(`${pane.index.name}: ${pane.describe()}`);
  }

  showWalk() {
    const paths = this.panes.map(({ index, answer }) => {
      return { title: index.name, path: answer?.path, still: index.equal_radii };
    });
    this.walk.show(paths);
  }

  more() {
    const at = this.panes[0].answer.results.length;
    this.top = Math.min(2 * this.top, this.state.limits?.top ?? 100);
    this.search({ fresh: false });
    this.panes[0].results.focus(at - 1);
  }

  open(pane, rank, word = null) {
    if (!pane?.answer?.results.length) return;
    const items = pane.answer.results;
    const { text = null } = this.form.query ?? {};
    const closed = (at) => {
      this.opened = at;
      if (word === null) pane.results.focus(at);
    };
    this.viewer.open({
      index: pane.index,
      items,
      at: Math.min(rank, items.length - 1),
      text,
      words: pane.answer.query.words ?? [],
      word,
      closed,
    });
  }

  like(index, item) {
    this.showView("search");
    this.form.set(this.imageQuery(index, item), { silent: true });
    if (this.panes.some((pane) => pane.index === index)) this.search({ added: true });
    else this.choose(index.id, "");
    scrollTo({ top: 0 });
  }

  showView(view) {
    const index = [...this.panes.map((pane) => pane.index), ...this.state.indexes].find(({ clusters }) => clusters);
    this.view = view === "groups" && index ? "groups" : "search";
    for (const name of ["search", "groups"]) {
      byId(`view-${name}`).hidden = name !== this.view;
      byId(`tab-${name}`).setAttribute("aria-selected", String(name === this.view));
      byId(`tab-${name}`).tabIndex = name === this.view ? 0 : -1;
    }
    if (this.view === "groups") this.groups.show(index);
    this.write();
  }

  async switchLanguage() {
    await useLanguage(currentLanguage() === "en" ? "zh" : "en", { remember: true });
    this.fillChoices();
    this.form.fit(this.panes[0].index, this.state.limits ?? {});
    this.panes.forEach((pane) => pane.again());
    this.showWalk();
    this.groups.render();
    this.write();
  }
}

async function begin() {
  try {
    await useLanguage(preferredLanguage(readAddress().language));
    const state = await getState();
    if (!state.indexes.length) throw new Error(say("no_index"));
    new Page(state).restore();
  } catch (problem) {
    showProblem(problem, begin);
  }
}

begin();
