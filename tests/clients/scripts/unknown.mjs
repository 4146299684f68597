import { endpoint, failure, fal, report } from "./client.mjs";

const { error: _, ...submit } = await failure(fal.queue.submit("fal-ai/flux/dev", { input: {} }));
const requestId = "764cabcf-b745-4b3e-ae38-1200304cf45b";
const { error: __, ...status } = await failure(fal.queue.status(endpoint, { requestId }));
report({ submit, status });
