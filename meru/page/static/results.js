// The ranked thumbnails of one index. Items are kept from answer to answer, so that images move instead of flashing.

import { thumbnail } from "./api.js";
import { calm, make } from "./dom.js";
import { moveWithArrows, settle } from "./keyboard.js";
import { formatNumber, say } from "./texts.js";

const TILE = "button.tile";

/** What to call an image: its class or identity if known, else its file. */
export function titleOf(result, index) {
  if (result.label === null || result.label === undefined) return result.name?.split("/").pop() ?? "";
  return index.labels === "identity" ? say("person", { label: result.label }) : result.label;
}

/** The grid of results; hooks: `opened(place in the ranking)`, `liked(result)`, `pointed(image or null)`. */
export class Results {
  constructor(index, hooks) {
    this.index = index;
    this.hooks = hooks;
    this.items = new Map();
    this.element = make("ol", { class: index.labels === "identity" ? "results persons" : "results" });
    moveWithArrows(this.element, TILE);
    const point = (event) => hooks.pointed(this.imageOf(event.target));
    for (const name of ["mouseover", "focusin"]) this.element.addEventListener(name, point);
    for (const name of ["mouseleave", "focusout"]) this.element.addEventListener(name, () => hooks.pointed(null));
  }

  imageOf(element) {
    const item = element.closest("li");
    return item ? Number(item.dataset.image) : null;
  }

  show(results) {
    const before = new Map([...this.items].map(([image, item]) => [image, item.getBoundingClientRect()]));
    const scores = results.map((result) => result.score);
    const [worst, best] = [Math.min(...scores), Math.max(...scores)];
    const items = new Map();
    results.forEach((result, rank) => {
      const item = this.items.get(result.image) ?? this.create(result.image);
      this.update(item, result, rank, best > worst ? (result.score - worst) / (best - worst) : 1);
      items.set(result.image, item);
    });
    this.items = items;
    const focused = this.element.contains(document.activeElement) ? this.imageOf(document.activeElement) : null;
    this.element.replaceChildren(...items.values());
    settle(this.element, TILE);
    // A result that has the focus may leave the ranking; the focus then stays in the grid.
    if (focused !== null)
      (items.get(focused) ?? this.element.firstChild)?.querySelector(TILE).focus({ preventScroll: true });
    if (!calm()) this.animate(before);
  }

  create(image) {
    const picture = make("img", { src: thumbnail(this.index.id, image), alt: "", loading: "lazy", decoding: "async" });
    picture.addEventListener("error", () => picture.parentElement.classList.add("missing"));
    const bar = make("span", { class: "bar" }, make("span"));
    const open = () => this.hooks.opened(this.rankOf(image));
    const tile = make(
      "button",
      { type: "button", class: "tile", onclick: open },
      make("span", { class: "picture" }, picture, make("span", { class: "mark", "aria-hidden": "true" })),
      make("span", { class: "line" }, make("b"), " ", make("span", { class: "score" })),
      make("span", { class: "title", dir: "auto" }),
      make("span", { class: "unseen verdict" }),
      bar,
    );
    const like = make("button", {
      type: "button",
      class: "like",
      tabindex: "-1",
      onclick: () => this.hooks.liked(this.results[this.rankOf(image)]),
    });
    return make("li", { "data-image": image }, tile, like);
  }

  update(item, result, rank, share) {
    const score = formatNumber(result.score, 2);
    const title = titleOf(result, this.index);
    item.querySelector("b").textContent = rank + 1;
    item.querySelector(".title").textContent = title;
    item.querySelector(".score").textContent = score;
    item.querySelector(".bar span").style.width = `${100 * share}%`;
    const mark = item.querySelector(".mark");
    mark.textContent = result.match === null || result.match === undefined ? "" : result.match ? "✓" : "✗";
    const kind = this.index.labels === "identity" ? "person" : "class";
    const verdict = mark.textContent ? say(result.match ? `same_${kind}` : `other_${kind}`) : "";
    item.querySelector(".verdict").textContent = verdict;
    item.classList.toggle("match", result.match === true);
    item.classList.toggle("mismatch", result.match === false);
    item.querySelector(TILE).title = result.name ?? "";
    item.querySelector(".like").textContent = say("like_this");
    item.querySelector(".like").setAttribute("aria-label", `${say("like_this")}: ${rank + 1}, ${title}`);
  }

  rankOf(image) {
    return this.results.findIndex((result) => result.image === image);
  }

  get results() {
    return this.hooks.answer()?.results ?? [];
  }

  /** Marks one image, or none; the disk calls this. */
  point(image) {
    for (const [own, item] of this.items) item.classList.toggle("pointed", own === image);
  }

  focus(rank) {
    this.element.querySelectorAll(TILE)[rank]?.focus();
  }

  animate(before) {
    const timing = { duration: 220, easing: "ease-out" };
    for (const [image, item] of this.items) {
      const old = before.get(image);
      const now = item.getBoundingClientRect();
      if (!old) item.animate([{ opacity: 0 }, { opacity: 1 }], timing);
      else if (old.left !== now.left || old.top !== now.top) {
        const from = `translate(${old.left - now.left}px, ${old.top - now.top}px)`;
        item.animate([{ transform: from }, { transform: "none" }], timing);
      }
    }
  }
}
