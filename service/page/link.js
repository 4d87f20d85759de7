/** A view as a link: the state, deflated, in the address's fragment, which never leaves the browser. */

/** Longest link that mail and chat programs carry unharmed. */
export const LONGEST = 8192;

/** @param {object} state @returns {Promise<string>} */
export async function pack(state) {
  const stream = new Blob([JSON.stringify(state)]).stream().pipeThrough(new CompressionStream("deflate-raw"));
  const bytes = new Uint8Array(await new Response(stream).arrayBuffer());
  return btoa(String.fromCharCode(...bytes)).replace(/\+/g, "-").replace(/\//g, "_").replace(/=+$/, "");
}

/** @param {string} packed @returns {Promise<any>} @throws {Error} if the link was cut or changed */
export async function unpack(packed) {
  try {
    const bytes = Uint8Array.from(atob(packed.replace(/-/g, "+").replace(/_/g, "/")), (c) => c.charCodeAt(0));
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate-raw"));
    return JSON.parse(await new Response(stream).text());
  } catch {
    throw new Error("the link is damaged: perhaps a part of it is missing");
  }
}
