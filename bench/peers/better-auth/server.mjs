// npm's better-auth as a peer of `cargo xtask bench`; README.md beside this says why it is fair.
//
// Usage: node server.mjs PORT FOLDER ACCOUNTS PASSWORD. Makes so many accounts, `caller-0@example.org` and so on, and leaves in FOLDER
// `cookies`, with a session's cookie of each, before /readyz says 200.
import { betterAuth } from "better-auth";
import { getMigrations } from "better-auth/db/migration";
import { toNodeHandler } from "better-auth/node";
import Database from "better-sqlite3";
import { writeFileSync } from "node:fs";
import { createServer } from "node:http";
import path from "node:path";

const [port, folder, accounts, password] = process.argv.slice(2);

const database = new Database(path.join(folder, "better-auth.db"));
database.pragma("journal_mode = WAL");
database.pragma("synchronous = FULL");

const options = {
  baseURL: `http://127.0.0.1:${port}`,
  secret: "only-for-measurements-and-long-enough-4e1c",
  database,
  emailAndPassword: { enabled: true },
  rateLimit: { enabled: false },
  telemetry: { enabled: false },
  logger: { level: "error" },
};
const auth = betterAuth(options);
await (await getMigrations(options)).runMigrations();

const cookies = [];
for (let n = 0; n < Number(accounts); n += 1) {
  const body = { name: `Caller ${n}`, email: `caller-${n}@example.org`, password };
  const answer = await auth.api.signUpEmail({ body, asResponse: true });
  if (!answer.ok) throw new Error(`sign-up: ${answer.status} ${await answer.text()}`);
  cookies.push(answer.headers.getSetCookie().map((cookie) => cookie.split(";")[0]).join("; "));
}
writeFileSync(path.join(folder, "cookies"), cookies.map((cookie) => `${cookie}\n`).join(""));

const handler = toNodeHandler(auth);
createServer((request, response) => {
  if (request.url === "/readyz") response.end("ready");
  else handler(request, response);
}).listen(Number(port), "127.0.0.1");
