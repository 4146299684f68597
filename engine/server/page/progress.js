// What is seen of a running request: its place in the queue, its steps, its preview over the photo.

import { $, announce, element } from "./dom.js";
import { blobOf, decoded } from "./photo.js";

export class Progress {
  #photo = null;
  #context = $("preview").getContext("2d");
  #arrived = 0; // previews, counted: decoding may let a later one overtake
  #drawn = 0;

  /** Begin to show a request on `photo`. */
  begin(photo) {
    this.#photo = photo;
    const scale = Math.min(1, 1024 / Math.max(photo.width, photo.height));
    $("preview").width = Math.round(photo.width * scale);
    $("preview").height = Math.round(photo.height * scale);
    $("stage").classList.remove("previewed");
    $("notes").replaceChildren();
    this.#drawn = this.#arrived; // what is still being decoded belongs to the request before
    this.#say("Sending", null);
  }

  /** One of Job's reports. */
  show(report) {
    const { kind } = report;
    if (kind === "queued") this.#say(waiting(report.ahead), null);
    if (kind === "started") this.#say("Reading the photo", null);
    if (kind === "busy") this.#say(`The server is busy, trying again in ${seconds(report.seconds)}`, null);
    if (kind === "lost") this.#say(`Connection lost, trying again in ${seconds(report.seconds)}`, null);
    if (kind === "note") $("notes").append(element("li", {}, report.text));
    if (kind !== "step") return;
    this.#say(`Step ${report.step} of ${report.of}`, report.step / report.of);
    if (report.preview) this.#preview(report.preview, report.window);
  }

  stopping() {
    this.#say("Stopping", null);
  }

  #say(text, share) {
    if ($("progress-text").textContent !== text) announce(text);
    $("progress-text").textContent = text;
    if (share === null) $("progress-bar").removeAttribute("value");
    else $("progress-bar").value = share;
  }

  /** The preview where it belongs, and only where the mask is: the rest is the sharp photo. */
  async #preview(uri, [left, top, right, bottom]) {
    const number = (this.#arrived += 1);
    const picture = await decoded(blobOf(uri));
    if (number <= this.#drawn) return;
    this.#drawn = number;
    const context = this.#context;
    const { width, height } = context.canvas;
    const scale = width / this.#photo.width;
    context.globalCompositeOperation = "source-over";
    context.clearRect(0, 0, width, height);
    context.imageSmoothingQuality = "high";
    context.drawImage(picture, left * scale, top * scale, (right - left) * scale, (bottom - top) * scale);
    context.globalCompositeOperation = "destination-in";
    context.drawImage($("mask"), 0, 0, width, height);
    $("stage").classList.add("previewed");
    $("preview").dataset.shown = String(number);
  }
}

function waiting(ahead) {
  if (ahead === 0) return "Next in the queue";
  return ahead === 1 ? "1 request ahead in the queue" : `${ahead} requests ahead in the queue`;
}

const seconds = (count) => `${Math.round(count * 10) / 10} s`;
