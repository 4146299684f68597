// The page: which of its states it is in, and what each button does.
//
// body[data-state] is "empty", "edit", "running" or "result"; the style sheets show what belongs.

import { key, model as fetchModel, Refused } from "./api.js";
import { CodeDialog, KeyDialog } from "./dialogs.js";
import { $, announce } from "./dom.js";
import { History } from "./history.js";
import { example, listen } from "./intake.js";
import { Job, Stopped } from "./job.js";
import { Mask } from "./mask.js";
import { Painter } from "./painter.js";
import { dataUri, decoded, Photo } from "./photo.js";
import { Progress } from "./progress.js";
import { Result, ResultView } from "./result.js";
import { Settings } from "./settings.js";

const mask = new Mask($("mask"));
const painter = new Painter(mask);
const settings = new Settings();
const progress = new Progress();
const view = new ResultView();
const history = new History((result) => open(result));
const codeDialog = new CodeDialog();
const keyDialog = new KeyDialog();

let model = null;
let photo = null;
let job = null;

function go(state) {
  document.body.dataset.state = state;
  $("generate").hidden = state === "running";
  $("cancel").hidden = state !== "running";
  $("mask").tabIndex = state === "edit" ? 0 : -1;
  if (state !== "result") history.mark(null);
}

/** Run what a person asked for; whatever goes wrong is told, with the same thing to try again. */
async function attempt(action) {
  hideProblem();
  settings.clearMistakes();
  try {
    await action();
  } catch (error) {
    if (error instanceof Stopped) announce("Cancelled");
    else await complain(error, action);
  }
}

async function complain(error, action) {
  if (error instanceof Refused && error.status === 401) {
    if (await keyDialog.ask(key.get() ? error.message : "")) await attempt(action);
    return;
  }
  const mistakes = error.mistakes ?? [];
  const homeless = settings.showMistakes(mistakes.map(({ loc, msg }) => [loc[1], sentence(msg)]));
  if (mistakes.length && !homeless.length) return;
  $("problem-text").textContent = homeless.join(" ") || sentence(error.message);
  $("problem").hidden = false;
  $("again").onclick = () => attempt(action);
}

function hideProblem() {
  $("problem").hidden = true;
}

/** fal's messages begin small and end without a full stop. */
function sentence(text) {
  const whole = text.charAt(0).toUpperCase() + text.slice(1);
  return /[.!?]$/.test(whole) ? whole : `${whole}.`;
}

/** What the server has, if it is not known yet. */
async function loadModel() {
  if (model) return;
  model = await fetchModel();
  settings.use(model);
  $("model").textContent = `${model.name} on ${model.device}`;
  $("key-open").hidden = !model.asks_for_keys;
}

// --- the photo and its mask ------------------------------------------------------------------------

function setPhoto(next) {
  photo = next;
  URL.revokeObjectURL($("photo").src);
  $("photo").src = URL.createObjectURL(next.blob);
  $("frame").style.setProperty("--ratio", next.width / next.height);
  settings.sizes.follow(next);
  mask.reset(next.width, next.height);
  go("edit");
  painter.centre();
}

async function takePhoto(file) {
  await attempt(async () => {
    setPhoto(await Photo.read(file, model?.limits));
    announce(`Photo, ${photo.width} by ${photo.height} pixels. Paint over what should change.`);
  });
}

async function takeMask(file) {
  await attempt(async () => mask.load(await decoded(file)));
}

async function takeExample() {
  await attempt(async () => {
    await loadModel();
    const { photo: picture, mask: shape } = await example(model?.limits);
    setPhoto(picture);
    mask.load(shape);
    const side = model.natural_size;
    settings.values = {
      ...settings.values,
      prompt: "a green ball",
      image_size: model.any_size ? { width: side, height: side } : "square_hd",
      strength: 1,
      mask_crop_padding: 0.3,
    };
    announce("The example's photo and mask are loaded");
  });
}

// --- generating ------------------------------------------------------------------------------------

async function generate() {
  if (document.body.dataset.state === "running") return;
  const mistakes = settings.mistakes;
  if (!photo) mistakes.unshift(["image_url", "Choose a photo first."]);
  else if (mask.isEmpty) mistakes.unshift(["mask_url", "Paint over what should change first."]);
  if (mistakes.length) {
    hideProblem();
    settings.clearMistakes();
    settings.showMistakes(mistakes);
    return;
  }
  let asked = null; // once: trying again goes on with the same request
  await attempt(async () => {
    await loadModel();
    asked ??= await ask();
    await follow(asked);
  });
}

/** What is asked for now, and the job that does it. */
async function ask() {
  const shape = await mask.toBlob();
  const values = settings.values;
  const files = { image_url: await dataUri(photo.blob), mask_url: await dataUri(shape) };
  const asked = { photo, mask: shape, values, window: null, notes: [] };
  const request = { ...values, ...files, sync_mode: true, preview: true };
  asked.job = new Job(request, (report) => hear(report, asked));
  return asked;
}

async function follow(asked) {
  const before = document.body.dataset.state;
  const started = performance.now();
  job = asked.job;
  go("running");
  progress.begin(asked.photo);
  try {
    const output = await job.run();
    const seconds = (performance.now() - started) / 1000;
    const result = await Result.of({ ...asked, output, seconds });
    settings.showSeed(output.seed);
    history.add(result);
    show(result);
    announce(`Done in ${seconds.toFixed(1)} seconds`);
  } catch (error) {
    go(before);
    throw error;
  }
}

function hear(report, asked) {
  if (report.window) asked.window = report.window;
  if (report.kind === "note" && !asked.notes.includes(report.text)) asked.notes.push(report.text);
  progress.show(report);
}

function show(result) {
  view.show(result);
  go("result");
  history.mark(result);
}

/** A result of this session with everything that made it. */
async function open(result) {
  if (document.body.dataset.state === "running") return;
  await attempt(async () => {
    const shape = await decoded(result.mask);
    setPhoto(result.photo);
    mask.load(shape);
    settings.values = result.repeatable;
    show(result);
  });
}

// --- buttons ---------------------------------------------------------------------------------------

$("settings").addEventListener("submit", (event) => {
  event.preventDefault();
  generate();
});
$("prompt").addEventListener("keydown", (event) => {
  if (event.key !== "Enter" || !(event.ctrlKey || event.metaKey)) return;
  event.preventDefault();
  generate();
});
$("cancel").addEventListener("click", () => {
  progress.stopping();
  job?.stop();
});
$("edit").addEventListener("click", () => {
  go("edit");
  $("mask").focus();
});
$("reuse").addEventListener("click", () => takePhoto(view.picture.blob));
$("code-open").addEventListener("click", () =>
  codeDialog.open(view.result, Boolean(model?.asks_for_keys || key.get())),
);
listen({ photo: takePhoto, mask: takeMask, example: takeExample });

await attempt(loadModel);
