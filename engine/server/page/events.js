// Server-sent events out of a response's bytes, and a stream that outlives lost connections.

import { Refused, stream, Unreachable } from "./api.js";
import { pause } from "./dom.js";

const DELAYS_MS = [500, 1000, 2000, 4000, 8000, 8000, 8000, 8000];
const SILENCE_MS = 45_000; // the server sends a comment every 15 s

/** The JSON of each event in a ReadableStream of bytes, however they were cut into chunks. */
export async function* eventsOf(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let pending = "";
  try {
    for (;;) {
      const { value, done } = await within(SILENCE_MS, reader.read());
      if (done) return;
      const lines = (pending + value).split(/\r?\n/);
      pending = lines.pop();
      for (const line of lines) if (line.startsWith("data: ")) yield JSON.parse(line.slice(6));
    }
  } finally {
    reader.cancel().catch(() => {});
  }
}

/**
 * Status objects of a request until it is completed, each with the logs that are new.
 *
 * A connection that breaks is made again; `lost(seconds)` is told how long that waits.
 */
export async function* follow(id, signal, lost) {
  let told = 0;
  for (let attempt = 0; ; attempt += 1) {
    let first = true;
    try {
      for await (const status of eventsOf(await stream(id, signal))) {
        attempt = 0;
        const logs = status.logs ?? [];
        // A new connection begins with all logs there are.
        status.logs = first ? logs.slice(told) : logs;
        told = first ? Math.max(told, logs.length) : told + logs.length;
        first = false;
        yield status;
        if (status.status === "COMPLETED") return;
      }
    } catch (error) {
      if (signal.aborted) throw error;
      if (error instanceof Refused && ![502, 503, 504].includes(error.status)) throw error;
      if (attempt >= DELAYS_MS.length) throw new Unreachable(error);
    }
    const delay = DELAYS_MS[Math.min(attempt, DELAYS_MS.length - 1)];
    lost(delay / 1000);
    await pause(delay, signal);
  }
}

function within(milliseconds, promise) {
  let timer;
  const late = new Promise((_, reject) => {
    timer = setTimeout(() => reject(new Unreachable("silence")), milliseconds);
  });
  return Promise.race([promise, late]).finally(() => clearTimeout(timer));
}
