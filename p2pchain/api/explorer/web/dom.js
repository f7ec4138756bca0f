// Builds the page.  Text from the chain is only ever set as text, never as markup.

export const main = document.getElementById("main");

export function el(name, attributes, ...children) {
  const node = document.createElement(name);
  for (const [key, value] of Object.entries(attributes || {})) {
    if (key === "style") Object.assign(node.style, value);
    else if (value !== null && value !== undefined) node.setAttribute(key, value);
  }
  for (const child of children.flat(Infinity)) {
    if (child !== null && child !== undefined) node.append(child);
  }
  return node;
}

export function table(header, rows) {
  if (!rows.length) return el("p", { class: "quiet" }, "Nothing yet.");
  return el("div", { class: "scroll" }, el("table", {},
    el("thead", {}, el("tr", {}, header.map((text) => el("th", {}, text)))),
    el("tbody", {}, rows.map((cells) => el("tr", {}, cells.map((cell) => el("td", {}, cell)))))));
}

export function facts(pairs) {
  return el("dl", {}, pairs.filter(([, value]) => value !== null && value !== undefined)
    .map(([name, value]) => [el("dt", {}, name), el("dd", {}, value)]));
}

export function json(value) {
  return el("details", {}, el("summary", {}, "JSON"), el("pre", {}, JSON.stringify(value, null, 2)));
}

/** Text that may be broken into lines in a table. */
export const wrap = (...parts) => el("span", { class: "wrap" }, ...parts);

/** A list that grows by pages: `load(after)` gives {rows, next}. */
export function paged(header, load) {
  const box = el("div", {});
  const rows = [];
  async function more(after) {
    const page = await load(after);
    rows.push(...page.rows);
    const button = page.next && el("button", { type: "button" }, "More");
    if (button) button.addEventListener("click", () => more(page.next));
    box.replaceChildren(table(header, rows), button || "");
  }
  more(null).catch((error) => box.replaceChildren(el("p", { class: "bad" }, error.message)));
  return box;
}

/** Shows a page; lists in it are laid flat. */
export function show(...parts) {
  main.replaceChildren(...parts.flat(Infinity));
}
