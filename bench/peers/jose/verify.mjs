// Verifications per second by npm's `jose`, on one core: signature, `exp`, `iss`, `aud`, `typ`, with the key imported once. The package and its
// version are those of interop/node. Usage: node verify.mjs TOKEN_FILE SECONDS
import { readFileSync } from 'node:fs';
import { createRequire } from 'node:module';

const { importJWK, jwtVerify } = createRequire(new URL('../../../interop/node/', import.meta.url))('jose');
const [file, seconds] = process.argv.slice(2);
const told = JSON.parse(readFileSync(file, 'utf8'));
const key = await importJWK(told.jwk, 'ES256');
const wanted = { issuer: told.issuer, audience: told.audience, algorithms: ['ES256'], typ: 'at+jwt' };

async function round(ms) {
  const begun = performance.now();
  let count = 0;
  while (performance.now() - begun < ms) {
    // Several at once, for its cryptography runs on other threads: one after the other would count the way there and back.
    await Promise.all(Array.from({ length: 32 }, () => jwtVerify(told.token, key, wanted)));
    count += 32;
  }
  return (count * 1000) / (performance.now() - begun);
}

await round(300); // compiles what is hot
console.log(JSON.stringify({ per_s: await round(Number(seconds) * 1000) }));
