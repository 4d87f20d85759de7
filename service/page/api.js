/** All that goes over the network. What the service answers is told here and nowhere else. */

import { Trace, tracesOfJson, tracesOfSafetensors } from "./trace.js";

const SAFETENSORS = "application/vnd.safetensors";
const KEY = "ddl-key";

let key = sessionStorage.getItem(KEY) ?? "";

/** Remember an API key until the tab is closed. @param {string} given */
export function useKey(given) {
  key = given.trim();
  sessionStorage.setItem(KEY, key);
}

/** What the service refused, as it said it (RFC 9457). */
export class Problem extends Error {
  /** @param {number} status @param {any} body */
  constructor(status, body) {
    super(body.detail || body.title || `the service answered ${status}`);
    this.status = status;
    this.title = body.title || "The service refused";
    this.type = String(body.type ?? "").replace("urn:ddl:problem:", "");
    this.body = body;
    this.needsKey = status === 401;
  }
}

/** @param {string} path @param {{json?: any, accept?: string, signal?: AbortSignal}} [options] @returns {Promise<Response>} */
async function call(path, { json, accept = "application/json", signal } = {}) {
  /** @type {Record<string, string>} */
  const headers = { Accept: accept };
  if (key) headers.Authorization = `Bearer ${key}`;
  if (json !== undefined) headers["Content-Type"] = "application/json";
  let response;
  try {
    response = await fetch(path, { method: json === undefined ? "GET" : "POST", headers, body: json === undefined ? undefined : JSON.stringify(json), signal });
  } catch (error) {
    if (/** @type {Error} */ (error).name === "AbortError") throw error;
    throw new Problem(0, { title: "The service does not answer", detail: "Is it still running? Try again when it is." });
  }
  if (response.ok) return response;
  const text = await response.text();
  let body = {};
  try {
    body = JSON.parse(text);
  } catch {
    body = { title: `The service answered ${response.status}`, detail: text.slice(0, 200) };
  }
  throw new Problem(response.status, body);
}

/** @param {string} model */
const gates = (model) => `/v1/models/${encodeURIComponent(model)}/gates`;

/** @typedef {{name: string, version: string, state: string, reason: string, task: string | null, gates: boolean | null, description: string | null, labels: string[] | null, weights_sha256: string | null}} Model */

/** @returns {Promise<Model[]>} */
export async function listModels() {
  return (await (await call("/v1/models")).json()).models;
}

/** @param {string} model @param {string} version */
export async function meta(model, version) {
  return (await call(`${gates(model)}/meta?version=${encodeURIComponent(version)}`)).json();
}

/** Run inputs and read their gates; one trace for each input.
 * @param {string} model @param {any} request @param {AbortSignal} [signal] @returns {Promise<Trace[]>} */
export async function trace(model, request, signal) {
  const response = await call(gates(model), { json: request, accept: `${SAFETENSORS}, application/json;q=0.5`, signal });
  if (response.headers.get("content-type")?.startsWith(SAFETENSORS)) return tracesOfSafetensors(await response.arrayBuffer());
  return tracesOfJson(await response.json());
}

/** Knock out every site in turn. @param {string} model @param {any} request @param {AbortSignal} [signal] */
export async function sweep(model, request, signal) {
  return (await call(`${gates(model)}/sweep`, { json: request, signal })).json();
}

/** @param {string} model @param {string} version @param {string} window */
export async function stats(model, version, window) {
  return (await call(`${gates(model)}/stats?version=${encodeURIComponent(version)}&window=${window}`)).json();
}

/** Continue a text; `onEvent` gets the name and data of each event. @param {any} request @param {(name: string, data: any) => void} onEvent @param {AbortSignal} signal */
export async function complete(request, onEvent, signal) {
  const response = await call("/v1/completions", { json: { ...request, stream: true }, accept: "text/event-stream", signal });
  await readEvents(/** @type {ReadableStream<Uint8Array>} */ (response.body), onEvent);
}

/** Read server-sent events. @param {ReadableStream<Uint8Array>} stream @param {(name: string, data: any) => void} onEvent */
export async function readEvents(stream, onEvent) {
  const reader = stream.pipeThrough(new TextDecoderStream()).getReader();
  let text = "";
  for (;;) {
    const { value, done } = await reader.read();
    text += value ?? "";
    const blocks = text.split(/\r?\n\r?\n/);
    text = done ? "" : /** @type {string} */ (blocks.pop());
    for (const block of blocks) {
      const lines = block.split(/\r?\n/);
      const name = lines.find((line) => line.startsWith("event:"))?.slice(6).trim() ?? "message";
      const data = lines.filter((line) => line.startsWith("data:")).map((line) => line.slice(5).replace(/^ /, "")).join("\n");
      if (data && data !== "[DONE]") onEvent(name, JSON.parse(data));
    }
    if (done) return;
  }
}

/** What a sweep says about each site: the change of the loss where there are labels, else how far the answer moved. @param {any} answer @returns {{site: string, size: number, answer: string}[]} */
export function sweepEffects(answer) {
  return answer.variants.map((/** @type {any} */ variant) => ({
    site: variant.site, size: mean(variant.effect.delta_nll) ?? mean(variant.effect.kl_nats) ?? 0,
    answer: variant.prediction?.top?.[0]?.text ?? variant.prediction?.top?.[0]?.label ?? "",
  }));
}

/** @param {any} answer */
export function sweepMeasure(answer) {
  return mean(answer.variants[0]?.effect.delta_nll) === null
    ? "How far the prediction moves (KL, nats) when a step is skipped." : "Change of the loss (nats per token) when a step is skipped: longer bars matter more.";
}

/** @param {number | number[] | null | undefined} values */
function mean(values) {
  const list = [values ?? []].flat().filter((value) => Number.isFinite(value));
  return list.length ? list.reduce((a, b) => a + b, 0) / list.length : null;
}

/** @returns {Promise<any[]>} */
export async function audits() {
  return (await (await call("/v1/gates/audits")).json()).audits;
}

/** @param {string} id @param {string} file */
export const auditFile = (id, file) => `/v1/gates/audits/${encodeURIComponent(id)}/${encodeURIComponent(file)}`;

/** A piece of a text as it appears. Where the stream carries gates, they are those of the step that chose this token: of the column before it. @typedef {{text: string, id?: number, gates?: Record<string, number[]>}} Piece */

/** Continue an input. @param {string} model @param {any} inputs @param {number} count tokens at most @param {(piece: Piece) => void} onPiece @param {AbortSignal} signal */
export async function generate(model, inputs, count, onPiece, signal) {
  const request = { model, prompt: inputs.token_ids ?? inputs.prompt, max_tokens: count, temperature: 0.7 };
  const read = (/** @type {string} */ name, /** @type {any} */ data) => {
    if (name === "error" || data.error) throw new Problem(0, data.error?.detail ? data.error : { title: "The text broke off", detail: data.error?.message ?? data.detail });
    for (const choice of data.choices ?? []) {
      const told = choice.gates?.tokens ?? [];
      if (told.length) told.forEach((/** @type {any} */ token, /** @type {number} */ i) => onPiece({ text: i ? "" : choice.text, id: token.id, gates: token.gates }));
      else if (choice.text) onPiece({ text: choice.text });
    }
  };
  // Where gates do not come with the words, the page asks for them as it goes.
  await complete((await streamsGates()) ? { ...request, gates: { quantities: ["beta"] } } : request, read, signal);
}

/** Longest text of a model in tokens, what it writes included. @param {string} model @returns {Promise<number>} */
export async function longest(model) {
  return (await (await call(`/v1/models/${encodeURIComponent(model)}`)).json()).max_model_len ?? Infinity;
}

/** @type {Promise<boolean> | undefined} */
let streams;

/** Whether this service can send gates along with words: its own description says so. */
function streamsGates() {
  streams ??= call("/openapi.json").then((answer) => answer.json()).then((about) => "gates" in about.components.schemas.CompletionRequest.properties).catch(() => false);
  return streams;
}
