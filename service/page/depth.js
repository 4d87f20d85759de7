/**
 * Everything over depth for one token, from the products of its edit directions.
 *
 * k_s has length kappa_s; gram holds k_s·k_r for s > r, packed row by row. The state is X' = X + beta k (v - k^T X)^T.
 */

/** @typedef {{beta: ArrayLike<number>, v: number[][], proj: number[][], gram: ArrayLike<number>}} Column */

/** @param {ArrayLike<number>} gram @param {number} s @param {number} r */
export const product = (gram, s, r) => gram[(s * (s - 1)) / 2 + r];

/** What each direction reads from the embedding alone: the readout without what earlier sites wrote. @param {Column} column @returns {number[][]} */
export function embeddingReadout({ beta, v, proj, gram }) {
  return proj.map((read, s) => read.map((value, c) => {
    for (let r = 0; r < s; r++) value -= product(gram, s, r) * beta[r] * (v[r][c] - proj[r][c]);
    return value;
  }));
}

/**
 * Run a token's sites again with other gates, directions and targets held: the direct effect.
 * @param {Column} column @param {ArrayLike<number>} gates one for each site
 * @returns {{proj: number[][], writes: number[][]}} readouts, and what each site adds along its direction
 */
export function replay(column, gates) {
  const start = embeddingReadout(column), proj = [], writes = [];
  for (let s = 0; s < start.length; s++) {
    const read = start[s].map((value, c) => {
      for (let r = 0; r < s; r++) value += product(column.gram, s, r) * writes[r][c];
      return value;
    });
    proj.push(read);
    writes.push(read.map((value, c) => gates[s] * (column.v[s][c] - value)));
  }
  return { proj, writes };
}

/** Length of the difference of two vectors. @param {number[]} a @param {number[]} b */
export const distance = (a, b) => Math.hypot(...a.map((value, i) => value - b[i]));
