// A finished request: its pictures beside the photo, what is known of them, and what to do next.

import { $, element } from "./dom.js";
import { blobOf, decoded } from "./photo.js";

const THUMBNAIL = 136;

/** A finished picture: its file, and a small canvas; whole bitmaps would fill a phone's memory. */
class Picture {
  #small = document.createElement("canvas");

  constructor(blob, bitmap) {
    this.blob = blob;
    this.url = URL.createObjectURL(blob);
    this.width = bitmap.width;
    this.height = bitmap.height;
    this.#small.height = THUMBNAIL;
    this.#small.width = Math.max(1, Math.round((THUMBNAIL * bitmap.width) / bitmap.height));
    const context = this.#small.getContext("2d");
    context.imageSmoothingQuality = "high";
    context.drawImage(bitmap, 0, 0, this.#small.width, this.#small.height);
  }

  static async of(uri) {
    const blob = blobOf(uri);
    const bitmap = await decoded(blob);
    const picture = new Picture(blob, bitmap);
    bitmap.close?.();
    return picture;
  }

  /** A new small canvas of it. */
  thumbnail() {
    const copy = this.#small.cloneNode();
    copy.getContext("2d").drawImage(this.#small, 0, 0);
    return copy;
  }
}

/** One request's outcome, as history keeps it. */
export class Result {
  /** window: the part of the photo the pictures show; null is all of it. */
  constructor({ photo, mask, values, output, pictures, window, notes, seconds }) {
    Object.assign(this, { photo, mask, values, output, pictures, window, notes, seconds });
  }

  static async of({ photo, mask, values, output, window, notes, seconds }) {
    const pictures = await Promise.all(output.images.map((image) => Picture.of(image.url)));
    const whole = values.mask_crop_padding !== undefined;
    return new Result({
      photo, mask, values, pictures, notes, seconds,
      output: { seed: output.seed, prompt: output.prompt, flagged: output.has_nsfw_concepts },
      window: whole ? null : window,
    });
  }

  /** What a request for this very result has to say. */
  get repeatable() {
    return { ...this.values, seed: this.output.seed };
  }

  release() {
    for (const picture of this.pictures) URL.revokeObjectURL(picture.url);
  }
}

export class ResultView {
  #result = null;
  #index = 0;

  constructor() {
    const move = () => $("compare").style.setProperty("--before", `${$("divider").value}%`);
    $("divider").addEventListener("input", () => {
      move();
      $("divider").setAttribute("aria-valuetext", `${$("divider").value} % before`);
    });
    $("divider").addEventListener("change", move);
  }

  get result() {
    return this.#result;
  }

  get picture() {
    return this.#result.pictures[this.#index];
  }

  show(result) {
    this.#result = result;
    this.#showVariants();
    this.#choose(0);
    this.#showFacts();
    $("notes").replaceChildren(...result.notes.map((text) => element("li", {}, text)));
    $("notes").hidden = result.notes.length === 0;
    $("divider").value = 50;
    $("divider").dispatchEvent(new Event("input"));
  }

  #choose(index) {
    this.#index = index;
    const picture = this.picture;
    $("compare").style.setProperty("--ratio", picture.width / picture.height);
    $("before").width = picture.width;
    $("before").height = picture.height;
    const { photo, window, output } = this.#result;
    photo.drawWindow($("before"), window ?? [0, 0, photo.width, photo.height]);
    $("after").src = picture.url;
    $("after").alt = `After: ${output.prompt}`;
    $("download").href = picture.url;
    const ending = picture.blob.type === "image/png" ? "png" : "jpg";
    $("download").download = `lightfill-${output.seed + index}.${ending}`;
    [...$("variants").children].forEach((button, i) => {
      button.setAttribute("aria-pressed", String(i === index));
    });
  }

  #showVariants() {
    const { pictures } = this.#result;
    $("variants").hidden = pictures.length < 2;
    $("variants").replaceChildren(
      ...pictures.map((picture, index) => {
        const button = element("button", { type: "button", "aria-label": `Picture ${index + 1}` }, picture.thumbnail());
        button.addEventListener("click", () => this.#choose(index));
        return button;
      }),
    );
  }

  #showFacts() {
    const { output, values, seconds, pictures } = this.#result;
    const flagged = output.flagged.filter(Boolean).length;
    const facts = [
      ["Seed", String(output.seed)],
      ["Steps", String(values.num_inference_steps)],
      ["Size", `${pictures[0].width} × ${pictures[0].height}`],
      ["Time", `${seconds.toFixed(1)} s`],
    ];
    if (output.prompt !== values.prompt) facts.push(["Prompt used", output.prompt]);
    if (flagged) facts.push(["Safety", flagged === pictures.length ? "Blacked out" : `${flagged} blacked out`]);
    $("facts").replaceChildren(
      ...facts.map(([name, value]) => element("div", {}, element("dt", {}, name), element("dd", {}, value))),
    );
  }
}
