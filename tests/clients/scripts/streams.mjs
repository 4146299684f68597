import { endpoint, fal, parameters, report, say } from "./client.mjs";

const stream = await fal.stream(endpoint, { input: parameters.input });
const events = [];
for await (const event of stream) {
  events.push(event);
  (event.logs ?? []).forEach((log) => say(log.message));
}
const last = await stream.done();

const { request_id: requestId } = await fal.queue.submit(endpoint, { input: parameters.input });
const statuses = [];
const status = await fal.queue.streamStatus(endpoint, { requestId, logs: true });
status.on("data", (each) => statuses.push(each));
const completed = await status.done();
report({ events, last, statuses, completed });
