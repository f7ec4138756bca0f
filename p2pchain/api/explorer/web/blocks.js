// Blocks, their transactions and events.

import { cursor, read } from "./api.js";
import { endorsedBy, producerOf } from "./chunks.js";
import { el, facts, json, main, paged, show, table } from "./dom.js";
import { follow } from "./tip.js";
import {
  amount, code, link, linkAddress, linkBlock, linkChunk, linkEpoch, linkShard, linkTx, short, time,
} from "./words.js";

const blockRow = (block) => [linkBlock(block.height), time(block.time), block.proposer_name || "#" + block.proposer,
  block.tx_count, block.packet_count, block.size + " B", link("#/block/" + block.height, block.block_hash)];

const BLOCK_HEADER = ["height", "time", "proposer", "transactions", "packets", "size", "hash"];

export async function showBlocks() {
  const list = await read("/blocks");
  const rows = table(BLOCK_HEADER, list.blocks.map(blockRow));
  show(el("h1", {}, "Blocks"), rows);
  if (list.first_height !== "0") {
    main.append(el("p", {}, "This node began with a snapshot: its history starts at block "
      + list.first_height + "."));
  }
  let newest = BigInt(list.height);
  follow(async (height) => {
    if (BigInt(height) <= newest) return;
    const fresh = await read("/blocks");
    const body = rows.querySelector("tbody");
    for (const block of fresh.blocks.filter((b) => BigInt(b.height) > newest).reverse()) {
      body.prepend(el("tr", { class: "fresh" }, blockRow(block).map((cell) => el("td", {}, cell))));
      if (body.rows.length > 50) body.lastChild.remove();
    }
    newest = BigInt(fresh.height);
  });
}

export async function showBlock(reference) {
  const block = await read("/block/" + reference);
  show(
    el("h1", {}, "Block " + block.height),
    facts([
      ["hash", el("code", {}, block.block_hash)],
      ["parent", link("#/block/" + block.header.parent_hash, block.header.parent_hash)],
      ["time", time(block.time)],
      ["proposer", block.proposer_name || "#" + block.proposer],
      ["epoch", linkEpoch(block.epoch)],
      ["view", block.view],
      ["signed by", block.certificate && block.certificate.signers.map((s) => s.name || "#" + s.index).join(", ")],
      ["size", block.size + " bytes"],
    ]),
    el("h2", {}, "Chunks"),
    table(["shard", "chunk", "producer", "endorsed by", "transactions", "packets in", "fees", "state root"],
      block.chunks.map((chunk) => [linkShard(chunk.shard), linkChunk(chunk.shard, chunk.seq), producerOf(chunk),
        endorsedBy(chunk), chunk.tx_count, chunk.packets_in, amount(chunk.fees), code(chunk.post_root)])),
    block.events.length ? [el("h2", {}, "Rewards, payouts, slashes, changes of the set"), eventTable(block.events)] : "",
    el("h2", {}, "Transactions"),
    paged(TX_HEADER, async (after) => {
      const page = await read(cursor("/block/" + block.height + "/txs", after));
      return { rows: page.transactions.map(txRow), next: page.next };
    }),
    json(block));
}

export const TX_HEADER = ["transaction", "block", "shard", "kind", "sender", "fee", "outcome"];

export const txRow = (tx) => [linkTx(tx.tx_id), linkBlock(tx.height), tx.shard, tx.kind,
  linkAddress(tx.sender), amount(tx.outcome.fee), outcome(tx)];

const outcome = (tx) => el("span", { class: tx.outcome.ok ? "good" : "bad", title: tx.outcome.message },
  tx.outcome.ok ? "ok" : tx.outcome.code);

export async function showTx(id) {
  const tx = await read("/tx/" + id);
  show(
    el("h1", {}, "Transaction"),
    facts([
      ["id", el("code", {}, tx.tx_id)],
      ["kind", tx.kind],
      ["state", tx.final ? el("span", { class: "good" }, "final in block ", linkBlock(tx.height)) : "waits in the mempool"],
      ["outcome", tx.outcome && outcome(tx)],
      ["sender", linkAddress(tx.sender)],
      ["shard", el("a", { href: "#/shard/" + tx.shard }, tx.shard)],
      ["fee", tx.outcome && amount(tx.outcome.fee)],
      ["nonce", tx.nonce],
    ]),
    el("h2", {}, "What it asks for"),
    el("pre", {}, JSON.stringify(tx.payload, null, 2)),
    tx.outcome ? el("h2", {}, "What it did") : "",
    tx.outcome ? table(["event", "amount", "accounts", "object"], tx.outcome.events.map((event) => [
      event.kind, amount(event.amount), event.addresses.map((a) => [linkAddress(a), " "]).flat(),
      code(event.object_id)])) : "",
    json(tx));
}

export const eventTable = (events) => table(["event", "amount", "accounts", "object"], events.map((event) => [
  event.kind.replaceAll("_", " "), amount(event.amount),
  event.addresses.map((a, i) => [el("a", { href: "#/address/" + a, title: a }, event.names[i] || short(a)), " "]),
  event.object_id === "0x" ? "" : code(event.object_id)]));
