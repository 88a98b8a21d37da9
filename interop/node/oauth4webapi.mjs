// oauth4webapi: the low-level calls, each answer validated strictly. What openid-client hides is looked at here: headers, exact
// forms of errors, access tokens validated as a resource server would (RFC 9068 §4).
import assert from 'node:assert/strict';
import * as oauth from 'oauth4webapi';
import { Browser } from './lib/browser.mjs';
import { check, finish, offered, refusal } from './lib/checks.mjs';
import { CALLBACK, place } from './lib/place.mjs';

const insecure = { [oauth.allowInsecureRequests]: true };
const issuer = new URL(place.issuer);
const { client_id, client_secret } = place.clients.web;
const client = { client_id, default_max_age: undefined };
const secret = oauth.ClientSecretBasic(client_secret);
const browser = new Browser();
let as;

await check('OpenID Connect discovery', async () => {
  const answer = await oauth.discoveryRequest(issuer, insecure);
  as = await oauth.processDiscoveryResponse(issuer, answer);
});
await check('OAuth metadata (RFC 8414) says the same', async () => {
  const answer = await oauth.discoveryRequest(issuer, { ...insecure, algorithm: 'oauth2' });
  assert.deepEqual(await oauth.processDiscoveryResponse(issuer, answer), as);
});

async function coded(more = {}, authentication = secret, options = {}) {
  const verifier = oauth.generateRandomCodeVerifier();
  const [state, nonce] = [oauth.generateRandomState(), oauth.generateRandomNonce()];
  const address = new URL(as.authorization_endpoint);
  address.search = new URLSearchParams({
    client_id, redirect_uri: CALLBACK, response_type: 'code', scope: 'openid email offline_access', state, nonce,
    code_challenge: await oauth.calculatePKCECodeChallenge(verifier), code_challenge_method: 'S256', ...more,
  });
  const { url } = await browser.go(address, { until: CALLBACK });
  const parameters = oauth.validateAuthResponse(as, client, url, state);
  const send = () => oauth.authorizationCodeGrantRequest(as, client, authentication, parameters, CALLBACK, verifier, { ...insecure, ...options });
  return { answer: await send(), nonce, send };
}

async function signedIn(more, options) {
  const { answer: first, nonce, send } = await coded(more, secret, options);
  let answer = first;
  const read = () => oauth.processAuthorizationCodeResponse(as, client, answer, { expectedNonce: nonce, requireIdToken: true });
  const tokens = await read().catch(async (error) => {
    if (!oauth.isDPoPNonceError(error)) throw error;
    answer = await send(); // once more, with the nonce that the server gave (RFC 9449 §8); the code is not used up by that
    return read();
  });
  await oauth.validateApplicationLevelSignature(as, answer, insecure);
  return { tokens, answer };
}

await check('code with PKCE; the answer may not be cached', async () => {
  const { tokens, answer } = await signedIn();
  assert.equal(answer.headers.get('cache-control'), 'no-store');
  assert.ok(oauth.getValidatedIdTokenClaims(tokens).at_hash);
});
await check('the access token is one of RFC 9068 to a resource server', async () => {
  const { tokens } = await signedIn();
  const request = new Request('http://127.0.0.1:9/thing', { headers: { authorization: `Bearer ${tokens.access_token}` } });
  const claims = await oauth.validateJwtAccessToken(as, request, place.audience, insecure);
  assert.equal(claims.client_id, client_id);
  const wrong = new Request('http://127.0.0.1:9/thing', { headers: { authorization: `Bearer ${tokens.id_token}` } });
  await refusal(() => oauth.validateJwtAccessToken(as, wrong, client_id, insecure));
});
await check('userinfo, by GET and with a strict subject', async () => {
  const { tokens } = await signedIn();
  const answer = await oauth.userInfoRequest(as, client, tokens.access_token, insecure);
  const about = await oauth.processUserInfoResponse(as, client, oauth.getValidatedIdTokenClaims(tokens).sub, answer);
  assert.equal(about.email, place.account.email);
});
await check('userinfo with a dead token challenges (RFC 6750 §3)', async () => {
  const { tokens } = await signedIn();
  await oauth.processRevocationResponse(await oauth.revocationRequest(as, client, secret, tokens.access_token, insecure));
  try {
    await oauth.processUserInfoResponse(as, client, oauth.skipSubjectCheck, await oauth.userInfoRequest(as, client, tokens.access_token, insecure));
  } catch (error) {
    assert.ok(error instanceof oauth.WWWAuthenticateChallengeError, error.stack);
    const [challenge] = error.cause;
    assert.equal(challenge.scheme, 'bearer');
    assert.equal(challenge.parameters.error, 'invalid_token');
    return `${error.status} ${challenge.parameters.error}`;
  }
  assert.fail('it was answered');
});
await check('refresh, with the ID token of the same user', async () => {
  const { tokens } = await signedIn();
  const answer = await oauth.refreshTokenGrantRequest(as, client, secret, tokens.refresh_token, insecure);
  const next = await oauth.processRefreshTokenResponse(as, client, answer);
  await oauth.validateApplicationLevelSignature(as, answer, insecure);
  const [before, after] = [tokens, next].map(oauth.getValidatedIdTokenClaims);
  // OpenID Connect Core §12.2.
  for (const name of ['iss', 'sub', 'aud', 'auth_time', 'azp']) assert.deepEqual(after[name], before[name], name);
  assert.equal(after.nonce, undefined);
});
await check('a refresh lost on the way is repeated and answered alike', async () => {
  const { tokens } = await signedIn();
  const once = async () => oauth.processRefreshTokenResponse(as, client, await oauth.refreshTokenGrantRequest(as, client, secret, tokens.refresh_token, insecure));
  assert.equal((await once()).refresh_token, (await once()).refresh_token);
});
await check('introspection', async () => {
  const { tokens } = await signedIn();
  const told = await oauth.processIntrospectionResponse(as, client, await oauth.introspectionRequest(as, client, secret, tokens.access_token, insecure));
  assert.deepEqual([told.active, told.client_id, told.token_type], [true, client_id, 'Bearer']);
});
for (const [name, authentication] of [['no secret', oauth.None()], ['a wrong one', oauth.ClientSecretBasic('wrong')], ['a wrong one in the body', oauth.ClientSecretPost('wrong')]]) {
  await check(`a code with ${name}`, async () => {
    const { answer, nonce } = await coded({}, authentication);
    assert.equal(answer.status, 401);
    assert.match(answer.headers.get('www-authenticate') ?? '', /^Basic /);
    return refusal(() => oauth.processAuthorizationCodeResponse(as, client, answer, { expectedNonce: nonce }));
  });
}
await check('a secret with characters that Basic must escape (RFC 6749 §2.3.1)', async () => {
  const odd = await oauth.refreshTokenGrantRequest(as, client, oauth.ClientSecretBasic('a:b%c+d é'), 'x', insecure);
  assert.equal(odd.status, 401);
  await odd.body?.cancel();
});

if (offered('client credentials', as.grant_types_supported.includes('client_credentials'))) {
  await check('client credentials', async () => {
    const { service } = place.clients;
    const answer = await oauth.clientCredentialsGrantRequest(as, service, oauth.ClientSecretBasic(service.client_secret), { scope: 'read' }, insecure);
    const tokens = await oauth.processClientCredentialsResponse(as, service, answer);
    assert.equal(tokens.scope, 'read');
  });
}
if (offered('PAR', as.pushed_authorization_request_endpoint)) {
  await check('a pushed request is checked when it is pushed (RFC 9126 §2.3)', async () => {
    const challenge = await oauth.calculatePKCECodeChallenge(oauth.generateRandomCodeVerifier());
    const push = (more) => oauth.pushedAuthorizationRequest(as, client, secret, { client_id, response_type: 'code', redirect_uri: CALLBACK, scope: 'openid', code_challenge: challenge, code_challenge_method: 'S256', ...more }, insecure);
    const pushed = await oauth.processPushedAuthorizationResponse(as, client, await push({}));
    assert.ok(pushed.expires_in > 0 && pushed.request_uri.startsWith('urn:'));
    await refusal(async () => oauth.processPushedAuthorizationResponse(as, client, await push({ redirect_uri: 'http://127.0.0.1:9/other' })));
  });
}
if (offered('DPoP', as.dpop_signing_alg_values_supported)) {
  await check('DPoP: a resource server sees whose the token is; a proof is used once', async () => {
    const handle = oauth.DPoP(client, await oauth.generateKeyPair('ES256'));
    const { tokens } = await signedIn({}, { DPoP: handle });
    assert.equal(tokens.token_type, 'dpop');
    let proof;
    const userinfo = () => oauth.userInfoRequest(as, client, tokens.access_token, { ...insecure, DPoP: handle, [oauth.customFetch]: (url, options) => {
      proof = new Headers(options.headers).get('dpop');
      return fetch(url, options);
    } });
    let answer = await userinfo();
    if (answer.status === 401) answer = await userinfo(); // with the nonce that it was given
    assert.equal(answer.status, 200, await answer.text());
    const again = await fetch(as.userinfo_endpoint, { headers: { authorization: `DPoP ${tokens.access_token}`, dpop: proof } });
    assert.equal(again.status, 401, 'a proof was taken twice');
  });
}
finish();
