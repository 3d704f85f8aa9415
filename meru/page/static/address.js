// The search in the page's address, so that it can be shared, reloaded and returned to.

/** What the address asks for; missing values are null. */
export function readAddress() {
  const given = new URLSearchParams(location.search);
  const number = (key, form) => (form.test(given.get(key) ?? "") ? Number(given.get(key)) : null);
  return {
    text: given.get("q"),
    image: number("image", /^\d+$/),
    generality: Math.min(number("general", /^\d+(\.\d+)?$/) ?? 0, 1),
    index: given.get("index"),
    beside: given.get("beside"),
    view: given.get("view") === "groups" ? "groups" : "search",
    language: given.get("language"),
  };
}

/** Writes the search into the address; `added` makes it a step to which the browser's Back returns. */
export function writeAddress({ query, generality, index, beside, view, language }, { added = false } = {}) {
  const values = new URLSearchParams();
  // An upload is not in the address: the server forgets it.
  if (query?.text) values.set("q", query.text);
  if (query?.image !== undefined && query.index === index) values.set("image", query.image);
  if (generality > 0) values.set("general", generality.toFixed(2));
  if (index) values.set("index", index);
  if (beside) values.set("beside", beside);
  if (view === "groups") values.set("view", view);
  if (language) values.set("language", language);
  const address = `${location.pathname}?${values}`;
  if (address === location.pathname + location.search) return;
  history[added ? "pushState" : "replaceState"](null, "", address);
}
