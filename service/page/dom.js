/** Elements, and words for people who listen instead of looking. */

/**
 * Make an element. Attributes starting with `on` are listeners; a null or false attribute is left out.
 * @param {string} tag
 * @param {Record<string, any>} [attributes]
 * @param {...any} children
 * @returns {any}
 */
export function h(tag, attributes = {}, ...children) {
  return fill(document.createElement(tag), attributes, children);
}

/**
 * The same for SVG.
 * @param {string} tag
 * @param {Record<string, any>} [attributes]
 * @param {...any} children
 * @returns {any}
 */
export function svg(tag, attributes = {}, ...children) {
  return fill(document.createElementNS("http://www.w3.org/2000/svg", tag), attributes, children);
}

/** @param {Element} element @param {Record<string, any>} attributes @param {any[]} children */
function fill(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else element.setAttribute(name, value === true && !name.startsWith("aria") ? "" : value);
  }
  element.append(...children.flat(9).filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}

/** Put children into a place instead of what is there. @param {Element} place @param {...any} children */
export function show(place, ...children) {
  place.replaceChildren(...children.flat(9).filter((child) => child !== null && child !== undefined && child !== false));
}

/** @param {string} id @returns {any} */
export const byId = (id) => document.getElementById(id);

let pending = 0;

/** Say something to screen readers, once it has stood still for a moment. @param {string} text */
export function announce(text) {
  clearTimeout(pending);
  pending = setTimeout(() => (byId("live").textContent = text), 150);
}

/** Call `work` when nobody asked again for `wait` milliseconds. @param {number} wait @param {(...a: any[]) => void} work */
export function debounced(wait, work) {
  let timer = 0;
  return (/** @type {any[]} */ ...given) => {
    clearTimeout(timer);
    timer = setTimeout(() => work(...given), wait);
  };
}

/** A number to read at a glance. @param {number} value @param {number} [digits] */
export function short(value, digits = 2) {
  if (value === null || value === undefined || !Number.isFinite(value)) return "not a number";
  const size = Math.abs(value);
  if (size !== 0 && (size >= 1e5 || size < 10 ** -digits / 2)) return value.toExponential(1).replaceAll("-", "−");
  return value.toFixed(size >= 100 ? Math.max(0, digits - 2) : digits).replace("-", "−");
}

/** Text in one line: line breaks and tabs get a sign. @param {string} text */
export const oneLine = (text) => text.replace(/\r?\n/g, "⏎").replace(/\t/g, "⇥");

/** A token as a word: the space before it is left out, unless there is nothing else. @param {string} text */
export function visible(text) {
  return oneLine(text.trim() || text.replace(/ /g, "·"));
}

/** A row of choices of which one is on; arrow keys work as everywhere, for they are radio buttons.
 * @param {string} name @param {string} legend @param {[string, string][]} options @param {string} chosen @param {(value: string) => void} pick */
export function choices(name, legend, options, chosen, pick) {
  return h("fieldset", { class: "choices" }, h("legend", {}, legend),
    options.map(([value, label]) => h("label", {},
      h("input", { type: "radio", name, value, checked: value === chosen, onchange: () => pick(value) }), h("span", {}, label))));
}
