import { endpoint, failure, fal, parameters, report } from "./client.mjs";

const { requestId } = parameters;
const status = async (task) => ({ status: (await failure(task)).status });
report({
  status: await status(fal.queue.status(endpoint, { requestId })),
  result: await status(fal.queue.result(endpoint, { requestId })),
  cancel: await status(fal.queue.cancel(endpoint, { requestId })),
});
