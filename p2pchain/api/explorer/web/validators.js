// Validators by epoch.

import { read } from "./api.js";
import { eventTable } from "./blocks.js";
import { el, facts, json, show, table } from "./dom.js";
import { ownStatus, slashed, stakeStatus } from "./stakes.js";
import { follow } from "./tip.js";
import { amount, code, linkAddress, linkBlock, linkEpoch, meter, percent } from "./words.js";

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

export async function showValidators() {
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
  if (location.hash === hash) follow(load);
}

export async function showEpoch(number) {
  const [epoch, list] = await Promise.all([read("/epochs/" + number), read("/validators?epoch=" + number)]);
  show(el("h1", {}, "Epoch " + epoch.epoch), epochFacts(epoch),
    el("p", {}, number > 0 ? ["The one before: ", linkEpoch(number - 1), ". "] : "",
      epoch.state === "NEXT" ? "" : ["The one after: ", linkEpoch(Number(number) + 1), "."]),
    el("h2", {}, "Validators"), validatorTable(list),
    epoch.state === "OVER" ? [el("h2", {}, "What its end brought about, in block ", linkBlock(epoch.last_height)),
      eventTable(epoch.events)] : [],
    json(epoch));
}
