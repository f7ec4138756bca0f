// How one thing is written: sums, shares, times, names, and links to their pages.

import { el } from "./dom.js";

export const short = (text) => (text.length > 22 ? text.slice(0, 12) + "…" + text.slice(-6) : text);
export const link = (href, text) => el("a", { href, class: "mono", title: text }, short(text));
export const linkTx = (id) => link("#/tx/" + id, id);
export const linkAddress = (address) => link("#/address/" + address, address);
export const linkBlock = (height) => el("a", { href: "#/block/" + height }, height);
export const linkEpoch = (number) => el("a", { href: "#/epoch/" + number }, number);
export const linkChannel = (id) => link("#/channel/" + id, id);
export const linkShard = (shard) => el("a", { href: "#/shard/" + shard }, shard === 0 ? "0 (root)" : shard);
export const linkChunk = (shard, seq) => el("a", { href: `#/chunk/${shard}/${seq}` }, seq);
export const linkPacket = (packet) => el("a", { href: `#/packet/${packet.src}/${packet.dst}/${packet.seq}` }, packet.seq);
export const linkWay = (src, dst, text) => el("a", { href: `#/packets/${src}/${dst}` }, text);
export const code = (text) => el("code", { title: text }, short(text));

export function amount(atoms) {
  const digits = String(atoms).padStart(10, "0");
  const fraction = digits.slice(-9).replace(/0+$/, "");
  const whole = digits.slice(0, -9).replace(/\B(?=(\d{3})+$)/g, ",");
  const coins = whole + (fraction ? "." + fraction : "") + " P2P";
  return el("span", { title: atoms + " atoms" }, coins);
}

export const time = (text) => el("time", { datetime: text, title: text }, text.slice(0, 19).replace("T", " "));
export const percent = (share) => (100 * share).toFixed(share === 1 ? 0 : 1) + "\u00a0%";

/** How much of something there is, as a bar with its number. */
export function meter(share, kind) {
  const fill = el("span", { class: "fill " + (kind || ""), style: { width: 100 * share + "%" } });
  return el("span", { class: "meter" }, el("span", { class: "track" }, fill), percent(share));
}

export const nameOf = (v) => v.name || "#" + v.index;
export const namesOf = (list) => (list.length ? list.map(nameOf).join(", ") : "nobody");
