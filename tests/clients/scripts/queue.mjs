import { endpoint, failure, fal, output, parameters, report, say } from "./client.mjs";

const submitted = await fal.queue.submit(endpoint, { input: parameters.input });
const requestId = submitted.request_id;
const waiting = await fal.queue.status(endpoint, { requestId });
const { error: _, ...early } = await failure(fal.queue.result(endpoint, { requestId }));
say("go");
const completed = await fal.queue.subscribeToStatus(endpoint, {
  requestId,
  logs: true,
  pollInterval: 20,
});
const withLogs = await fal.queue.status(endpoint, { requestId, logs: true });
const result = await fal.queue.result(endpoint, { requestId });
const { error: __, ...tooLate } = await failure(fal.queue.cancel(endpoint, { requestId }));
report({ submitted, waiting, early, completed, withLogs, output: output(result), tooLate });
