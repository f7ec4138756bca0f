// The state shards, who works for them, and how they will change.

import { cursor, read } from "./api.js";
import { CHUNK_HEADER, chunkRow, endorsedBy, needed, producerOf } from "./chunks.js";
import { el, facts, json, paged, show, table, wrap } from "./dom.js";
import { follow } from "./tip.js";
import {
  amount, code, link, linkAddress, linkBlock, linkChunk, linkEpoch, linkShard, linkWay, nameOf,
  namesOf, percent, short,
} from "./words.js";

const layersOf = (s) => (s.layers ? `${s.model} [${s.layers[0]}, ${s.layers[1]})` : "stake, models, parameters");
const phaseOf = (word) => el("span", { class: { active: "good", halted: "bad" }[word] || "quiet" }, word);
const hostOf = (h) => [el("a", { href: "#/address/" + h.account, title: h.status }, h.name), `\u00a0[${h.layers[0]},\u00a0${h.layers[1]})`];

/** Each step of a slot: who produces if those before did not. */
const turns = (producers) => producers.map((p, i) => [i ? ", then " : "", nameOf(p),
  el("span", { class: "quiet" }, ` (${p.role})`)]);

function changeOf(change) {
  if (change.kind === "split_shard") return `shard ${change.shard} is split at layer ${change.layer}`;
  if (change.kind === "add_model") return `${change.name} joins, in ${change.shards} shards`;
  return ["a model leaves: ", code(change.model_id)];
}

/** What the next epoch's shards are where they differ, and what is proposed. */
function changes(layout) {
  const isNew = layout.next_layout_root !== layout.layout_root;
  return [isNew ? [el("h2", {}, "From epoch ", linkEpoch(layout.epoch + 1), " on"),
    table(["shard", "layers", "phase"], layout.next_shards.map((s) => [
      s.shard_id, `${s.model} [${s.start}, ${s.end})`, phaseOf(s.phase)]))] : [],
  layout.proposals.length ? [el("h2", {}, "Proposed changes"),
    table(["number", "change", "by", "until epoch", "votes", "power for it"], layout.proposals.map((p) => [
      p.number, wrap(changeOf(p.change)), p.name || linkAddress(p.account), linkEpoch(p.last_epoch),
      wrap(p.votes.map((v) => v.name || short(v.account)).join(", ")),
      percent(Number(p.power) / Number(p.total_power))]))] : []];
}

export async function showShards() {
  const hash = location.hash;
  async function load() {
    const [{ shards }, layout] = await Promise.all([read("/shards"), read("/layout")]);
    if (location.hash !== hash) return;
    show(el("h1", {}, "State shards"),
      el("p", { class: "quiet" }, "Each is the ledger of a range of layers, with its own state; packets carry money between them."),
      table(["shard", "layers", "phase", "newest chunk", "in block", "producer", "endorsed by", "waiting packets", "hosts"],
        shards.map((s) => [linkShard(s.shard), layersOf(s), phaseOf(s.phase),
          s.chunk.seq === "0" ? "none yet" : linkChunk(s.shard, s.chunk.seq), linkBlock(s.chunk_height),
          producerOf(s.chunk), endorsedBy(s.chunk), s.backlog,
          s.followed ? wrap(s.hosts.map((h, i) => [i ? ", " : "", hostOf(h)])) : "not known here"])),
      el("h2", {}, "On duty now"),
      table(["shard", "view", "producers", "committee", "a chunk needs", "a bad chunk is"],
        shards.filter((s) => s.duty).map(({ shard, duty }) => [linkShard(shard), duty.view, wrap(turns(duty.producers)),
          wrap(namesOf(duty.committee.members)), wrap(needed(duty.committee)), wrap(duty.committee.security)])),
      changes(layout),
      el("h2", {}, "Packets between shards"),
      table(["from", "to", "sent", "consumed", "waiting"], shards.flatMap((s) => s.links.map((l) => [
        s.shard, linkWay(s.shard, l.dst, l.dst), l.sent, l.consumed, l.backlog]))));
  }
  await load();
  if (location.hash === hash) follow(load);
}

export async function showShard(id) {
  const shard = await read("/shard/" + id);
  const { tree, duty } = shard;
  show(el("h1", {}, "Shard " + id),
    facts([["layers", layersOf(shard)],
      ["phase", phaseOf(shard.phase)],
      ["halted", shard.halt && ["since block ", linkBlock(shard.halt.height), ": fraud was proven in ",
        link("#/chunk/" + shard.halt.chunk_hash, shard.halt.chunk_hash), ", so its state is nobody's and nothing goes on"]],
      ["since epoch", shard.changed_epoch ? linkEpoch(shard.changed_epoch) : null],
      ["state root", el("code", {}, shard.state_root)],
      ["state", !tree ? "not here: this node does not follow the shard" : `${tree.keys_exact ? "" : "about "}${tree.keys} keys, ${tree.levels} levels over ${tree.buckets} buckets`],
      ["fees burned", shard.totals && amount(shard.totals.burned)]]),
    duty ? [el("h2", {}, "Hosts"),
      table(["name", "layers", "status", "registered in shard", "account"], shard.hosts.map((h) => [
        h.name, `[${h.layers[0]}, ${h.layers[1]})`, h.status, linkShard(h.home), linkAddress(h.account)])),
      el("h2", {}, "On duty in epoch ", linkEpoch(duty.epoch), ", view " + duty.view),
      facts([["producers", turns(duty.producers)],
        ["hosts of the epoch", namesOf(duty.hosts)],
        ["custodians of the epoch", namesOf(duty.custodians)],
        ["a chunk needs", needed(duty.committee)],
        ["a bad chunk is", duty.committee.security]]),
      table(["endorser", duty.committee.unit === "mandates" ? "mandates" : "power"], duty.committee.members.map((m) => [
        nameOf(m), duty.committee.unit === "mandates" ? m.weight : amount(m.weight)]))] : "",
    el("h2", {}, "Chunks"),
    paged(CHUNK_HEADER, async (after) => {
      const page = await read(cursor(`/shard/${id}/chunks`, after));
      return { rows: page.chunks.map(chunkRow), next: page.next };
    }),
    el("h2", {}, "Packets"),
    table(["to", "sent", "consumed", "waiting"], shard.links.map((l) => [
      linkWay(shard.shard, l.dst, l.dst), l.sent, l.consumed, l.backlog])),
    json(shard));
}
