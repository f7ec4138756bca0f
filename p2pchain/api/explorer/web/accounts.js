// Addresses and their payment channels.

import { cursor, read } from "./api.js";
import { TX_HEADER, txRow } from "./blocks.js";
import { el, facts, json, paged, show, table } from "./dom.js";
import { stakeFacts } from "./stakes.js";
import { amount, linkAddress, linkBlock, linkChannel } from "./words.js";

export async function showAddress(address) {
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

export async function showChannel(id) {
  const channel = await read("/channels/" + id);
  show(
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
