// A finished request: its pictures beside the photo, what is known of them, and what to do next.

import { $, element } from "./dom.js";
import { blobOf, decoded, Photo } from "./photo.js";

/** One request's outcome, as history keeps it. */
export class Result {
  /** window: the part of the photo the pictures show; null is all of it. */
  constructor({ photo, mask, values, output, pictures, window, notes, seconds }) {
    Object.assign(this, { photo, mask, values, output, pictures, window, notes, seconds });
  }

  static async of({ photo, mask, values, output, window, notes, seconds }) {
    const pictures = await Promise.all(
      output.images.map(async (image) => {
        const blob = blobOf(image.url);
        return new Photo(blob, await decoded(blob));
      }),
    );
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
        const button = element("button", { type: "button", "aria-label": `Picture ${index + 1}` }, thumbnail(picture));
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

/** A small canvas of a picture: full ones would fill a phone's memory. */
export function thumbnail(picture) {
  const canvas = document.createElement("canvas");
  const scale = 136 / picture.height;
  canvas.width = Math.max(1, Math.round(picture.width * scale));
  canvas.height = Math.max(1, Math.round(picture.height * scale));
  picture.drawWindow(canvas, [0, 0, picture.width, picture.height]);
  return canvas;
}
