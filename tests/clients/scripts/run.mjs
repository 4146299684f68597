import { endpoint, fal, output, parameters, report } from "./client.mjs";

const { input } = parameters;
const posted = await fal.run(endpoint, { input });
const gotten = await fal.run(endpoint, { input, method: "get" });
report({ posted: output(posted), gotten: output(gotten), requestId: posted.requestId });
