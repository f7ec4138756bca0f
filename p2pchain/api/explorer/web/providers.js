// Who holds which layers of which model, and what they were paid for.

import { cursor, read } from "./api.js";
import { el, facts, paged, show, table } from "./dom.js";
import { amount, code, linkAddress, linkBlock, linkTx, time } from "./words.js";

/** Who holds which layers: one row per provider, one column per layer. */
function coverage(model, providers) {
  const grid = { gridTemplateColumns: `repeat(${model.layers}, minmax(1.2rem, 1fr))` };
  const rows = providers.map((p) => el("div", { class: "row", style: grid },
    el("div", { class: "cell host", title: p.account,
      style: { gridColumn: `${p.start + 1} / ${p.end + 1}` } }, p.name)));
  const heads = Array.from({ length: model.layers }, (_, layer) => {
    const held = providers.some((p) => p.status === "ACTIVE" && p.start <= layer && layer < p.end);
    return el("div", { class: held ? "cell" : "cell gap", title: held ? "" : "nobody holds it" }, layer);
  });
  return el("div", { class: "cover" }, el("div", { class: "row", style: grid }, heads), rows);
}

export async function showProviders() {
  const [{ providers }, { models }] = await Promise.all([read("/providers"), read("/models")]);
  show(el("h1", {}, "Providers by layer"), ...models.flatMap((model) => {
    const own = providers.filter((p) => p.model_id === model.model_id);
    return [el("h2", {}, model.name), coverage(model, own),
      table(["node", "layers", "status", "in / layer-token", "out / layer-token", "step", "collateral", "account"],
        own.map((p) => [p.name, `[${p.start}, ${p.end})`, p.status, p.input_price + " atoms",
          p.output_price + " atoms", (p.measured_us / 1000).toFixed(2) + " ms",
          amount(p.collateral), linkAddress(p.account)]))];
  }));
}

export async function showWork() {
  show(
    el("h1", {}, "Posted work"),
    paged(["block", "provider", "paid", "layers", "tokens in", "tokens out", "receipts", "median step", "work root", "settlement"],
      async (after) => {
        const page = await read(cursor("/work", after));
        const rows = page.records.map((entry) => [linkBlock(entry.height), entry.payee_name || linkAddress(entry.payee),
          amount(entry.paid), `[${entry.work.start}, ${entry.work.end})`, entry.work.tokens_in,
          entry.work.tokens_out, entry.work.receipts, (entry.work.median_us / 1000).toFixed(2) + " ms",
          code(entry.work.work_root), linkTx(entry.tx_id)]);
        return { rows, next: page.next };
      }),
    el("h2", {}, "Receipts seen now"),
    table(["seen", "node", "layers", "tokens", "units", "in", "out", "session"],
      (await read("/receipts")).receipts.map((r) => [
        time(r.seen), code(r.node), `[${r.start}, ${r.end})`, r.tokens, r.price_units,
        code(r.in_hash), code(r.out_hash), code(r.session)])));
}

export async function showModels() {
  const { models } = await read("/models");
  show(el("h1", {}, "Models"), ...models.flatMap((m) => [el("h2", {}, m.name),
    facts([["id", el("code", {}, m.model_id)], ["architecture", m.architecture], ["layers", m.layers],
      ["hidden size", m.hidden_size], ["vocabulary", m.vocab_size], ["dtype", m.dtype],
      ["least collateral", amount(m.min_collateral)]])]));
}
