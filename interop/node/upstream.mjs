// oidc-provider as the provider that people come from: "continue with" it, the link, and what its logout ends here. A server that
// signs people in there is a relying party of it like any other.
import assert from 'node:assert/strict';
import { createServer } from 'node:http';
import { exportJWK, generateKeyPair } from 'jose';
import Provider from 'oidc-provider';
import { Browser, words } from './lib/browser.mjs';
import { check, finish } from './lib/checks.mjs';
import { CALLBACK, place } from './lib/place.mjs';
import { claimsOf, granted, introspected } from './lib/tokens.mjs';

const { id, issuer, port, client_id, client_secret } = place.upstream;
/** Who signs in there next, what they are known by, and how they prove it. */
const person = { sub: 'nobody', email: 'nobody@portcullis.example', verified: true, amr: undefined };

const { privateKey } = await generateKeyPair(place.algorithm, { extractable: true });
const key = { ...(await exportJWK(privateKey)), alg: place.algorithm, use: 'sig', kid: 'theirs' };
const server = createServer();
const provider = new Provider(issuer, {
  clients: [{
    client_id,
    client_secret,
    redirect_uris: [`${place.issuer}/upstream/${id}/callback`],
    backchannel_logout_uri: `${place.issuer}/upstream/${id}/backchannel-logout`,
    backchannel_logout_session_required: true,
    id_token_signed_response_alg: place.algorithm,
  }],
  claims: { openid: ['sub', 'amr', 'auth_time'], email: ['email', 'email_verified'], profile: ['name'] },
  cookies: { keys: ['only-for-this-run'] },
  conformIdTokenClaims: true,
  features: { backchannelLogout: { enabled: true }, devInteractions: { enabled: false }, rpInitiatedLogout: { enabled: true } },
  // It calls no loopback address by itself.
  fetch: (url, { dispatcher: _, ...options }) => fetch(url, options),
  findAccount: (_, sub) => ({
    accountId: sub,
    claims: () => ({ sub, email: person.email, email_verified: person.verified, name: 'Somebody' }),
  }),
  jwks: { keys: [key] },
  interactions: { url: (_, { uid }) => `/interaction/${uid}` },
  pkce: { required: () => true },
});
provider.on('backchannel.error', (_, error) => console.log(`a logout could not be told: ${error.stack}`));
/** Whoever comes is `person`, and allows what is asked. */
async function interact(request, response) {
  const { prompt, params, session, grantId } = await provider.interactionDetails(request, response);
  if (prompt.name === 'login') {
    return provider.interactionFinished(request, response, { login: { accountId: person.sub, amr: person.amr } });
  }
  const grant = grantId ? await provider.Grant.find(grantId) : new provider.Grant({ accountId: session.accountId, clientId: params.client_id });
  grant.addOIDCScope(params.scope);
  return provider.interactionFinished(request, response, { consent: { grantId: await grant.save() } }, { mergeWithLastSubmission: true });
}
server.on('request', (request, response) => {
  if (!request.url.startsWith('/interaction/')) return provider.callback()(request, response);
  interact(request, response).catch((error) => response.writeHead(500).end(String(error)));
});
await new Promise((done) => server.listen(port, '127.0.0.1', done));

/** What its user presses: the button of the provider, never "Sign in", and whatever follows. */
const CONTINUING = /^(continue with elsewhere|make a new account|sign in and link|allow)$/i;
const coming = (answers = {}) => new Browser({ press: CONTINUING, answers: { identifier: undefined, ...answers } });

/** A sign-in at an application of ours by way of there. */
async function cameIn(as, browser = coming()) {
  Object.assign(person, { verified: true, amr: undefined }, as);
  const tokens = await granted(place.clients.web, 'openid email read', browser);
  return { browser, tokens, id: claimsOf(tokens.id_token) };
}
const isActive = async ({ tokens }) => (await introspected(tokens.access_token)).active;
/** What a service says that follows the feed. */
const shown = async ({ tokens }) =>
  fetch(`${place.demo_api}/whoami`, { headers: { authorization: `Bearer ${tokens.access_token}` } });
const isLive = async (who) => [await isActive(who), (await shown(who)).status];
/** The browser signs out there. */
async function signsOutThere({ browser }) {
  const { url, text } = await browser.go(`${issuer}/session/end`, { press: /^yes, sign me out$/i });
  assert.ok(url.pathname.includes('/session/end/success'), `the browser stands at ${url}: ${words(text)}`);
}
/** What an end there means here, and how soon. */
async function hasEnded(who) {
  const begun = performance.now();
  let answer = await shown(who);
  for (let tries = 0; answer.status === 200 && tries < 100; tries += 1) {
    await new Promise((done) => setTimeout(done, 50));
    answer = await shown(who);
  }
  assert.equal(answer.status, 401);
  assert.equal((await answer.json()).code, 'token_revoked');
  assert.equal(await isActive(who), false);
  assert.ok(performance.now() - begun < place.bound_ms, 'later than the bound');
  const asked = await who.browser.go(`${place.issuer}/account/devices`, { patience: 0 });
  assert.equal(asked.url.pathname, '/sign-in', 'the browser is still signed in');
}

let somebody;
await check('somebody new continues with it, from an application and back to it', async () => {
  somebody = await cameIn({ sub: 'new', email: 'new@portcullis.example' });
  assert.deepEqual(await isLive(somebody), [true, 200]);
  assert.notEqual(somebody.id.sub, place.account.id);
});
await check('somebody new who does not say that they want an account has none', async () => {
  const hesitant = new Browser({ press: /^(continue with elsewhere|allow)$/i });
  for (let tries = 0; tries < 2; tries += 1) {
    const { url, text } = await hesitant.go(await asking({ sub: 'unsure', email: 'unsure@portcullis.example' }), { until: CALLBACK });
    assert.match(words(text), /Make a new account\?.*unsure@portcullis\.example/, `the browser stands at ${url}`);
  }
});
await check('they are known by their subject there, whatever their address is', async () => {
  const again = await cameIn({ sub: 'new', email: 'moved@portcullis.example' });
  assert.equal(again.id.sub, somebody.id.sub);
  assert.notEqual(again.id.sid, somebody.id.sid);
});
await check('methods are those that it names (RFC 8176), and no guess', async () => {
  const named = await cameIn({ sub: 'new', email: 'new@portcullis.example', amr: ['pwd', 'otp', 'mfa'] });
  assert.deepEqual(named.id.amr, ['pwd', 'otp', 'mfa']);
  assert.deepEqual((await introspected(named.tokens.access_token)).amr, ['pwd', 'otp', 'mfa']);
  assert.deepEqual(somebody.id.amr, []);
});
await check('an address that it has not verified opens no account that has it', async () => {
  const stranger = await cameIn({ sub: 'stranger', email: place.account.email, verified: false });
  assert.notEqual(stranger.id.sub, place.account.id);
});
await check('an account that has the address is linked by its password, once', async () => {
  const as = { sub: 'owner', email: place.account.email };
  const hesitant = new Browser({ press: /^(continue with elsewhere|allow)$/i });
  const { url, text } = await hesitant.go(await asking(as), { until: CALLBACK });
  assert.match(words(text), /Is this your account\?/, `the browser stands at ${url}`);
  const first = await cameIn(as, coming({ identifier: place.account.email, password: place.account.password }));
  assert.equal(first.id.sub, place.account.id);
  assert.deepEqual(first.id.amr, ['pwd'], 'it is the password that this sign-in rests on');
  const next = await cameIn(as);
  assert.equal(next.id.sub, place.account.id);
});
/** An authorization request of an application, for somebody who then comes by way of there. */
async function asking(as) {
  Object.assign(person, { verified: true, amr: undefined }, as);
  const query = new URLSearchParams({
    client_id: place.clients.web.client_id, response_type: 'code', redirect_uri: CALLBACK, scope: 'openid',
    code_challenge: 'E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM', code_challenge_method: 'S256',
  });
  return `${place.issuer}/oauth2/authorize?${query}`;
}
await check('its back-channel logout ends what came from there, at a verifier, at introspection and in the browser', async () => {
  const as = { sub: 'leaving', email: 'leaving@portcullis.example' };
  const [leaving, bystander] = [await cameIn(as), await cameIn({ sub: 'staying', email: 'staying@portcullis.example' })];
  assert.deepEqual(await isLive(leaving), [true, 200]);
  await signsOutThere(leaving);
  await hasEnded(leaving);
  assert.deepEqual(await isLive(bystander), [true, 200], 'somebody else is none the worse');
});
await check('a session by password goes on when its owner signs out there', async () => {
  const here = { tokens: await granted(place.clients.web, 'openid email read') };
  const there = await cameIn({ sub: 'owner', email: place.account.email });
  assert.equal(claimsOf(here.tokens.id_token).sub, there.id.sub);
  await signsOutThere(there);
  await hasEnded(there);
  assert.deepEqual(await isLive(here), [true, 200]);
});
await check('after a logout there they come in again, by a session of its own', async () => {
  const as = { sub: 'leaving', email: 'leaving@portcullis.example' };
  const again = await cameIn(as);
  assert.deepEqual(await isLive(again), [true, 200]);
});
await check('who signs out here is asked anew, and stays signed in there', async () => {
  const who = await cameIn({ sub: 'here', email: 'here@portcullis.example' });
  const page = await who.browser.go(`${place.issuer}/account/devices`, { press: /^sign out$/i });
  assert.ok(page.status < 400, words(page.text));
  await hasEnded(who);
  const back = await cameIn({ sub: 'nobody-else', email: 'nobody-else@portcullis.example' }, who.browser);
  assert.equal(back.id.sub, who.id.sub, 'the session there is still the one of before');
});
server.close();
finish();
