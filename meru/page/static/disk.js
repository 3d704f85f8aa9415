// The Poincaré disk of one index: the query, its way to the root, texts met, results and a sample of all images.

import { thumbnail } from "./api.js";
import { draw, make } from "./dom.js";
import { moveWithArrows, settle } from "./keyboard.js";
import { titleOf } from "./results.js";
import { formatNumber, say } from "./texts.js";
import { stageAt, stageName } from "./walk.js";

const MARGIN = 1.06;
const ENLARGED = 1.1;
const RING_STEPS = [0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10];
const POINT = ".result-point";

/** Distance from the origin → radius in the unit disk; null where a radius means nothing, on the sphere. */
function radiusInDisk(index) {
  // A ball of curvature 1 stands for flat space, with twice the distances: see `Euclidean.in_ball`.
  if (index.space === "hyperboloid") return (distance) => Math.tanh((Math.sqrt(index.curvature ?? 1) * distance) / 2);
  return index.space === "euclidean" ? Math.tanh : null;
}

/** The picture; hooks: `opened(rank)`, `pointed(image or null)`. */
export class Disk {
  constructor(index, hooks) {
    this.index = index;
    this.hooks = hooks;
    this.cloud = [];
    this.answer = null;
    this.zoom = 1;
    this.svg = draw("svg", { viewBox: "-1.04 -1.04 2.08 2.08", role: "group" });
    this.peek = make("div", { class: "peek", hidden: true }, make("img", { alt: "" }), make("span"));
    this.note = make("p", { class: "quiet" });
    this.element = make("figure", { class: "disk" }, make("div", { class: "round" }, this.svg, this.peek), this.note);
    moveWithArrows(this.svg, POINT);
    for (const name of ["mouseover", "focusin"]) this.svg.addEventListener(name, (event) => this.hover(event.target));
    for (const name of ["mouseleave", "focusout"]) this.svg.addEventListener(name, () => this.hover(null));
    this.svg.addEventListener("click", (event) => this.open(event.target));
    this.svg.addEventListener("keydown", (event) => {
      if (event.key !== "Enter" && event.key !== " ") return;
      event.preventDefault();
      this.open(event.target);
    });
  }

  open(target) {
    const point = target.closest(POINT);
    if (point) this.hooks.opened(Number(point.dataset.rank));
  }

  hover(target) {
    const point = target?.closest("[data-image], [data-text]");
    this.peek.hidden = !point;
    const image = point?.dataset.image;
    this.hooks.pointed(image === undefined ? null : Number(image));
    if (!point) return;
    const [picture, text] = this.peek.children;
    picture.hidden = image === undefined;
    if (image !== undefined) picture.src = thumbnail(this.index.id, image, 128);
    text.textContent = point.dataset.text ?? "";
    const box = point.getBoundingClientRect();
    const around = this.svg.getBoundingClientRect();
    const [x, y] = [box.left + box.width / 2 - around.left, box.top + box.height / 2 - around.top];
    // The thumbnail appears towards the centre of the disk, where there is room for it.
    this.peek.classList.toggle("left", x > around.width / 2);
    this.peek.classList.toggle("above", y > around.height / 2);
    this.peek.style.left = `${x}px`;
    this.peek.style.top = `${y}px`;
  }

  /** Shows an answer; `fresh`: of a new query, for which the picture may be scaled anew. */
  show(answer, share, fresh) {
    this.answer = answer;
    if (answer.cloud) this.cloud = answer.cloud;
    this.scale(fresh);
    this.render(share);
  }

  scale(fresh) {
    const { results, path, query } = this.answer;
    const places = [...results, ...this.cloud].map(({ place }) => place);
    places.push(...(path?.points ?? []), query.place);
    const largest = Math.max(...places.filter(Boolean).map(([x, y]) => Math.hypot(x, y)), 0.01);
    const fitting = 1 / (MARGIN * largest);
    const zoom = fitting > ENLARGED ? fitting : 1;
    // While the slider moves, the picture keeps still unless a point would fall outside.
    this.zoom = fresh ? zoom : Math.min(this.zoom, zoom);
  }

  put([x, y]) {
    return [x * this.zoom, -y * this.zoom];
  }

  render(share) {
    const { results, path, query } = this.answer;
    this.way = path?.points?.length ? path : { points: [query.place], shares: [0], met: [] };
    // On the sphere, the way to the average of all images has no direction in the plane that is drawn.
    if (!radiusInDisk(this.index)) this.way = { points: [this.way.points[0]], shares: [0], met: this.way.met };
    const focused = this.svg.contains(document.activeElement) ? document.activeElement.dataset?.rank : undefined;
    this.walker = draw("g", { class: "walker" });
    this.svg.setAttribute("aria-label", say("disk_label", { index: this.index.name }));
    this.svg.replaceChildren(
      draw("circle", { class: this.zoom > ENLARGED ? "view" : "view rim", r: 1 }),
      ...this.rings(),
      draw("g", { class: "cloud" }, ...this.cloud.map((item) => this.cloudPoint(item))),
      draw("polyline", { class: "path", points: this.way.points.map((point) => this.put(point).join(",")).join(" ") }),
      ...this.way.met.filter((stage) => stage.place && stage.text !== null).map((stage) => this.textPoint(stage)),
      // The first result is drawn last, on top.
      ...results.map((result, rank) => this.resultPoint(result, rank)).reverse(),
      ...(this.way.points.length > 1 ? [this.root()] : []),
      this.start(),
      this.walker,
    );
    settle(this.svg, POINT, this.svg.querySelector(`${POINT}[data-rank="${focused ?? 0}"]`));
    if (focused !== undefined) this.svg.querySelector(`${POINT}[tabindex="0"]`)?.focus({ preventScroll: true });
    const note = radiusInDisk(this.index) ? [say("disk_note")] : [say("sphere_note")];
    if (this.zoom > ENLARGED) note.push(say("zoomed", { zoom: formatNumber(this.zoom, 1) }));
    this.note.textContent = note.join(" ");
    this.walk(share);
  }

  rings() {
    const inDisk = radiusInDisk(this.index);
    if (!inDisk) return [];
    const step = RING_STEPS.find((size) => inDisk(5 * size) * this.zoom > 1) ?? RING_STEPS.at(-1);
    const rings = [];
    let labelled = 0;
    for (let distance = step; inDisk(distance) * this.zoom < 0.985 && rings.length < 12; distance += step) {
      const r = inDisk(distance) * this.zoom;
      rings.push(draw("circle", { class: "ring", r }));
      // Towards the rim, rings lie too near to each other for their numbers.
      if (r - labelled < 0.1) continue;
      rings.push(draw("text", { class: "ring-label", x: 0.012, y: -r - 0.012 }, formatNumber(distance)));
      labelled = r;
    }
    return rings;
  }

  cloudPoint({ image, place }) {
    const [cx, cy] = this.put(place);
    return draw("circle", { cx, cy, r: 0.011, "data-image": image });
  }

  textPoint({ text, place }) {
    const [x, y] = this.put(place);
    const shape = `M${x} ${y - 0.028}l.026 .046h-.052z`;
    return draw("path", { class: "text-point", d: shape, "data-text": `“${text}”` });
  }

  resultPoint(result, rank) {
    const [x, y] = this.put(result.place);
    const size = rank === 0 ? 0.034 : 0.024;
    const box = { x: x - size, y: y - size, width: 2 * size, height: 2 * size };
    // A wrong identity differs by its shape, too, not only by its colour.
    const dot = result.match === false ? draw("rect", box) : draw("circle", { cx: x, cy: y, r: size });
    const kind = { true: " match", false: " mismatch" }[result.match] ?? "";
    const text = `${rank + 1}. ${titleOf(result, this.index)}`;
    const label = say("result_label", {
      rank: rank + 1,
      title: titleOf(result, this.index),
      score: formatNumber(result.score, 2),
    });
    const properties = { class: `result-point${kind}`, role: "button", tabindex: "-1", "aria-label": label };
    return draw("g", { ...properties, "data-image": result.image, "data-rank": rank, "data-text": text }, dot);
  }

  root() {
    const [x, y] = this.put(this.way.points.at(-1));
    const cross = `M${x - 0.03} ${y}h.06M${x} ${y - 0.03}v.06`;
    return draw("path", { class: "root-point", d: cross, "data-text": say("everything") });
  }

  start() {
    const [x, y] = this.put(this.way.points[0]);
    const diamond = `M${x} ${y - 0.04}l.034 .04l-.034 .04l-.034 -.04z`;
    return draw("path", { class: "start-point", d: diamond, "data-text": say("your_query") });
  }

  /** Moves the marker on the path to a share of the way, without asking the server. */
  walk(share) {
    if (!this.way) return;
    const { points, shares, met } = this.way;
    const next = shares.findIndex((other) => other >= share);
    const [from, to] = next < 0 ? [points.length - 1, points.length - 1] : [Math.max(0, next - 1), next];
    const part = shares[to] > shares[from] ? (share - shares[from]) / (shares[to] - shares[from]) : 0;
    const [x, y] = this.put([0, 1].map((axis) => points[from][axis] + part * (points[to][axis] - points[from][axis])));
    const stage = share > 0 && met.length ? met[stageAt(met, share)] : null;
    // The root has its own mark: the query that is nearer to it than to any text is not there yet.
    const near = stage && stage.text !== null ? stageName(stage) : say("your_query");
    const short = near.length > 28 ? `${near.slice(0, 27)}…` : near;
    // The label lies on the side with more room.
    const side = x > 0 ? { x: x - 0.07, "text-anchor": "end" } : { x: x + 0.07 };
    this.walker.replaceChildren(
      draw("circle", { cx: x, cy: y, r: 0.05 }),
      draw("text", { ...side, y: y + 0.02 }, short),
    );
  }

  /** Marks one image, or none; the grid calls this. */
  point(image) {
    for (const mark of this.svg.querySelectorAll(".pointed")) mark.classList.remove("pointed");
    if (image !== null) this.svg.querySelector(`${POINT}[data-image="${image}"]`)?.classList.add("pointed");
  }
}
