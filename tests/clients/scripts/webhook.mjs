import { endpoint, fal, parameters, report } from "./client.mjs";

const ids = [];
for (const input of parameters.inputs) {
  const { webhookUrl } = parameters;
  const { request_id: requestId } = await fal.queue.submit(endpoint, { input, webhookUrl });
  ids.push(requestId);
}
report(ids);
