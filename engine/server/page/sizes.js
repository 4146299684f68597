// Sizes of a result: the photo's own shape, fal's presets, or any width and height.

import { $, element } from "./dom.js";

const NAMES = {
  square_hd: "Square, large",
  square: "Square",
  portrait_4_3: "Portrait 4:3",
  portrait_16_9: "Portrait 16:9",
  landscape_4_3: "Landscape 4:3",
  landscape_16_9: "Landscape 16:9",
};
const PHOTO = "photo";
const CUSTOM = "custom";

export class Sizes {
  #model = null;
  #photo = { width: 3, height: 2 };

  constructor() {
    $("size").addEventListener("change", () => this.#showCustom());
  }

  /** What /api/model says. On engines, which have fixed sizes, a preset is the first choice. */
  use(model) {
    this.#model = model;
    const side = model.natural_size;
    const presets = Object.entries(model.image_sizes).map(([name, { width, height }]) =>
      element("option", { value: name }, `${NAMES[name] ?? name}, ${width} × ${height}`),
    );
    $("size").replaceChildren(
      element("option", { value: PHOTO }),
      ...presets,
      element("option", { value: CUSTOM }, "Custom"),
    );
    for (const name of ["width", "height"]) {
      $(name).min = model.limits.min_side;
      $(name).max = model.limits.max_side;
      $(name).value = side;
    }
    $("size").value = model.any_size ? PHOTO : "square_hd";
    this.#label();
    this.#showCustom();
  }

  /** The photo whose shape "as the photo" means. */
  follow(photo) {
    this.#photo = photo;
    if (this.#model) this.#label();
  }

  /** As fal's `image_size`: a preset's name or {width, height}. */
  get value() {
    const chosen = $("size").value;
    if (chosen === PHOTO) return this.#ofPhoto();
    if (chosen !== CUSTOM) return chosen;
    return { width: $("width").valueAsNumber, height: $("height").valueAsNumber };
  }

  set value(size) {
    const own = this.#ofPhoto();
    if (typeof size === "string") $("size").value = size;
    else if (size.width === own.width && size.height === own.height) $("size").value = PHOTO;
    else {
      $("size").value = CUSTOM;
      $("width").value = size.width;
      $("height").value = size.height;
    }
    this.#showCustom();
  }

  /** What is wrong with a custom size, or null. */
  get mistake() {
    if ($("size").value !== CUSTOM) return null;
    const { min_side: min, max_side: max } = this.#model.limits;
    const good = ({ valueAsNumber: side }) => Number.isInteger(side) && side >= min && side <= max;
    if (good($("width")) && good($("height"))) return null;
    return `Width and height are whole numbers from ${min} to ${max}.`;
  }

  /** As many pixels as the model was trained for, in the photo's shape. */
  #ofPhoto() {
    const { natural_size: side, limits } = this.#model;
    const { width, height } = this.#photo;
    const bounded = (length) => Math.round(Math.min(Math.max(length, limits.min_side), limits.max_side));
    const across = bounded(side * Math.sqrt(width / height));
    return { width: across, height: bounded((across * height) / width) };
  }

  #label() {
    const { width, height } = this.#ofPhoto();
    $("size").options[0].textContent = `As the photo, ${width} × ${height}`;
  }

  #showCustom() {
    $("custom-size").hidden = $("size").value !== CUSTOM;
  }
}
