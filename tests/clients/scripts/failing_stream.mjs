import { endpoint, fal, parameters, report } from "./client.mjs";

const stream = await fal.stream(endpoint, { input: parameters.input });
const events = [];
stream.on("data", (event) => events.push(event));
const outcome = await stream.done().then(
  (value) => ({ value }),
  ({ name, status, body }) => ({ name, status, body }),
);
report({ events, outcome });
