// The explorer's page: reads /api/v1 and shows it.  No library, no build step.
// Text from the chain is only ever set as text, never as markup.
"use strict";

const POLL_MS = 1000;
const main = document.getElementById("main");
const tip = document.getElementById("tip");

// -- small helpers -------------------------------------------------------------------

function el(name, attributes, ...children) {
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

async function read(path) {
  const response = await fetch("/api/v1" + path);
  const body = await response.json();
  if (!response.ok) throw new Error(body.error ? body.error.message : response.statusText);
  return body;
}

const short = (text) => (text.length > 22 ? text.slice(0, 12) + "…" + text.slice(-6) : text);
const link = (href, text) => el("a", { href, class: "mono", title: text }, short(text));
const linkTx = (id) => link("#/tx/" + id, id);
const linkAddress = (address) => link("#/address/" + address, address);
const linkBlock = (height) => el("a", { href: "#/block/" + height }, height);
const code = (text) => el("code", { title: text }, short(text));
const linkEpoch = (number) => el("a", { href: "#/epoch/" + number }, number);
const linkChannel = (id) => link("#/channel/" + id, id);

function amount(atoms) {
  const digits = String(atoms).padStart(10, "0");
  const fraction = digits.slice(-9).replace(/0+$/, "");
  const whole = digits.slice(0, -9).replace(/\B(?=(\d{3})+$)/g, ",");
  const coins = whole + (fraction ? "." + fraction : "") + " P2P";
  return el("span", { title: atoms + " atoms" }, coins);
}

function table(header, rows) {
  if (!rows.length) return el("p", { class: "quiet" }, "Nothing yet.");
  return el("div", { class: "scroll" }, el("table", {},
    el("thead", {}, el("tr", {}, header.map((text) => el("th", {}, text)))),
    el("tbody", {}, rows.map((cells) => el("tr", {}, cells.map((cell) => el("td", {}, cell)))))));
}

function facts(pairs) {
  return el("dl", {}, pairs.filter(([, value]) => value !== null && value !== undefined)
    .map(([name, value]) => [el("dt", {}, name), el("dd", {}, value)]));
}

const time = (text) => el("time", { datetime: text, title: text }, text.slice(0, 19).replace("T", " "));
const outcome = (tx) => el("span", { class: tx.outcome.ok ? "good" : "bad", title: tx.outcome.message },
  tx.outcome.ok ? "ok" : tx.outcome.code);

function json(value) {
  return el("details", {}, el("summary", {}, "JSON"), el("pre", {}, JSON.stringify(value, null, 2)));
}

/** A list that grows by pages: `load(after)` gives {rows, next}. */
function paged(header, load) {
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

const cursor = (path, after) => path + (after ? (path.includes("?") ? "&" : "?") + "after=" + encodeURIComponent(after) : "");

/** Shows a page; lists in it are laid flat. */
function show(...parts) {
  main.replaceChildren(...parts.flat(Infinity));
}

// -- pages ---------------------------------------------------------------------------

const blockRow = (block) => [linkBlock(block.height), time(block.time), block.proposer_name || "#" + block.proposer,
  block.tx_count, block.packet_count, block.size + " B", link("#/block/" + block.height, block.block_hash)];
const BLOCK_HEADER = ["height", "time", "proposer", "transactions", "packets", "size", "hash"];

async function showBlocks() {
  const list = await read("/blocks");
  const rows = table(BLOCK_HEADER, list.blocks.map(blockRow));
  main.replaceChildren(el("h1", {}, "Blocks"), rows);
  if (list.first_height !== "0") {
    main.append(el("p", {}, "This node began with a snapshot: its history starts at block "
      + list.first_height + "."));
  }
  let newest = BigInt(list.height);
  onTip = async (height) => {
    if (BigInt(height) <= newest) return;
    const fresh = await read("/blocks");
    const body = rows.querySelector("tbody");
    for (const block of fresh.blocks.filter((b) => BigInt(b.height) > newest).reverse()) {
      body.prepend(el("tr", { class: "fresh" }, blockRow(block).map((cell) => el("td", {}, cell))));
      if (body.rows.length > 50) body.lastChild.remove();
    }
    newest = BigInt(fresh.height);
  };
}

async function showBlock(reference) {
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

const TX_HEADER = ["transaction", "block", "shard", "kind", "sender", "fee", "outcome"];
const txRow = (tx) => [linkTx(tx.tx_id), linkBlock(tx.height), tx.shard, tx.kind,
  linkAddress(tx.sender), amount(tx.outcome.fee), outcome(tx)];

async function showTx(id) {
  const tx = await read("/tx/" + id);
  main.replaceChildren(
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

async function showAddress(address) {
  const account = await read("/address/" + address);
  show(
    el("h1", {}, "Address"),
    facts([["address", el("code", {}, account.address)], ["name", account.name], ["total", amount(account.total)]]),
    account.stake ? stakeFacts(account.stake) : "",
    el("h2", {}, "By shard"),
    account.unknown_shards.length ? el("p", {},
      `This node does not follow shards ${account.unknown_shards.join(", ")}, and no peer shows just now what is there.`) : "",
    table(["shard", "balance", "maturing", "nonce"], account.shards.map((s) => [
      el("a", { href: "#/shard/" + s.shard }, s.shard), amount(s.balance), amount(s.maturing), s.nonce])),
    el("h2", {}, "Channels"),
    paged(CHANNEL_HEADER, async (after) => {
      const page = await read(cursor("/channels?address=" + address, after));
      return { rows: page.channels.map(channelRow), next: page.next };
    }),
    el("h2", {}, "Events"),
    paged(["block", "event", "amount"], async (after) => {
      const page = await read(cursor("/address/" + address + "/events", after));
      return { rows: page.events.map((e) => [linkBlock(e.height), e.kind.replaceAll("_", " "), amount(e.amount)]),
        next: page.next };
    }),
    el("h2", {}, "Transactions"),
    paged(TX_HEADER, async (after) => {
      const page = await read(cursor("/address/" + address + "/txs", after));
      return { rows: page.transactions.map(txRow), next: page.next };
    }));
}

const CHANNEL_HEADER = ["channel", "status", "shard", "payer", "payee", "deposit", "settled"];
const channelRow = (c) => [linkChannel(c.channel_id), c.status, c.shard, linkAddress(c.payer),
  linkAddress(c.payee), amount(c.deposit), amount(c.settled)];

async function showChannel(id) {
  const channel = await read("/channels/" + id);
  main.replaceChildren(
    el("h1", {}, "Payment channel"),
    facts([
      ["id", el("code", {}, channel.channel_id)], ["status", channel.status],
      ["payer", linkAddress(channel.payer)], ["payee", linkAddress(channel.payee)],
      ["deposit", amount(channel.deposit)], ["settled", amount(channel.settled)],
      ["unit price", channel.unit_price + " atoms"],
      ["shard", el("a", { href: "#/shard/" + channel.shard }, channel.shard)],
      ["opened in block", linkBlock(channel.opened_height)],
      ["settlements", channel.settlements],
    ]),
    json(channel));
}

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

async function showProviders() {
  const [{ providers }, { models }] = await Promise.all([read("/providers"), read("/models")]);
  main.replaceChildren(el("h1", {}, "Providers by layer"), ...models.flatMap((model) => {
    const own = providers.filter((p) => p.model_id === model.model_id);
    return [el("h2", {}, model.name), coverage(model, own),
      table(["node", "layers", "status", "in / layer-token", "out / layer-token", "step", "collateral", "account"],
        own.map((p) => [p.name, `[${p.start}, ${p.end})`, p.status, p.input_price + " atoms",
          p.output_price + " atoms", (p.measured_us / 1000).toFixed(2) + " ms",
          amount(p.collateral), linkAddress(p.account)]))];
  }));
}

async function showWork() {
  main.replaceChildren(
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

const linkShard = (shard) => el("a", { href: "#/shard/" + shard }, shard === 0 ? "0 (root)" : shard);
const linkChunk = (shard, seq) => el("a", { href: `#/chunk/${shard}/${seq}` }, seq);
const linkPacket = (packet) => el("a", { href: `#/packet/${packet.src}/${packet.dst}/${packet.seq}` }, packet.seq);
const linkWay = (src, dst, text) => el("a", { href: `#/packets/${src}/${dst}` }, text);
const layersOf = (s) => (s.layers ? `${s.model} [${s.layers[0]}, ${s.layers[1]})` : "stake, models, parameters");
const nameOf = (v) => v.name || "#" + v.index;
const namesOf = (list) => (list.length ? list.map(nameOf).join(", ") : "nobody");
/** Text that may be broken into lines in a table. */
const wrap = (...parts) => el("span", { class: "wrap" }, ...parts);
const phaseOf = (word) => el("span", { class: { active: "good", halted: "bad" }[word] || "quiet" }, word);
const producerOf = (chunk) => (chunk.seq === "0" ? "–" : chunk.producer_name || "#" + chunk.producer);
const hostOf = (h) => [el("a", { href: "#/address/" + h.account, title: h.status }, h.name), `\u00a0[${h.layers[0]},\u00a0${h.layers[1]})`];

/** Who stands for a chunk, and how much of all stake that is. */
function endorsedBy(chunk) {
  const certificate = chunk.certificate;
  if (!certificate) return chunk.shard === 0 && chunk.seq !== "0" ? "everybody" : "–";
  const share = Number(certificate.power) / Number(certificate.total_power);
  return wrap(namesOf(certificate.endorsers), el("span", { class: "quiet" }, ` (${percent(share)})`));
}

function needed(committee) {
  if (committee.unit === "mandates") return `${committee.needed} of ${committee.total} mandates`;
  return ["more than ", percent((Number(committee.needed) - 1) / Number(committee.total)), " of all stake"];
}

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

async function showShards() {
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
          wrap(s.hosts.map((h, i) => [i ? ", " : "", hostOf(h)]))])),
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
  if (location.hash === hash) onTip = load;
}

const CHUNK_HEADER = ["chunk", "block", "view", "producer", "endorsed by", "transactions", "fees", "name"];
const chunkRow = (c) => [linkChunk(c.shard, c.seq), linkBlock(c.height), c.created_view, producerOf(c), endorsedBy(c),
  c.tx_count, amount(c.fees), link("#/chunk/" + c.chunk_hash, c.chunk_hash)];

async function showShard(id) {
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

async function showChunk(shard, seq) {
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

const packetState = (p) => el("span", { class: p.state === "consumed" ? "good" : "quiet" }, p.state);

async function showPackets(src, dst) {
  main.replaceChildren(el("h1", {}, `Packets from shard ${src} to shard ${dst}`),
    paged(["number", "kind", "amount", "state", "sent in", "consumed in"], async (after) => {
      const page = await read(cursor(`/packets/${src}/${dst}`, after));
      const rows = page.packets.map((p) => [linkPacket(p), p.kind, amount(p.amount), packetState(p),
        linkBlock(p.source_height), p.consumed_height ? linkBlock(p.consumed_height) : "–"]);
      return { rows, next: page.next };
    }));
}

async function showPacket(src, dst, seq) {
  const packet = await read(`/packets/${src}/${dst}/${seq}`);
  show(el("h1", {}, `Packet ${seq} from shard ${src} to shard ${dst}`),
    facts([
      ["kind", packet.kind], ["amount", amount(packet.amount)], ["state", packetState(packet)],
      ["for", packet.content && linkAddress(packet.content.recipient)],
      ["of", packet.content && packet.content.sender && linkAddress(packet.content.sender)],
      ["sent", ["in block ", linkBlock(packet.source_height), packet.source_chunk
        ? [", chunk ", linkChunk(packet.src, packet.source_chunk)] : ""]],
      ["consumed", packet.consumed_height ? ["in block ", linkBlock(packet.consumed_height)] : "not yet"],
      ["proof", [`packet ${packet.index + 1} of ${packet.count} under `, packet.out_root ? code(packet.out_root) : "its chunk"]],
      ["all packets", linkWay(packet.src, packet.dst, `from shard ${src} to shard ${dst}`)],
    ]),
    json(packet));
}

const percent = (share) => (100 * share).toFixed(share === 1 ? 0 : 1) + "\u00a0%";

/** How much of something there is, as a bar with its number. */
function meter(share, kind) {
  const fill = el("span", { class: "fill " + (kind || ""), style: { width: 100 * share + "%" } });
  return el("span", { class: "meter" }, el("span", { class: "track" }, fill), percent(share));
}

const STATUS_WORDS = { ACTIVE: "active", DOWN: "down: missed too many votes", TOMBSTONED: "convicted", LEAVING: "leaving",
  LEFT: "gone" };
const stakeStatus = (word) => el("span", { class: word === "ACTIVE" ? "good" : word === "TOMBSTONED" ? "bad" : "quiet" },
  STATUS_WORDS[word] || word);
/** Of a stake: one that was taken out is not active, though its key may vote for a while yet. */
function ownStatus(s) {
  const isTaken = s.status === "ACTIVE" && s.bonded === "0";
  return stakeStatus(!isTaken ? s.status : s.power === "0" && s.next_power === "0" ? "LEFT" : "LEAVING");
}
const payouts = (s) => s.unbonding.map((u, i) => [i ? el("br") : "", amount(u.amount),
  el("span", { class: "quiet" }, " at the end of epoch ", linkEpoch(u.due_epoch))]);

const eventTable = (events) => table(["event", "amount", "accounts", "object"], events.map((event) => [
  event.kind.replaceAll("_", " "), amount(event.amount),
  event.addresses.map((a, i) => [el("a", { href: "#/address/" + a, title: a }, event.names[i] || short(a)), " "]),
  event.object_id === "0x" ? "" : code(event.object_id)]));

/** An account's stake: what is bonded, what is on its way back, what was taken. */
function stakeFacts(stake) {
  return [el("h2", {}, "Stake"), facts([
    ["status", ownStatus(stake)],
    ["bonded", amount(stake.bonded)],
    ["voting power now", amount(stake.power)],
    ["in the next epoch", amount(stake.next_power)],
    ["unbonding", stake.unbonding.length ? payouts(stake) : null],
    ["earned", amount(stake.rewarded)],
    ["slashed", stake.slashed === "0" ? null : amount(stake.slashed)],
    ["offence", stake.offence && ["in epoch ", linkEpoch(stake.offence.epoch), ", slashed in epoch ",
      linkEpoch(stake.offence.slashed_epoch)]],
    ["key", code(stake.public_key)],
  ])];
}

function epochFacts(epoch) {
  const length = Number(epoch.last_height) - Number(epoch.first_height) + 1;
  return facts([
    ["state", epoch.state.toLowerCase()],
    ["blocks", `${epoch.first_height} to ${epoch.last_height}`],
    ["progress", epoch.blocks_to_go ? [meter(epoch.blocks / length), `, ${epoch.blocks_to_go} blocks to go`] : null],
    ["validators", epoch.validators],
    ["total power", amount(epoch.total_power)],
    ["reward", amount(epoch.reward)],
    ["paid out", epoch.rewarded && amount(epoch.rewarded)],
    ["seed", code(epoch.seed)],
    ["set", code(epoch.validators_root)],
    ["next set", epoch.next_validators_root && code(epoch.next_validators_root)],
  ]);
}

const validatorTable = (list) => table(["index", "name", "power", "share", "attendance", "status", "account", "key"],
  list.validators.map((v) => [v.index, v.name || "?", amount(v.power), percent(v.share),
    v.attendance === null ? "–" : meter(v.attendance, v.attendance < 0.5 ? "low" : ""), stakeStatus(v.status),
    v.account ? linkAddress(v.account) : "–", code(v.public_key)]));

const OFFENCE_WORDS = { double_notarize: "two Notarize votes", double_finalize: "two Finalize votes",
  nullify_and_finalize: "Nullify and Finalize", double_endorse: "two endorsements in a slot",
  bad_endorse: "a wrong chunk endorsed", double_produce: "two chunks in a slot" };

/** Who signed two things that exclude each other, by what proof, and what it has cost. */
function slashed(stakes, evidence) {
  const pieces = evidence.evidence.flatMap((e) => e.convicted.map((c) => [c.account, e]));
  const proofs = new Map(pieces.reverse());
  const convicted = stakes.filter((s) => s.offence);
  if (!convicted.length && !evidence.waiting.length) return [];
  return [el("h2", {}, "Slashed"),
    evidence.waiting.length ? el("p", { class: "bad" },
      `Evidence that waits for a block: ${evidence.waiting.length}`) : "",
    table(["name", "offence", "in epoch", "slashed in", "reported by", "stake then", "taken so far", "the rest"],
      convicted.map((s) => {
        const proof = proofs.get(s.account);
        return [el("a", { href: "#/address/" + s.account }, s.name),
          proof ? OFFENCE_WORDS[proof.offence] || proof.offence : "–",
          [linkEpoch(s.offence.epoch), proof ? `, view ${proof.view}` : ""],
          proof ? ["block ", linkBlock(proof.height)] : ["epoch ", linkEpoch(s.offence.slashed_epoch)],
          proof && proof.reporter ? [proof.reporter.name || short(proof.reporter.account), ", for ", amount(proof.reporter.amount)] : "–",
          amount(s.offence.stake), amount(s.slashed),
          s.unbonding.length ? payouts(s) : s.bonded === "0" ? "–" : [amount(s.bonded), " is locked"]];
      }))];
}

async function showValidators() {
  const hash = location.hash;
  async function load() {
    const [list, epoch, { stakes, ...sums }, evidence] = await Promise.all([
      read("/validators"), read("/epochs/running"), read("/stakes"), read("/evidence?limit=100")]);
    if (location.hash !== hash) return;
    show(el("h1", {}, "Epoch ", linkEpoch(epoch.epoch)), epochFacts(epoch),
      el("h2", {}, "Validators"), validatorTable(list),
      el("h2", {}, "Stakes"),
      facts([["bonded", amount(sums.bonded)], ["unbonding", amount(sums.unbonding)]]),
      table(["name", "status", "bonded", "unbonding", "power next epoch", "earned", "account"], stakes.map((s) => [
        s.name, ownStatus(s), amount(s.bonded), amount(s.unbonding_total), amount(s.next_power),
        amount(s.rewarded), linkAddress(s.account)])),
      slashed(stakes, evidence));
  }
  await load();
  if (location.hash === hash) onTip = load;
}

async function showEpoch(number) {
  const [epoch, list] = await Promise.all([read("/epochs/" + number), read("/validators?epoch=" + number)]);
  show(el("h1", {}, "Epoch " + epoch.epoch), epochFacts(epoch),
    el("p", {}, number > 0 ? ["The one before: ", linkEpoch(number - 1), ". "] : "",
      epoch.state === "NEXT" ? "" : ["The one after: ", linkEpoch(Number(number) + 1), "."]),
    el("h2", {}, "Validators"), validatorTable(list),
    epoch.state === "OVER" ? [el("h2", {}, "What its end brought about, in block ", linkBlock(epoch.last_height)),
      eventTable(epoch.events)] : [],
    json(epoch));
}

async function showModels() {
  const { models } = await read("/models");
  main.replaceChildren(el("h1", {}, "Models"), ...models.flatMap((m) => [el("h2", {}, m.name),
    facts([["id", el("code", {}, m.model_id)], ["architecture", m.architecture], ["layers", m.layers],
      ["hidden size", m.hidden_size], ["vocabulary", m.vocab_size], ["dtype", m.dtype],
      ["least collateral", amount(m.min_collateral)]])]));
}

async function showSearch(query) {
  const { results } = await read("/search?q=" + encodeURIComponent(query));
  if (results.length === 1) {
    location.replace(target(results[0]));
    return;
  }
  main.replaceChildren(el("h1", {}, "Search"), results.length
    ? table(["kind", "what"], results.map((r) => [r.kind, el("a", { href: target(r) }, r.name || r.id)]))
    : el("p", {}, `Nothing is called ${query}.`));
}

function target(result) {
  const pages = { block: "block", transaction: "tx", address: "address", provider: "address",
    validator: "address", channel: "channel", chunk: "chunk", shard: "shard" };
  return pages[result.kind] ? `#/${pages[result.kind]}/${result.id}` : "#/models";
}

// -- routing -------------------------------------------------------------------------

const ROUTES = [
  [/^#\/block\/(\w+)$/, showBlock], [/^#\/tx\/(\w+)$/, showTx], [/^#\/address\/(\w+)$/, showAddress],
  [/^#\/channel\/(\w+)$/, showChannel], [/^#\/providers$/, showProviders], [/^#\/work$/, showWork],
  [/^#\/shards$/, showShards], [/^#\/shard\/(\d+)$/, showShard],
  [/^#\/chunk\/(\d+)\/(\d+)$/, showChunk], [/^#\/chunk\/(0x\w+)$/, showChunk],
  [/^#\/packet\/(\d+)\/(\d+)\/(\d+)$/, showPacket],
  [/^#\/packets\/(\d+)\/(\d+)$/, showPackets], [/^#\/validators$/, showValidators],
  [/^#\/epoch\/(\d+)$/, showEpoch], [/^#\/models$/, showModels], [/^#\/search\/(.+)$/, (q) => showSearch(decodeURIComponent(q))],
];
let onTip = null;

async function route() {
  onTip = null;
  const hash = location.hash || "#/";
  const found = ROUTES.map(([pattern, show]) => [pattern.exec(hash), show]).find(([match]) => match);
  try {
    await (found ? found[1](...found[0].slice(1)) : showBlocks());
  } catch (error) {
    main.replaceChildren(el("h1", {}, "Not here"), el("p", { class: "bad" }, error.message));
  }
}

async function poll() {
  try {
    const height = await read("/blocks/tip/height");
    tip.textContent = "block " + height;
    tip.className = "";
    if (onTip) await onTip(height);
  } catch (error) {
    tip.textContent = "node does not answer";
    tip.className = "bad";
  }
  setTimeout(poll, POLL_MS);
}

document.getElementById("search").addEventListener("submit", (event) => {
  event.preventDefault();
  const query = new FormData(event.target).get("q").trim();
  if (query) location.hash = "#/search/" + encodeURIComponent(query);
});
addEventListener("hashchange", route);
route();
poll();
