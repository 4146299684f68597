import { endpoint, fal, output, parameters, report, say } from "./client.mjs";

const updates = [];
const enqueued = [];
const result = await fal.subscribe(endpoint, {
  input: parameters.input,
  logs: true,
  pollInterval: 20,
  mode: parameters.mode,
  onEnqueue: (id) => enqueued.push(id),
  onQueueUpdate: (update) => {
    const logs = (update.logs ?? []).map((log) => log.message);
    updates.push({ status: update.status, logs, position: update.queue_position });
    if (update.status === "IN_PROGRESS") logs.forEach(say);
  },
});
report({ output: output(result), requestId: result.requestId, updates, enqueued });
