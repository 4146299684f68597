// What was made since the page was opened, newest first.

import { $, element } from "./dom.js";

const KEPT = 40;

export class History {
  #results = [];
  #open;

  /** open(result): what a click on one does. */
  constructor(open) {
    this.#open = open;
  }

  add(result) {
    this.#results.unshift(result);
    $("history").hidden = false;
    $("history-list").prepend(this.#item(result));
    if (this.#results.length > KEPT) {
      this.#results.pop().release();
      $("history-list").lastElementChild.remove();
    }
    this.mark(result);
  }

  /** Show which one is open; null for none. */
  mark(open) {
    this.#results.forEach((result, index) => {
      const button = $("history-list").children[index].firstElementChild;
      if (result === open) button.setAttribute("aria-current", "true");
      else button.removeAttribute("aria-current");
    });
  }

  #item(result) {
    const { output } = result;
    const button = element(
      "button",
      { type: "button", "aria-label": `${output.prompt}, seed ${output.seed}`, title: output.prompt },
      result.pictures[0].thumbnail(),
    );
    button.addEventListener("click", () => this.#open(result));
    return element("li", {}, button);
  }
}
