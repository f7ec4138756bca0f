// What a word may mean.

import { read } from "./api.js";
import { el, show, table } from "./dom.js";

export async function showSearch(query) {
  const { results } = await read("/search?q=" + encodeURIComponent(query));
  if (results.length === 1) {
    location.replace(target(results[0]));
    return;
  }
  show(el("h1", {}, "Search"), results.length
    ? table(["kind", "what"], results.map((r) => [r.kind, el("a", { href: target(r) }, r.name || r.id)]))
    : el("p", {}, `Nothing is called ${query}.`));
}

function target(result) {
  const pages = { block: "block", transaction: "tx", address: "address", provider: "address",
    validator: "address", channel: "channel", chunk: "chunk", shard: "shard" };
  return pages[result.kind] ? `#/${pages[result.kind]}/${result.id}` : "#/models";
}
