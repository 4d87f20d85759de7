/** Which columns of two texts belong together: the equal tokens at the start and at the end. */

/** @param {number[]} a @param {number[]} b @returns {{head: number, tail: number}} how many at each end */
export function align(a, b) {
  const most = Math.min(a.length, b.length);
  let head = 0, tail = 0;
  while (head < most && a[head] === b[head]) head++;
  while (tail < most - head && a[a.length - 1 - tail] === b[b.length - 1 - tail]) tail++;
  return { head, tail };
}

/** Columns of the common picture: a place in each text, or null where the other text has something else.
 * @param {number[]} a @param {number[]} b @returns {[number | null, number | null][]} */
export function columns(a, b) {
  const { head, tail } = align(a, b);
  /** @type {[number | null, number | null][]} */
  const found = [];
  for (let i = 0; i < head; i++) found.push([i, i]);
  for (let i = head; i < a.length - tail; i++) found.push([i, null]);
  for (let i = head; i < b.length - tail; i++) found.push([null, i]);
  for (let i = tail; i > 0; i--) found.push([a.length - i, b.length - i]);
  return found;
}
