// The mask: strokes and other changes on a canvas, each of which can be taken back.
//
// A pixel is painted or not; the canvas holds the paint's colour where it is, and nothing elsewhere.
// Taking back draws the changes again that are left, on a base that holds those too old to go.

import { Unreadable } from "./photo.js";

const LONGEST_SIDE = 2048; // the server stretches a mask over its photo
const UNDOABLE = 60;
const COLOUR = "#e8336d";

export class Mask extends EventTarget {
  #context;
  #base = document.createElement("canvas");
  #changes = [];
  #undone = [];
  #stroke = null;

  /** canvas: where it is shown; its pixels are the mask's. */
  constructor(canvas) {
    super();
    this.canvas = canvas;
    this.#context = canvas.getContext("2d", { willReadFrequently: true });
  }

  /** Begin anew for a photo of that size. */
  reset(width, height) {
    const scale = Math.min(1, LONGEST_SIDE / Math.max(width, height));
    for (const each of [this.canvas, this.#base]) {
      each.width = Math.max(1, Math.round(width * scale));
      each.height = Math.max(1, Math.round(height * scale));
    }
    this.#changes = [];
    this.#undone = [];
    this.#stroke = null;
    this.#changed();
  }

  /** Diameter in mask pixels of a brush of `size` 1..100: finer among the small ones. */
  diameter(size) {
    const longest = Math.max(this.canvas.width, this.canvas.height);
    return Math.max(1, longest * (0.004 + 0.4 * (size / 100) ** 2));
  }

  begin(x, y, diameter, erase) {
    this.#stroke = { kind: "stroke", diameter, erase, points: [x, y] };
    this.#draw(this.#stroke);
  }

  extend(x, y) {
    if (!this.#stroke) return;
    const points = this.#stroke.points;
    this.#draw({ ...this.#stroke, points: [...points.slice(-2), x, y] });
    points.push(x, y);
  }

  end() {
    if (this.#stroke) this.#add(this.#stroke);
    this.#stroke = null;
  }

  /** Take the stroke that is being drawn back: it was the beginning of something else. */
  abandon() {
    if (!this.#stroke) return;
    this.#stroke = null;
    this.#redraw();
  }

  invert() {
    this.#change({ kind: "invert" });
  }

  clear() {
    this.#change({ kind: "clear" });
  }

  /** Put a mask picture in place of what is painted: white, or opaque, is paint. */
  load(bitmap) {
    this.#change({ kind: "load", paint: painted(bitmap, this.canvas.width, this.canvas.height) });
  }

  undo() {
    this.end();
    if (this.canUndo) this.#undone.push(this.#changes.pop());
    this.#redraw();
    this.#changed();
  }

  redo() {
    this.end();
    if (this.canRedo) this.#changes.push(this.#undone.pop());
    this.#redraw();
    this.#changed();
  }

  get canUndo() {
    return this.#changes.length > 0;
  }

  get canRedo() {
    return this.#undone.length > 0;
  }

  get isEmpty() {
    const { data } = this.#context.getImageData(0, 0, this.canvas.width, this.canvas.height);
    for (let i = 3; i < data.length; i += 4) if (data[i] > 127) return false;
    return true;
  }

  /** The mask as the server takes it: a PNG, white where to paint. */
  async toBlob() {
    const { width, height } = this.canvas;
    const picture = new OffscreenCanvas(width, height);
    const context = picture.getContext("2d");
    context.drawImage(this.canvas, 0, 0);
    context.globalCompositeOperation = "source-in";
    context.fillStyle = "#fff";
    context.fillRect(0, 0, width, height);
    context.globalCompositeOperation = "destination-over";
    context.fillStyle = "#000";
    context.fillRect(0, 0, width, height);
    return picture.convertToBlob({ type: "image/png" });
  }

  #change(change) {
    this.end();
    this.#draw(change);
    this.#add(change);
  }

  #add(change) {
    this.#changes.push(change);
    this.#undone = [];
    if (this.#changes.length > UNDOABLE) draw(this.#base, this.#changes.shift());
    this.#changed();
  }

  #draw(change) {
    draw(this.canvas, change);
  }

  #redraw() {
    draw(this.canvas, { kind: "load", paint: this.#base });
    for (const change of this.#changes) this.#draw(change);
  }

  #changed() {
    this.dispatchEvent(new Event("change"));
  }
}

function draw(canvas, change) {
  const context = canvas.getContext("2d");
  context.globalCompositeOperation = "source-over";
  context.fillStyle = context.strokeStyle = COLOUR;
  if (change.kind === "stroke") return drawStroke(context, change);
  if (change.kind === "invert") context.globalCompositeOperation = "xor";
  else context.clearRect(0, 0, canvas.width, canvas.height);
  if (change.kind === "invert") context.fillRect(0, 0, canvas.width, canvas.height);
  if (change.kind === "load") context.drawImage(change.paint, 0, 0);
}

function drawStroke(context, { points, diameter, erase }) {
  if (erase) context.globalCompositeOperation = "destination-out";
  context.lineWidth = diameter;
  context.lineCap = context.lineJoin = "round";
  // A line of no length is not drawn (HTML standard, "trace a path"): a stroke begins with a dot.
  context.beginPath();
  context.arc(points[0], points[1], diameter / 2, 0, 2 * Math.PI);
  context.fill();
  context.beginPath();
  context.moveTo(points[0], points[1]);
  for (let i = 2; i < points.length; i += 2) context.lineTo(points[i], points[i + 1]);
  context.stroke();
}

/**
 * A picture as paint. As the server reads masks: by opacity where a picture is transparent and of
 * one colour, else by brightness times opacity.
 */
function painted(bitmap, width, height) {
  const paint = new OffscreenCanvas(width, height);
  const context = paint.getContext("2d");
  context.drawImage(bitmap, 0, 0, width, height);
  const pixels = context.getImageData(0, 0, width, height);
  const { data } = pixels;
  const byOpacity = isLayer(data);
  let any = false;
  for (let i = 0; i < data.length; i += 4) {
    const bright = (data[i] * 299 + data[i + 1] * 587 + data[i + 2] * 114) / 1000;
    const on = byOpacity ? data[i + 3] > 127 : (bright * data[i + 3]) / 255 >= 128;
    any ||= on;
    data[i] = 0xe8;
    data[i + 1] = 0x33;
    data[i + 2] = 0x6d;
    data[i + 3] = on ? 255 : 0;
  }
  if (!any) throw new Unreadable("Nothing in this mask is white. White is what will be painted.");
  context.putImageData(pixels, 0, 0);
  return paint;
}

/** Whether a picture is transparent somewhere and has one colour where it is not. */
function isLayer(data) {
  let colour = null;
  let transparent = false;
  for (let i = 0; i < data.length; i += 4) {
    transparent ||= data[i + 3] < 255;
    if (data[i + 3] < 255) continue; // colours of half-transparent pixels are not exact
    const here = (data[i] << 16) | (data[i + 1] << 8) | data[i + 2];
    if (colour !== null && here !== colour) return false;
    colour = here;
  }
  return transparent;
}
