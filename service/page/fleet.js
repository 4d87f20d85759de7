/** The model in service: have its gates, or the traffic, moved away from what they were when it was audited? */

import * as api from "./api.js";
import { choices, h, short, show, svg } from "./dom.js";
import { regimeBar, swatch } from "./spectrum.js";
import { REGIMES } from "./words.js";

const EVERY = 15_000;
/** @type {Record<string, [string, string]>} */
const STATUS = {
  ok: ["As usual", "The gates of the traffic look like those of the audit."],
  watch: ["Watch", "One or two steps moved by more than normal."],
  drift: ["Drift", "The traffic or the weights have changed. That does not mean that answers are wrong."],
  no_reference: ["Nothing to compare with", "No audit is stored with this version, so only the live figures are shown."],
  too_few: ["Too little traffic", "There have been too few requests in this window to say anything."],
};

export class FleetView {
  /** @param {HTMLElement} root @param {import("./state.js").State} state @param {{fail: (error: unknown) => void}} page */
  constructor(root, state, page) {
    this.root = root;
    this.state = state;
    this.page = page;
    this.window = "1h";
    this.timer = 0;
  }

  /** @param {string} what */
  update(what) {
    if (["selection", "quantity", "link", "intervention"].includes(what)) return;
    this.fetch();
  }

  async fetch() {
    clearTimeout(this.timer);
    const { shared } = this.state;
    if (shared.view !== "fleet" || !shared.model) return;
    try {
      const [stats, audits] = await Promise.all([api.stats(shared.model, shared.version, this.window), api.audits().catch(() => null)]);
      this.draw(stats, audits);
      this.timer = setTimeout(() => document.visibilityState === "visible" && this.fetch(), EVERY);
    } catch (error) {
      this.root.replaceChildren(h("p", { class: "empty" }, "No live figures can be shown. ", /** @type {Error} */ (error).message));
      if (/** @type {any} */ (error).needsKey) this.page.fail(error);
    }
  }

  /** @param {any} stats @param {any[] | null} audits */
  draw(stats, audits) {
    const [word, meaning] = STATUS[stats.status] ?? [stats.status, ""];
    const since = stats.status_since ? ` since ${new Date(stats.status_since).toLocaleString("en-GB", { dateStyle: "medium", timeStyle: "short" })}` : "";
    const focused = /** @type {any} */ (document.activeElement)?.value;
    show(this.root,
      h("div", { class: `status ${stats.status}` }, h("h2", {}, word, h("small", {}, since)), h("p", {}, stats.message || meaning), h("p", { class: "faint" }, stats.message ? meaning : "")),
      h("div", { class: "buttons" }, choices("window", "Window", [["15m", "15 minutes"], ["1h", "1 hour"], ["24h", "1 day"]], this.window, (value) => {
        this.window = value;
        this.fetch();
      }), h("p", { class: "faint" }, `${stats.sequences.toLocaleString("en-GB")} inputs, ${stats.tokens.toLocaleString("en-GB")} ${this.state.isText ? "tokens" : "patches"}`,
        stats.reference ? `; compared with the audit ${stats.reference.id} on ${stats.reference.dataset}` : "")),
      h("div", { class: "multiples" }, stats.sites.map((/** @type {any} */ site, /** @type {number} */ i) => this.site(site, i, stats))),
      stats.history?.length > 1 ? h("div", { class: "card" }, h("h2", {}, "Regimes over time"), h("ul", { class: "keys" }, REGIMES.map((text, i) => h("li", {}, swatch([0.08, 0.5, 1, 1.7][i]), text))), stacked(stats.history)) : null,
      this.audits(audits));
    if (focused) /** @type {any} */ (this.root.querySelector(`input[value="${CSS.escape(focused)}"]`))?.focus();
  }

  /** @param {any} site @param {number} index @param {any} stats */
  site(site, index, stats) {
    const moved = site.status === "moved";
    const series = (stats.history ?? []).map((/** @type {any} */ slot) => slot.w1?.[index]).filter((/** @type {any} */ v) => Number.isFinite(v));
    return h("section", { class: `card site${moved ? " moved" : ""}` }, h("h3", {}, h("span", { class: "mono" }, site.name), moved ? h("em", {}, "moved") : null),
      site.count ? histogram(site.histogram, site.reference_histogram) : h("p", { class: "faint" }, "no values yet"),
      site.regimes ? regimeBar(site.regimes) : null,
      h("p", { class: "faint" }, site.mean === null ? "" : `mean β ${short(site.mean)}`, Number.isFinite(site.w1) ? ` · moved by ${short(site.w1, 3)}, normal up to ${short(site.threshold, 3)}` : ""),
      series.length > 1 ? line(series, site.threshold) : null);
  }

  /** @param {any[] | null} audits */
  audits(audits) {
    if (!audits) return null;
    if (!audits.length) return h("div", { class: "card" }, h("h2", {}, "Audits"), h("p", { class: "faint" }, "No audit is shown here. ", h("code", {}, "ddl-audit"), " makes one, and the setting ", h("code", {}, "DDL_AUDITS"), " names their folder."));
    return h("div", { class: "card" }, h("h2", {}, "Audits"), h("table", { class: "plain" }, h("thead", {}, h("tr", {}, ["audit", "made", "data", "runs", "differences", "files"].map((t) => h("th", { scope: "col" }, t)))),
      h("tbody", {}, audits.map((audit) => h("tr", {}, h("th", { scope: "row" }, audit.title || audit.id), h("td", {}, String(audit.created).slice(0, 10)), h("td", {}, audit.dataset), h("td", { class: "number" }, audit.runs),
        h("td", {}, audit.settled === null ? "" : audit.settled ? "settled" : "not settled"),
        h("td", {}, audit.files.map((/** @type {string} */ file) => [h("a", { href: api.auditFile(audit.id, file), target: "_blank", rel: "noopener" }, file), " "])))))));
  }
}

/** Live histogram filled, the audit's as an outline. @param {number[]} live @param {number[] | null} reference */
export function histogram(live, reference) {
  const wide = 256, tall = 60, share = (/** @type {number[]} */ counts) => {
    const sum = counts.reduce((a, b) => a + b, 0) || 1;
    return counts.map((count) => count / sum);
  };
  const now = share(live), then = reference ? share(reference) : null, most = Math.max(1e-9, ...now, ...(then ?? [0])), w = wide / now.length;
  const outline = then && then.map((v, i) => `${i * w},${tall - (v / most) * tall} ${(i + 1) * w},${tall - (v / most) * tall}`).join(" ");
  return svg("svg", { viewBox: `0 0 ${wide} ${tall + 14}`, class: "chart histogram", role: "img", "aria-label": `Histogram of the gates${then ? " against the audit" : ""}` },
    now.map((v, i) => svg("rect", { x: i * w, y: tall - (v / most) * tall, width: w + 0.2, height: (v / most) * tall, class: "live" })), outline ? svg("polyline", { points: outline, class: "reference" }) : null,
    svg("line", { x1: 0, x2: wide, y1: tall, y2: tall, class: "rule" }), [["keeps", 0, "start"], ["overwrites", wide / 2, "middle"], ["reflects", wide, "end"]].map(([t, x, a]) => svg("text", { x, y: tall + 12, "text-anchor": a, class: "tiny" }, t)));
}

/** Distance over time against what is normal. @param {number[]} values @param {number | null} threshold */
export function line(values, threshold) {
  const wide = 256, tall = 40, most = Math.max(1e-9, ...values, threshold ?? 0) * 1.1;
  const y = (/** @type {number} */ v) => tall - (v / most) * tall;
  return svg("svg", { viewBox: `0 0 ${wide} ${tall}`, class: "chart", role: "img", "aria-label": `Distance over time, now ${short(values[values.length - 1], 3)}` },
    threshold ? svg("line", { x1: 0, x2: wide, y1: y(threshold), y2: y(threshold), class: "threshold" }) : null,
    svg("polyline", { points: values.map((v, i) => `${(i / (values.length - 1)) * wide},${y(v)}`).join(" "), class: "series" }));
}

/** @param {any[]} history */
function stacked(history) {
  const slots = history.filter((slot) => slot.regimes), wide = 720, tall = 90, w = wide / slots.length, colours = ["keep", "part", "over", "past"];
  return svg("svg", { viewBox: `0 0 ${wide} ${tall}`, class: "chart", role: "img", preserveAspectRatio: "none", "aria-label": "Shares of the four regimes over time" }, slots.map((slot, i) => {
    let from = 0;
    return slot.regimes.map((/** @type {number} */ share, /** @type {number} */ r) => {
      const rect = svg("rect", { x: i * w, y: tall - (from + share) * tall, width: w + 0.3, height: share * tall, class: `regime-${colours[r]}` }, svg("title", {}, `${new Date(slot.start).toLocaleTimeString("en-GB")}: ${Math.round(share * 100)} % ${REGIMES[r]}`));
      from += share;
      return rect;
    });
  }));
}
