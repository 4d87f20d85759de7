/** Which regime each site lives in: the spread of 1−β over the input's tokens. */

import { h, short, svg } from "./dom.js";
import { css, quantile, scaleOf } from "./colour.js";
import { EDGES, REGIMES, siteWords } from "./words.js";

const BINS = 40;

/** @typedef {{name: string, sorted: Float64Array, low: number, bandLow: number, median: number, bandHigh: number, high: number, regimes: number[]}} Row */

/** @param {import("./trace.js").Trace} trace @returns {Row[]} of the gate β */
export function spread(trace) {
  const beta = /** @type {import("./trace.js").Tensor} */ (trace.tensors.get("beta")).data;
  return trace.sites.map((site, s) => {
    const sorted = Float64Array.from(beta.subarray(s * trace.length, (s + 1) * trace.length)).filter(Number.isFinite).sort();
    const regimes = [0, 0, 0, 0];
    for (const value of sorted) regimes[EDGES.filter((edge) => value >= edge).length] += 1 / sorted.length;
    const at = (/** @type {number} */ q) => quantile(sorted, q);
    return { name: site.name, sorted, low: at(0), bandLow: at(0.05), median: at(0.5), bandHigh: at(0.95), high: at(1), regimes };
  });
}

/** An audit's counts in equal bins on [0, 2] as such rows, linear inside a bin. @param {number[][]} histograms */
export function spreadOf(histograms) {
  return histograms.map((counts) => {
    const all = counts.reduce((a, b) => a + b, 0);
    const [bandLow, median, bandHigh] = [0.05, 0.5, 0.95].map((q) => {
      let left = q * all, i = 0;
      while (counts[i] < left) left -= counts[i++];
      return ((i + left / (counts[i] || 1)) * 2) / counts.length;
    });
    return { bandLow, median, bandHigh };
  });
}

/** The picture; `other` rows are drawn as outlines. @param {import("./trace.js").Trace} trace @param {{bandLow: number, median: number, bandHigh: number}[] | null} [other] */
export function spectrum(trace, other = null) {
  const rows = spread(trace);
  const scale = scaleOf("beta", []), tall = 30, left = 64, width = 620, top = 42;
  const x = (/** @type {number} */ beta) => left + (beta / 2) * (width - left - 16);
  const height = top + rows.length * tall + 8;
  const picture = svg("svg", { viewBox: `0 0 ${width} ${height}`, class: "chart spectrum", role: "img",
    "aria-label": "For each step of the network, the spread of its gates from keep to reflect. The table below has the same numbers." });
  for (const [beta, word, value, anchor] of [[0, "keeps", "1−β = +1", "start"], [1, "overwrites", "0", "middle"], [2, "reflects", "−1", "end"]])
    picture.append(svg("line", { x1: x(+beta), x2: x(+beta), y1: top - 6, y2: height - 4, class: "rule" }),
      svg("text", { x: x(+beta), y: 12, class: "strong", "text-anchor": anchor }, word), svg("text", { x: x(+beta), y: 28, class: "faint", "text-anchor": anchor }, value));
  rows.forEach((row, i) => {
    const y = top + i * tall, middle = y + tall / 2;
    const group = svg("g", {}, svg("title", {}, `${row.name}: median β ${short(row.median)}, 90 % between ${short(row.bandLow)} and ${short(row.bandHigh)}`),
      svg("text", { x: 0, y: middle + 4, class: "mono" }, row.name));
    if (row.sorted.length) {
      group.append(density(row, x, middle, tall), svg("line", { x1: x(row.low), x2: x(row.high), y1: middle, y2: middle, class: "whole" }),
        svg("rect", { x: x(row.bandLow), y: middle - 5, width: Math.max(2, x(row.bandHigh) - x(row.bandLow)), height: 10, rx: 3, class: "band", fill: css(scale, row.median) }),
        svg("rect", { x: x(row.median) - 1.5, y: middle - 9, width: 3, height: 18, class: "median" }));
      const compared = other?.[i];
      if (compared && compared.median >= 0)
        group.append(svg("rect", { x: x(compared.bandLow), y: middle - 8, width: Math.max(2, x(compared.bandHigh) - x(compared.bandLow)), height: 16, rx: 3, class: "outline" }),
          svg("line", { x1: x(compared.median), x2: x(compared.median), y1: middle - 11, y2: middle + 11, class: "outline" }));
    }
    picture.append(group);
  });
  return picture;
}

/** @param {Row} row @param {(beta: number) => number} x @param {number} middle @param {number} tall */
function density(row, x, middle, tall) {
  const counts = new Array(BINS).fill(0);
  for (const value of row.sorted) counts[Math.min(BINS - 1, Math.floor((value / 2) * BINS))]++;
  const most = Math.max(...counts);
  const up = counts.map((count, i) => `${x(((i + 0.5) * 2) / BINS)},${middle - (count / most) * (tall / 2 - 2)}`);
  const down = counts.map((count, i) => `${x(((i + 0.5) * 2) / BINS)},${middle + (count / most) * (tall / 2 - 2)}`).reverse();
  return svg("polygon", { points: [...up, ...down].join(" "), class: "density" });
}

/** Shares of the four regimes as one bar. @param {number[]} shares */
export function regimeBar(shares) {
  const scale = scaleOf("beta", []), centres = [0.08, 0.5, 1, 1.7];
  let from = 0;
  const bar = svg("svg", { viewBox: "0 0 200 16", class: "regimes", role: "img", preserveAspectRatio: "none",
    "aria-label": shares.map((share, i) => `${Math.round(share * 100)} percent ${REGIMES[i]}`).join(", ") });
  shares.forEach((share, i) => {
    bar.append(svg("rect", { x: from * 200, y: 0, width: share * 200, height: 16, fill: css(scale, centres[i]) },
      svg("title", {}, `${REGIMES[i]}: ${Math.round(share * 100)} %`)));
    from += share;
  });
  return bar;
}

export class SpectrumView {
  /** @param {HTMLElement} root @param {import("./state.js").State} state */
  constructor(root, state) {
    this.root = root;
    this.state = state;
  }

  /** @param {string} what */
  update(what) {
    const trace = this.state.trace;
    if (what === "selection" || !trace?.tensors.has("beta")) return;
    const rows = spread(trace), reference = this.state.meta?.reference;
    this.root.replaceChildren(
      h("p", { class: "lead" }, "Where does each step of the network usually stand? ",
        "The dark tick is the median over this input, the bar holds 90 % of its gates, the thin line all of them.",
        reference ? ` Dashed: the same of the audit on ${reference.dataset}.` : ""),
      h("div", { class: "split" },
        h("div", { class: "card" }, spectrum(trace, reference ? spreadOf(reference.histograms) : null)),
        h("div", { class: "card" }, h("h2", {}, "Share of the four regimes"),
          h("ul", { class: "keys" }, REGIMES.map((word, i) => h("li", {}, swatch([0.08, 0.5, 1, 1.7][i]), word, h("small", {}, ["β < 0.25", "to 0.75", "to 1.25", "above"][i])))),
          h("table", { class: "plain" }, h("caption", { class: "hidden" }, "Gates of each step"),
            h("thead", {}, h("tr", {}, ["step", "regimes", "median β", "5 to 95 %"].map((t) => h("th", { scope: "col" }, t)))),
            h("tbody", {}, rows.map((row, i) => h("tr", {}, h("th", { scope: "row", title: siteWords(trace.sites[i]) }, row.name), h("td", {}, regimeBar(row.regimes)),
              h("td", { class: "number" }, short(row.median)), h("td", { class: "number" }, `${short(row.bandLow)} – ${short(row.bandHigh)}`))))))));
  }
}

/** @param {number} beta */
export function swatch(beta) {
  const i = h("i", { class: "swatch" });
  i.style.background = css(scaleOf("beta", []), beta);
  return i;
}
