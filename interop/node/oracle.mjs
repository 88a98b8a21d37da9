// oidc-provider as an oracle: the script of openid-client runs against it and against us, and what the two answered is compared.
// A difference that is not in the list below is a finding; one in the list that is gone is told too.
import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { createServer } from 'node:http';
import { createInterface } from 'node:readline';
import { fileURLToPath } from 'node:url';
import Provider from 'oidc-provider';
import { check, finish } from './lib/checks.mjs';
import { jwk } from './lib/keyed.mjs';
import { CALLBACK, SIGNED_OUT, place } from './lib/place.mjs';

/** Known differences, `us | them`, and why each stays. */
const DIFFERENT = {
  'an implicit request': ['unsupported_response_type | invalid_request in the fragment', 'the error is the one that RFC 6749 §4.1.2.1 names, by the only mode that is offered'],
  'a hybrid request': ['unsupported_response_type | invalid_request in the fragment', 'the error is the one that RFC 6749 §4.1.2.1 names, by the only mode that is offered'],
  'client credentials of a client that may not': ['400 unauthorized_client | 400 invalid_request', 'the error is the one that RFC 6749 §5.2 names'],
  'introspection of a refresh token': ['active: false | active: true', 'it is asked by services, which are never shown refresh tokens (RFC 7662 §4)'],
};

/** What it does not have, and need not. */
const TOLERATED = ['token exchange'];

function registered(name, more) {
  const { client_id, client_secret } = place.clients[name];
  return { client_id, ...(client_secret && { client_secret }), grant_types: ['authorization_code', 'refresh_token'], redirect_uris: [CALLBACK], ...more };
}

async function theirs() {
  const server = createServer();
  await new Promise((done) => server.listen(0, '127.0.0.1', done));
  const issuer = `http://127.0.0.1:${server.address().port}`;
  const provider = new Provider(issuer, {
    clients: [
      registered('web', { post_logout_redirect_uris: [SIGNED_OUT] }),
      registered('post', { token_endpoint_auth_method: 'client_secret_post' }),
      registered('keyed', { client_secret: undefined, token_endpoint_auth_method: 'private_key_jwt', jwks: { keys: [{ ...jwk, d: undefined }] } }),
      registered('native', { token_endpoint_auth_method: 'none' }),
      registered('pushes', { require_pushed_authorization_requests: true }),
      registered('service', { grant_types: ['client_credentials'], redirect_uris: [], response_types: [], scope: 'read' }),
      registered('device', { token_endpoint_auth_method: 'none', redirect_uris: [], response_types: [], grant_types: ['urn:ietf:params:oauth:grant-type:device_code', 'refresh_token'] }),
    ],
    claims: { openid: ['sub'], email: ['email'], profile: ['name'] },
    scopes: ['openid', 'offline_access', 'read'],
    cookies: { keys: ['only-for-this-run'] },
    features: {
      clientCredentials: { enabled: true },
      deviceFlow: { enabled: true },
      devInteractions: { enabled: true },
      dPoP: { enabled: true },
      introspection: { enabled: true },
      pushedAuthorizationRequests: { enabled: true },
      registration: { enabled: true, initialAccessToken: place.registration_token },
      registrationManagement: { enabled: true, rotateRegistrationAccessToken: false },
      revocation: { enabled: true },
      rpInitiatedLogout: { enabled: true },
    },
    findAccount: (_, id) => ({ accountId: id, claims: () => ({ sub: id, email: place.account.email, name: 'Demo' }) }),
    pkce: { required: () => true },
    rotateRefreshToken: true,
  });
  server.on('request', provider.callback());
  return { issuer, server };
}

/** Runs the script there; its facts. */
async function facts(at, title) {
  const file = `facts-${new URL(at.issuer).port}.json`;
  const script = fileURLToPath(new URL('./openid-client.mjs', import.meta.url));
  const env = { ...process.env, INTEROP_FACTS: file, PORTCULLIS_INTEROP: JSON.stringify(at), NODE_NO_WARNINGS: '1' };
  const child = spawn(process.execPath, [script], { env, stdio: ['ignore', 'pipe', 'inherit'] });
  // Its sums are not ours.
  createInterface(child.stdout).on('line', (line) => console.log(`${title}: ${line.replace('test result:', 'result:')}`));
  await new Promise((done) => child.on('close', done));
  return JSON.parse(readFileSync(file));
}

const { issuer, server } = await theirs();
const us = await facts(place, 'us');
const them = await facts({ ...place, issuer, tolerated: TOLERATED }, 'them');
server.close();
await check('the script ran against both', () => {
  assert.ok(Object.keys(us).length > 20 && Object.keys(them).length > 20);
});
const names = Object.keys(us).filter((name) => name in them);
for (const name of names) {
  await check(`alike: ${name}`, () => {
    const said = us[name] === them[name] ? 'alike' : `${us[name]} | ${them[name]}`;
    const [expected, why] = DIFFERENT[name] ?? ['alike'];
    assert.equal(said, expected, 'us | oidc-provider');
    return why ? `${said}: ${why}` : us[name];
  });
}
await check('no known difference is forgotten', () => {
  assert.deepEqual(Object.keys(DIFFERENT).filter((name) => !names.includes(name)), []);
});
finish();
