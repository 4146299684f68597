// A photo the server can read, as the browser shows it: upright, with its size.

const KEPT_TYPES = { "image/jpeg": "jpg", "image/png": "png", "image/webp": "webp" };

/** A file that is no photo, or too much of one; the message is for whoever chose it. */
export class Unreadable extends Error {}

export class Photo {
  /** bitmap: the picture, upright; blob: the file the server gets. */
  constructor(blob, bitmap) {
    this.blob = blob;
    this.bitmap = bitmap;
    this.width = bitmap.width;
    this.height = bitmap.height;
  }

  /** Read a file; other types than the web's own are written again as PNG. */
  static async read(file, limits) {
    const bitmap = await decoded(file);
    const megapixels = (bitmap.width * bitmap.height) / 1e6;
    if (limits && megapixels > limits.max_pixels / 1e6) {
      throw new Unreadable(
        `The photo has ${Math.round(megapixels)} megapixels, the server takes ${Math.floor(limits.max_pixels / 1e6)}. Scale it down first.`,
      );
    }
    const blob = file.type in KEPT_TYPES ? file : await toBlob(drawn(bitmap), "image/png");
    if (limits && blob.size > limits.max_file_bytes) {
      throw new Unreadable(
        `The photo has ${Math.ceil(blob.size / 2 ** 20)} MB, the server takes ${Math.floor(limits.max_file_bytes / 2 ** 20)}. Save it smaller first.`,
      );
    }
    return new Photo(blob, bitmap);
  }

  get fileName() {
    return `photo.${KEPT_TYPES[this.blob.type]}`;
  }

  /** The part `window` ([left, top, right, bottom] in pixels) drawn on `canvas` at its size. */
  drawWindow(canvas, [left, top, right, bottom]) {
    const context = canvas.getContext("2d");
    context.imageSmoothingQuality = "high";
    context.clearRect(0, 0, canvas.width, canvas.height);
    context.drawImage(
      this.bitmap, left, top, right - left, bottom - top, 0, 0, canvas.width, canvas.height,
    );
  }
}

/** A bitmap of a picture file, its EXIF orientation applied. */
export async function decoded(blob) {
  try {
    return await createImageBitmap(blob, { imageOrientation: "from-image" });
  } catch {
    return drawn(await loaded(blob)); // SVG, which has no bitmap of its own
  }
}

export function toBlob(canvas, type) {
  return new Promise((resolve, reject) => {
    canvas.toBlob((blob) => (blob ? resolve(blob) : reject(new Unreadable("The picture is too large for this browser."))), type);
  });
}

export function dataUri(blob) {
  return new Promise((resolve, reject) => {
    const reader = new FileReader();
    reader.onload = () => resolve(reader.result);
    reader.onerror = () => reject(new Unreadable("The file cannot be read any more. Choose it again."));
    reader.readAsDataURL(blob);
  });
}

/** The bytes in a data URI; fetching it would break the page's own security policy. */
export function blobOf(uri) {
  const [, type, payload] = /^data:([^;,]+);base64,(.*)$/s.exec(uri);
  return new Blob([Uint8Array.from(atob(payload), (c) => c.charCodeAt(0))], { type });
}

function loaded(blob) {
  const url = URL.createObjectURL(blob);
  const image = new Image();
  image.src = url;
  return image
    .decode()
    .catch(() => {
      throw new Unreadable("This file is no picture the browser knows. Choose a JPEG, PNG or WebP.");
    })
    .then(() => image)
    .finally(() => URL.revokeObjectURL(url));
}

function drawn(image) {
  const canvas = document.createElement("canvas");
  canvas.width = image.naturalWidth ?? image.width;
  canvas.height = image.naturalHeight ?? image.height;
  if (!canvas.width || !canvas.height) throw new Unreadable("This picture has no size of its own. Save it as PNG first.");
  canvas.getContext("2d").drawImage(image, 0, 0);
  return canvas;
}
