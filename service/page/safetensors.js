/** The safetensors format: a length, a JSON header, then the numbers as they are. Reads and writes it. */

/** @typedef {{shape: number[], data: Float32Array | Int32Array, dtype: string}} Stored */

/** @param {ArrayBuffer} buffer @returns {{metadata: Record<string, string>, tensors: Map<string, Stored>}}
 * @throws {Error} if it is none */
export function readSafetensors(buffer) {
  if (buffer.byteLength < 8) throw new Error("the file is too short for a safetensors file");
  const length = Number(new DataView(buffer).getBigUint64(0, true));
  if (length > buffer.byteLength - 8) throw new Error("the file is not a safetensors file, or it was cut off");
  const header = JSON.parse(new TextDecoder().decode(new Uint8Array(buffer, 8, length)));
  const tensors = new Map();
  for (const [name, entry] of Object.entries(header)) {
    if (name === "__metadata__") continue;
    const [from, to] = entry.data_offsets;
    if (to > buffer.byteLength - 8 - length) throw new Error(`tensor ${name} ends behind the end of the file`);
    tensors.set(name, { shape: entry.shape, dtype: entry.dtype, data: numbers(entry.dtype, buffer.slice(8 + length + from, 8 + length + to)) });
  }
  return { metadata: header.__metadata__ ?? {}, tensors };
}

/** @param {string} dtype @param {ArrayBuffer} bytes */
function numbers(dtype, bytes) {
  if (dtype === "F32") return new Float32Array(bytes);
  if (dtype === "I32") return new Int32Array(bytes);
  if (dtype === "F64") return Float32Array.from(new Float64Array(bytes));
  if (dtype === "I64") return Float32Array.from(new BigInt64Array(bytes), Number);
  if (dtype === "F16") return Float32Array.from(new Uint16Array(bytes), half);
  throw new Error(`tensors of type ${dtype} are not read here`);
}

/** @param {number} bits */
function half(bits) {
  const sign = bits & 0x8000 ? -1 : 1, exponent = (bits >> 10) & 31, fraction = bits & 1023;
  if (exponent === 0) return sign * fraction * 2 ** -24;
  if (exponent === 31) return fraction ? NaN : sign * Infinity;
  return sign * (1 + fraction / 1024) * 2 ** (exponent - 15);
}

/** @param {Record<string, string>} metadata @param {Iterable<[string, {shape: number[], data: Float32Array}]>} tensors */
export function writeSafetensors(metadata, tensors) {
  /** @type {Record<string, any>} */
  const header = { __metadata__: metadata };
  const parts = [];
  let offset = 0;
  for (const [name, { shape, data }] of tensors) {
    header[name] = { dtype: "F32", shape, data_offsets: [offset, offset += data.byteLength] };
    parts.push(data);
  }
  let text = JSON.stringify(header);
  const encode = (/** @type {string} */ t) => new TextEncoder().encode(t);
  text += " ".repeat((8 - (encode(text).length % 8)) % 8);
  const head = encode(text), length = new DataView(new ArrayBuffer(8));
  length.setBigUint64(0, BigInt(head.length), true);
  return new Blob([length.buffer, head, ...parts], { type: "application/vnd.safetensors" });
}
