/** Two texts, or one text under two versions: where do the gates differ? */

import * as api from "./api.js";
import { byId, h, short, visible } from "./dom.js";
import { scaleOf } from "./colour.js";
import { columns } from "./align.js";
import { legend } from "./legend.js";
import { suggestion, words } from "./intervene.js";
import { GateMap } from "./map.js";
import { PatchMap } from "./patches.js";
import { PictureInput } from "./picture.js";
import { spectrum, spread } from "./spectrum.js";
import { Trace } from "./trace.js";

export class CompareView {
  /** @param {HTMLElement} root @param {import("./state.js").State} state @param {{inputs: () => any, fail: (error: unknown) => void}} page */
  constructor(root, state, page) {
    this.root = root;
    this.state = state;
    this.page = page;
    /** @type {Trace | null} */
    this.other = null;
    const options = { label: "Difference of the gates of two inputs", onHover: (/** @type {string} */ text) => (byId("compare-read").textContent = text) };
    this.map = new GateMap(options);
    this.patches = new PatchMap(options);
    this.drawn = "";
  }

  /** @param {string} what */
  update(what) {
    const { trace, shared } = this.state;
    if (!trace || what === "selection" || what === "quantity") return;
    if (what === "trace") this.other = null;
    const key = `${shared.model}/${shared.version}/${this.state.isText}`;
    if (key !== this.drawn || what === "restored") this.form();
    this.drawn = key;
    if (!this.other) this.run();
    else this.result();
  }

  form() {
    const { shared, models } = this.state;
    const versions = models.filter((m) => m.name === shared.model && m.state.toLowerCase() === "ready" && m.gates !== false);
    const version = h("select", { id: "other-version" }, versions.map((m) => h("option", { value: m.version, selected: m.version === (shared.otherVersion || shared.version) }, `version ${m.version}`)));
    const submit = h("button", { class: "primary", type: "submit" }, "Compare");
    const isText = this.state.isText;
    this.picture = isText ? null : new PictureInput({ label: "Second picture", start: 4, sample: true });
    const field = isText
      ? h("label", { for: "other" }, h("span", {}, "Second text ", h("small", {}, "the first is the one above")), h("textarea", { id: "other", rows: 2, spellcheck: "false" }))
      : /** @type {PictureInput} */ (this.picture).element;
    const form = h("form", { class: "compareform", onsubmit: (/** @type {Event} */ event) => {
      event.preventDefault();
      this.run();
    } }, field, h("div", { class: "buttons" }, versions.length > 1 ? h("label", { class: "inline" }, "with ", version) : null, submit));
    this.root.replaceChildren(h("p", { class: "lead" }, isText ? "Change a word and see which gates care. Equal tokens at the start and the end are matched; what lies between is grey." : "Two pictures, patch by patch: where does the network treat them differently?"), form, h("div", { id: "compared" }));
    if (isText) byId("other").value = shared.other || suggestion(shared.prompt);
  }

  async run() {
    const { shared } = this.state;
    this.abort?.abort();
    this.abort = new AbortController();
    if (this.state.isText) shared.other = byId("other").value;
    shared.otherVersion = byId("other-version")?.value ?? "";
    this.state.tell("link");
    const picture = this.picture?.value;
    const inputs = this.state.isText ? { prompt: shared.other } : { image: String(picture).split(",")[1] };
    try {
      [this.other] = await api.trace(shared.model, { version: shared.otherVersion || shared.version, inputs, quantities: ["beta"] }, this.abort.signal);
      byId("problem").replaceChildren();
      this.result();
    } catch (error) {
      if (/** @type {Error} */ (error).name !== "AbortError") this.page.fail(error);
    }
  }

  result() {
    const place = byId("compared"), { trace, shared } = this.state, other = this.other;
    if (!place || !trace) return;
    if (!other) return place.replaceChildren(h("p", { class: "empty" }, "Press Compare: the map of differences appears here."));
    if (other.rows !== trace.rows) return place.replaceChildren(h("p", { class: "empty" }, "These two have different numbers of steps, so their gates cannot be matched."));
    const { joined, data, pairs } = difference(trace, other), scale = scaleOf("difference", data);
    const a = /** @type {any} */ (trace.tensors.get("beta")).data, b = /** @type {any} */ (other.tensors.get("beta")).data;
    const describe = (/** @type {number} */ s, /** @type {number} */ p) => {
      const [i, j] = pairs[p];
      if (i === null || j === null) return `${trace.sites[s].name} · only in the ${i === null ? "second" : "first"}: ${i === null ? other.positionName(/** @type {number} */ (j)) : trace.positionName(i)}`;
      return `${trace.sites[s].name} · ${trace.positionName(i)} · β first ${short(a[s * trace.length + i])}, second ${short(b[s * other.length + j])}, difference ${short(a[s * trace.length + i] - b[s * other.length + j])}`;
    };
    const matched = pairs.filter(([i, j]) => i !== null && j !== null).length;
    const map = joined.grid ? this.patches : this.map;
    place.replaceChildren(
      h("div", { class: "card" }, h("h2", {}, "Gates: first minus second"), h("p", { class: "faint" }, trace.tokens ? `${matched} tokens are matched, ${pairs.length - matched} are in one text only (grey).` : "Patch by patch."),
        legend("compared", scale, trace.rule), map.element, h("p", { class: "read", id: "compare-read" })),
      h("div", { class: "split" }, h("div", { class: "card" }, h("h2", {}, "Spread of the gates ", h("small", {}, "bars: first, outlines: second")), spectrum(trace, spread(other))),
        h("div", { class: "card beforeafter" }, h("div", {}, h("h3", {}, "first answers"), words(trace.result.prediction?.top ?? [])), h("div", {}, h("h3", {}, "second answers"), words(other.result.prediction?.top ?? [])))));
    map.show({ trace: joined, data, scale, describe, absent: true }, { site: shared.site, position: Math.max(0, pairs.findIndex(([i]) => i === shared.position)) });
  }
}

/** Gates of the first minus those of the second, in common columns; what has no partner is no number.
 * @param {Trace} first @param {Trace} second */
export function difference(first, second) {
  const pairs = first.tokens && second.tokens ? columns(first.tokens.ids, second.tokens.ids)
    : Array.from({ length: Math.min(first.length, second.length) }, (_, i) => /** @type {[number | null, number | null]} */ ([i, i]));
  const a = /** @type {any} */ (first.tensors.get("beta")).data, b = /** @type {any} */ (second.tensors.get("beta")).data;
  const data = new Float32Array(first.rows * pairs.length);
  for (let s = 0; s < first.rows; s++)
    pairs.forEach(([i, j], p) => (data[s * pairs.length + p] = i === null || j === null ? NaN : a[s * first.length + i] - b[s * second.length + j]));
  const text = pairs.map(([i, j]) => (i === null ? second.tokens?.text[/** @type {number} */ (j)] : first.tokens?.text[i]) ?? "");
  const tokens = first.tokens ? { ids: pairs.map(() => 0), text } : null;
  const joined = new Trace(first.head, { ...first.result, tokens }, new Map([["difference", { axes: ["site", "position"], shape: [first.rows, pairs.length], data }]]));
  return { joined, data, pairs };
}
