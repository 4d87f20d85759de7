/** The map of an image: the picture, and beside it one small grid of patches for each site. */

import { announce, h } from "./dom.js";
import { css, paint } from "./colour.js";

const SIDE = 148;
const LARGEST = 210;

export class PatchMap {
  /** @param {ConstructorParameters<typeof import("./map.js").GateMap>[0]} options */
  constructor(options) {
    this.options = options;
    /** @type {import("./map.js").Shown | null} */
    this.shown = null;
    this.at = { site: 0, position: 0 };
    this.element = h("div", { class: "patches", tabindex: "0", role: "application", "aria-roledescription": "grids of patches",
      "aria-label": `${options.label}. Arrow keys move over the patches, Page Up and Page Down between the steps, Enter opens the patch.` });
    this.element.addEventListener("keydown", (/** @type {KeyboardEvent} */ e) => this.key(e));
    /** @type {any[]} */
    this.tiles = [];
  }

  /** @param {import("./map.js").Shown} shown @param {{site: number, position: number}} at @param {string | null} [image] */
  show(shown, at, image = null) {
    const started = performance.now();
    this.shown = shown;
    this.at = { ...at };
    const { trace, scale } = shown;
    const [rows, columns] = /** @type {[number, number]} */ (trace.grid);
    this.pictureCursor = h("div", { class: "cursor", hidden: true });
    const picture = image
      ? h("figure", { class: "picture" }, h("div", { class: "tile" }, h("img", { src: image, alt: "the input" }), this.pictureCursor), h("figcaption", {}, "the input"))
      : null;
    this.tiles = trace.sites.map((site, index) => {
      const canvas = h("canvas", { width: columns, height: rows });
      const values = shown.data instanceof Float32Array ? shown.data.subarray(index * trace.length, (index + 1) * trace.length) : [];
      canvas.getContext("2d").putImageData(paint(values, columns, scale, 0, columns), 0, 0);
      const marks = shown.dots ? this.dots(values, rows, columns) : null;
      const cursor = h("div", { class: "cursor", hidden: true });
      const tile = h("div", { class: "tile" }, canvas, marks, cursor);
      tile.addEventListener("pointermove", (/** @type {PointerEvent} */ e) => this.hover(e, index));
      tile.addEventListener("pointerleave", () => this.mark(this.at.site, this.at.position));
      tile.addEventListener("click", (/** @type {PointerEvent} */ e) => this.click(e, index));
      const mean = values.reduce((/** @type {number} */ a, /** @type {number} */ b) => a + b, 0) / trace.length;
      const swatch = h("i", { class: "mean" });
      swatch.style.background = css(scale, mean);
      return { tile, cursor, figure: h("figure", {}, tile, h("figcaption", {}, swatch, site.name)) };
    });
    const across = new Set(trace.sites.map((site) => site.layer)).size, room = this.element.clientWidth - (image && this.element.clientWidth > 700 ? 400 : 40);
    if (room > 0) this.element.dataset.side = String(Math.max(96, Math.min(LARGEST, Math.floor(room / across - 28))));
    for (const { tile } of this.tiles) tile.style.width = tile.style.height = `${this.element.dataset.side ?? SIDE}px`;
    const layers = [...new Set(trace.sites.map((site) => site.layer))];
    const groups = layers.map((layer) => h("div", { class: "layer" }, this.tiles.filter((_, i) => trace.sites[i].layer === layer).map((t) => t.figure)));
    this.element.replaceChildren(...(picture ? [picture] : []), h("div", { class: "layers" }, groups));
    this.mark(at.site, at.position);
    performance.measure("map:draw", { start: started });
  }

  /** @param {ArrayLike<number>} values @param {number} rows @param {number} columns */
  dots(values, rows, columns) {
    const canvas = h("canvas", { width: SIDE, height: SIDE, class: "dots" }), context = canvas.getContext("2d");
    for (let i = 0; i < rows * columns; i++)
      if (values[i] > 1) context.fillRect(((i % columns) + 0.5) * (SIDE / columns) - 2, (Math.floor(i / columns) + 0.5) * (SIDE / rows) - 2, 4, 4);
    return canvas;
  }

  /** @param {PointerEvent} event @param {number} site */
  find(event, site) {
    const [rows, columns] = /** @type {[number, number]} */ (/** @type {any} */ (this.shown).trace.grid);
    const box = this.tiles[site].tile.getBoundingClientRect();
    const within = (/** @type {number} */ x, /** @type {number} */ n) => Math.max(0, Math.min(n - 1, Math.floor(x * n)));
    return within((event.clientY - box.top) / box.height, rows) * columns + within((event.clientX - box.left) / box.width, columns);
  }

  /** @param {PointerEvent} event @param {number} site */
  hover(event, site) {
    const started = performance.now();
    this.mark(site, this.find(event, site));
    performance.measure("map:hover", { start: started });
  }

  /** @param {PointerEvent} event @param {number} site */
  click(event, site) {
    const position = this.find(event, site);
    this.at = { site, position };
    this.options.onSelect?.(site, position);
    this.options.onOpen?.(site, position);
  }

  /** @param {KeyboardEvent} event */
  key(event) {
    if (!this.shown) return;
    const { trace } = this.shown, [rows, columns] = /** @type {[number, number]} */ (trace.grid);
    let { site, position } = this.at;
    if (event.key === "Enter" || event.key === " ") {
      event.preventDefault();
      this.options.onOpen?.(site, position);
      return;
    }
    const x = position % columns, y = Math.floor(position / columns);
    if (event.key === "ArrowLeft" && x > 0) position -= 1;
    else if (event.key === "ArrowRight" && x < columns - 1) position += 1;
    else if (event.key === "ArrowUp" && y > 0) position -= columns;
    else if (event.key === "ArrowDown" && y < rows - 1) position += columns;
    else if (event.key === "PageUp") site = Math.max(0, site - 1);
    else if (event.key === "PageDown") site = Math.min(trace.rows - 1, site + 1);
    else if (event.key === "Home") position = 0;
    else if (event.key === "End") position = trace.length - 1;
    else if (!event.key.startsWith("Arrow")) return;
    event.preventDefault();
    this.at = { site, position };
    this.mark(site, position);
    announce(this.shown.describe(site, position));
    this.options.onSelect?.(site, position);
  }

  /** @param {number} site @param {number} position */
  mark(site, position) {
    const { trace, describe } = /** @type {import("./map.js").Shown} */ (this.shown);
    const [rows, columns] = /** @type {[number, number]} */ (trace.grid);
    const place = (/** @type {any} */ cursor) => {
      cursor.hidden = position < 0;
      cursor.style.width = `${100 / columns}%`;
      cursor.style.height = `${100 / rows}%`;
      cursor.style.left = `${((position % columns) * 100) / columns}%`;
      cursor.style.top = `${(Math.floor(position / columns) * 100) / rows}%`;
    };
    this.tiles.forEach((tile, index) => (index === site ? place(tile.cursor) : (tile.cursor.hidden = true)));
    if (this.pictureCursor) place(this.pictureCursor);
    if (position >= 0) this.options.onHover?.(describe(site, position));
  }
}
