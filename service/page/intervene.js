/** What if a gate stood elsewhere? Sliders, the answer before and after, and what each gate is worth. */

import * as api from "./api.js";
import { announce, byId, choices, debounced, h, short, svg, visible } from "./dom.js";
import { scaleOf } from "./colour.js";
import { distance, replay } from "./depth.js";
import { legend } from "./legend.js";
import { GateMap } from "./map.js";
import { PatchMap } from "./patches.js";
import { PictureInput } from "./picture.js";
import { siteWords } from "./words.js";

/** @type {Record<string, [string, any]>} */
const WHOLE = {
  zero: ["all keep (β = 0)", { op: "set", value: 0 }],
  one: ["all overwrite (β = 1)", { op: "set", value: 1 }],
  two: ["all reflect (β = 2)", { op: "set", value: 2 }],
  clamp: ["never reflect (β ≤ 1)", { op: "clamp", min: 0, max: 1 }],
  mean: ["each step its own mean", { op: "mean", source: "sequence" }],
  erase: ["do not erase", { op: "drop_erase" }],
};

export class InterveneView {
  /** @param {HTMLElement} root @param {import("./state.js").State} state @param {{inputs: () => any, fail: (error: unknown) => void}} page */
  constructor(root, state, page) {
    this.root = root;
    this.state = state;
    this.page = page;
    /** @type {import("./trace.js").Trace | null} */
    this.changed = null;
    /** @type {any} */
    this.swept = null;
    this.run = debounced(120, () => this.request());
    this.options = { label: "Difference of the gates", onHover: (/** @type {string} */ text) => (byId("difference-read").textContent = text),
      onSelect: (/** @type {number} */ s, /** @type {number} */ p) => state.select(s, p) };
    this.map = new GateMap(this.options);
    this.patches = new PatchMap(this.options);
  }

  /** @param {string} what */
  update(what) {
    if (!this.state.trace) return;
    if (what === "selection" || what === "quantity") {
      if (what === "selection" && this.active && this.state.shared.where === "chosen") this.run();
      return;
    }
    if (what === "trace") this.changed = this.swept = null;
    this.draw();
    if (byId("effect")) this.run();
  }

  get active() {
    return this.state.shared.whole !== "" || Object.keys(this.state.shared.sets).length > 0;
  }

  /** The interventions in the words of the API. */
  interventions() {
    const { shared, trace } = this.state;
    const positions = shared.where === "chosen" ? [Math.max(0, shared.position)] : "all";
    const list = [];
    const inputs = this.state.isText ? { prompt: shared.patch } : { image: shared.patch.split(",")[1] };
    if (shared.whole) list.push({ ...(WHOLE[shared.whole]?.[1] ?? { op: "patch", from: { inputs } }), where: { positions } });
    const known = new Set(trace?.sites.map((site) => site.name));
    for (const [name, value] of Object.entries(shared.sets)) if (known.has(name)) list.push({ op: "set", value, where: { sites: [name], positions } });
    return list;
  }

  async request() {
    const { shared } = this.state;
    this.abort?.abort();
    if (!this.active) {
      this.changed = null;
      this.result();
      return;
    }
    const { signal } = (this.abort = new AbortController());
    byId("effect")?.setAttribute("aria-busy", "true");
    try {
      const quantities = ["beta", "e_pre_norm", "e_post_norm"].filter((name) => this.state.offers(name));
      const [changed] = await api.trace(shared.model, { version: shared.version, inputs: this.page.inputs(), quantities, interventions: this.interventions(), mode: shared.mode }, signal);
      if (signal.aborted) return;
      this.changed = changed;
      this.result();
      byId("problem").replaceChildren();
    } catch (error) {
      if (/** @type {Error} */ (error).name === "AbortError") return;
      this.changed = null;
      this.result();
      this.page.fail(error);
    }
  }

  draw() {
    const { shared, trace, meta } = this.state;
    if (!trace) return;
    if (meta?.interventions?.available === false || trace.head.file)
      return this.root.replaceChildren(h("p", { class: "empty" }, "The gates cannot be changed here: ", trace.head.file ? "a file has no model behind it" : meta.interventions.reason, "."));
    const change = (/** @type {any} */ changes) => {
      Object.assign(shared, changes);
      this.state.tell("intervention");
    };
    const buttons = Object.entries(WHOLE).filter(([name]) => name !== "erase" || trace.rule === "delta")
      .map(([name, [text]]) => h("button", { id: `whole-${name}`, class: "quiet", "aria-pressed": shared.whole === name, onclick: () => change({ whole: shared.whole === name ? "" : name, sets: {} }) }, text));
    const focused = document.activeElement?.id;
    this.root.replaceChildren(
      h("p", { class: "lead" }, "Move a gate away from where the network put it and see what becomes of the answer. ",
        h("b", {}, "Knock out"), " means β = 0: the step is skipped."),
      h("div", { class: "buttons" }, buttons, h("button", { id: "reset", onclick: () => change({ whole: "", sets: {} }), disabled: !this.active }, "Back to the model")),
      h("div", { class: "buttons" },
        choices("mode", "Effect", [["rerun", "total: everything after reacts"], ["frozen", "direct: all else held"]], shared.mode, (mode) => change({ mode })),
        trace.length > 1 ? choices("where", "At", [["all", trace.tokens ? "all tokens" : "all patches"], ["chosen", `the chosen ${trace.unit}`]], shared.where, (where) => change({ where })) : "",
        h("button", { id: "sweep", onclick: () => this.sweep() }, "Knock out each step in turn")),
      h("div", { class: "split wideright" },
        h("div", {}, h("fieldset", { class: "card sliders" }, h("legend", {}, "Gates"), trace.sites.map((site, s) => this.slider(site, s))), this.patch(change)),
        h("div", { class: "card", id: "effect" })));
    this.result();
    if (focused) byId(focused)?.focus();
  }

  /** The gates of another input in place of its own. @param {(changes: any) => void} change */
  patch(change) {
    const { shared, isText } = this.state, unit = isText ? "text" : "picture";
    const picture = isText ? null : new PictureInput({ label: "Another picture", start: 4, sample: true });
    if (shared.patch) picture?.draw(shared.patch);
    const field = picture?.element ?? h("textarea", { id: "patch", rows: 2, spellcheck: "false", "aria-label": "Another text" });
    if (isText) field.value = shared.patch || shared.other || suggestion(shared.prompt);
    return h("details", { class: "card", open: shared.whole === "patch" }, h("summary", {}, `Take the gates of another ${unit}`),
      h("p", { class: "faint" }, isText ? "Where both texts have the same tokens, at the start and at the end." : "Place by place."), field,
      h("div", { class: "buttons" }, h("button", { id: "use-patch", "aria-pressed": shared.whole === "patch", onclick: () => change({ whole: "patch", sets: {}, patch: picture?.value ?? field.value }) }, "Use its gates")));
  }

  /** @param {import("./trace.js").Site} site @param {number} s */
  slider(site, s) {
    const { shared, trace } = this.state;
    const own = /** @type {import("./trace.js").Trace} */ (trace).value("beta", s, Math.max(0, shared.position)) ?? 1;
    const set = shared.sets[site.name], id = `set-${s}`;
    const output = h("output", { for: id }, set === undefined ? "model" : short(set));
    const input = h("input", { id, type: "range", min: 0, max: 2, step: 0.05, value: set ?? own, list: "detents", class: set === undefined ? "own" : null,
      "aria-label": `Gate of ${site.name}, ${siteWords(site)}`, "aria-valuetext": set === undefined ? `as the model has it` : short(set) });
    input.addEventListener("input", () => {
      shared.sets = { ...shared.sets, [site.name]: +input.value };
      shared.whole = "";
      output.textContent = short(+input.value);
      input.classList.remove("own");
      input.setAttribute("aria-valuetext", short(+input.value));
      byId("reset").disabled = false;
      knock.setAttribute("aria-pressed", String(+input.value === 0));
      this.direct();
      this.run();
      this.state.tell("link");
    });
    const knock = h("button", { id: `knock-${s}`, class: "quiet small", "aria-pressed": set === 0, "aria-label": `Knock out ${site.name}`, title: "β = 0: skip this step", onclick: () => {
      const { [site.name]: old, ...others } = shared.sets;
      shared.sets = old === 0 ? others : { ...others, [site.name]: 0 };
      shared.whole = "";
      this.state.tell("intervention");
    } }, "✕");
    return h("div", { class: "slider" }, h("label", { for: id, class: "mono" }, site.name), input, output, knock);
  }

  /** Fetch what a replay of the chosen token needs: once for each token. @returns {Promise<import("./depth.js").Column | null>} */
  async column() {
    const { trace, shared } = this.state;
    const needs = ["beta", "v", "proj", "gram"], p = Math.max(0, shared.position);
    if (!trace || !needs.every((q) => this.state.offers(q))) return null;
    if (this.known?.trace !== trace || this.known.p !== p) {
      const asked = api.trace(shared.model, { version: shared.version, inputs: this.page.inputs(), quantities: needs, select: { positions: [p] } });
      this.known = { trace, p, column: asked.then(([found]) => columnOf(found, 0)).catch(() => null) };
    }
    return this.known.column;
  }

  /** At once, without asking for a run: what the chosen token's readings become if all else is held. */
  async direct() {
    const { trace, shared } = this.state;
    const column = shared.mode === "frozen" && Object.keys(shared.sets).length ? await this.column() : null;
    const place = byId("direct");
    if (!trace || !place) return;
    place.replaceChildren();
    if (!column) return;
    const { proj } = replay(column, trace.sites.map((site, s) => shared.sets[site.name] ?? column.beta[s]));
    const moved = proj.map((read, s) => distance(read, column.proj[s])), most = Math.max(...moved);
    const far = trace.sites[moved.indexOf(most)].name;
    place.textContent = most < 1e-6 ? "No later step of this token reads anything else."
      : `At ${trace.positionName(Math.max(0, shared.position))}, ${moved.filter((m) => m > 1e-3).length} later steps read something else; ${far} most, by ${short(most)}.`;
  }

  /** The answer before and after. */
  result() {
    const place = byId("effect"), { trace, shared } = this.state;
    if (!place || !trace) return;
    place.removeAttribute("aria-busy");
    if (this.swept) return place.replaceChildren(...this.sweepBars());
    const before = trace.result.prediction?.top ?? [], changed = this.changed;
    if (!changed) {
      place.replaceChildren(h("h2", {}, "The answer"), words(before), h("p", { class: "faint" }, "Nothing is changed yet. Move a slider, or press ✕ to knock a step out."), h("p", { id: "direct" }));
      return;
    }
    const after = changed.result.prediction?.top ?? [], effect = changed.result.effect ?? {};
    const flips = before[0] && after[0] && name(before[0]) !== name(after[0]);
    const verdict = flips ? `The answer changes from “${visible(name(before[0]))}” to “${visible(name(after[0]))}”.` : before[0] ? `The answer stays “${visible(name(before[0]))}”.` : "";
    const parts = [h("h2", {}, verdict), h("div", { class: "beforeafter" }, h("div", {}, h("h3", {}, "before"), words(before)), h("div", {}, h("h3", {}, "after"), words(after)))];
    const kl = effect.kl_nats;
    if (kl?.length) parts.push(h("h3", {}, "How much the prediction moved, token by token ", h("small", {}, "(KL, nats)")), strip(kl, trace));
    const mean = effect.applied;
    parts.push(h("p", { class: "faint" }, shared.mode === "frozen" ? "Direct effect: directions, targets and the other gates are held. " : "Total effect: the network was run again, and all that follows reacted. ",
      mean ? `${mean.cells} gates changed, mean β ${short(mean.beta_before_mean)} → ${short(mean.beta_after_mean)}.` : ""), h("p", { id: "direct" }));
    const old = trace.tensors.get("beta")?.data, now = changed.tensors.get("beta")?.data;
    if (old && now && now.length === old.length) {
      const data = now.map((value, i) => value - old[i]), scale = scaleOf("difference", data);
      const map = trace.grid ? this.patches : this.map;
      parts.push(h("h3", {}, "Gates: after minus before"), legend("difference", scale, trace.rule), map.element, h("p", { class: "read", id: "difference-read" }));
      place.replaceChildren(...parts);
      map.show({ trace, data, scale, describe: (s, p) => `${trace.sites[s].name} · ${trace.positionName(p)} · β ${short(old[s * trace.length + p])} → ${short(now[s * trace.length + p])}` }, { site: shared.site, position: shared.position });
    } else place.replaceChildren(...parts);
    announce(verdict);
    this.direct();
  }

  async sweep() {
    const { shared, trace } = this.state;
    const button = byId("sweep");
    button.disabled = true;
    try {
      this.swept = await api.sweep(shared.model, { version: shared.version, inputs: this.page.inputs(), values: [0] });
      this.result();
    } catch (error) {
      this.page.fail(error);
    } finally {
      if (byId("sweep")) byId("sweep").disabled = !trace;
    }
  }

  sweepBars() {
    const { trace } = this.state;
    const variants = api.sweepEffects(this.swept).sort((a, b) => Math.abs(b.size) - Math.abs(a.size));
    const most = Math.max(1e-9, ...variants.map((v) => Math.abs(v.size)));
    return [h("h2", {}, "What each step is worth"), h("p", { class: "faint" }, api.sweepMeasure(this.swept)),
      h("table", { class: "plain bars" }, h("thead", {}, h("tr", {}, ["without", "change", "answer"].map((t) => h("th", { scope: "col" }, t)))), h("tbody", {}, variants.map((v) =>
        h("tr", {}, h("th", { scope: "row", class: "mono" }, v.site),
          h("td", {}, svg("svg", { viewBox: "0 0 220 16", width: 220, height: 16, role: "img", "aria-label": short(v.size, 3) },
            svg("rect", { x: 0, y: 3, height: 10, width: Math.max(1, (Math.abs(v.size) / most) * 150), class: v.size < 0 ? "towards" : "against" }), svg("text", { x: Math.max(1, (Math.abs(v.size) / most) * 150) + 6, y: 13 }, short(v.size, 3)))),
          h("td", {}, v.answer && trace ? visible(v.answer) : ""))))),
      h("button", { id: "close-sweep", onclick: () => {
        this.swept = null;
        this.result();
      } }, "Close")];
  }
}

/** One token's numbers over depth, if the trace has them. @param {import("./trace.js").Trace} trace @param {number} p @returns {import("./depth.js").Column | null} */
export function columnOf(trace, p) {
  const [beta, v, proj, gram] = ["beta", "v", "proj", "gram"].map((name) => trace.tensors.get(name));
  if (!beta || !v || !proj || !gram) return null;
  const channels = v.shape[2], pairs = (trace.rows * (trace.rows - 1)) / 2;
  const take = (/** @type {Float32Array} */ data) => trace.sites.map((_, s) => Array.from(data.subarray((s * trace.length + p) * channels, (s * trace.length + p + 1) * channels)));
  return { beta: trace.sites.map((_, s) => beta.data[s * trace.length + p]), v: take(v.data), proj: take(proj.data), gram: gram.data.subarray(p * pairs, (p + 1) * pairs) };
}

/** A second text that makes a fair first comparison. @param {string} prompt */
export function suggestion(prompt) {
  const swaps = [["girl", "dog"], ["She", "He"], ["Lily", "Tom"], ["cat", "dog"], [" is ", " was "], ["The ", "A "]];
  const found = swaps.find(([from]) => prompt.includes(from));
  return found ? prompt.replace(found[0], found[1]) : prompt;
}

/** @param {any} top */
export const name = (top) => top.text ?? top.label ?? String(top.id);

/** @param {any} top */
export const probability = (top) => top.probability ?? Math.exp(top.logprob);

/** Likeliest answers as bars. @param {any[]} top */
export function words(top) {
  return h("ol", { class: "answers" }, top.slice(0, 5).map((t) => {
    const bar = h("i", {}), part = probability(t);
    bar.style.width = `${Math.max(1, part * 100)}%`;
    return h("li", {}, bar, h("span", {}, visible(name(t))), h("small", {}, `${part < 0.01 ? "<1" : Math.round(part * 100)} %`));
  }));
}

/** @param {number[]} values @param {import("./trace.js").Trace} trace */
function strip(values, trace) {
  const wide = 600, most = Math.max(1e-9, ...values), w = wide / values.length;
  return svg("svg", { viewBox: `0 0 ${wide} 44`, class: "chart strip", role: "img", preserveAspectRatio: "none", "aria-label": `KL for each token, largest ${short(most)} nats` },
    values.map((value, i) => svg("rect", { x: i * w, y: 44 - (value / most) * 42, width: Math.max(1, w - 1), height: (value / most) * 42, class: "towards" }, svg("title", {}, `${trace.positionName(i)}: ${short(value)} nats`))));
}
