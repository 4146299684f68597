// Ways a photo comes to the page: chosen, dropped, pasted, or the example.

import { $ } from "./dom.js";
import { decoded, Photo, Unreadable } from "./photo.js";

const EXAMPLE = { photo: "page/example/photo.jpg", mask: "page/example/mask.png" };

/**
 * Listen for photos and masks. use: {photo(file), mask(file), example()} take what comes.
 * A picture dropped or pasted is a photo; masks are chosen.
 */
export function listen(use) {
  for (const id of ["photo-open", "photo-change"]) {
    $(id).addEventListener("click", () => $("photo-file").click());
  }
  $("mask-open").addEventListener("click", () => $("mask-file").click());
  $("example").addEventListener("click", () => use.example());
  chosen($("photo-file"), use.photo);
  chosen($("mask-file"), use.mask);
  addEventListener("paste", (event) => {
    const file = pictureOf(event.clipboardData);
    if (!file) return;
    event.preventDefault();
    use.photo(file);
  });
  listenForDrops(use.photo);
}

/** The example's photo and mask, as files of this server. */
export async function example(limits) {
  const [photo, mask] = await Promise.all(Object.values(EXAMPLE).map(fetched));
  return { photo: await Photo.read(photo, limits), mask: await decoded(mask) };
}

function chosen(input, take) {
  input.addEventListener("change", () => {
    const [file] = input.files;
    input.value = ""; // the same file may be chosen again
    if (file) take(file);
  });
}

function listenForDrops(take) {
  let depth = 0; // dragenter and dragleave come for every element below the pointer
  const show = () => $("drop").classList.toggle("open", depth > 0);
  addEventListener("dragenter", (event) => {
    if (![...(event.dataTransfer?.types ?? [])].includes("Files")) return;
    depth += 1;
    show();
  });
  addEventListener("dragleave", () => {
    depth = Math.max(0, depth - 1);
    show();
  });
  addEventListener("dragover", (event) => event.preventDefault());
  addEventListener("drop", (event) => {
    event.preventDefault();
    depth = 0;
    show();
    const file = pictureOf(event.dataTransfer);
    if (file) take(file);
  });
}

function pictureOf(transfer) {
  return [...(transfer?.files ?? [])].find(({ type }) => type.startsWith("image/"));
}

async function fetched(path) {
  const response = await fetch(path).catch(() => null);
  if (!response?.ok) throw new Unreadable("The example cannot be loaded. Is the server still there?");
  return response.blob();
}
