// The slider from specific to general, and the texts that are met on the way to the root.

import { afterwards, byId, make } from "./dom.js";
import { formatPercent, say } from "./texts.js";

const SEARCH_PAUSE = 80;

/** The stage of a path at a share of the way: the last one that has begun. */
export function stageAt(met, share) {
  let at = 0;
  met.forEach((stage, number) => {
    if (stage.share <= share + 1e-9) at = number;
  });
  return at;
}

/** The name of a stage; the root has no text of its own, and that of all captions is the page's. */
export function stageName(stage) {
  if (stage.text === null) return say("everything");
  return stage.kind === "all" ? say("all_captions") : stage.text;
}

/** `moved(share)` follows every movement at once, `changed(share)` once the slider pauses. */
export class Walk {
  constructor({ moved, changed }) {
    this.slider = byId("generality");
    this.paths = [];
    this.moved = moved;
    this.changed = afterwards(changed, SEARCH_PAUSE);
    this.slider.addEventListener("input", () => this.go());
  }

  get share() {
    return Number(this.slider.value);
  }

  /** Moves the slider, without a search. */
  set share(value) {
    this.slider.value = value;
    this.showStage();
  }

  go() {
    this.showStage();
    this.moved(this.share);
    this.changed(this.share);
  }

  /**
   * Shows the paths of the indexes side by side: [{title, path, still}]; a path is null before the first answer.
   * `still`: a move towards the root does not change the order of the results.
   */
  show(paths) {
    this.paths = paths.filter(({ path }) => path?.met?.length);
    byId("met").hidden = !this.paths.length;
    const lists = this.paths.map(({ title, path }) => {
      const stages = path.met.map((stage) => this.stage(stage));
      const name = this.paths.length > 1 ? [make("h3", {}, title)] : [];
      const some = path.met.some(({ text }) => text !== null);
      const note = some ? make("p", { class: "quiet" }, say(`met_${path.filter}`)) : null;
      return make("div", {}, ...name, note, make("ol", { class: "stages" }, ...stages));
    });
    byId("met-lists").replaceChildren(...lists);
    const still = this.paths.filter(({ still }) => still).map(({ title }) => title);
    byId("walk-note").hidden = !still.length;
    byId("walk-note").textContent = say("equal_radii", { index: still.join(", ") });
    this.showTicks();
    this.showStage();
  }

  stage(stage) {
    const go = () => {
      this.slider.value = stage.share;
      this.go();
    };
    const text = make("span", { dir: "auto", class: stage.text === null ? "root" : null }, stageName(stage));
    const share = make("span", { class: "quiet" }, formatPercent(stage.share));
    // A class, or several, is the average of its captions, not a sentence that someone wrote.
    const average = ["class", "family", "all"].includes(stage.kind);
    const kind = average ? make("span", { class: "kind", title: say("average_hint") }, say(`kind_${stage.kind}`)) : null;
    return make("li", {}, make("button", { type: "button", onclick: go }, text, kind, share));
  }

  showTicks() {
    const ticks = (this.paths[0]?.path.met ?? []).map((stage) => {
      const tick = make("span");
      tick.style.left = `${100 * stage.share}%`;
      return tick;
    });
    byId("ticks").replaceChildren(...ticks);
  }

  showStage() {
    const lists = byId("met-lists").querySelectorAll("ol");
    this.paths.forEach(({ path }, number) => {
      const at = stageAt(path.met, this.share);
      [...lists[number].children].forEach((item, place) => {
        item.classList.toggle("passed", place < at);
        if (place === at) item.setAttribute("aria-current", "step");
        else item.removeAttribute("aria-current");
      });
    });
    const text = this.describe();
    this.slider.setAttribute("aria-valuetext", text);
    byId("stage").textContent = text;
  }

  /** Where the slider is, in words. */
  describe() {
    if (this.share <= 0) return say("at_query");
    if (this.share >= 1) return say("at_root");
    const percent = formatPercent(this.share);
    if (!this.paths.length) return say("at_share", { percent });
    const { met } = this.paths[0].path;
    const stage = met[stageAt(met, this.share)];
    return stage.text === null ? say("past_texts", { percent }) : say("at_stage", { percent, near: stageName(stage) });
  }
}
