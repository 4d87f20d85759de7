/** The page: reads the address, asks the service, and gives the answer to the six views. */

import * as api from "./api.js";
import { announce, byId, debounced, h, visible } from "./dom.js";
import { scaleOf } from "./colour.js";
import { CompareView } from "./compare.js";
import { csv, drawing, png, save } from "./export.js";
import { FleetView } from "./fleet.js";
import { Generation } from "./generation.js";
import { InterveneView, name, probability } from "./intervene.js";
import { legend } from "./legend.js";
import { unpack } from "./link.js";
import { GateMap } from "./map.js";
import { PatchMap } from "./patches.js";
import { PictureInput } from "./picture.js";
import { SpectrumView } from "./spectrum.js";
import { State } from "./state.js";
import { TokenView } from "./token.js";
import { tracesOfJson, tracesOfSafetensors } from "./trace.js";
import { label, QUANTITIES, sentence } from "./words.js";

const EXAMPLES = [
  "Once upon a time, a little girl named Lily found a red ball in the garden. She was very",
  "The cat sat on the mat. The dog sat on the",
  "Tom was sad because his toy was broken. His mom said, \"Do not be",
];
const VIEWS = ["map", "spectrum", "token", "intervene", "compare", "fleet"];
const HINT_SEEN = "ddl-hint-seen", THEME = "ddl-theme";

const state = new State();
const page = { inputs, fail, open };
const views = {
  spectrum: new SpectrumView(byId("view-spectrum"), state),
  token: new TokenView(byId("view-token"), state, page),
  intervene: new InterveneView(byId("view-intervene"), state, page),
  compare: new CompareView(byId("view-compare"), state, page),
  fleet: new FleetView(byId("view-fleet"), state, page),
};
/** What a view has not seen yet, while another was open. @type {Map<string, string>} */
const missed = new Map();
const options = { label: "Gates of each step (rows) at each position (columns)", onHover: (/** @type {string} */ text) => (byId("read").textContent = text),
  onSelect: (/** @type {number} */ s, /** @type {number} */ p) => state.select(s, p), onOpen: () => {
    hideHint();
    open("token", true);
  } };
const map = new GateMap(options), patches = new PatchMap(options);
const picture = new PictureInput({ label: "Your picture", sample: true, start: 2, onChange: () => run() });
const generation = new Generation(state, { fail, done: (ids) => run(ids), look });
/** @type {AbortController | undefined} */
let running;

/** What the model is run on, as the API wants it. */
function inputs() {
  const { shared } = state;
  if (!state.isText) return { image: String(shared.image).split(",")[1] };
  return shared.ids ? { token_ids: shared.ids } : { prompt: shared.prompt };
}

/** What the map needs. */
const wanted = () => Object.keys(QUANTITIES).filter((q) => q !== "survival" && q !== "update_norm" && state.offers(q));

/** The trace of another text, while it grows. @param {string} prompt @param {AbortSignal} signal */
async function look(prompt, signal) {
  const { shared } = state;
  return (await api.trace(shared.model, { version: shared.version, inputs: { prompt }, quantities: wanted() }, signal))[0];
}

/** Look inside. @param {number[] | null} [ids] exact tokens */
async function run(ids = null) {
  const { shared } = state;
  if (!state.model) return;
  shared.prompt = byId("prompt").value;
  shared.ids = ids;
  if (!state.isText) shared.image = picture.value;
  if (state.isText ? !shared.prompt && !ids : !shared.image)
    return byId("status").replaceChildren(state.isText ? "Type a text first." : "Draw or choose a picture first.");
  generation.stop();
  running?.abort();
  running = new AbortController();
  byId("status").textContent = "Looking inside…";
  try {
    [state.trace] = await api.trace(shared.model, { version: shared.version, inputs: inputs(), quantities: wanted() }, running.signal);
    byId("problem").replaceChildren();
    warn();
    arrived();
  } catch (error) {
    if (/** @type {Error} */ (error).name === "AbortError") return;
    byId("status").textContent = "";
    fail(error);
  }
}

/** A link or file may come from other weights than those that answer now. */
function warn() {
  const { shared, trace } = state;
  const now = trace?.head.weights_sha256;
  if (shared.weights && now && shared.weights !== now)
    showProblem("The model has changed since this link was made", "Its weights are others now, so the numbers below are not those that were shared.");
  if (now) shared.weights = now;
  // The first site has no site before it, so one quantity is never a number there.
  const broken = [...(trace?.tensors ?? [])].some(([q, tensor]) => q !== "k_cos_prev" && tensor.nonfinite);
  for (const warning of trace?.head.warnings ?? []) if (broken || !warning.includes("not finite")) showProblem("Please note", warning);
}

/** Show a new trace. */
function arrived() {
  const trace = /** @type {import("./trace.js").Trace} */ (state.trace), { shared } = state;
  if (shared.position >= trace.length) shared.position = trace.length - 1;
  if (shared.site >= trace.rows) shared.site = 0;
  const names = trace.names, select = byId("quantity");
  if (!names.includes(shared.quantity)) shared.quantity = names[0];
  select.replaceChildren(...names.map((q) => h("option", { value: q, selected: q === shared.quantity }, label(q))));
  const unit = trace.tokens ? "tokens" : trace.grid ? "patches" : trace.length === 1 ? "picture" : "positions";
  const ms = trace.head.timing_ms?.model;
  byId("status").textContent = `${trace.head.model} · ${trace.rows} steps × ${trace.length} ${unit}${ms ? ` · ${Math.round(ms)} ms` : ""}`;
  showAnswer(trace.result.prediction?.top ?? []);
  byId("hintunit").textContent = trace.unit;
  byId("hint").hidden = !!localStorage.getItem(HINT_SEEN);
  for (const id of ["png", "svg", "csv", "safetensors"]) byId(id).disabled = false;
  state.tell("trace");
}

/** @param {any[]} top */
function showAnswer(top) {
  if (!top.length) return byId("answer").replaceChildren();
  const part = (/** @type {any} */ t) => `${Math.round(probability(t) * 100)} %`;
  byId("answer").replaceChildren(state.isText ? "next: " : "it sees: ", h("b", {}, visible(name(top[0]))), ` ${part(top[0])}`, top.slice(1, 3).map((t) => `, ${visible(name(t))} ${part(t)}`).join(""));
}

function drawMap() {
  const { trace, shared } = state;
  if (!trace || !trace.length) return;
  const data = /** @type {import("./trace.js").Tensor} */ (trace.tensors.get(shared.quantity)).data, scale = scaleOf(shared.quantity, data);
  byId("legend").replaceChildren(legend(shared.quantity, scale, trace.rule));
  byId("explain").textContent = QUANTITIES[shared.quantity] ? `${label(shared.quantity)}: ${QUANTITIES[shared.quantity][1]}.` : "";
  byId("dots").closest("label").hidden = !["beta", "eigenvalue"].includes(shared.quantity);
  const shown = { trace, data, scale, dots: shared.dots, describe: (/** @type {number} */ s, /** @type {number} */ p) => sentence(trace, s, p) };
  const chosen = trace.grid ? patches : map;
  if (byId("map").firstChild !== chosen.element) byId("map").replaceChildren(chosen.element);
  chosen.show(shown, { site: shared.site, position: shared.position }, shared.image);
  if (shared.position < 0) byId("read").textContent = trace.grid ? "Point at a patch to read it." : "Point at a square to read it.";
}

/** Open a view. @param {string} view @param {boolean} [focus] */
function open(view, focus = false) {
  state.shared.view = view;
  for (const other of VIEWS) {
    byId(`view-${other}`).hidden = other !== view;
    const tab = byId(`tab-${other}`);
    tab.setAttribute("aria-selected", String(other === view));
    tab.tabIndex = other === view ? 0 : -1;
  }
  byId("panel").setAttribute("aria-labelledby", `tab-${view}`);
  if (view === "map") drawMap();
  else /** @type {any} */ (views)[view].update(missed.get(view) ?? "opened");
  missed.delete(view);
  state.tell("link");
  if (focus) byId("panel").focus();
}

state.listen((what) => {
  writeLink();
  if (what === "link") return;
  const { view } = state.shared;
  for (const other of Object.keys(views)) if (other !== view && (what === "trace" || !missed.has(other))) missed.set(other, what);
  if (view === "map") {
    if (what === "selection") (state.trace?.grid ? patches : map).mark(state.shared.site, state.shared.position, false);
    else if (what !== "intervention") drawMap();
  } else /** @type {any} */ (views)[view].update(what);
});

const writeLink = debounced(300, async () => {
  const fragment = await state.fragment();
  if (fragment) history.replaceState(null, "", `#${fragment}`);
});

/** The hint has done its work. */
function hideHint() {
  localStorage.setItem(HINT_SEEN, "1");
  byId("hint").hidden = true;
}

/** Say what went wrong, and what to do. @param {unknown} error */
function fail(error) {
  if (!(error instanceof api.Problem)) {
    showProblem("That did not work", /** @type {Error} */ (error).message);
    if (!(error instanceof Error)) throw error;
    return;
  }
  if (error.needsKey) askForKey();
  const fixes = error.body.try?.map((/** @type {any} */ patch) => h("li", {}, h("code", {}, JSON.stringify(patch))));
  showProblem(error.title, error.message, fixes?.length ? h("div", {}, "This would fit:", h("ul", {}, fixes)) : error.needsKey ? h("button", { type: "button", onclick: askForKey }, "Enter a key") : null);
}

/** @param {string} title @param {string} detail @param {any} [more] */
function showProblem(title, detail, more = null) {
  byId("problem").replaceChildren(h("div", { class: "card problem" }, h("h2", {}, title), h("p", {}, detail), more));
}

function askForKey() {
  const dialog = byId("keydialog");
  if (dialog.open) return;
  dialog.returnValue = "";
  dialog.showModal();
}

/** Choose a model by its place in the list. @param {number} index */
async function choose(index) {
  const model = state.models[index];
  const same = model.name === state.shared.model && model.version === state.shared.version;
  if (!same) Object.assign(state.shared, { model: model.name, version: model.version, weights: "", sets: {}, whole: "", patch: "", site: 0, position: -1, ids: null, other: "", otherVersion: "", image: null });
  const isText = state.isText;
  byId("textinput").hidden = !isText;
  byId("pictureinput").hidden = isText;
  byId("examples").hidden = !isText;
  byId("continue").hidden = !isText || model.task === null;
  byId("what").textContent = isText ? "a text" : "a picture";
  state.trace = null;
  state.meta = null;
  if (!isText && state.shared.image) await picture.draw(state.shared.image);
  try {
    state.meta = await api.meta(model.name, model.version);
    await run(same ? state.shared.ids : null);
  } catch (error) {
    byId("status").textContent = "";
    fail(error);
  }
}

async function start() {
  wire();
  let given = null;
  if (location.hash.length > 1) {
    try {
      given = await unpack(location.hash.slice(1));
      state.restore(given);
    } catch (error) {
      fail(error);
    }
  }
  const { shared } = state;
  byId("prompt").value = shared.prompt || (shared.ids ? "" : EXAMPLES[0]);
  byId("dots").checked = shared.dots;
  open(VIEWS.includes(shared.view) ? shared.view : "map");
  await connect();
}

/** List the models and show the one of the link, else the first that has gates. */
async function connect() {
  const { shared } = state;
  try {
    state.models = (await api.listModels()).filter((m) => m.state.toLowerCase() === "ready");
  } catch (error) {
    byId("status").textContent = "";
    byId("map").replaceChildren(h("p", { class: "empty" }, "Nothing to show yet. A file of gates can be opened without a model: drop it here."));
    return fail(error);
  }
  const wanted = state.models.findIndex((m) => m.name === shared.model && m.version === shared.version);
  const texts = state.models.findIndex((m) => m.gates !== false && m.task !== "image-classification"), any = state.models.findIndex((m) => m.gates !== false);
  byId("model").replaceChildren(...state.models.map((m, i) => h("option", { value: i, disabled: m.gates === false }, `${m.name} · version ${m.version}${m.gates === false ? " (no gates)" : ""}`)));
  if (shared.model && wanted < 0) showProblem("The model of this link is not served here", `${shared.model}, version ${shared.version}, is not ready; another one is shown.`);
  const index = wanted >= 0 ? wanted : texts >= 0 ? texts : any;
  if (index < 0) {
    byId("status").textContent = "No model with gates is ready.";
    byId("map").replaceChildren(h("p", { class: "empty" }, "No model with gates is loaded. Export one with gate outputs, or drop a file of gates here."));
    return;
  }
  byId("model").value = String(index);
  await choose(index);
}

/** Show a file without a model. @param {File} file */
async function openFile(file) {
  try {
    const traces = file.name.endsWith(".json") ? tracesOfJson(JSON.parse(await file.text())) : tracesOfSafetensors(await file.arrayBuffer());
    state.trace = traces[0];
    state.trace.head.file = file.name;
    state.meta = null;
    state.shared.position = -1;
    state.shared.image = null;
    byId("problem").replaceChildren();
    arrived();
    byId("status").textContent = `from the file ${file.name} · ${state.trace.rows} steps × ${state.trace.length} positions`;
    open("map");
    announce(`The file ${file.name} is shown.`);
  } catch (error) {
    showProblem("The file cannot be shown", /** @type {Error} */ (error).message);
  }
}

/** Listen to everything on the page. */
function wire() {
  byId("pictureinput").append(picture.element);
  byId("examples").append(...EXAMPLES.map((text, i) => h("button", { type: "button", id: `example-${i}`, title: text, onclick: () => {
    byId("prompt").value = text;
    run();
  } }, `${text.slice(0, 24)}…`)));
  byId("tabs").append(...VIEWS.map((view) => h("button", { type: "button", role: "tab", id: `tab-${view}`, "aria-controls": "panel", onclick: () => open(view) }, view[0].toUpperCase() + view.slice(1))));
  byId("tabs").addEventListener("keydown", (/** @type {KeyboardEvent} */ event) => {
    const step = event.key === "ArrowRight" ? 1 : event.key === "ArrowLeft" ? -1 : 0;
    if (!step) return;
    event.preventDefault();
    open(VIEWS[(VIEWS.indexOf(state.shared.view) + step + VIEWS.length) % VIEWS.length]);
    byId(`tab-${state.shared.view}`).focus();
  });
  byId("input").addEventListener("submit", (/** @type {Event} */ event) => {
    event.preventDefault();
    run();
  });
  byId("prompt").addEventListener("keydown", (/** @type {KeyboardEvent} */ event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) run();
  });
  byId("model").addEventListener("change", () => choose(+byId("model").value));
  byId("quantity").addEventListener("change", () => state.set({ quantity: byId("quantity").value }, "quantity"));
  byId("dots").addEventListener("change", () => state.set({ dots: byId("dots").checked }, "quantity"));
  byId("gotit").addEventListener("click", hideHint);
  byId("continue").addEventListener("click", () => generation.start(inputs()));
  byId("stop").addEventListener("click", () => generation.stop());
  byId("keydialog").addEventListener("close", () => {
    if (byId("keydialog").returnValue !== "use" || !byId("key").value) return;
    api.useKey(byId("key").value);
    byId("key").value = "";
    byId("problem").replaceChildren();
    connect();
  });
  wireFiles();
  wireTheme();
}

function wireFiles() {
  const { shared } = state;
  const file = (/** @type {string} */ end) => `gates-${shared.model || "file"}.${end}`;
  byId("png").addEventListener("click", async () => {
    const trace = /** @type {import("./trace.js").Trace} */ (state.trace);
    save(await png(trace, shared.quantity, scaleOf(shared.quantity, /** @type {any} */ (trace.tensors.get(shared.quantity)).data), String(trace.head.model)), file("png"));
  });
  byId("svg").addEventListener("click", () => {
    const found = drawing(byId(`view-${shared.view}`));
    if (found) save(found, file("svg"));
    byId("shared").textContent = found ? "" : "There is no chart in this view: the map is saved as PNG.";
  });
  byId("csv").addEventListener("click", () => state.trace && save(csv(state.trace), file("csv")));
  byId("safetensors").addEventListener("click", () => state.trace && save(state.trace.toFile(), file("safetensors")));
  byId("share").addEventListener("click", async () => {
    const fragment = await state.fragment();
    if (!fragment) return (byId("shared").textContent = "Too long for a link: save the safetensors file instead.");
    history.replaceState(null, "", `#${fragment}`);
    try {
      await navigator.clipboard.writeText(location.href);
      byId("shared").textContent = "Copied. The link holds your text, but no server ever sees that part of it.";
    } catch {
      byId("shared").textContent = "The link is in the address bar: copy it from there.";
    }
  });
  byId("open").addEventListener("click", () => byId("file").click());
  byId("file").addEventListener("change", () => byId("file").files[0] && openFile(byId("file").files[0]));
  document.addEventListener("dragover", (event) => {
    event.preventDefault();
    document.body.classList.add("dropping");
  });
  document.addEventListener("dragleave", (event) => !event.relatedTarget && document.body.classList.remove("dropping"));
  document.addEventListener("drop", (event) => {
    event.preventDefault();
    document.body.classList.remove("dropping");
    const dropped = event.dataTransfer?.files[0];
    if (!dropped) return;
    if (dropped.type.startsWith("image/") && !state.isText) picture.load(dropped);
    else openFile(dropped);
  });
}

/** Dark or light: as the system has it, until somebody says otherwise. */
function wireTheme() {
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const apply = () => {
    const theme = localStorage.getItem(THEME) ?? (dark.matches ? "dark" : "light");
    document.documentElement.dataset.theme = theme;
    byId("theme").textContent = theme === "dark" ? "Light" : "Dark";
    if (state.trace && state.shared.view === "map") drawMap();
  };
  byId("theme").addEventListener("click", () => {
    localStorage.setItem(THEME, document.documentElement.dataset.theme === "dark" ? "light" : "dark");
    apply();
  });
  dark.addEventListener("change", apply);
  apply();
}

await start();
document.documentElement.dataset.ready = "";
