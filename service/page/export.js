/** Files to keep: the numbers as the service gave them, a table of them, a picture. */

import { h, svg } from "./dom.js";
import { css } from "./colour.js";
import { ends, label } from "./words.js";

/** @param {Blob} blob @param {string} name */
export function save(blob, name) {
  const address = URL.createObjectURL(blob);
  h("a", { href: address, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(address), 10_000);
}

const STYLE = ["fill", "stroke", "stroke-width", "stroke-dasharray", "opacity", "font-size", "font-weight", "font-family", "text-anchor"];

/** The charts of a view with the words beside them, each where it stands, as one drawing that needs no style sheet. @param {Element} view @returns {Blob | null} null if there is no chart */
export function drawing(view) {
  const box = view.getBoundingClientRect(), ink = getComputedStyle(view).color;
  const whole = svg("svg", { width: box.width, height: box.height }, svg("rect", { width: "100%", height: "100%", fill: getComputedStyle(document.body).backgroundColor }));
  for (const part of view.querySelectorAll("svg, h2, h3, th, .chip, .number, .words, .sum b")) {
    const at = part.getBoundingClientRect(), x = at.x - box.x, y = at.y - box.y;
    if (!at.width) continue;
    const copy = part instanceof SVGElement ? painted(part) : svg("text", { x, y: y + at.height / 2 + 4, fill: ink, "font-size": 13, "font-family": "sans-serif" }, part.textContent);
    if (part instanceof SVGElement) for (const [name, value] of Object.entries({ x, y, width: at.width, height: at.height, overflow: "visible" })) copy.setAttribute(name, String(value));
    whole.append(copy);
  }
  return whole.querySelector("svg") && new Blob([new XMLSerializer().serializeToString(whole)], { type: "image/svg+xml" });
}

/** @param {Element} part */
function painted(part) {
  const copy = /** @type {Element} */ (part.cloneNode()), style = getComputedStyle(part);
  for (const name of STYLE) copy.setAttribute(name, style.getPropertyValue(name));
  copy.append(...[...part.childNodes].map((child) => (child instanceof Element ? painted(child) : child.cloneNode())));
  return copy;
}

/** A long table: a line for each site and position. @param {import("./trace.js").Trace} trace */
export function csv(trace) {
  const names = trace.names;
  const quoted = (/** @type {string} */ text) => `"${text.replace(/"/g, '""')}"`;
  const lines = [["site", "position", "token_id", "token", ...names].join()];
  for (let site = 0; site < trace.rows; site++)
    for (let position = 0; position < trace.length; position++) {
      const token = trace.tokens ? [trace.tokens.ids[position], quoted(trace.tokens.text[position] ?? "")] : ["", ""];
      lines.push([trace.sites[site].name, position, ...token, ...names.map((name) => number(trace.value(name, site, position)))].join());
    }
  return new Blob([lines.join("\r\n"), "\r\n"], { type: "text/csv;charset=utf-8" });
}

/** The shortest text that is this number again in 32 bits. @param {number | undefined} value */
function number(value) {
  if (value === undefined || !Number.isFinite(value)) return "";
  for (let digits = 6; digits < 10; digits++) {
    const text = String(+value.toPrecision(digits));
    if (Math.fround(+text) === value) return text;
  }
  return String(value);
}

/** The map with its labels, words and scale. @param {import("./trace.js").Trace} trace @param {string} quantity @param {import("./colour.js").Scale} scale @param {string} title */
export function png(trace, quantity, scale, title) {
  const cell = Math.max(2, Math.min(40, Math.floor(1200 / trace.length))), tall = 22, left = 70, top = 56;
  const foot = trace.tokens && cell >= 12 ? 90 : 12;
  const canvas = new OffscreenCanvas(Math.max(640, left + trace.length * cell + 16), top + trace.rows * tall + foot);
  const context = /** @type {OffscreenCanvasRenderingContext2D} */ (canvas.getContext("2d"));
  context.fillStyle = "#fff";
  context.fillRect(0, 0, canvas.width, canvas.height);
  context.fillStyle = "#1b1c1f";
  context.font = "600 14px system-ui, sans-serif";
  context.fillText(title, 12, 20);
  context.font = "12px system-ui, sans-serif";
  context.fillText(label(quantity), 12, 40);
  const [low, middle, high] = ends(quantity, scale, trace.rule), bar = 260;
  const from = canvas.width - bar - 20;
  for (let x = 0; x < bar; x++) {
    const t = x / (bar - 1);
    context.fillStyle = css(scale, scale.log ? scale.low * (scale.high / scale.low) ** t : scale.low + (scale.high - scale.low) * t);
    context.fillRect(from + x, 12, 1, 12);
  }
  context.fillStyle = "#1b1c1f";
  [[low, from, "left"], [middle, from + bar / 2, "center"], [high, from + bar, "right"]].forEach(([text, x, where]) => {
    context.textAlign = /** @type {CanvasTextAlign} */ (where);
    context.fillText(String(text), +x, 40);
  });
  const data = /** @type {import("./trace.js").Tensor} */ (trace.tensors.get(quantity)).data;
  for (let row = 0; row < trace.rows; row++) {
    context.textAlign = "left";
    context.fillStyle = "#1b1c1f";
    context.fillText(trace.sites[row].name, 12, top + row * tall + 15);
    for (let column = 0; column < trace.length; column++) {
      context.fillStyle = css(scale, data[row * trace.length + column]);
      context.fillRect(left + column * cell, top + row * tall, cell, tall - 1);
    }
  }
  if (foot > 20)
    trace.tokens?.text.forEach((text, column) => {
      context.save();
      context.fillStyle = "#1b1c1f";
      context.translate(left + column * cell + cell / 2 - 3, top + trace.rows * tall + 5);
      context.rotate(Math.PI / 2);
      context.fillText(text.replace(/\n/g, "⏎").slice(0, 12), 0, 0);
      context.restore();
    });
  return canvas.convertToBlob({ type: "image/png" });
}
