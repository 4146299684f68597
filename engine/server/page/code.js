// A request as a program: curl, Python and JavaScript that do what the page did. Text only.

import { base, ENDPOINT } from "./api.js";

const DEFAULTS = {
  num_images: 1,
  feather: 8,
  expand_prompt: false,
  enable_safety_checker: true,
  safety_checker_version: "v1",
};

/** What a program has to say: what is the endpoint's default is left out. */
function spoken(values) {
  return Object.entries(values).filter(([name, value]) => DEFAULTS[name] !== value);
}

/** values: a request's arguments without pictures. photo: {name, type} of its file. */
export function curl(values, photo, withKey) {
  const lines = [
    `  "image_url": "$(uri ${photo.type} ${photo.name})"`,
    '  "mask_url": "$(uri image/png mask.png)"',
    ...spoken(values).map(([name, value]) => `  ${inHeredoc(`${JSON.stringify(name)}: ${JSON.stringify(value)}`)}`),
  ];
  return `uri() { printf 'data:%s;base64,' "$1"; base64 < "$2" | tr -d '\\n'; }

curl --silent --show-error --fail-with-body '${base}/run/${ENDPOINT}' \\
  --header 'content-type: application/json' \\${withKey ? '\n  --header "authorization: Key $FAL_KEY" \\' : ""}
  --data-binary @- <<REQUEST
{
${lines.join(",\n")}
}
REQUEST
`;
}

export function python(values, photo, withKey) {
  const lines = spoken(values).map(([name, value]) => `        ${JSON.stringify(name)}: ${inPython(value)},`);
  return `# pip install fal-client
from pathlib import Path
from urllib.request import urlopen

import fal_client
import fal_client.client

server = ${JSON.stringify(base)}
fal_client.client.RUN_URL_FORMAT = server + "/run/"
fal_client.client.QUEUE_URL_FORMAT = server + "/queue/"
client = fal_client.SyncClient(${withKey ? ")  # its key is in FAL_KEY" : 'key="not needed")'}

result = client.subscribe(
    "${ENDPOINT}",
    arguments={
        "image_url": fal_client.encode_file("${photo.name}"),
        "mask_url": fal_client.encode_file("mask.png"),
${lines.join("\n")}
        "sync_mode": True,
    },
    with_logs=True,
    on_queue_update=print,
)
for number, image in enumerate(result["images"], 1):
    Path(f"result-{number}.${ending(values)}").write_bytes(urlopen(image["url"]).read())
print("seed", result["seed"])
`;
}

export function javascript(values, photo, withKey) {
  const lines = spoken(values).map(([name, value]) => `    ${name}: ${JSON.stringify(value)},`);
  return `// npm install @fal-ai/client; save as paint.mjs, run with node
import { readFile, writeFile } from "node:fs/promises";
import { fal } from "@fal-ai/client";

const server = ${JSON.stringify(base)};
const paths = { "fal.run": "/run", "queue.fal.run": "/queue", "rest.fal.ai": "/rest" };
fal.config({
  credentials: ${withKey ? "process.env.FAL_KEY" : '"not needed"'},
  requestMiddleware: async (request) => {
    const { host, pathname, search } = new URL(request.url);
    return host in paths ? { ...request, url: server + paths[host] + pathname + search } : request;
  },
});
const uri = async (type, file) => \`data:\${type};base64,\${await readFile(file, "base64")}\`;

const { data } = await fal.subscribe("${ENDPOINT}", {
  input: {
    image_url: await uri("${photo.type}", "${photo.name}"),
    mask_url: await uri("image/png", "mask.png"),
${lines.join("\n")}
    sync_mode: true,
  },
  logs: true,
  onQueueUpdate: (update) => console.log(update.status),
});
for (const [index, image] of data.images.entries()) {
  const picture = await fetch(image.url);
  await writeFile(\`result-\${index + 1}.${ending(values)}\`, Buffer.from(await picture.arrayBuffer()));
}
console.log("seed", data.seed);
`;
}

const ending = (values) => (values.format === "png" ? "png" : "jpg");

/** JSON text inside a here-document whose $( ) is run: the shell must find nothing else in it. */
const inHeredoc = (text) => text.replace(/[\\$`]/g, "\\$&");

/** JSON's texts and numbers are Python's, too; its three words are not. */
function inPython(value) {
  if (value === true) return "True";
  if (value === false) return "False";
  if (value !== null && typeof value === "object") {
    const members = Object.entries(value).map(([name, each]) => `${JSON.stringify(name)}: ${inPython(each)}`);
    return `{${members.join(", ")}}`;
  }
  return JSON.stringify(value);
}
