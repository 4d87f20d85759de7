/** The map: a row for each site, a column for each position, on one canvas however long the text is. */

import { announce, h, visible } from "./dom.js";
import { css, packed, paint } from "./colour.js";

const GAP = 4;
const NARROWEST = 2;
const WIDEST = 64;

/**
 * @typedef {object} Shown
 * @property {import("./trace.js").Trace} trace
 * @property {ArrayLike<number>} data  site by position
 * @property {import("./colour.js").Scale} scale
 * @property {boolean} [dots]  mark what reflects, for those who cannot tell blue from red
 * @property {boolean} [absent]  what is no number has no partner: grey, not an error
 * @property {(site: number, position: number) => string} describe
 */

export class GateMap {
  /** @param {{label: string, onHover?: (text: string) => void, onSelect?: (site: number, position: number) => void, onOpen?: (site: number, position: number) => void}} options */
  constructor(options) {
    this.options = options;
    /** @type {Shown | null} */
    this.shown = null;
    this.at = { site: 0, position: 0 };
    this.canvas = h("canvas", { class: "cells" });
    this.cursor = h("div", { class: "cursor", hidden: true });
    this.inner = h("div", { class: "inner" }, this.canvas, this.cursor);
    this.scroller = h("div", { class: "scroller", tabindex: "0", role: "application", "aria-roledescription": "heat map",
      "aria-label": `${options.label}. Arrow keys move, Enter opens the token.` }, this.inner);
    this.labels = h("div", { class: "rows", "aria-hidden": "true" });
    this.overview = h("canvas", { class: "overview", hidden: true, "aria-hidden": "true" });
    this.element = h("div", { class: "map" }, h("div", { class: "body" }, this.labels, this.scroller), this.overview);
    this.scroller.addEventListener("scroll", () => this.drawCells());
    this.scroller.addEventListener("pointermove", (/** @type {PointerEvent} */ e) => this.hover(e));
    this.scroller.addEventListener("pointerleave", () => this.shown && this.mark(this.at.site, this.at.position, true));
    this.scroller.addEventListener("click", (/** @type {PointerEvent} */ e) => this.click(e));
    this.scroller.addEventListener("keydown", (/** @type {KeyboardEvent} */ e) => this.key(e));
    this.overview.addEventListener("pointerdown", (/** @type {PointerEvent} */ e) => this.jump(e));
    this.overview.addEventListener("pointermove", (/** @type {PointerEvent} */ e) => e.buttons && this.jump(e));
    new ResizeObserver(() => this.shown && this.scroller.clientWidth !== this.width && this.layout()).observe(this.element);
  }

  /** @param {Shown} shown @param {{site: number, position: number}} at */
  show(shown, at) {
    this.shown = shown;
    this.at = { ...at };
    this.layout();
  }

  layout() {
    if (!this.scroller.clientWidth) return; // not in sight yet: the observer calls again
    const { trace } = /** @type {Shown} */ (this.shown);
    const compact = trace.rows > 16;
    this.rowHeight = compact ? 15 : 24;
    this.tops = trace.sites.map((_, i) => i * /** @type {number} */ (this.rowHeight) + trace.sites.slice(1, i + 1).filter((site, j) => site.layer !== trace.sites[j].layer).length * GAP);
    const bottom = this.tops[this.tops.length - 1] + this.rowHeight;
    this.fillLabels(bottom);
    this.width = this.scroller.clientWidth;
    this.cell = Math.max(NARROWEST, Math.min(WIDEST, Math.floor((this.width - 2) / Math.max(1, trace.length))));
    this.textHeight = !trace.tokens || this.cell < 12 ? 0 : this.cell < 34 ? 74 : 24;
    this.height = bottom + this.textHeight;
    this.inner.style.width = `${trace.length * this.cell}px`;
    this.inner.style.height = `${this.height}px`;
    const ratio = devicePixelRatio || 1;
    this.canvas.width = Math.min(this.width, trace.length * this.cell) * ratio;
    this.canvas.height = this.height * ratio;
    this.canvas.style.width = `${Math.min(this.width, trace.length * this.cell)}px`;
    this.canvas.style.height = `${this.height}px`;
    this.drawCells();
    this.mark(this.at.site, this.at.position, true);
  }

  /** @param {number} bottom */
  fillLabels(bottom) {
    const { trace, data, scale } = /** @type {Shown} */ (this.shown);
    this.labels.style.height = `${bottom}px`;
    this.labels.replaceChildren(...trace.sites.map((site, row) => {
      const mean = finiteMean(data, row * trace.length, (row + 1) * trace.length);
      const bar = h("i", { class: "mean", title: `mean ${mean.toFixed(3)}` });
      bar.style.background = css(scale, mean);
      const label = h("div", {}, h("span", {}, site.name), bar);
      label.style.top = `${/** @type {number[]} */ (this.tops)[row]}px`;
      label.style.height = label.style.lineHeight = `${this.rowHeight}px`;
      return label;
    }));
  }

  /** Paint what is in sight. */
  drawCells() {
    if (!this.shown) return;
    const started = performance.now();
    const { trace, data, scale } = this.shown;
    const cell = /** @type {number} */ (this.cell), tall = /** @type {number} */ (this.rowHeight), tops = /** @type {number[]} */ (this.tops);
    const ratio = devicePixelRatio || 1, left = this.scroller.scrollLeft;
    const from = Math.floor(left / cell), to = Math.min(trace.length, Math.ceil((left + this.scroller.clientWidth) / cell) + 1);
    const context = /** @type {CanvasRenderingContext2D} */ (this.canvas.getContext("2d"));
    context.setTransform(ratio, 0, 0, ratio, 0, 0);
    context.clearRect(0, 0, this.canvas.width, this.canvas.height);
    context.translate(-left, 0);
    context.imageSmoothingEnabled = false;
    const small = new OffscreenCanvas(Math.max(1, to - from), trace.rows);
    /** @type {any} */ (small.getContext("2d")).putImageData(paint(data, trace.length, scale, from, to), 0, 0);
    for (let row = 0; row < trace.rows; row++)
      context.drawImage(small, 0, row, to - from, 1, from * cell, tops[row], (to - from) * cell, tall - (tall > 20 ? 1 : 0));
    if (cell >= 10) {
      context.fillStyle = getComputedStyle(this.element).getPropertyValue("--surface");
      for (let column = from; column < to; column++) context.fillRect(column * cell + cell - 1, 0, 1, tops[trace.rows - 1] + tall);
    }
    this.drawMarks(context, from, to);
    this.drawText(context, from, to);
    this.drawOverview();
    performance.measure("map:draw", { start: started });
  }

  /** Signs for what colours cannot tell: no number, outside the scale, reflected. @param {CanvasRenderingContext2D} context @param {number} from @param {number} to */
  drawMarks(context, from, to) {
    const { trace, data, scale, dots, absent } = /** @type {Shown} */ (this.shown);
    const cell = /** @type {number} */ (this.cell), tall = /** @type {number} */ (this.rowHeight), tops = /** @type {number[]} */ (this.tops);
    for (let row = 0; row < trace.rows; row++)
      for (let column = from; column < to; column++) {
        const value = data[row * trace.length + column], x = column * cell, y = tops[row];
        if (!Number.isFinite(value) && absent) {
          context.fillStyle = "#9b9b9b";
          context.fillRect(x, y, cell, tall);
        } else if (!Number.isFinite(value)) {
          context.strokeStyle = "#fff";
          context.beginPath();
          context.moveTo(x, y + tall - 1);
          context.lineTo(x + cell, y);
          context.stroke();
        } else if (scale.clips && cell >= 6 && (value > scale.high || value < scale.low)) {
          context.fillStyle = value > scale.high ? "#000" : "#fff";
          context.beginPath();
          context.moveTo(x + cell - 5, y);
          context.lineTo(x + cell - 1, y);
          context.lineTo(x + cell - 1, y + 4);
          context.fill();
        } else if (dots && value > (scale.low + scale.high) / 2 && !scale.log) {
          context.fillStyle = "#000";
          const size = Math.max(1, Math.min(4, cell / 4));
          context.fillRect(x + (cell - size) / 2, y + (tall - size) / 2, size, size);
        }
      }
  }

  /** @param {CanvasRenderingContext2D} context @param {number} from @param {number} to */
  drawText(context, from, to) {
    const { trace } = /** @type {Shown} */ (this.shown);
    const cell = /** @type {number} */ (this.cell), top = /** @type {number} */ (this.height) - /** @type {number} */ (this.textHeight);
    if (!this.textHeight || !trace.tokens) return;
    const style = getComputedStyle(this.element);
    context.fillStyle = style.color;
    for (let column = from; column < to; column++) {
      const special = trace.tokens.is_special?.[column];
      context.font = `${special ? "italic " : ""}12px ${style.getPropertyValue("--mono")}`;
      let text = visible(trace.tokens.text[column] ?? "");
      const joined = trace.tokens.is_continuation?.[column];
      const room = Math.floor(((cell < 34 ? 72 : cell - 4)) / 7.3);
      if (text.length > room) text = `${text.slice(0, Math.max(1, room - 1))}…`;
      context.save();
      if (cell < 34) {
        context.translate(column * cell + cell / 2 + 4, top + 6);
        context.rotate(Math.PI / 2);
        context.translate(0, 8);
        context.fillText(text, 0, 0);
      } else {
        context.textAlign = "center";
        context.fillText(text, column * cell + cell / 2, top + 16);
      }
      context.restore();
      if (joined) context.fillRect(column * cell - 3, top + 3, 6, 1);
    }
  }

  /** A strip of the whole text, where it does not fit. */
  drawOverview() {
    const { trace, data, scale } = /** @type {Shown} */ (this.shown);
    const whole = trace.length * /** @type {number} */ (this.cell), seen = this.scroller.clientWidth;
    this.overview.hidden = whole <= seen + 1;
    if (this.overview.hidden) return;
    const width = (this.overview.width = this.overview.clientWidth || seen), height = (this.overview.height = 30);
    const context = /** @type {CanvasRenderingContext2D} */ (this.overview.getContext("2d"));
    const image = new ImageData(width, trace.rows), pixels = new Uint32Array(image.data.buffer);
    for (let row = 0; row < trace.rows; row++)
      for (let x = 0; x < width; x++) pixels[row * width + x] = packed(scale, data[row * trace.length + Math.floor((x * trace.length) / width)]);
    const small = new OffscreenCanvas(width, trace.rows);
    /** @type {any} */ (small.getContext("2d")).putImageData(image, 0, 0);
    context.imageSmoothingEnabled = false;
    context.drawImage(small, 0, 0, width, height);
    const x = (this.scroller.scrollLeft / whole) * width, w = Math.max(6, (seen / whole) * width);
    context.fillStyle = "rgb(128 128 128 / 55%)";
    context.fillRect(0, 0, x, height);
    context.fillRect(x + w, 0, width, height);
    context.strokeStyle = "#000";
    context.strokeRect(x + 0.5, 0.5, w - 1, height - 1);
  }

  /** @param {PointerEvent} event */
  jump(event) {
    const box = this.overview.getBoundingClientRect();
    const whole = /** @type {Shown} */ (this.shown).trace.length * /** @type {number} */ (this.cell);
    this.scroller.scrollLeft = ((event.clientX - box.left) / box.width) * whole - this.scroller.clientWidth / 2;
  }

  /** @param {PointerEvent} event @returns {{site: number, position: number} | null} */
  find(event) {
    if (!this.shown) return null;
    const { trace } = this.shown, box = this.inner.getBoundingClientRect();
    const position = Math.floor((event.clientX - box.left) / /** @type {number} */ (this.cell)), y = event.clientY - box.top;
    const tops = /** @type {number[]} */ (this.tops), tall = /** @type {number} */ (this.rowHeight);
    if (position < 0 || position >= trace.length) return null;
    let site = tops.findIndex((top) => y < top + tall);
    if (site < 0) site = trace.rows - 1;
    return { site, position };
  }

  /** @param {PointerEvent} event */
  hover(event) {
    const started = performance.now(), found = this.find(event);
    if (found) this.mark(found.site, found.position, false);
    performance.measure("map:hover", { start: started });
  }

  /** @param {PointerEvent} event */
  click(event) {
    const found = this.find(event);
    if (!found) return;
    this.at = found;
    this.options.onSelect?.(found.site, found.position);
    this.options.onOpen?.(found.site, found.position);
  }

  /** @param {KeyboardEvent} event */
  key(event) {
    if (!this.shown) return;
    const { trace } = this.shown;
    let { site, position } = this.at;
    const page = Math.max(1, Math.floor(this.scroller.clientWidth / /** @type {number} */ (this.cell) / 2));
    /** @type {Record<string, () => void>} */
    const moves = {
      ArrowLeft: () => (position -= 1), ArrowRight: () => (position += 1), ArrowUp: () => (site -= 1), ArrowDown: () => (site += 1),
      Home: () => (position = 0), End: () => (position = trace.length - 1), PageUp: () => (position -= page), PageDown: () => (position += page),
    };
    if (event.key === "Enter" || event.key === " ") {
      event.preventDefault();
      this.options.onOpen?.(site, position);
      return;
    }
    if (!moves[event.key]) return;
    event.preventDefault();
    moves[event.key]();
    this.at = { site: Math.max(0, Math.min(trace.rows - 1, site)), position: Math.max(0, Math.min(trace.length - 1, position)) };
    this.reveal();
    this.mark(this.at.site, this.at.position, false);
    announce(this.shown.describe(this.at.site, this.at.position));
    this.options.onSelect?.(this.at.site, this.at.position);
  }

  /** Scroll the chosen column into sight. */
  reveal() {
    const cell = /** @type {number} */ (this.cell), x = this.at.position * cell, left = this.scroller.scrollLeft, seen = this.scroller.clientWidth;
    if (x < left || x + cell > left + seen) this.scroller.scrollLeft = x - seen / 2;
  }

  /** Outline a square: an overlay, so nothing is painted anew. @param {number} site @param {number} position @param {boolean} quiet */
  mark(site, position, quiet) {
    const { trace, describe } = /** @type {Shown} */ (this.shown);
    if (!this.tops) return;
    const inside = position >= 0 && position < trace.length && site >= 0 && site < trace.rows;
    this.cursor.hidden = !inside;
    if (!inside) return;
    const cell = /** @type {number} */ (this.cell);
    this.cursor.style.transform = `translate(${position * cell - 2}px, ${/** @type {number[]} */ (this.tops)[site] - 2}px)`;
    this.cursor.style.width = `${cell + 4}px`;
    this.cursor.style.height = `${/** @type {number} */ (this.rowHeight) + 4}px`;
    if (!quiet || this.at.position >= 0) this.options.onHover?.(describe(site, position));
  }
}

/** @param {ArrayLike<number>} data @param {number} from @param {number} to */
export function finiteMean(data, from, to) {
  let sum = 0, count = 0;
  for (let i = from; i < to; i++)
    if (Number.isFinite(data[i])) {
      sum += data[i];
      count++;
    }
  return count ? sum / count : NaN;
}
