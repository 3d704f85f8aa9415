// A group of things is one Tab stop; inside it, arrow keys move the focus.

const STEPS = { ArrowRight: 1, ArrowLeft: -1, ArrowDown: "row", ArrowUp: "-row", Home: "first", End: "last" };

/** Lets arrow keys move between the elements of a group that fit the selector, which may change at any time. */
export function moveWithArrows(group, selector) {
  group.addEventListener("keydown", (event) => {
    const items = [...group.querySelectorAll(selector)];
    const at = items.indexOf(document.activeElement);
    if (at < 0 || !(event.key in STEPS) || event.altKey || event.ctrlKey || event.metaKey) return;
    const step = STEPS[event.key];
    const row = rowLength(items);
    const wanted = { row: at + row, "-row": at - row, first: 0, last: items.length - 1 }[step] ?? at + step;
    event.preventDefault();
    items[Math.max(0, Math.min(wanted, items.length - 1))].focus();
  });
  group.addEventListener("focusin", (event) => {
    const item = event.target.closest(selector);
    if (item) settle(group, selector, item);
  });
}

/** Makes one element the group's Tab stop: the given one, else the present one, else the first. */
export function settle(group, selector, chosen = null) {
  const items = [...group.querySelectorAll(selector)];
  const stop = chosen ?? items.find((item) => item.getAttribute("tabindex") === "0") ?? items[0];
  for (const item of items) item.setAttribute("tabindex", item === stop ? "0" : "-1");
}

function rowLength(items) {
  const top = items[0].getBoundingClientRect().top;
  const next = items.findIndex((item) => item.getBoundingClientRect().top > top + 1);
  // Points of the disk lie anywhere: up and down then go to the neighbours, too.
  return items[0] instanceof SVGElement ? 1 : next < 0 ? items.length : next;
}
