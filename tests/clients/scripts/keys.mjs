import { endpoint, failure, fal, parameters, report } from "./client.mjs";

const { requestId, input } = parameters;
const told = async (task) => {
  const { name, status, body } = await failure(task);
  return { name, status, body };
};
const found = {
  run: await told(fal.run(endpoint, { input })),
  submit: await told(fal.queue.submit(endpoint, { input })),
  status: await told(fal.queue.status(endpoint, { requestId })),
  result: await told(fal.queue.result(endpoint, { requestId })),
  cancel: await told(fal.queue.cancel(endpoint, { requestId })),
  upload: await told(fal.storage.upload(new Blob(["x"]))),
};
report(found);
