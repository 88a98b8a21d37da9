// Verifications per second of processor time (of all threads) by npm's `jose`: signature, `exp`, `iss`, `aud`, `typ`, with the key imported once. The package and its
// version are those of interop/node. Usage: node verify.mjs TOKEN_FILE SECONDS
import { readFileSync } from 'node:fs';
import { createRequire } from 'node:module';

const { importJWK, jwtVerify } = createRequire(new URL('../../../interop/node/', import.meta.url))('jose');
const [file, seconds] = process.argv.slice(2);
const told = JSON.parse(readFileSync(file, 'utf8'));
const key = await importJWK(told.jwk, 'ES256');
const wanted = { issuer: told.issuer, audience: told.audience, algorithms: ['ES256'], typ: 'at+jwt' };

const cpuMs = () => {
  const { user, system } = process.cpuUsage();
  return (user + system) / 1000;
};

async function round(ms) {
  const begun = cpuMs();
  let count = 0;
  while (cpuMs() - begun < ms) {
    // Several at once, for its cryptography runs on other threads: one after the other would count the way there and back.
    await Promise.all(Array.from({ length: 32 }, () => jwtVerify(told.token, key, wanted)));
    count += 32;
  }
  return (count * 1000) / (cpuMs() - begun);
}

await round(300); // compiles what is hot
console.log(JSON.stringify({ per_s: await round(Number(seconds) * 1000) }));
