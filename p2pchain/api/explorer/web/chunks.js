// Chunks of shards, and who stands for them.

import { read } from "./api.js";
import { el, facts, json, show, table, wrap } from "./dom.js";
import {
  amount, code, link, linkBlock, linkChunk, linkEpoch, linkPacket, linkShard, linkTx, meter, nameOf,
  namesOf, percent,
} from "./words.js";

export const producerOf = (chunk) => (chunk.seq === "0" ? "–" : chunk.producer_name || "#" + chunk.producer);

/** Who stands for a chunk, and how much of all stake that is. */
export function endorsedBy(chunk) {
  const certificate = chunk.certificate;
  if (!certificate) return chunk.shard === 0 && chunk.seq !== "0" ? "everybody" : "–";
  const share = Number(certificate.power) / Number(certificate.total_power);
  return wrap(namesOf(certificate.endorsers), el("span", { class: "quiet" }, ` (${percent(share)})`));
}

export function needed(committee) {
  if (committee.unit === "mandates") return `${committee.needed} of ${committee.total} mandates`;
  return ["more than ", percent((Number(committee.needed) - 1) / Number(committee.total)), " of all stake"];
}

export const CHUNK_HEADER = ["chunk", "block", "view", "producer", "endorsed by", "transactions", "fees", "name"];

export const chunkRow = (c) => [linkChunk(c.shard, c.seq), linkBlock(c.height), c.created_view, producerOf(c), endorsedBy(c),
  c.tx_count, amount(c.fees), link("#/chunk/" + c.chunk_hash, c.chunk_hash)];

/** Which packets a chunk took or sent, by the shard at the other end. */
function stretches(list, way) {
  if (!list) return "not known: from before this node's history";
  if (!list.length) return "none";
  return list.map((s, i) => {
    const [src, dst, other] = way(s);
    const last = BigInt(s.first) + BigInt(s.count) - 1n;
    const first = linkPacket({ src, dst, seq: s.first });
    return [i ? "; " : "", "number ", first, s.count > 1 ? [" to ", linkPacket({ src, dst, seq: String(last) })] : "", other];
  });
}

export async function showChunk(shard, seq) {
  const chunk = await read(seq ? `/shard/${shard}/chunk/${seq}` : "/chunk/" + shard);
  const certificate = chunk.certificate;
  show(el("h1", {}, `Chunk ${chunk.seq} of shard ${chunk.shard}`),
    facts([
      ["name", el("code", {}, chunk.chunk_hash)],
      ["shard", linkShard(chunk.shard)],
      ["in block", linkBlock(chunk.height)],
      ["epoch", linkEpoch(chunk.epoch)],
      ["made in view", chunk.created_view],
      ["producer", producerOf(chunk)],
      ["stands on", [chunk.seq === "1" ? "the genesis state" : ["chunk ", linkChunk(chunk.shard, String(BigInt(chunk.seq) - 1n))],
        " and block ", link("#/block/" + chunk.anchor, chunk.anchor)]],
      ["state", [code(chunk.pre_root), " → ", code(chunk.post_root)]],
      ["packets taken", stretches(chunk.consumed, (s) => [s.src, chunk.shard, ` from shard ${s.src}`])],
      ["packets sent", stretches(chunk.sent, (s) => [chunk.shard, s.dst, ` to shard ${s.dst}`])],
      ["fees burned", amount(chunk.fees)],
      ["work", chunk.work],
      ["size", chunk.bytes + " bytes"],
    ]),
    el("h2", {}, "Endorsed by"),
    certificate ? [
      facts([["of all stake", meter(Number(certificate.power) / Number(certificate.total_power))],
        ["needed", certificate.committee && needed(certificate.committee)],
        ["a bad chunk is", certificate.committee && certificate.committee.security]]),
      table(["validator", "power"], certificate.endorsers.map((e) => [nameOf(e), amount(e.power)]))]
      : el("p", {}, chunk.shard === 0 ? "Everybody executes the root shard." : "Its block is not here."),
    el("h2", {}, "Transactions"),
    chunk.tx_count === 0 ? el("p", {}, "None.")
      : chunk.tx_ids ? table(["transaction"], chunk.tx_ids.map((id) => [linkTx(id)]))
      : el("p", {}, `${chunk.tx_count}, which only those who follow the shard have.`),
    json(chunk));
}
