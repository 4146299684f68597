// The server's HTTP API: fal's protocol, and /api/model. Nothing here touches the document.

/** Where the server is: above this module, also behind a proxy that gives it a folder. */
export const base = new URL("../", import.meta.url).href.replace(/\/$/, "");
export const ENDPOINT = "fal-ai/fast-lightning-sdxl/inpainting";
const REQUESTS = `${base}/queue/fal-ai/fast-lightning-sdxl/requests`;
const KEY = "lightfill.key";

/** The server said no: its status, its `detail`, and seconds to wait where it gave them. */
export class Refused extends Error {
  constructor(status, body, retryAfter) {
    const detail = body?.detail;
    super(typeof detail === "string" ? detail : `The server answered ${status}.`);
    this.status = status;
    this.mistakes = Array.isArray(detail) ? detail : [];
    this.type = body?.error_type;
    this.retryAfter = retryAfter;
  }
}

/** No answer: the server is gone, or the network. */
export class Unreachable extends Error {
  constructor(cause) {
    super("The server cannot be reached.", { cause });
  }
}

/** The caller's key, for as long as the tab is open. */
export const key = {
  get: () => sessionStorage.getItem(KEY) ?? "",
  set: (value) => (value ? sessionStorage.setItem(KEY, value) : sessionStorage.removeItem(KEY)),
};

/** A response that is a success; throws Refused or Unreachable. */
export async function call(url, options = {}) {
  const headers = new Headers(options.headers);
  if (key.get()) headers.set("authorization", `Key ${key.get()}`);
  let response;
  try {
    response = await fetch(url, { ...options, headers, cache: "no-store" });
  } catch (error) {
    if (options.signal?.aborted) throw error;
    throw new Unreachable(error);
  }
  if (response.ok) return response;
  const body = await response.json().catch(() => null);
  throw new Refused(response.status, body, Number(response.headers.get("retry-after")) || null);
}

/** What the server paints with: see /api/model. */
export const model = async () => (await call(`${base}/api/model`)).json();

/** Queue a request; resolves to its id. */
export async function submit(input) {
  const response = await call(`${base}/queue/${ENDPOINT}`, {
    method: "POST",
    headers: { "content-type": "application/json" },
    body: JSON.stringify(input),
  });
  return (await response.json()).request_id;
}

export const result = async (id) => (await call(`${REQUESTS}/${id}`)).json();

export const cancel = (id) => call(`${REQUESTS}/${id}/cancel`, { method: "PUT" });

/** The status stream's bytes, one status object per event. */
export const stream = async (id, signal) =>
  (await call(`${REQUESTS}/${id}/status/stream?logs=1`, { signal })).body;
