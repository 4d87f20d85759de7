/** One column opened: what each site read, wanted, erased and wrote, and where it pushed the answer. */

import * as api from "./api.js";
import { byId, h, oneLine, short, show, svg, visible } from "./dom.js";
import { css, packed, paint, scaleOf } from "./colour.js";
import { product } from "./depth.js";
import { regime, siteWords } from "./words.js";

const WIDE = 150;
/** Values of a step as pictures, where value channels are places. */
const FIELDS = [["proj", "it says"], ["v", "it should say"]];

export class TokenView {
  /** @param {HTMLElement} root @param {import("./state.js").State} state @param {{inputs: () => any, fail: (error: unknown) => void, open: (view: string) => void}} page */
  constructor(root, state, page) {
    this.root = root;
    this.state = state;
    this.page = page;
    /** @type {import("./trace.js").Trace | null} what is asked for one position only */
    this.deep = null;
    this.asked = "";
    /** @type {{id: number, text: string}[]} */
    this.targets = [];
  }

  /** @param {string} what */
  update(what) {
    const { trace, shared } = this.state;
    if (!trace || trace.length === 0) return;
    if (shared.position < 0) shared.position = trace.length - 1;
    if (what === "trace") {
      this.asked = "";
      this.deep = null;
      this.targets = [];
    }
    this.draw();
    if (what !== "quantity") this.fetch();
  }

  /** Ask for what the map does not need: survival, contributions, words after each site. */
  async fetch() {
    const { trace, shared, meta } = this.state;
    if (!trace || !meta || trace.head.file) return;
    const wanted = ["survival", "gram", "logit_contrib", "lens_topk", "lens_topk_logprob", ...(meta.value_grid ? ["proj", "v"] : [])].filter((name) => this.state.offers(name));
    const key = `${shared.position}/${this.targets.map((t) => t.id).join()}`;
    if (!wanted.length || key === this.asked) return;
    this.asked = key;
    this.abort?.abort();
    this.abort = new AbortController();
    const request = {
      version: shared.version, inputs: this.page.inputs(), quantities: wanted, select: { positions: [shared.position] },
      lens: { top_k: 3, positions: [shared.position], ...(this.targets.length ? { targets: this.targets.map((t) => t.id) } : {}) },
    };
    try {
      [this.deep] = await api.trace(shared.model, request, this.abort.signal);
      this.draw();
    } catch (error) {
      if (/** @type {Error} */ (error).name !== "AbortError") this.page.fail(error);
    }
  }

  draw() {
    const { trace, shared } = this.state;
    if (!trace) return;
    const p = shared.position, at = (/** @type {string} */ name) => trace.sites.map((_, s) => trace.value(name, s, p));
    const focused = document.activeElement?.id;
    show(this.root, this.head(trace, p), this.table(trace, at), this.fields(), this.expert(trace));
    if (focused) byId(focused)?.focus();
  }

  /** @param {import("./trace.js").Trace} trace @param {number} p */
  head(trace, p) {
    const step = (/** @type {number} */ by, /** @type {string} */ text, /** @type {string} */ label) =>
      h("button", { id: `step${by}`, class: "quiet", "aria-label": label, disabled: p + by < 0 || p + by >= trace.length,
        onclick: () => this.state.select(this.state.shared.site, p + by) }, text);
    const context = trace.tokens
      ? h("p", { class: "context" }, trace.tokens.text.slice(Math.max(0, p - 12), p).map(oneLine).join(""), h("mark", {}, oneLine(trace.tokens.text[p])),
        trace.tokens.text.slice(p + 1, p + 9).map(oneLine).join(""))
      : null;
    return h("div", { class: "tokenhead" }, step(-1, "←", "previous"), h("h2", {}, trace.positionName(p)), step(1, "→", "next"), context, this.target());
  }

  /** Whose score the contributions explain. */
  target() {
    const top = this.deep?.result.prediction?.top ?? this.state.trace?.result.prediction?.top;
    const contrib = this.deep?.tensors.get("logit_contrib");
    if (!contrib || !top?.length || top[0].id === undefined) return null;
    const options = top.slice(0, 5).map((/** @type {any} */ t, /** @type {number} */ i) => h("option", { value: i, selected: this.targets[0]?.id === t.id }, visible(t.text)));
    const minus = top.slice(1, 5).map((/** @type {any} */ t, /** @type {number} */ i) => h("option", { value: `minus${i + 1}`, selected: this.targets.length === 2 && this.targets[1].id === t.id },
      `${visible(top[0].text)} minus ${visible(t.text)}`));
    return h("label", { class: "inline" }, "Explain ", h("select", { id: "target", onchange: (/** @type {any} */ e) => {
      const value = e.target.value;
      this.targets = value.startsWith("minus") ? [top[0], top[+value.slice(5)]] : [top[+value]];
      this.fetch();
    } }, options, minus));
  }

  /** @param {import("./trace.js").Trace} trace @param {(name: string) => (number | undefined)[]} at */
  table(trace, at) {
    const beta = at("beta"), erased = at("erase_norm"), wrote = at("write_norm"), before = at("e_pre_norm"), after = at("e_post_norm"), factor = at("eigenvalue");
    const most = (/** @type {any[][]} */ ...lists) => Math.max(1e-9, ...lists.flat().filter((v) => Number.isFinite(v)).map(Math.abs));
    const edit = most(wrote, erased), error = most(before, after);
    const deep = this.deep && this.deep.rows === trace.rows ? this.deep : null;
    const survival = deep?.tensors.get("survival")?.data, contrib = this.contributions(deep), push = contrib ? most(contrib) : 1;
    const lens = guesses(deep);
    const scale = scaleOf("beta", []);
    const columns = ["step", "gate β", ...(erased[0] !== undefined || wrote[0] !== undefined ? ["erased ◂ ▸ written"] : []), ...(before[0] !== undefined ? ["error before ○ after ●"] : []),
      ...(survival ? ["survives"] : []), ...(contrib ? [`pushes ${this.targetWords()}`] : []), ...(lens ? ["best guess so far"] : [])];
    const rows = trace.sites.map((site, s) => h("tr", { class: s === this.state.shared.site ? "chosen" : null, onclick: () => this.state.select(s, this.state.shared.position) },
      h("th", { scope: "row", title: siteWords(site) }, site.name),
      h("td", {}, gate(beta[s], scale, trace.rule)),
      erased[0] !== undefined || wrote[0] !== undefined ? h("td", {}, opposed(erased[s] ?? 0, wrote[s] ?? 0, edit)) : null,
      before[0] !== undefined ? h("td", {}, dumbbell(before[s] ?? NaN, after[s] ?? NaN, factor[s] ?? 0, error)) : null,
      survival ? h("td", {}, share(survival[s])) : null,
      contrib ? h("td", {}, signed(contrib[s + 1], push)) : null,
      lens ? h("td", { class: "words" }, h("b", {}, visible(lens[s].text)), h("small", {}, lens[s].part)) : null));
    if (contrib) {
      const empty = () => columns.slice(1, columns.length - (lens ? 2 : 1)).map(() => h("td"));
      rows.unshift(h("tr", {}, h("th", { scope: "row" }, "input"), empty(), h("td", {}, signed(contrib[0], push)), lens ? h("td") : null));
      const bias = this.bias(deep);
      if (bias) rows.push(h("tr", {}, h("th", { scope: "row" }, "bias"), empty(), h("td", {}, signed(bias, push)), lens ? h("td") : null));
      rows.push(h("tr", { class: "sum" }, h("th", { scope: "row" }, "sum"), empty(), h("td", {}, h("b", {}, short(contrib.reduce((a, b) => a + b, bias), 3)), h("small", {}, " logit")), lens ? h("td") : null));
    }
    return h("div", { class: "wide" }, h("table", { class: "token" }, h("caption", {}, "From top to bottom, what the network did with this ", trace.unit,
      ". A line that crosses the middle of “error” went past its target.", contrib ? " The last columns: who pushed the answer, adding up to its score, and what the network would have said after each step." : ""),
      h("thead", {}, h("tr", {}, columns.map((text) => h("th", { scope: "col" }, text)))), h("tbody", {}, rows)));
  }

  targetWords() {
    const words = this.targets.map((t) => `“${visible(t.text)}”`);
    return words.length ? words.join(" minus ") : `“${visible(this.deep?.result.prediction?.top?.[0]?.text ?? this.deep?.result.prediction?.top?.[0]?.label ?? "the answer")}”`;
  }

  /** @param {import("./trace.js").Trace | null} deep @returns {number[] | null} the embedding first, then each site */
  contributions(deep) {
    const tensor = deep?.tensors.get("logit_contrib");
    if (!deep || !tensor) return null;
    const targets = tensor.shape[tensor.shape.length - 1];
    return Array.from({ length: deep.rows + 1 }, (_, s) => tensor.data[s * targets] - (this.targets.length === 2 && targets > 1 ? tensor.data[s * targets + 1] : 0));
  }

  /** What the head adds to the score by itself. @param {import("./trace.js").Trace | null} deep */
  bias(deep) {
    const bias = deep?.result.lens?.bias;
    return bias ? bias[0] - (this.targets.length === 2 ? bias[1] ?? 0 : 0) : 0;
  }

  /** What the state says and should say at each place of the picture, on one scale for each step. */
  fields() {
    const { deep, state } = this, grid = state.meta?.value_grid;
    if (!grid || !deep?.tensors.has("v") || !deep.tensors.has("proj")) return null;
    const each = grid[0] * grid[1];
    const of = (/** @type {string} */ name, /** @type {number} */ s) => /** @type {Float32Array} */ (deep.tensors.get(name)?.data).subarray(s * each, (s + 1) * each);
    return h("div", { class: "card" }, h("h2", {}, "What each step read, place by place"),
      h("p", { class: "faint" }, "Purple is above 0, orange below, white is 0. A step reads the state along its direction, and edits it towards the second picture."),
      h("div", { class: "layers" }, deep.sites.map((site, s) => {
        const pair = FIELDS.map(([name]) => of(name, s)), [rows, columns] = stage(grid, pair);
        const most = pair.flatMap((data) => [...data]).reduce((a, b) => Math.max(a, Math.abs(b)), 1e-9);
        return h("figure", { class: "fields" }, pair.map((data, i) => {
          const canvas = h("canvas", { width: columns, height: rows, role: "img", "aria-label": `${site.name}, ${FIELDS[i][1]}: ${rows} by ${columns}, from ${short(Math.min(...data))} to ${short(Math.max(...data))}` });
          canvas.getContext("2d").putImageData(paint(data.subarray(0, rows * columns), columns, { ...scaleOf("difference", []), low: -most, high: most }, 0, columns), 0, 0);
          return canvas;
        }), h("figcaption", {}, site.name, h("small", {}, ` ${FIELDS.map((f) => f[1]).join(" · ")} · ±${short(most)}`)));
      })));
  }

  /** Whose place is edited: cosines between the directions of the sites. @param {import("./trace.js").Trace} trace */
  expert(trace) {
    const gram = this.deep?.tensors.get("gram")?.data;
    if (!gram) return null;
    const n = trace.rows, side = Math.max(8, Math.min(26, Math.floor(420 / n))), scale = scaleOf("k_cos_prev", []);
    const picture = svg("svg", { viewBox: `0 0 ${n * side + 60} ${n * side + 4}`, width: n * side + 60, class: "gram", role: "img", "aria-label": "Cosine between the edit directions of each pair of steps" });
    for (let s = 0; s < n; s++) {
      if (side >= 11 || s % 2 === 0) picture.append(svg("text", { x: 0, y: s * side + side * 0.75, class: "mono" }, trace.sites[s].name));
      for (let r = 0; r < s; r++) {
        const value = product(gram, s, r);
        picture.append(svg("rect", { x: 56 + r * side, y: s * side, width: side - 1, height: side - 1, fill: css(scale, value) },
          svg("title", {}, `${trace.sites[s].name} and ${trace.sites[r].name}: ${short(value)}`)));
      }
    }
    return h("details", { class: "card" }, h("summary", {}, "For experts: whose place is edited"),
      h("p", {}, "Cosine between the directions of two steps for this token. Strong colour: the later step edits the same place as the earlier one."), picture);
  }
}

/** Rows and columns of a step's places: each stage halves them, and fills up with zeros. @param {[number, number]} grid @param {Float32Array[]} pair @returns {[number, number]} */
export function stage(grid, pair) {
  const half = /** @type {[number, number]} */ (grid.map((n) => Math.ceil(n / 2))), places = half[0] * half[1];
  return places < grid[0] * grid[1] && pair.every((data) => data.subarray(places).every((v) => v === 0)) && pair.some((data) => data.some((v) => v !== 0)) ? stage(half, pair) : grid;
}

/** The likeliest word after each site, as the lens has it. @param {import("./trace.js").Trace | null} deep @returns {{text: string, part: string}[] | null} */
function guesses(deep) {
  const top = deep?.tensors.get("lens_topk"), logprob = deep?.tensors.get("lens_topk_logprob");
  if (!deep || !top) return null;
  const each = top.data.length / deep.rows, words = deep.result.lens?.words ?? {};
  return deep.sites.map((_, s) => ({ text: words[top.data[s * each]] ?? `#${top.data[s * each]}`, part: logprob ? ` ${Math.round(100 * Math.exp(logprob.data[s * each]))} %` : "" }));
}

/** @param {number | undefined} beta @param {import("./colour.js").Scale} scale @param {string} rule */
function gate(beta, scale, rule) {
  if (beta === undefined) return "–";
  const chip = h("span", { class: "chip" }, short(beta));
  chip.style.background = css(scale, beta);
  const colour = packed(scale, beta), bright = 0.3 * (colour & 255) + 0.59 * ((colour >> 8) & 255) + 0.11 * ((colour >> 16) & 255);
  chip.style.color = bright > 128 ? "#111" : "#fff";
  return [chip, h("small", {}, ` ${regime(beta, rule)}`)];
}

/** Room for a bar, and for the longest number beside it. @param {string} label @param {...any} parts */
const cell = (label, ...parts) => svg("svg", { viewBox: `0 0 ${WIDE + 20} 20`, width: WIDE + 20, height: 20, role: "img", "aria-label": label }, svg("title", {}, label), parts);

/** @param {number} erased @param {number} wrote @param {number} most */
function opposed(erased, wrote, most) {
  const half = WIDE / 2, e = (erased / most) * half, w = (wrote / most) * half;
  return cell(`erased ${short(erased)}, written ${short(wrote)}`, svg("rect", { x: half - e, y: 5, width: e, height: 10, class: "erased" }),
    svg("rect", { x: half, y: 5, width: w, height: 10, class: "written" }), svg("line", { x1: half, x2: half, y1: 0, y2: 20, class: "rule" }));
}

/** @param {number} before @param {number} after @param {number} factor @param {number} most */
function dumbbell(before, after, factor, most) {
  const half = WIDE / 2, x = (/** @type {number} */ v) => half + (v / most) * (half - 6), end = Math.sign(factor || 1) * after;
  return cell(`error ${short(before)} before, ${short(after)} after`, svg("line", { x1: half, x2: half, y1: 0, y2: 20, class: "rule" }),
    svg("line", { x1: x(before), x2: x(end), y1: 10, y2: 10, class: "join" }), svg("circle", { cx: x(before), cy: 10, r: 4, class: "hollow" }), svg("circle", { cx: x(end), cy: 10, r: 4, class: "full" }));
}

/** @param {number} part */
const share = (part) => cell(`${short(part)} survives`, svg("rect", { x: 0, y: 6, width: WIDE / 2, height: 8, class: "trough" }), svg("rect", { x: 0, y: 6, width: Math.max(0, Math.min(1, part)) * (WIDE / 2), height: 8, class: "written" }),
  svg("text", { x: WIDE / 2 + 8, y: 14 }, short(part)));

/** @param {number} value @param {number} most */
function signed(value, most) {
  const half = 45, w = (Math.abs(value) / most) * half;
  return cell(short(value), svg("rect", { x: value < 0 ? half - w : half, y: 5, width: w, height: 10, class: value < 0 ? "against" : "towards" }), svg("line", { x1: half, x2: half, y1: 0, y2: 20, class: "rule" }),
    svg("text", { x: 2 * half + 8, y: 14 }, (value > 0 ? "+" : "") + short(value)));
}
