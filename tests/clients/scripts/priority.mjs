import { endpoint, fal, report } from "./client.mjs";

const ids = [];
for (const priority of ["low", "normal"]) {
  ids.push((await fal.queue.submit(endpoint, { input: {}, priority, hint: "anywhere" })).request_id);
}
const positions = [];
for (const requestId of ids) {
  positions.push((await fal.queue.status(endpoint, { requestId })).queue_position);
}
report({ positions });
