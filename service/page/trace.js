/** What the service answered about one input: sites, positions, and a tensor for each quantity. */

import { readSafetensors, writeSafetensors } from "./safetensors.js";
import { oneLine } from "./dom.js";

/** @typedef {{index: number, name: string, layer: number, sublayer: string}} Site */
/** @typedef {{axes: string[], shape: number[], data: Float32Array, unit?: string, nonfinite?: number}} Tensor */
/** @typedef {{ids: number[], text: string[], is_special?: boolean[], is_continuation?: boolean[]}} Tokens */

const KEY = "ddl.gates";

export class Trace {
  /** @param {any} head the answer without its results @param {any} result one of its results @param {Map<string, Tensor>} tensors @param {Map<string, Tensor>} [baseline] */
  constructor(head, result, tensors, baseline = new Map()) {
    this.head = head;
    this.result = result;
    this.tensors = tensors;
    this.baseline = baseline;
    /** @type {Site[]} */
    this.sites = head.sites;
    this.rule = head.update_rule ?? "delta";
    this.positions = head.positions ?? { kind: "token", grid: null };
    const first = [...tensors.values()].find((tensor) => tensor.axes.includes("position"));
    this.length = first ? first.shape[first.axes.indexOf("position")] : 0;
    this.tokens = chosen(result.tokens ?? null, result.positions, this.length);
  }

  /** @returns {number} */
  get rows() {
    return this.sites.length;
  }

  /** What one column is. @returns {string} */
  get unit() {
    return this.tokens ? "token" : this.grid ? "patch" : "picture";
  }

  /** Rows and columns of an image's patches, or null. @returns {[number, number] | null} */
  get grid() {
    const grid = this.positions.grid;
    return grid && grid[0] * grid[1] === this.length ? grid : null;
  }

  /** Quantities with one number for each site and position. */
  get names() {
    return [...this.tensors.keys()].filter((name) => this.tensors.get(name)?.axes.join() === "site,position");
  }

  /** @param {string} name @param {number} site @param {number} position @returns {number | undefined} */
  value(name, site, position) {
    return this.tensors.get(name)?.data[site * this.length + position];
  }

  /** @param {number} position */
  positionName(position) {
    if (this.tokens) return `“${oneLine(this.tokens.text[position] ?? "")}” (token ${position + 1})`;
    const grid = this.grid;
    return grid ? `patch ${Math.floor(position / grid[1]) + 1} | ${(position % grid[1]) + 1}` : this.length === 1 ? "the picture" : `position ${position + 1}`;
  }

  /** The trace with columns added on the right. @param {number[]} ids @param {string[]} texts @param {Map<string, Float32Array>} columns site by column @param {number} count */
  extended(ids, texts, columns, count) {
    const tensors = new Map();
    for (const [name, added] of columns) {
      const old = this.tensors.get(name);
      const length = this.length + count, data = new Float32Array(this.rows * length).fill(NaN);
      for (let site = 0; site < this.rows; site++) {
        if (old) data.set(old.data.subarray(site * this.length, (site + 1) * this.length), site * length);
        data.set(added.subarray(site * count, (site + 1) * count), site * length + this.length);
      }
      tensors.set(name, { axes: ["site", "position"], shape: [this.rows, length], data });
    }
    const old = this.tokens ?? { ids: [], text: [] };
    const tokens = { ids: [...old.ids, ...ids], text: [...old.text, ...texts] };
    return new Trace(this.head, { ...this.result, tokens }, tensors);
  }

  /** The file form: every tensor, with all that describes them. */
  toFile() {
    const { tensors: _, baseline, ...rest } = this.result;
    const { data: __, results: ___, ...head } = this.head;
    const describe = (/** @type {Map<string, Tensor>} */ of) =>
      Object.fromEntries([...of].map(([name, { data: _, ...about }]) => [name, about]));
    const result = { ...rest, tensors: describe(this.tensors), ...(baseline ? { baseline: { ...baseline, tensors: describe(this.baseline) } } : {}) };
    const named = [...this.tensors, ...[...this.baseline].map(([name, t]) => /** @type {[string, Tensor]} */ ([`baseline/${name}`, t]))];
    return writeSafetensors({ [KEY]: JSON.stringify({ ...head, results: [result] }) }, named);
  }
}

/** The tokens of the columns: an answer about some positions still echoes all tokens. @param {any} tokens @param {number[] | undefined} columns @param {number} length @returns {Tokens | null} */
function chosen(tokens, columns, length) {
  if (!tokens) return null;
  const pick = (/** @type {any[] | undefined} */ list) => (columns && list && list.length !== length ? columns.map((column) => list[column]) : list);
  const ids = pick(tokens.ids) ?? [];
  return { ids, text: (pick(tokens.text) ?? []).map((text, i) => text ?? `#${ids[i]}`), is_special: pick(tokens.is_special), is_continuation: pick(tokens.is_continuation) };
}

/** @param {ArrayBuffer} buffer @returns {Trace[]} */
export function tracesOfSafetensors(buffer) {
  const { metadata, tensors } = readSafetensors(buffer);
  if (!metadata[KEY]) throw new Error("the file holds tensors, but no gates: it has no “ddl.gates” in its metadata");
  const head = JSON.parse(metadata[KEY]);
  const many = head.results.length > 1;
  return head.results.map((/** @type {any} */ result, /** @type {number} */ index) => {
    const pick = (/** @type {Record<string, any>} */ described, /** @type {string} */ prefix) => {
      const found = new Map();
      for (const [name, about] of Object.entries(described ?? {})) {
        const stored = tensors.get(`${prefix}${name}`) ?? tensors.get(name.startsWith(prefix) ? name : `${many ? index : 0}/${prefix}${name}`);
        if (stored) found.set(name, { ...about, shape: stored.shape, data: stored.data });
      }
      return found;
    };
    const prefix = many ? `${index}/` : "";
    return new Trace(head, result, pick(result.tensors, prefix), pick(result.baseline?.tensors, `${prefix}baseline/`));
  });
}

/** @param {any} answer @returns {Trace[]} */
export function tracesOfJson(answer) {
  if (!String(answer.schema ?? "").startsWith("ddl.gates/")) throw new Error("the file is JSON, but no answer of the gates API");
  const read = (/** @type {Record<string, any>} */ tensors) =>
    new Map(Object.entries(tensors ?? {}).map(([name, tensor]) => [name, { ...tensor, data: flat(tensor.data) }]));
  return answer.results.map((/** @type {any} */ result) => new Trace(answer, result, read(result.tensors), read(result.baseline?.tensors)));
}

/** @param {any[]} nested @returns {Float32Array} null stands for what is no number */
function flat(nested) {
  return Float32Array.from(nested.flat(9), (value) => (value === null ? NaN : value));
}
