// The explorer's page: which address shows what.  No library, no build step.

import { showAddress, showChannel } from "./accounts.js";
import { showBlock, showBlocks, showTx } from "./blocks.js";
import { showChunk } from "./chunks.js";
import { el, show } from "./dom.js";
import { showPacket, showPackets } from "./packets.js";
import { showModels, showProviders, showWork } from "./providers.js";
import { showSearch } from "./search.js";
import { showShard, showShards } from "./shards.js";
import { follow, poll } from "./tip.js";
import { showEpoch, showValidators } from "./validators.js";

const ROUTES = [
  [/^#\/block\/(\w+)$/, showBlock], [/^#\/tx\/(\w+)$/, showTx], [/^#\/address\/(\w+)$/, showAddress],
  [/^#\/channel\/(\w+)$/, showChannel], [/^#\/providers$/, showProviders], [/^#\/work$/, showWork],
  [/^#\/shards$/, showShards], [/^#\/shard\/(\d+)$/, showShard],
  [/^#\/chunk\/(\d+)\/(\d+)$/, showChunk], [/^#\/chunk\/(0x\w+)$/, showChunk],
  [/^#\/packet\/(\d+)\/(\d+)\/(\d+)$/, showPacket],
  [/^#\/packets\/(\d+)\/(\d+)$/, showPackets], [/^#\/validators$/, showValidators],
  [/^#\/epoch\/(\d+)$/, showEpoch], [/^#\/models$/, showModels], [/^#\/search\/(.+)$/, (q) => showSearch(decodeURIComponent(q))],
];

async function route() {
  follow(null);
  const hash = location.hash || "#/";
  const found = ROUTES.map(([pattern, show]) => [pattern.exec(hash), show]).find(([match]) => match);
  try {
    await (found ? found[1](...found[0].slice(1)) : showBlocks());
  } catch (error) {
    show(el("h1", {}, "Not here"), el("p", { class: "bad" }, error.message));
  }
}

document.getElementById("search").addEventListener("submit", (event) => {
  event.preventDefault();
  const query = new FormData(event.target).get("q").trim();
  if (query) location.hash = "#/search/" + encodeURIComponent(query);
});

addEventListener("hashchange", route);
route();
poll();
