import { readFile } from "node:fs/promises";
import { endpoint, fal, isOld, output, parameters, report } from "./client.mjs";

const photo = await readFile(parameters.photo);
const mask = await readFile(parameters.mask);
const text = new File(["Hello, World!"], "héllo.txt", { type: "text/plain" });
const urls = {
  text: await fal.storage.upload(text),
  photo: await fal.storage.upload(new Blob([photo], { type: "image/png" })),
};
if (!isOld) urls.kept = await fal.storage.upload(text, { lifecycle: { expiresIn: "1h" } });
const { input } = parameters;
// Blobs anywhere in the input are uploaded and replaced by their URLs.
const blobs = await fal.subscribe(endpoint, {
  pollInterval: 20,
  input: { ...input, image_url: urls.photo, mask_url: new File([mask], "mask.png") },
});
const dataUri = `data:image/png;base64,${mask.toString("base64")}`;
const data = await fal.run(endpoint, {
  input: { ...input, image_url: urls.photo, mask_url: dataUri },
});
report({ urls, blobs: output(blobs), data: output(data) });
