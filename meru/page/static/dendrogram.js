// The tree of the groups, drawn beside their rows. A branch that is collapsed is one row.

import { draw } from "./dom.js";
import { say } from "./texts.js";

/** Adds to every node its parent, its level, its clusters, and a name of its own; returns all nodes, the root first. */
export function prepareTree(root) {
  const nodes = [];
  // Trees of many clusters can be as deep as they are large, too deep for recursion.
  const waiting = [[root, null]];
  while (waiting.length) {
    const [node, parent] = waiting.pop();
    Object.assign(node, { parent, level: parent ? parent.level + 1 : 1, open: true, number: nodes.length });
    nodes.push(node);
    for (const child of [...(node.children ?? [])].reverse()) waiting.push([child, node]);
  }
  for (const node of [...nodes].reverse()) {
    node.clusters = node.children ? node.children.flatMap((child) => child.clusters) : [node.cluster];
  }
  return nodes;
}

/** The nodes that are rows: leaves and collapsed branches, from top to bottom. */
export function rowsOf(root) {
  const rows = [];
  const waiting = [root];
  while (waiting.length) {
    const node = waiting.pop();
    if (node.children && node.open) waiting.push(...[...node.children].reverse());
    else rows.push(node);
  }
  return rows;
}

/** Collapses the tree to a number of rows: the highest branches are open. */
export function cutTree(nodes, count) {
  const branches = nodes.filter((node) => node.children);
  // A child never lies above its parent; among equal heights the parent is first, since it has the smaller number.
  branches.sort((one, other) => other.height - one.height || one.number - other.number);
  let rows = 1;
  for (const node of branches) {
    node.open = rows + node.children.length - 1 <= count && (!node.parent || node.parent.open);
    if (node.open) rows += node.children.length - 1;
  }
}

/** Draws the tree for the present rows: `middles` are the heights of their middles in pixels. */
export function drawTree(svg, nodes, rows, middles, { width, height, nameOf }) {
  const top = Math.max(...nodes.map((node) => node.height ?? 0), 1e-9);
  const across = (node) => 10 + (width - 24) * (1 - (node.height ?? 0) / top);
  rows.forEach((node, at) => (node.y = middles[at]));
  const shown = [];
  const waiting = [nodes[0]];
  while (waiting.length) {
    const node = waiting.pop();
    shown.push(node);
    if (node.children && node.open) waiting.push(...[...node.children].reverse());
  }
  for (const node of [...shown].reverse()) {
    if (node.children && node.open) node.y = (node.children[0].y + node.children.at(-1).y) / 2;
  }
  const lines = shown
    .filter((node) => node.children && node.open)
    .flatMap((node) => [
      draw("path", { d: `M${across(node)} ${node.children[0].y}V${node.children.at(-1).y}` }),
      ...node.children.map((child) =>
        draw("path", { d: `M${across(node)} ${child.y}H${child.children ? across(child) : width}` }),
      ),
    ]);
  const closed = shown.filter((node) => node.children && !node.open);
  lines.push(...closed.map((node) => draw("path", { d: `M${across(node)} ${node.y}H${width}`, class: "closed" })));
  const branches = shown
    .filter((node) => node.children)
    .map((node) =>
      draw(
        "g",
        {
          class: "branch",
          role: "treeitem",
          tabindex: "-1",
          "data-node": node.number,
          "aria-level": node.level,
          "aria-expanded": String(node.open),
          "aria-label": say("branch", { count: node.clusters.length, names: nameOf(node) }),
        },
        draw("title", {}, say("branch", { count: node.clusters.length, names: nameOf(node) })),
        draw("circle", { class: "around", cx: across(node), cy: node.y, r: 11 }),
        draw("circle", { cx: across(node), cy: node.y, r: 5 }),
      ),
    );
  svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
  svg.setAttribute("width", width);
  svg.setAttribute("height", height);
  svg.replaceChildren(draw("g", { class: "lines", "aria-hidden": "true" }, ...lines), ...branches);
}
