import { endpoint, failure, fal, parameters, report } from "./client.mjs";

const { request_id: requestId } = await fal.queue.submit(endpoint, { input: parameters.input });
await fal.queue.cancel(endpoint, { requestId });
const status = await fal.queue.subscribeToStatus(endpoint, { requestId, pollInterval: 20 });
const { error, ...result } = await failure(fal.queue.result(endpoint, { requestId }));
report({ status, result });
