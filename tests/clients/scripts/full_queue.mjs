import { endpoint, failure, fal, isOld, report, say } from "./client.mjs";

await fal.queue.submit(endpoint, { input: {} });
say("full");
const second = fal.queue.submit(endpoint, { input: {} });
const { status, body } = isOld ? await failure(second) : { status: 200, body: await second };
report({ status, body });
