// More than 90 MiB goes in parts of 10 MiB.
import { createHash } from "node:crypto";
import { fal, parameters, report } from "./client.mjs";

const piece = new Uint8Array(1 << 20).map((_, index) => index % 251);
const pieces = Array.from({ length: parameters.mebibytes }, () => piece);
const digest = createHash("sha256");
pieces.forEach((each) => digest.update(each));
const url = await fal.storage.upload(new File(pieces, "large.bin"));
report({ url, sha256: digest.digest("hex") });
