/** What the numbers mean, in words. */

import { short } from "./dom.js";

/** @type {Record<string, [string, string]>} label, and what it tells */
export const QUANTITIES = {
  beta: ["Gate β", "0 keeps what the state says, 1 overwrites it with the target, 2 reflects it past the target"],
  eigenvalue: ["What is left, 1−β", "the part of the error that remains: +1 all of it, 0 none, −1 all of it with the other sign"],
  update_ratio: ["Size of the edit", "how much the state changed, relative to its size"],
  e_pre_norm: ["Error before", "distance between what the state says and the target, before the edit"],
  e_post_norm: ["Error after", "the same distance after the edit"],
  erase_norm: ["Erased", "how much of the old content was taken out"],
  write_norm: ["Written", "how much new content was put in"],
  state_norm: ["Size of the state", "length of the state before the edit"],
  k_cos_prev: ["Same place as before", "cosine between this edit's direction and that of the step before it"],
  balance: ["Write against erase", "+1 only writes, −1 only erases"],
  update_norm: ["Change of the state", "length of the edit"],
  survival: ["What survives", "part of what was written here that all later steps leave"],
};

/** @param {string} name */
export const label = (name) => QUANTITIES[name]?.[0] ?? name;

/** The regimes of a gate, with the edges that the service uses. */
export const EDGES = [0.25, 0.75, 1.25];
export const REGIMES = ["keeps", "edits in part", "overwrites", "reflects"];

/** @param {number} beta @param {string} rule */
export function regime(beta, rule = "delta") {
  if (!Number.isFinite(beta)) return "is not a number";
  if (rule === "write_only") return beta < 0.25 ? "writes almost nothing" : beta > 1.25 ? "writes strongly" : "writes";
  return REGIMES[EDGES.filter((edge) => beta >= edge).length];
}

/** Ends and middle of a quantity's scale. @param {string} quantity @param {{low: number, high: number, log: boolean}} scale @param {string} rule @returns {[string, string, string]} */
export function ends(quantity, scale, rule = "delta") {
  if (quantity === "beta" && rule === "write_only") return ["0 writes nothing", "1 writes", "2 writes doubly"];
  if (quantity === "beta") return ["0 keeps", "1 overwrites", "2 reflects"];
  if (quantity === "eigenvalue") return ["+1 all of the error is left", "0 none", "−1 reflected"];
  if (quantity === "compared") return ["−2 second more open", "0 the same", "+2 first more open"];
  if (quantity === "difference") return ["−2 more closed", "0 the same", "+2 more open"];
  return [short(scale.low), scale.log ? "(logarithmic)" : "", short(scale.high)];
}

const SUBLAYERS = { attn: "attention", mlp: "MLP", conv: "convolution" };

/** A place in the network in words. @param {{layer: number, sublayer: string}} site */
export const siteWords = (site) => `layer ${site.layer + 1}, ${SUBLAYERS[site.sublayer]}`;

/** One square as a sentence. @param {import("./trace.js").Trace} trace @param {number} site @param {number} position */
export function sentence(trace, site, position) {
  const at = (/** @type {string} */ name) => trace.value(name, site, position);
  const parts = [`${trace.sites[site].name} · ${trace.positionName(position)}`];
  const beta = at("beta");
  if (beta !== undefined) parts.push(`β ${short(beta)} ${regime(beta, trace.rule)}`);
  if (at("eigenvalue") !== undefined) parts.push(`1−β ${short(at("eigenvalue"))}`);
  if (at("e_pre_norm") !== undefined) parts.push(`error ${short(at("e_pre_norm"))} → ${short(at("e_post_norm"))}`);
  if (at("erase_norm") !== undefined) parts.push(`erased ${short(at("erase_norm"))}`);
  if (at("write_norm") !== undefined) parts.push(`wrote ${short(at("write_norm"))}`);
  if (at("update_ratio") !== undefined) parts.push(`edit/state ${short(at("update_ratio"))}`);
  return parts.join(" · ");
}
