/** Text that appears token by token, each with its column of gates. */

import * as api from "./api.js";
import { byId } from "./dom.js";

const LONGEST = 40;

export class Generation {
  /** @param {import("./state.js").State} state @param {{fail: (error: unknown) => void, done: (ids: number[] | null) => void, look: (prompt: string, signal: AbortSignal) => Promise<import("./trace.js").Trace>}} page */
  constructor(state, page) {
    this.state = state;
    this.page = page;
    /** @type {AbortController | null} */
    this.abort = null;
  }

  /** @param {any} inputs */
  async start(inputs) {
    const { shared, trace } = this.state;
    if (!trace) return;
    this.stop();
    const mine = (this.abort = new AbortController());
    this.busy(true);
    const prompt = byId("prompt");
    let ids = trace.tokens ? [...trace.tokens.ids] : [], complete = true;
    /** @type {Required<api.Piece>[]} */
    let waiting = [];
    /** @type {api.Piece | null} a token that was chosen, but not read yet: its gates come with the next one */
    let unread = null;
    let frame = 0, looking = false;
    const append = () => {
      frame = 0;
      if (mine.signal.aborted || !waiting.length) return;
      this.grow(waiting);
      waiting = [];
    };
    const look = async () => {
      if (looking) return;
      looking = true;
      try {
        const seen = await this.page.look(prompt.value, mine.signal);
        if (!mine.signal.aborted) this.put(seen);
      } catch {
        // The end asks once more, and says what is wrong.
      }
      looking = false;
    };
    try {
      const room = (await api.longest(shared.model)) - trace.length;
      if (room < 1) throw new Error("The text is already as long as this model can read: shorten it first.");
      await api.generate(shared.model, inputs, Math.min(LONGEST, room), (piece) => {
        prompt.value += piece.text;
        if (piece.gates && piece.id !== undefined) {
          ids.push(piece.id);
          if (unread) waiting.push({ text: unread.text, id: /** @type {number} */ (unread.id), gates: piece.gates });
          unread = piece;
          frame ||= requestAnimationFrame(append);
        } else if (!unread) {
          complete = false;
          look();
        }
      }, mine.signal);
      append();
      this.busy(false);
      this.page.done(complete ? ids : null);
    } catch (error) {
      this.busy(false);
      if (/** @type {Error} */ (error).name !== "AbortError") this.page.fail(error);
    }
  }

  /** Add columns on the right. @param {Required<api.Piece>[]} added */
  grow(added) {
    const now = /** @type {import("./trace.js").Trace} */ (this.state.trace), columns = new Map();
    for (const name of Object.keys(added[0].gates))
      columns.set(name, Float32Array.from({ length: now.rows * added.length }, (_, i) => added[i % added.length].gates[name][Math.floor(i / added.length)] ?? NaN));
    this.put(now.extended(added.map((piece) => piece.id), added.map((piece) => piece.text), columns, added.length));
  }

  /** @param {import("./trace.js").Trace} trace */
  put(trace) {
    this.state.trace = trace;
    if (!trace.names.includes(this.state.shared.quantity)) this.state.shared.quantity = "beta";
    this.state.tell("grown");
    const scroller = document.querySelector("#map .scroller");
    if (scroller) scroller.scrollLeft = scroller.scrollWidth;
  }

  stop() {
    this.abort?.abort();
    this.abort = null;
    this.busy(false);
  }

  /** @param {boolean} on */
  busy(on) {
    byId("stop").hidden = !on;
    byId("continue").disabled = on;
  }
}
