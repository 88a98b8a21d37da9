// HAProxy's jwt_verify: access tokens checked at the edge, by the public key that the server publishes.
import assert from 'node:assert/strict';
import { createPublicKey } from 'node:crypto';
import { writeFileSync } from 'node:fs';
import { check, finish } from '../node/lib/checks.mjs';
import { asAdmin, place } from '../node/lib/place.mjs';
import { bad, granted, headerOf } from '../node/lib/tokens.mjs';
import { configured, freePort, started } from './lib.mjs';

const { access_token, id_token } = await granted();
const { keys } = await (await fetch(`${place.issuer}/.well-known/jwks.json`)).json();
const jwk = keys.find(({ kid }) => kid === headerOf(access_token).kid);
const key = `${process.cwd()}/public.pem`;
writeFileSync(key, createPublicKey({ key: jwk, format: 'jwk' }).export({ type: 'spki', format: 'pem' }));
const port = await freePort();
const base = `http://127.0.0.1:${port}`;
const config = configured('haproxy.cfg', { port, key, algorithm: place.algorithm, issuer: place.issuer, audience: place.audience });
await started('haproxy', ['-db', '-f', config], `${base}/up`);

async function shown(token) {
  const answer = await fetch(base, { headers: token ? { authorization: `Bearer ${token}` } : {} });
  return { status: answer.status, text: await answer.text() };
}

await check('a good access token is let through', async () => {
  assert.deepEqual(await shown(access_token), { status: 200, text: place.account.id });
});
await check('no token', async () => assert.equal((await shown()).status, 401));
await check('an ID token as access token', async () => assert.equal((await shown(id_token)).status, 401));
for (const [name, token] of Object.entries(bad(access_token, jwk))) {
  if (name === 'an unknown key') continue; // it has one key, and does not read `kid`
  await check(name, async () => assert.equal((await shown(token)).status, 401));
}
await check('after its time', async () => {
  const { client_id } = place.clients.other;
  await asAdmin('PATCH', `/v1/admin/clients/${client_id}`, { access_ttl_s: 2 });
  const short = await granted(place.clients.other);
  assert.equal((await shown(short.access_token)).status, 200);
  await new Promise((done) => setTimeout(done, 3200));
  assert.equal((await shown(short.access_token)).status, 401);
});
finish();
