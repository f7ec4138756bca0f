// The newest block, and who wants to hear of it.

import { read } from "./api.js";

const POLL_MS = 1000;
const tip = document.getElementById("tip");

let onTip = null;

/** Lets `load(height)` be called at every poll, until another page is shown. */
export function follow(load) {
  onTip = load;
}

export async function poll() {
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
