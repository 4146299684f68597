import { endpoint, failure, fal, parameters, report } from "./client.mjs";

const ids = [];
const { message } = await failure(
  fal.subscribe(endpoint, {
    input: parameters.input,
    pollInterval: 20,
    timeout: 300,
    onQueueUpdate: (update) => ids.push(update.request_id),
  }),
);
const status = await fal.queue.subscribeToStatus(endpoint, { requestId: ids[0], pollInterval: 20 });
report({ message, status });
