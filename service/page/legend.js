/** The scale in colours and words. */

import { h } from "./dom.js";
import { paint } from "./colour.js";
import { ends } from "./words.js";

/** @param {string} quantity @param {import("./colour.js").Scale} scale @param {string} rule */
export function legend(quantity, scale, rule) {
  const canvas = h("canvas", { width: 257, height: 1, "aria-hidden": "true" });
  const values = Float32Array.from({ length: 257 }, (_, i) => {
    const t = i / 256;
    return scale.log ? scale.low * (scale.high / scale.low) ** t : scale.low + (scale.high - scale.low) * t;
  });
  canvas.getContext("2d").putImageData(paint(values, 257, scale, 0, 257), 0, 0);
  return h("div", { class: "legend" }, canvas, h("div", {}, ends(quantity, scale, rule).map((text) => h("span", {}, text))));
}
