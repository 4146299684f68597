// fal's documented verification with what Node has: reports whether each webhook is genuine.
import { createHash, createPublicKey, verify } from "node:crypto";

const { ORIGIN, PARAMETERS } = process.env;
const { keys } = await (await fetch(`${ORIGIN}/.well-known/jwks.json`)).json();

const isGenuine = ({ headers, body }) => {
  const content = Buffer.from(body, "base64");
  const [id, user, timestamp, signature] = ["request-id", "user-id", "timestamp", "signature"].map(
    (name) => headers[`x-fal-webhook-${name}`],
  );
  if (Math.abs(Date.now() / 1000 - Number(timestamp)) > 300) return false;
  const digest = createHash("sha256").update(content).digest("hex");
  const message = Buffer.from([id, user, timestamp, digest].join("\n"), "utf-8");
  return keys.some((key) =>
    verify(
      null,
      message,
      createPublicKey({ key, format: "jwk" }),
      Buffer.from(signature, "hex"),
    ),
  );
};
const { webhooks } = JSON.parse(PARAMETERS);
console.log(`REPORT ${JSON.stringify(webhooks.map(isGenuine))}`);
