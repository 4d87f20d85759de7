/** A picture for an image model: dropped, chosen, drawn by hand, or one of a few silhouettes. */

import { byId, h } from "./dom.js";

const SIDE = 280;
const RASTER = 28;

/** Silhouettes as paths on a raster of 28: this page's own drawings, for people who have no file at hand. @type {[string, string, number][]} */
const SAMPLES = [
  ["T-shirt", "M9 4 L12 5.5 L16 5.5 L19 4 L26 9 L23 13.5 L20 11.5 L20 25 L8 25 L8 11.5 L5 13.5 L2 9 Z", 200],
  ["Trousers", "M9 2 L19 2 L20 26 L16 26 L14 9 L12 26 L8 26 Z", 190],
  ["Boot", "M13 4 L22 4 L22 20 L23.5 24 L3 24 L3 20 L11 16 Z", 210],
  ["Bag", "M3 12 L25 12 L25 25 L3 25 Z M8 12 L8 8 L10 5 L18 5 L20 8 L20 12 L18 12 L18 8.5 L17 7 L11 7 L10 8.5 L10 12 Z", 180],
  ["Dress", "M11 2 L12 4.5 L16 4.5 L17 2 L18 9 L17 13 L20 26 L8 26 L11 13 L10 9 Z", 200],
];

export class PictureInput {
  /** @param {{label: string, start?: number, sample?: boolean, onChange?: () => void}} options */
  constructor(options) {
    this.options = options;
    /** @type {string | null} a data URL */
    this.value = null;
    this.canvas = h("canvas", { width: SIDE, height: SIDE, class: "drawing", "aria-label": `${options.label}: draw here with the pointer, or take one of the samples`, role: "img" });
    this.context = this.canvas.getContext("2d");
    this.file = h("input", { type: "file", accept: "image/*", class: "hidden", "aria-label": `${options.label}: choose a file`, onchange: () => this.file.files[0] && this.load(this.file.files[0]) });
    const samples = SAMPLES.map(([name], i) => h("button", { type: "button", class: "quiet chipbutton", onclick: () => this.sample(i) }, name));
    this.element = h("div", { class: "pictureinput" }, this.canvas, h("div", {}, h("p", {}, h("b", {}, options.label), h("br"), "Draw on the dark square, drop a picture, or take one of these:"),
      h("div", { class: "buttons" }, samples), h("div", { class: "buttons" }, h("button", { type: "button", onclick: () => this.file.click() }, "Choose a file…"), h("button", { type: "button", onclick: () => this.clear() }, "Clear")), this.file));
    this.canvas.addEventListener("pointerdown", (/** @type {PointerEvent} */ e) => this.stroke(e, true));
    this.canvas.addEventListener("pointermove", (/** @type {PointerEvent} */ e) => e.buttons && this.stroke(e, false));
    this.canvas.addEventListener("pointerup", () => this.changed());
    if (options.sample) this.sample(options.start ?? 0, true);
    else this.blank();
  }

  blank() {
    this.context.fillStyle = "#000";
    this.context.fillRect(0, 0, SIDE, SIDE);
  }

  clear() {
    this.blank();
    this.value = null;
  }

  /** @param {number} which @param {boolean} [quiet] */
  sample(which, quiet = false) {
    const [, path, grey] = SAMPLES[which];
    this.blank();
    this.context.save();
    this.context.scale(SIDE / RASTER, SIDE / RASTER);
    const shade = this.context.createLinearGradient(0, 0, RASTER, RASTER);
    shade.addColorStop(0, `rgb(${grey + 30} ${grey + 30} ${grey + 30})`);
    shade.addColorStop(1, `rgb(${grey - 60} ${grey - 60} ${grey - 60})`);
    this.context.fillStyle = shade;
    this.context.fill(new Path2D(path));
    this.context.restore();
    this.changed(quiet);
  }

  /** @param {PointerEvent} event @param {boolean} first */
  stroke(event, first) {
    const box = this.canvas.getBoundingClientRect(), scale = SIDE / box.width;
    const x = (event.clientX - box.left) * scale, y = (event.clientY - box.top) * scale;
    if (first) {
      this.canvas.setPointerCapture(event.pointerId);
      this.context.beginPath();
      this.context.moveTo(x, y);
    }
    this.context.lineWidth = 26;
    this.context.lineCap = this.context.lineJoin = "round";
    this.context.strokeStyle = "#d8d8d8";
    this.context.lineTo(x + 0.1, y);
    this.context.stroke();
  }

  /** Take what is drawn. The raster of the model is small, and so are links with the picture. @param {boolean} [quiet] */
  changed(quiet = false) {
    const small = h("canvas", { width: RASTER * 2, height: RASTER * 2 });
    small.getContext("2d").drawImage(this.canvas, 0, 0, RASTER * 2, RASTER * 2);
    this.value = small.toDataURL("image/png");
    if (!quiet) this.options.onChange?.();
  }

  /** Show a picture from a file or link; the service gets the file as it is. @param {Blob} file */
  async load(file) {
    this.value = await new Promise((resolve, reject) => {
      const reader = new FileReader();
      reader.onload = () => resolve(/** @type {string} */ (reader.result));
      reader.onerror = () => reject(reader.error);
      reader.readAsDataURL(file);
    });
    await this.draw(/** @type {string} */ (this.value));
    this.options.onChange?.();
  }

  /** @param {string} address data URL */
  async draw(address) {
    this.value = address;
    const image = new Image();
    image.src = address;
    try {
      await image.decode();
    } catch {
      byId("live").textContent = "The file is not a picture that this browser can show.";
      return;
    }
    const scale = Math.min(SIDE / image.width, SIDE / image.height);
    this.blank();
    this.context.drawImage(image, (SIDE - image.width * scale) / 2, (SIDE - image.height * scale) / 2, image.width * scale, image.height * scale);
  }
}
