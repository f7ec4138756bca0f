// Stakes: what is bonded, on its way back, or taken.

import { el, facts, table } from "./dom.js";
import { amount, code, linkBlock, linkEpoch, short } from "./words.js";

const STATUS_WORDS = { ACTIVE: "active", DOWN: "down: missed too many votes", TOMBSTONED: "convicted", LEAVING: "leaving",
  LEFT: "gone" };

export const stakeStatus = (word) => el("span", { class: word === "ACTIVE" ? "good" : word === "TOMBSTONED" ? "bad" : "quiet" },
  STATUS_WORDS[word] || word);

/** Of a stake: one that was taken out is not active, though its key may vote for a while yet. */
export function ownStatus(s) {
  const isTaken = s.status === "ACTIVE" && s.bonded === "0";
  return stakeStatus(!isTaken ? s.status : s.power === "0" && s.next_power === "0" ? "LEFT" : "LEAVING");
}

const payouts = (s) => s.unbonding.map((u, i) => [i ? el("br") : "", amount(u.amount),
  el("span", { class: "quiet" }, " at the end of epoch ", linkEpoch(u.due_epoch))]);

/** An account's stake: what is bonded, what is on its way back, what was taken. */
export function stakeFacts(stake) {
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

const OFFENCE_WORDS = { double_notarize: "two Notarize votes", double_finalize: "two Finalize votes",
  nullify_and_finalize: "Nullify and Finalize", double_endorse: "two endorsements in a slot",
  bad_endorse: "a wrong chunk endorsed", double_produce: "two chunks in a slot" };

/** Who signed two things that exclude each other, by what proof, and what it has cost. */
export function slashed(stakes, evidence) {
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
