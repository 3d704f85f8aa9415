// Category discovery: the groups that a model found, as rows of thumbnails beside their tree.

import { exportAddress, getClusters, nameCluster, thumbnail } from "./api.js";
import { cutTree, drawTree, prepareTree, rowsOf } from "./dendrogram.js";
import { byId, draw, make } from "./dom.js";
import { settle } from "./keyboard.js";
import { changeableName } from "./naming.js";
import { announce } from "./notices.js";
import { say } from "./texts.js";

const PAGE = 60;
const BRANCH = ".branch";

/** The view; hooks: `opened(index, items, at)`, `failed(problem, again)`. */
export class Groups {
  constructor(hooks) {
    this.hooks = hooks;
    this.element = byId("view-groups");
    this.index = null;
    this.nodes = null;
    new ResizeObserver(() => this.nodes && this.place()).observe(this.element);
  }

  /** Loads the groups of an index, unless they are shown already. */
  async show(index) {
    if (this.index === index) return;
    this.index = index;
    this.nodes = null;
    this.element.replaceChildren(make("p", { class: "quiet" }, say("loading")));
    try {
      const first = await getClusters(index.id, 0, PAGE);
      const clusters = first.clusters;
      while (clusters.length < first.total) {
        const next = await getClusters(index.id, clusters.length, PAGE);
        if (!next.clusters.length) break;
        clusters.push(...next.clusters);
      }
      if (this.index !== index) return;
      this.clusters = new Map(clusters.map((cluster) => [cluster.cluster, cluster]));
      this.nodes = prepareTree(
        first.tree ?? { children: clusters.map(({ cluster }) => ({ cluster, height: 0 })), height: 0 },
      );
      this.hasTree = Boolean(first.tree);
      this.render();
    } catch (problem) {
      if (this.index === index) this.index = null;
      this.element.replaceChildren();
      this.hooks.failed(problem, () => this.show(index));
    }
  }

  nameOf(number) {
    const cluster = this.clusters.get(number);
    return cluster?.name || cluster?.label || say("group", { number });
  }

  namesOf(node) {
    const names = node.clusters.slice(0, 4).map((number) => this.nameOf(number));
    return names.join(", ") + (node.clusters.length > 4 ? ", …" : "");
  }

  /** Builds the whole view, also after the language has changed. */
  render() {
    if (!this.nodes) return;
    const total = this.clusters.size;
    this.cut = make("input", {
      type: "range",
      min: Math.min(2, total),
      max: total,
      value: rowsOf(this.nodes[0]).length,
      id: "cut",
    });
    this.cut.addEventListener("input", () => {
      cutTree(this.nodes, Number(this.cut.value));
      this.renderRows();
    });
    this.count = make("output", { for: "cut" });
    this.tree = draw("svg", { class: "tree", role: "tree", "aria-label": say("tree_label") });
    this.tree.addEventListener("click", (event) => this.toggle(this.nodeOf(event.target)));
    this.tree.addEventListener("keydown", (event) => this.moveInTree(event));
    this.rows = make("ol", { class: "rows" });
    const slider = make("div", { class: "cut" }, make("label", { for: "cut" }, say("cut_label")), this.cut, this.count);
    const link = make("a", { class: "button", href: exportAddress(this.index.id), download: "" }, say("export"));
    this.element.replaceChildren(
      make(
        "div",
        { class: "bar" },
        make("h2", {}, say("groups_of", { index: this.index.name })),
        this.hasTree ? slider : null,
        link,
      ),
      make("p", { class: "quiet" }, say(this.hasTree ? "groups_hint" : "groups_hint_flat")),
      make("div", { class: "forest" }, this.hasTree ? this.tree : null, this.rows),
    );
    this.renderRows();
  }

  renderRows() {
    this.shown = rowsOf(this.nodes[0]);
    this.count.textContent = say("rows", { count: this.shown.length });
    this.cut.value = this.shown.length;
    this.rows.replaceChildren(...this.shown.map((node) => this.row(node)));
    this.place();
  }

  row(node) {
    const clusters = node.clusters.map((number) => this.clusters.get(number)).filter(Boolean);
    const size = clusters.reduce((sum, cluster) => sum + cluster.size, 0);
    const single = !node.children && clusters.length === 1;
    // Of several groups, the images take turns.
    const images = [];
    for (let at = 0; images.length < 12 && clusters.some((cluster) => cluster.images.length > at); at++) {
      images.push(
        ...clusters.map((cluster) => [cluster, cluster.images[at]]).filter(([, image]) => image !== undefined),
      );
    }
    const items = images.slice(0, 12).map(([cluster, image]) => ({ image, label: this.nameOf(cluster.cluster) }));
    const pictures = items.map((item, at) =>
      make(
        "button",
        {
          type: "button",
          class: "small",
          tabindex: at ? "-1" : "0",
          "aria-label": say("open_image", { title: item.label, at: at + 1 }),
          onclick: () => this.hooks.opened(this.index, items, at),
        },
        make("img", { src: thumbnail(this.index.id, item.image, 128), alt: "", loading: "lazy", decoding: "async" }),
      ),
    );
    const head = single ? this.name(clusters[0]) : make("b", { dir: "auto" }, this.namesOf(node));
    const about = [say("images", { count: size })];
    if (!single) about.unshift(say("groups", { count: clusters.length }));
    else if (clusters[0].label && clusters[0].label !== this.nameOf(clusters[0].cluster))
      about.push(say("mostly", { label: clusters[0].label }));
    const strip = make("div", { class: "strip", role: "group", "aria-label": say("examples") }, ...pictures);
    strip.addEventListener("keydown", (event) => this.moveInStrip(event, pictures));
    return make(
      "li",
      { class: single ? "cluster" : "cluster joined", "data-cluster": single ? node.cluster : null },
      make("div", { class: "head" }, head, make("span", { class: "quiet" }, about.join(" · "))),
      strip,
    );
  }

  moveInStrip(event, pictures) {
    const at = pictures.indexOf(document.activeElement) + ({ ArrowRight: 1, ArrowLeft: -1 }[event.key] ?? 0);
    if (event.key !== "ArrowRight" && event.key !== "ArrowLeft") return;
    event.preventDefault();
    pictures[Math.max(0, Math.min(at, pictures.length - 1))].focus();
  }

  name(cluster) {
    return changeableName({
      name: () => cluster.name ?? "",
      shown: () => this.nameOf(cluster.cluster),
      save: async (name) => {
        cluster.name = (await nameCluster(this.index.id, cluster.cluster, name)).name;
        announce(say("renamed", { name: this.nameOf(cluster.cluster) }));
      },
      failed: (problem) => this.hooks.failed(problem, () => {}),
    });
  }

  nodeOf(element) {
    const branch = element.closest?.(BRANCH);
    return branch ? this.nodes[Number(branch.dataset.node)] : null;
  }

  toggle(node) {
    if (!node) return;
    node.open = !node.open;
    this.renderRows();
    this.focus(node);
  }

  focus(node) {
    this.tree.querySelector(`[data-node="${node.number}"]`)?.focus();
  }

  moveInTree(event) {
    const node = this.nodeOf(event.target);
    if (!node) return;
    const shown = [...this.tree.querySelectorAll(BRANCH)].map((branch) => this.nodes[Number(branch.dataset.node)]);
    const at = shown.indexOf(node);
    const inner = node.children.find((child) => child.children);
    const moves = {
      ArrowDown: () => this.focus(shown[Math.min(at + 1, shown.length - 1)]),
      ArrowUp: () => this.focus(shown[Math.max(at - 1, 0)]),
      ArrowRight: () => (node.open ? inner && this.focus(inner) : this.toggle(node)),
      ArrowLeft: () => (node.open ? this.toggle(node) : node.parent && this.focus(node.parent)),
      Enter: () => this.toggle(node),
      " ": () => this.toggle(node),
    };
    if (!(event.key in moves)) return;
    event.preventDefault();
    moves[event.key]();
  }

  place() {
    if (!this.hasTree) return;
    const top = this.rows.getBoundingClientRect().top;
    const middles = [...this.rows.children].map((row) => {
      const box = row.getBoundingClientRect();
      return box.top - top + box.height / 2;
    });
    const size = { width: this.element.clientWidth > 700 ? 200 : 64, height: this.rows.clientHeight };
    drawTree(this.tree, this.nodes, this.shown, middles, { ...size, nameOf: (node) => this.namesOf(node) });
    settle(this.tree, BRANCH);
  }
}
