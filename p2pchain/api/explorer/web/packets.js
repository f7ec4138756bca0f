// Packets between shards.

import { cursor, read } from "./api.js";
import { el, facts, json, paged, show } from "./dom.js";
import { amount, code, linkAddress, linkBlock, linkChunk, linkPacket, linkWay } from "./words.js";

const packetState = (p) => el("span", { class: p.state === "consumed" ? "good" : "quiet" }, p.state);

export async function showPackets(src, dst) {
  show(el("h1", {}, `Packets from shard ${src} to shard ${dst}`),
    paged(["number", "kind", "amount", "state", "sent in", "consumed in"], async (after) => {
      const page = await read(cursor(`/packets/${src}/${dst}`, after));
      const rows = page.packets.map((p) => [linkPacket(p), p.kind, amount(p.amount), packetState(p),
        linkBlock(p.source_height), p.consumed_height ? linkBlock(p.consumed_height) : "–"]);
      return { rows, next: page.next };
    }));
}

export async function showPacket(src, dst, seq) {
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
