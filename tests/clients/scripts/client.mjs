// One of fal's clients, pointed at a lightfill server. What the environment says:
// CLIENT the package, WAY how it is pointed, ORIGIN where the server is, FAL_KEY the key.
const { CLIENT, WAY, ORIGIN } = process.env;
export const endpoint = "fal-ai/fast-lightning-sdxl/inpainting";
export const isOld = CLIENT === "@fal-ai/serverless-client";
if (WAY === "proxy" && isOld) globalThis.window = {}; // it proxies in browsers only

const client = await import(CLIENT);
export const fal = isOld ? client : client.fal;
export const { ApiError, ValidationError } = client;

const prefixes = {
  "fal.run": "/run",
  "queue.fal.run": "/queue",
  "rest.fal.ai": "/rest",
  "rest.alpha.fal.ai": "/rest",
};
const local = (url) => {
  const { host, pathname, search } = new URL(url);
  return host in prefixes ? ORIGIN + prefixes[host] + pathname + search : url;
};
const proxy = `${ORIGIN}/api/fal/proxy`;
const ways = {
  middleware: {
    requestMiddleware: async (request) => ({ ...request, url: local(request.url) }),
  },
  fetch: { fetch: (url, options) => fetch(local(url), options) },
  proxy: { proxyUrl: isOld ? proxy : { url: proxy, when: "always" } },
};
fal.config({ suppressLocalCredentialsWarning: true, ...ways[WAY] });

// The output, which the newer client wraps.
export const output = (result) => (isOld ? result : result.data);
// What `task` is rejected with.
export const failure = async (task) => {
  const error = await task.then(
    () => undefined,
    (reason) => reason,
  );
  if (error === undefined) throw new Error("it did not fail");
  const { name, message, status, body, requestId, timeoutType } = error;
  return { name, message, status, body, requestId, timeoutType, error };
};
// Tells the test something now; `report` ends it with its findings.
export const say = (text) => console.log(`SAY ${text}`);
export const report = (findings) => console.log(`REPORT ${JSON.stringify(findings)}`);
export const parameters = JSON.parse(process.env.PARAMETERS ?? "{}");
