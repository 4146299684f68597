// The form: its values as a request's arguments and back, and mistakes beside their fields.

import { $, element, icon, press } from "./dom.js";
import { Sizes } from "./sizes.js";

const SAFETY = {
  v1: "Pictures are checked; what it flags comes back black.",
  v2: "Pictures are checked by a classifier; what it flags comes back black.",
};
const NO_SAFETY = "This server has no checker: pip install 'lightfill[safety]'.";

export class Settings {
  sizes = new Sizes();
  #checker = "v1";

  constructor() {
    for (const name of ["strength", "padding", "feather"]) {
      $(name).addEventListener("input", () => this.#showValues());
    }
    $("steps").addEventListener("change", () => this.#showValues());
    $("around").addEventListener("change", () => this.#showValues());
    $("seed-lock").addEventListener("click", () => this.#lock(!this.#locked));
    $("seed").addEventListener("input", () => this.#lock($("seed").value !== ""));
    $("settings").addEventListener("input", (event) => this.#forgive(event.target));
    this.#showValues();
  }

  /** Offer what the server's model has, and nothing else. */
  use(model) {
    this.sizes.use(model);
    const { limits, steps } = model;
    const usual = steps.includes(4) ? 4 : steps.at(-1);
    $("steps").replaceChildren(
      ...steps.map((count) =>
        element("label", {},
          element("input", { type: "radio", name: "steps", value: String(count), checked: count === usual }),
          element("span", {}, String(count)),
        ),
      ),
    );
    $("strength").min = limits.min_strength;
    $("feather").max = limits.max_feather;
    $("padding").max = Math.min(limits.max_crop_padding, 2);
    $("count").replaceChildren(
      ...Array.from({ length: limits.max_images }, (_, i) => element("option", {}, String(i + 1))),
    );
    this.#checker = model.safety_checker ?? "v1";
    $("safety").disabled = !model.safety_checker;
    $("safety").checked = Boolean(model.safety_checker);
    $("safety-hint").textContent = SAFETY[model.safety_checker] ?? NO_SAFETY;
    this.#showValues();
  }

  /** A request's arguments without its pictures. */
  get values() {
    return {
      prompt: $("prompt").value.trim(),
      image_size: this.sizes.value,
      num_inference_steps: this.#steps,
      strength: $("strength").valueAsNumber,
      ...(this.#locked && $("seed").value !== "" ? { seed: $("seed").valueAsNumber } : {}),
      num_images: Number($("count").value),
      format: $("format").value,
      feather: $("feather").valueAsNumber,
      ...($("around").checked ? { mask_crop_padding: $("padding").valueAsNumber } : {}),
      expand_prompt: $("expand").checked,
      enable_safety_checker: $("safety").checked,
      safety_checker_version: this.#checker,
    };
  }

  /** Show `values`; a seed among them is kept for the next request. */
  set values(values) {
    $("prompt").value = values.prompt;
    this.sizes.value = values.image_size;
    const steps = document.querySelector(`#steps input[value="${values.num_inference_steps}"]`);
    if (steps) steps.checked = true;
    $("strength").value = values.strength;
    $("seed").value = values.seed ?? "";
    this.#lock(values.seed !== undefined);
    $("count").value = String(values.num_images);
    $("format").value = values.format;
    $("feather").value = values.feather;
    $("around").checked = values.mask_crop_padding !== undefined;
    if ($("around").checked) $("padding").value = values.mask_crop_padding;
    $("expand").checked = values.expand_prompt;
    $("safety").checked = values.enable_safety_checker && !$("safety").disabled;
    this.#showValues();
    this.clearMistakes();
  }

  /** The seed that was used, for whoever wants to keep it. */
  showSeed(seed) {
    if (!this.#locked) $("seed").value = String(seed);
  }

  /** What the page can see itself: [field, message] pairs. */
  get mistakes() {
    const found = [];
    if (!$("prompt").value.trim()) found.push(["prompt", "Say what should be there."]);
    if (this.sizes.mistake) found.push(["image_size", this.sizes.mistake]);
    if (this.#locked && !$("seed").validity.valid) {
      found.push(["seed", "A whole number from 0 to 9007199254740991."]);
    }
    return found;
  }

  /** Show each message beside its field and go to the first; returns those without a field. */
  showMistakes(mistakes) {
    const homeless = [];
    let first = null;
    for (const [field, message] of mistakes) {
      const place = $(`mistake-${field}`);
      if (!place) {
        homeless.push(`${field}: ${message}`);
        continue;
      }
      place.textContent = message;
      place.hidden = false;
      const inputs = this.#inputs(field);
      for (const input of inputs) input.setAttribute("aria-invalid", "true");
      first ??= inputs.find((input) => input.checkVisibility()) ?? null;
      if (place.closest("details")) place.closest("details").open = true;
    }
    first?.focus();
    return homeless;
  }

  clearMistakes() {
    for (const place of document.querySelectorAll(".mistake:not([hidden])")) empty(place);
    for (const input of document.querySelectorAll("[aria-invalid]")) input.removeAttribute("aria-invalid");
  }

  #inputs(field) {
    if (field === "mask_url") return [$("mask")];
    return [...document.querySelectorAll(`[data-field="${field}"] :is(input, select, textarea)`)];
  }

  #forgive(input) {
    const field = input.closest("[data-field]")?.dataset.field;
    if (!field) return;
    empty($(`mistake-${field}`));
    for (const each of this.#inputs(field)) each.removeAttribute("aria-invalid");
  }

  get #steps() {
    return Number(document.querySelector("#steps input:checked")?.value ?? 4);
  }

  get #locked() {
    return $("seed-lock").getAttribute("aria-pressed") === "true";
  }

  #lock(locked) {
    press($("seed-lock"), locked);
    $("seed-lock").replaceChildren(icon(locked ? "locked" : "unlocked"));
  }

  #showValues() {
    const strength = $("strength").valueAsNumber;
    const steps = this.#steps;
    // As the server counts them (engine's scheduler.strength).
    const run = Math.max(1, Math.min(Math.trunc(steps * strength), steps));
    $("strength-value").textContent = strength.toFixed(2);
    $("strength-hint").textContent =
      strength === 1 ? "The painted area starts from nothing." : `${run} of ${steps} steps run; less keeps more of the photo.`;
    $("padding-value").textContent = `${Math.round(100 * $("padding").valueAsNumber)} %`;
    $("feather-value").textContent = `${$("feather").value} px`;
    $("padding-field").hidden = !$("around").checked;
  }
}

/** Hidden text still describes its field to a screen reader: it goes, too. */
function empty(place) {
  place.hidden = true;
  place.textContent = "";
}
