/** Numbers to colours. The gate's scale is fixed, so that two pictures can always be compared. */

const BLUE_WHITE_RED = [
  [5, 48, 97], [33, 102, 172], [67, 147, 195], [146, 197, 222], [209, 229, 240], [247, 247, 247],
  [253, 219, 199], [244, 165, 130], [214, 96, 77], [178, 24, 43], [103, 0, 31],
];
const ORANGE_WHITE_PURPLE = [
  [127, 59, 8], [179, 88, 6], [224, 130, 20], [253, 184, 99], [254, 224, 182], [247, 247, 247],
  [216, 218, 235], [178, 171, 210], [128, 115, 172], [84, 39, 136], [45, 0, 75],
];
const CIVIDIS = [[0, 34, 78], [53, 69, 108], [102, 105, 112], [148, 142, 119], [200, 184, 102], [253, 234, 69]];

/** An odd number of steps: the centre has a colour of its own. */
const STEPS = 257;
const NOT_FINITE = 0xff000000;

/** @param {number[][]} stops @returns {Uint32Array} colours as ABGR, the byte order of ImageData */
function ramp(stops) {
  return Uint32Array.from({ length: STEPS }, (_, i) => {
    const at = (i / (STEPS - 1)) * (stops.length - 1);
    const low = Math.min(stops.length - 2, Math.floor(at));
    const [r, g, b] = stops[low].map((from, c) => Math.round(from + (stops[low + 1][c] - from) * (at - low)));
    return ((255 << 24) | (b << 16) | (g << 8) | r) >>> 0;
  });
}

export const GATE = ramp(BLUE_WHITE_RED);
export const DIFFERENCE = ramp(ORANGE_WHITE_PURPLE);
export const AMOUNT = ramp(CIVIDIS);

/**
 * @typedef {object} Scale
 * @property {Uint32Array} colours
 * @property {number} low  value of the first colour; may be above `high`
 * @property {number} high
 * @property {boolean} log
 * @property {boolean} clips  values may lie outside
 */

/** The scale of a quantity. Gates, factors and cosines have fixed limits, amounts those of the data.
 * @param {string} quantity @param {ArrayLike<number>} data @returns {Scale} */
export function scaleOf(quantity, data) {
  if (quantity === "beta") return { colours: GATE, low: 0, high: 2, log: false, clips: false };
  if (quantity === "eigenvalue") return { colours: GATE, low: 1, high: -1, log: false, clips: false };
  if (quantity === "difference") return { colours: DIFFERENCE, low: -2, high: 2, log: false, clips: false };
  if (["k_cos_prev", "balance", "agreement", "state_cos"].includes(quantity))
    return { colours: DIFFERENCE, low: -1, high: 1, log: false, clips: false };
  const positive = Float64Array.from(data).filter((value) => Number.isFinite(value) && value > 0).sort();
  if (!positive.length) return { colours: AMOUNT, low: 0, high: 1, log: false, clips: true };
  const low = quantile(positive, 0.01), high = quantile(positive, 0.99);
  return { colours: AMOUNT, low, high: high > low ? high : low * 1.001 + 1e-12, log: true, clips: true };
}

/** Where a value stands on the scale, 0 to 1 inside it. @param {Scale} scale @param {number} value */
export function place(scale, value) {
  if (scale.log) return value > 0 ? Math.log(value / scale.low) / Math.log(scale.high / scale.low) : -Infinity;
  return (value - scale.low) / (scale.high - scale.low);
}

/** @param {Scale} scale @param {number} value @returns {number} ABGR */
export function packed(scale, value) {
  if (!Number.isFinite(value)) return NOT_FINITE;
  const at = Math.round(place(scale, value) * (STEPS - 1));
  return scale.colours[at < 0 ? 0 : at > STEPS - 1 ? STEPS - 1 : at];
}

/** @param {Scale} scale @param {number} value @returns {string} */
export function css(scale, value) {
  const colour = packed(scale, value);
  return `rgb(${colour & 255} ${(colour >> 8) & 255} ${(colour >> 16) & 255})`;
}

/** Paint rows by columns, one pixel each. @param {ArrayLike<number>} data @param {number} columns all of a row
 * @param {Scale} scale @param {number} from first column @param {number} to column after the last */
export function paint(data, columns, scale, from, to) {
  const rows = columns ? data.length / columns : 0;
  const image = new ImageData(Math.max(1, to - from), Math.max(1, rows));
  const pixels = new Uint32Array(image.data.buffer);
  for (let row = 0, i = 0; row < rows; row++)
    for (let column = from; column < to; column++) pixels[i++] = packed(scale, data[row * columns + column]);
  return image;
}

/** Linear quantile of sorted numbers. @param {ArrayLike<number>} sorted @param {number} q */
export function quantile(sorted, q) {
  const at = (sorted.length - 1) * q, low = Math.floor(at), next = Math.min(low + 1, sorted.length - 1);
  return sorted[low] + (sorted[next] - sorted[low]) * (at - low);
}
