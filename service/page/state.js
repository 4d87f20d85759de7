/** What the page shows, in one object; views hear of changes. */

import { pack, LONGEST } from "./link.js";

/**
 * @typedef {object} Shared  what a link carries
 * @property {string} model
 * @property {string} version
 * @property {string} weights  so that a link says when the weights are others now
 * @property {string} view
 * @property {string} quantity
 * @property {string} prompt
 * @property {number[] | null} ids  exact tokens, where the text alone might be cut another way
 * @property {string | null} image  data URL
 * @property {number} site
 * @property {number} position
 * @property {Record<string, number>} sets  gate of a site by its name
 * @property {string} whole  an intervention on all sites, or ""
 * @property {string} patch  text or picture whose gates are taken, with "patch" on all sites
 * @property {string} mode  rerun or frozen
 * @property {string} where  all positions or the chosen one
 * @property {string} other  second prompt
 * @property {string} otherVersion
 * @property {boolean} dots
 */

/** @type {Shared} */
const START = {
  model: "", version: "", weights: "", view: "map", quantity: "beta", prompt: "", ids: null, image: null, site: 0, position: -1,
  sets: {}, whole: "", patch: "", mode: "rerun", where: "all", other: "", otherVersion: "", dots: false,
};

export class State {
  constructor() {
    /** @type {Shared} */
    this.shared = structuredClone(START);
    /** @type {import("./trace.js").Trace | null} */
    this.trace = null;
    /** @type {any} what the service says about the gates of the chosen model */
    this.meta = null;
    /** @type {import("./api.js").Model[]} */
    this.models = [];
    /** @type {((what: string) => void)[]} */
    this.listeners = [];
  }

  /** @returns {import("./api.js").Model | undefined} */
  get model() {
    return this.models.find((m) => m.name === this.shared.model && m.version === this.shared.version);
  }

  get isText() {
    return this.model?.task !== "image-classification";
  }

  /** Whether a quantity can be asked for. @param {string} name */
  offers(name) {
    return !!this.meta?.quantities.some((/** @type {any} */ q) => q.name === name && q.available !== false);
  }

  /** @param {(what: string) => void} listener */
  listen(listener) {
    this.listeners.push(listener);
  }

  /** @param {Partial<Shared>} changes @param {string} what kind of change */
  set(changes, what) {
    Object.assign(this.shared, changes);
    this.tell(what);
  }

  /** @param {string} what */
  tell(what) {
    for (const listener of this.listeners) listener(what);
  }

  /** Choose a square; the position is kept inside the trace. @param {number} site @param {number} position */
  select(site, position) {
    const trace = this.trace;
    if (!trace) return;
    const within = (/** @type {number} */ i, /** @type {number} */ n) => Math.max(0, Math.min(n - 1, i));
    this.set({ site: within(site, trace.rows), position: within(position, trace.length) }, "selection");
  }

  /** Take what a link carries, field by field and only of the right type. @param {any} given */
  restore(given) {
    for (const [name, start] of Object.entries(START)) {
      const value = given?.[name];
      const fits = name === "ids" ? Array.isArray(value) && value.every(Number.isInteger)
        : name === "image" ? typeof value === "string" && value.startsWith("data:image/")
        : name === "sets" ? value && Object.values(value).every((v) => typeof v === "number" && v >= 0 && v <= 2)
        : typeof value === typeof start;
      if (fits) /** @type {any} */ (this.shared)[name] = value;
    }
  }

  /** The fragment that shows this again, or null if it would be too long. */
  async fragment() {
    const changed = Object.entries(this.shared).filter(([name, value]) => JSON.stringify(value) !== JSON.stringify(/** @type {any} */ (START)[name]));
    const fragment = await pack(Object.fromEntries(changed));
    return fragment.length <= LONGEST ? fragment : null;
  }
}
