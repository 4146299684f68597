// "Copy as code", and the key that a server may ask for.

import { key } from "./api.js";
import { $, announce, element, press } from "./dom.js";
import { curl, javascript, python } from "./code.js";

const LANGUAGES = { curl: ["curl", curl], python: ["Python", python], javascript: ["JavaScript", javascript] };

export class CodeDialog {
  #language = "curl";
  #shown = null;
  #files = [];

  constructor() {
    $("languages").replaceChildren(
      ...Object.entries(LANGUAGES).map(([name, [label]]) => {
        const button = element("button", { type: "button", id: `language-${name}` }, label);
        button.addEventListener("click", () => this.#choose(name));
        return button;
      }),
    );
    $("code-close").addEventListener("click", () => $("code").close());
    $("code").addEventListener("click", (event) => event.target === $("code") && $("code").close());
    $("code").addEventListener("close", () => this.#files.forEach(URL.revokeObjectURL));
    $("code-copy").addEventListener("click", () => this.#copy());
  }

  /** Show programs for a result; withKey: whether the server asks for one. */
  open(result, withKey) {
    this.#shown = { result, withKey };
    const { photo, mask } = result;
    this.#files = [photo.blob, mask].map((blob) => URL.createObjectURL(blob));
    [$("code-photo").href, $("code-mask").href] = this.#files;
    $("code-photo").download = photo.fileName;
    $("code-photo").textContent = `Save ${photo.fileName}`;
    $("code-mask").download = "mask.png";
    $("code-mask").textContent = "Save mask.png";
    $("code-note").textContent =
      `It reads ${photo.fileName} and mask.png from its folder` +
      (withKey ? ", and your key from the variable FAL_KEY." : ".");
    this.#choose(this.#language);
    $("code").showModal();
  }

  #choose(name) {
    this.#language = name;
    for (const each of Object.keys(LANGUAGES)) press($(`language-${each}`), each === name);
    const { result, withKey } = this.#shown;
    const photo = { name: result.photo.fileName, type: result.photo.blob.type };
    $("code-text").textContent = LANGUAGES[name][1](result.repeatable, photo, withKey);
    $("code-copy").textContent = "Copy";
  }

  async #copy() {
    try {
      await navigator.clipboard.writeText($("code-text").textContent);
      $("code-copy").textContent = "Copied";
      announce("Copied");
    } catch {
      // Only pages of this machine and of https may write to the clipboard.
      getSelection().selectAllChildren($("code-text"));
      $("code-copy").textContent = "Selected: press Ctrl C";
    }
  }
}

export class KeyDialog {
  #answer = null;

  constructor() {
    $("key-open").addEventListener("click", () => this.ask());
    $("key-cancel").addEventListener("click", () => $("key").close());
    $("key").addEventListener("close", () => this.#settle(false));
    $("key-form").addEventListener("submit", (event) => {
      event.preventDefault();
      const value = $("key-value").value.trim();
      if (!value) return this.#complain("Enter a key.");
      key.set(value);
      this.#settle(true);
      $("key").close();
    });
  }

  /** Ask for a key; whether one was given. `why`: what was wrong with the last. */
  ask(why = "") {
    $("key-open").hidden = false;
    $("key-value").value = key.get();
    this.#complain(why);
    $("key").showModal();
    return new Promise((resolve) => {
      this.#answer = resolve;
    });
  }

  #complain(why) {
    $("mistake-key").textContent = why;
    $("mistake-key").hidden = !why;
    if (why) $("key-value").setAttribute("aria-invalid", "true");
    else $("key-value").removeAttribute("aria-invalid");
  }

  #settle(given) {
    this.#answer?.(given);
    this.#answer = null;
  }
}
