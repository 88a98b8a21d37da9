// oauth4webapi: the low-level calls, each answer validated strictly. What openid-client hides is looked at here: headers, exact
// forms of errors, access tokens validated as a resource server would (RFC 9068 §4).
import assert from 'node:assert/strict';
import * as oauth from 'oauth4webapi';
import { Browser, words } from './lib/browser.mjs';
import { check, finish, offered, refusal } from './lib/checks.mjs';
import * as keyed from './lib/keyed.mjs';
import { CALLBACK, asAdmin, place } from './lib/place.mjs';
import { claimsOf } from './lib/tokens.mjs';

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
if (offered('private_key_jwt', as.token_endpoint_auth_methods_supported.includes('private_key_jwt'))) {
  await check('private_key_jwt: at every endpoint where a client proves who it is', async () => {
    const own = { client_id: place.clients.keyed.client_id };
    const authentication = oauth.PrivateKeyJwt(keyed.key);
    const challenge = await oauth.calculatePKCECodeChallenge(oauth.generateRandomCodeVerifier());
    const request = { client_id: own.client_id, response_type: 'code', redirect_uri: CALLBACK, scope: 'openid', code_challenge: challenge, code_challenge_method: 'S256' };
    await oauth.processPushedAuthorizationResponse(as, own, await oauth.pushedAuthorizationRequest(as, own, authentication, request, insecure));
    const { tokens } = await signedIn();
    const told = await oauth.processIntrospectionResponse(as, own, await oauth.introspectionRequest(as, own, authentication, tokens.access_token, insecure));
    assert.equal(told.active, true);
    await oauth.processRevocationResponse(await oauth.revocationRequest(as, own, authentication, 'garbage', insecure));
    const thief = await oauth.introspectionRequest(as, own, oauth.PrivateKeyJwt(keyed.strange), tokens.access_token, insecure);
    assert.deepEqual([thief.status, (await thief.json()).error], [401, 'invalid_client']);
  });
}
if (offered('registration', as.registration_endpoint)) {
  const metadata = { client_name: 'A reader', redirect_uris: [CALLBACK], token_endpoint_auth_method: 'client_secret_post' };
  const registered = async (more) =>
    oauth.processDynamicClientRegistrationResponse(await oauth.dynamicClientRegistrationRequest(as, { ...metadata, ...more }, { ...insecure, initialAccessToken: place.registration_token }));
  const own = async (client, method, body) => {
    const headers = new Headers(body && { 'content-type': 'application/json' });
    const answer = await oauth.protectedResourceRequest(client.registration_access_token, method, new URL(client.registration_client_uri), headers, body && JSON.stringify(body), insecure);
    return { status: answer.status, body: answer.status === 204 ? undefined : await answer.json() };
  };
  await check('registration: what the answer must have (RFC 7591 §3.2.1)', async () => {
    const client = await registered();
    assert.deepEqual([client.client_secret_expires_at, client.token_endpoint_auth_method, client.redirect_uris], [0, 'client_secret_post', [CALLBACK]]);
    assert.ok(client.client_secret.length >= 43 && client.registration_access_token && client.registration_client_uri.startsWith(place.issuer));
  });
  await check('registration with a key of its own, and a push by it', async () => {
    const { d: _, ...jwk } = keyed.jwk;
    const client = await registered({ token_endpoint_auth_method: 'private_key_jwt', jwks: { keys: [jwk] } });
    assert.equal(client.client_secret, undefined);
    const challenge = await oauth.calculatePKCECodeChallenge(oauth.generateRandomCodeVerifier());
    const request = { client_id: client.client_id, response_type: 'code', redirect_uri: CALLBACK, scope: 'openid', code_challenge: challenge, code_challenge_method: 'S256' };
    await oauth.processPushedAuthorizationResponse(as, client, await oauth.pushedAuthorizationRequest(as, client, oauth.PrivateKeyJwt(keyed.key), request, insecure));
  });
  await check('a registration is its own only: read, written anew, deleted, and then nobody (RFC 7592)', async () => {
    const [client, other] = [await registered(), await registered()];
    const { status, body } = await own(client, 'GET');
    assert.deepEqual([status, body.client_name], [200, 'A reader']);
    const { registration_access_token: _, registration_client_uri: __, client_secret_expires_at: ___, client_id_issued_at: ____, ...known } = body;
    const written = await own(client, 'PUT', { ...known, client_name: 'A writer' });
    assert.deepEqual([written.status, written.body.client_name], [200, 'A writer']);
    const strange = await own(client, 'PUT', { ...known, client_id: other.client_id });
    assert.equal(strange.status, 400, 'another client_id was taken (§2.2)');
    const byAnother = { ...client, registration_access_token: other.registration_access_token };
    for (const method of ['GET', 'DELETE']) await refusal(() => own(byAnother, method));
    assert.equal((await own(client, 'DELETE')).status, 204);
    await refusal(() => own(client, 'GET'));
    assert.equal((await own(other, 'GET')).status, 200);
  });
}
if (offered('token exchange', as.grant_types_supported.includes('urn:ietf:params:oauth:grant-type:token-exchange'))) {
  await check('token exchange: a resource server sees for whom, by whom and through whom (RFC 8693)', async () => {
    const { calls } = place.clients;
    const type = 'urn:ietf:params:oauth:token-type:access_token';
    const { tokens } = await signedIn({ scope: 'openid read', prompt: 'consent' });
    const parameters = { subject_token: tokens.access_token, subject_token_type: type, resource: 'https://orders.example.org/', scope: 'read' };
    const answer = await oauth.genericTokenEndpointRequest(as, calls, oauth.ClientSecretBasic(calls.client_secret), 'urn:ietf:params:oauth:grant-type:token-exchange', parameters, insecure);
    const next = await oauth.processGenericTokenEndpointResponse(as, calls, answer);
    assert.equal(next.issued_token_type, type);
    const request = new Request('http://127.0.0.1:9/orders', { headers: { authorization: `Bearer ${next.access_token}` } });
    const claims = await oauth.validateJwtAccessToken(as, request, 'https://orders.example.org/', insecure);
    const { service_account } = await asAdmin('GET', `/v1/admin/clients/${calls.client_id}`);
    assert.deepEqual([claims.sub, claims.act, claims.client_id], [claimsOf(tokens.access_token).sub, { sub: service_account }, calls.client_id]);
    assert.deepEqual(claims.via, [client_id]);
    assert.ok(claims.exp <= claimsOf(tokens.access_token).exp);
    await refusal(() => oauth.validateJwtAccessToken(as, request, place.audience, insecure));
  });
}
if (offered('device flow', as.device_authorization_endpoint)) {
  await check('device flow: what the token endpoint says while its user thinks (RFC 8628 §3.5)', async () => {
    const { device } = place.clients;
    const begun = await oauth.processDeviceAuthorizationResponse(as, device, await oauth.deviceAuthorizationRequest(as, device, oauth.None(), { scope: 'openid' }, insecure));
    const poll = async () => oauth.processDeviceCodeResponse(as, device, await oauth.deviceCodeGrantRequest(as, device, oauth.None(), begun.device_code, insecure));
    await refusal(poll, '400 authorization_pending');
    await refusal(poll, '400 slow_down');
    const user = new Browser({ answers: { user_code: begun.user_code }, press: /^(sign.?in|continue|go on|deny|no\b.*|cancel)$/i });
    const page = await user.go(begun.verification_uri_complete);
    await new Promise((done) => setTimeout(done, (begun.interval + 5) * 1000 + 500));
    return refusal(poll, '400 access_denied').catch((cause) => assert.fail(`${cause}: ${words(page.text)}`));
  });
}
finish();
