// The brush: pointers and keys on the mask's canvas.

import { $, announce, press } from "./dom.js";

const ARROWS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
const PEN_ERASER = 32;

export class Painter {
  #mask;
  #canvas;
  #pointer = null; // the one that paints
  #touches = new Set();
  #spot = { x: 0, y: 0 }; // of the brush, in mask pixels
  #erase = false;
  #spaceDown = false;

  constructor(mask) {
    this.#mask = mask;
    this.#canvas = mask.canvas;
    this.#listen();
    mask.addEventListener("change", () => this.#showHistory());
  }

  /** The brush to the middle: where the arrow keys begin. */
  centre() {
    this.#spot = { x: this.#canvas.width / 2, y: this.#canvas.height / 2 };
    this.#showRing();
  }

  get #diameter() {
    return this.#mask.diameter($("brush-size").valueAsNumber);
  }

  #listen() {
    const canvas = this.#canvas;
    canvas.addEventListener("pointerdown", (event) => this.#down(event));
    canvas.addEventListener("pointermove", (event) => this.#move(event));
    for (const kind of ["pointerup", "pointercancel"]) {
      canvas.addEventListener(kind, (event) => this.#up(event));
    }
    canvas.addEventListener("pointerenter", () => $("ring").classList.add("near"));
    canvas.addEventListener("pointerleave", () => $("ring").classList.remove("near"));
    canvas.addEventListener("keydown", (event) => this.#key(event));
    canvas.addEventListener("keyup", (event) => event.key === " " && this.#lift());
    canvas.addEventListener("blur", () => this.#lift());
    canvas.addEventListener("focus", () => this.#showRing());
    canvas.addEventListener("contextmenu", (event) => event.preventDefault());
    new ResizeObserver(() => this.#showRing()).observe(canvas);
    $("brush-size").addEventListener("input", () => this.#showRing());
    $("paint").addEventListener("click", () => this.#choose(false));
    $("erase").addEventListener("click", () => this.#choose(true));
    for (const action of ["undo", "redo", "invert", "clear"]) {
      $(action).addEventListener("click", () => this.#mask[action]());
    }
  }

  #choose(erase) {
    this.#erase = erase;
    press($("paint"), !erase);
    press($("erase"), erase);
    $("ring").classList.toggle("erases", erase);
  }

  /** Where an event is, in mask pixels, whatever the zoom and the size on the screen. */
  #place(event) {
    const box = this.#canvas.getBoundingClientRect();
    return {
      x: ((event.clientX - box.left) * this.#canvas.width) / box.width,
      y: ((event.clientY - box.top) * this.#canvas.height) / box.height,
    };
  }

  #down(event) {
    if (event.pointerType === "touch") this.#touches.add(event.pointerId);
    if (this.#touches.size > 1) return this.#letGo(); // two fingers zoom
    if (event.button !== 0 && event.button !== 5) return;
    event.preventDefault();
    this.#canvas.focus({ preventScroll: true });
    this.#canvas.setPointerCapture(event.pointerId);
    this.#pointer = event.pointerId;
    this.#spot = this.#place(event);
    const erase = this.#erase || (event.buttons & PEN_ERASER) !== 0;
    this.#mask.begin(this.#spot.x, this.#spot.y, this.#diameter, erase);
    this.#showRing();
  }

  #move(event) {
    this.#spot = this.#place(event);
    this.#showRing();
    if (event.pointerId !== this.#pointer) return;
    const between = event.getCoalescedEvents?.() ?? [];
    for (const each of between.length ? between : [event]) {
      const { x, y } = this.#place(each);
      this.#mask.extend(x, y);
    }
  }

  #up(event) {
    this.#touches.delete(event.pointerId);
    if (event.pointerId !== this.#pointer) return;
    this.#pointer = null;
    if (event.type === "pointercancel") this.#mask.abandon();
    else this.#mask.end();
  }

  #letGo() {
    this.#pointer = null;
    this.#mask.abandon();
  }

  #key(event) {
    const command = event.ctrlKey || event.metaKey;
    const name = event.key.length === 1 ? event.key.toLowerCase() : event.key;
    if (command && name === "z") event.shiftKey ? this.#mask.redo() : this.#mask.undo();
    else if (command && name === "y") this.#mask.redo();
    else if (command || event.altKey) return;
    else if (name in ARROWS) this.#step(ARROWS[name], event.shiftKey);
    else if (name === " ") this.#press(event);
    else if (name === "e") this.#choose(!this.#erase);
    else if (name === "i") this.#mask.invert();
    else if (name === "[" || name === "]") this.#resize(name === "]" ? 4 : -4);
    else return;
    event.preventDefault();
  }

  #step([across, down], far) {
    const distance = Math.max(1, this.#diameter * (far ? 1 : 0.25));
    const { width, height } = this.#canvas;
    this.#spot.x = Math.min(Math.max(this.#spot.x + across * distance, 0), width);
    this.#spot.y = Math.min(Math.max(this.#spot.y + down * distance, 0), height);
    if (this.#spaceDown) this.#mask.extend(this.#spot.x, this.#spot.y);
    this.#showRing();
    const percent = (value, whole) => `${Math.round((100 * value) / whole)} %`;
    announce(`Brush ${percent(this.#spot.x, width)} across, ${percent(this.#spot.y, height)} down`);
  }

  #press(event) {
    if (event.repeat || this.#spaceDown || this.#pointer !== null) return;
    this.#spaceDown = true;
    this.#mask.begin(this.#spot.x, this.#spot.y, this.#diameter, this.#erase);
    announce(this.#erase ? "Erasing" : "Painting");
  }

  #lift() {
    if (this.#spaceDown) this.#mask.end();
    this.#spaceDown = false;
  }

  #resize(by) {
    $("brush-size").valueAsNumber += by;
    $("brush-size").dispatchEvent(new Event("input"));
    announce(`Brush size ${$("brush-size").value}`);
  }

  #showRing() {
    const canvas = this.#canvas;
    const scale = canvas.clientWidth / canvas.width || 0;
    const ring = $("ring").style;
    ring.width = ring.height = `${this.#diameter * scale}px`;
    ring.transform = `translate(${this.#spot.x * scale}px, ${this.#spot.y * scale}px) translate(-50%, -50%)`;
    $("brush-size").setAttribute("aria-valuetext", `${Math.round(this.#diameter)} pixels`);
  }

  #showHistory() {
    $("undo").disabled = !this.#mask.canUndo;
    $("redo").disabled = !this.#mask.canRedo;
  }
}
