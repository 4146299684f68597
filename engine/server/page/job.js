// One request from submit to pictures, told as it goes.

import { cancel, Refused, result, submit, Unreachable } from "./api.js";
import { pause } from "./dom.js";
import { follow } from "./events.js";

const STEP = /^step (\d+)\/(\d+)/;
const CANCELLED = "client_cancelled";
const BUSY_ATTEMPTS = 20;

/** The caller stopped it. */
export class Stopped extends Error {}

export class Job {
  #input;
  #tell;
  #abort = new AbortController();
  #stopping = false;
  #id = null;

  /** tell({kind, ...}): "sent", "queued", "started", "step", "note", "busy", "lost". */
  constructor(input, tell) {
    this.#input = input;
    this.#tell = tell;
  }

  /**
   * The output, its pictures as data URIs; throws Stopped, Refused or Unreachable.
   *
   * Called again after Unreachable it goes on with the request that was queued, if one was; after
   * Refused it queues another.
   */
  async run() {
    try {
      this.#id ??= await this.#submitted();
      if (this.#stopping) await cancel(this.#id).catch(() => {});
      for await (const status of this.#followed()) {
        this.#report(status);
        if (status.error_type === CANCELLED && this.#stopping) throw new Stopped();
      }
      return await this.#output();
    } catch (error) {
      if (this.#stopping) throw new Stopped("Cancelled.");
      if (error instanceof Refused) this.#id = null;
      throw error;
    }
  }

  /** Stop it; `run` throws Stopped soon after. Called again, it is no longer waited for. */
  async stop() {
    if (this.#stopping || this.#id === null) this.#abort.abort(new Stopped());
    this.#stopping = true;
    if (this.#id === null) return;
    await cancel(this.#id).catch((error) => {
      if (!(error instanceof Refused)) this.#abort.abort(new Stopped());
    });
  }

  async #submitted() {
    this.#tell({ kind: "sent" });
    for (let attempt = 1; ; attempt += 1) {
      try {
        return await submit(this.#input);
      } catch (error) {
        const busy = error instanceof Refused && error.status === 429;
        if (!busy || attempt === BUSY_ATTEMPTS) throw error;
        const seconds = error.retryAfter ?? Math.min(2 ** attempt, 15);
        this.#tell({ kind: "busy", seconds });
        await pause(seconds * 1000, this.#abort.signal);
      }
    }
  }

  #followed() {
    return follow(this.#id, this.#abort.signal, (seconds) => this.#tell({ kind: "lost", seconds }));
  }

  #report(status) {
    if (status.status === "IN_QUEUE") {
      this.#tell({ kind: "queued", ahead: status.queue_position ?? 0 });
    } else if (status.status === "IN_PROGRESS" && status.logs.length === 0) {
      this.#tell({ kind: "started" });
    }
    for (const { message, labels } of status.logs) {
      const step = STEP.exec(message);
      if (step) this.#tell({ kind: "step", step: Number(step[1]), of: Number(step[2]), ...shown(labels) });
      else this.#tell({ kind: "note", text: message });
    }
  }

  async #output() {
    for (let attempt = 0; ; attempt += 1) {
      try {
        return await result(this.#id);
      } catch (error) {
        if (!(error instanceof Unreachable) || attempt === 4) throw error;
        const seconds = 2 ** attempt;
        this.#tell({ kind: "lost", seconds });
        await pause(seconds * 1000, this.#abort.signal);
      }
    }
  }
}

/** A step's preview and the part of the photo it shows, [left, top, right, bottom]. */
function shown(labels) {
  if (!labels?.preview) return {};
  return { preview: labels.preview, window: labels.preview_window.split(",").map(Number) };
}
