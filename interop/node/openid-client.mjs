// openid-client: what an application does that signs people in. The same script runs against oidc-provider (oracle.mjs).
import assert from 'node:assert/strict';
import * as client from 'openid-client';
import { Browser, LEAVING, words } from './lib/browser.mjs';
import { check, finish, offered, refusal } from './lib/checks.mjs';
import * as keyed from './lib/keyed.mjs';
import { CALLBACK, SIGNED_OUT, asAdmin, place } from './lib/place.mjs';
import { claimsOf } from './lib/tokens.mjs';

const browser = new Browser();
const EVERYTHING = 'openid profile email offline_access';

async function discovered({ client_id, client_secret }, authentication) {
  const how = authentication ?? (client_secret ? client.ClientSecretBasic(client_secret) : client.None());
  const config = await client.discovery(new URL(place.issuer), client_id, undefined, how, { execute: [client.allowInsecureRequests] });
  client.enableNonRepudiationChecks(config); // ID tokens by signature too, not by where they come from
  return config;
}

/** A request's parameters, and what its answer is checked by. */
async function prepared(more = {}) {
  const pkceCodeVerifier = client.randomPKCECodeVerifier();
  const [expectedState, expectedNonce] = [client.randomState(), client.randomNonce()];
  const parameters = {
    redirect_uri: CALLBACK,
    scope: EVERYTHING,
    prompt: 'consent', // offline_access needs it (OpenID Connect Core §11); here the consent is remembered or given
    code_challenge: await client.calculatePKCECodeChallenge(pkceCodeVerifier),
    code_challenge_method: 'S256',
    state: expectedState,
    nonce: expectedNonce,
    ...more,
  };
  Object.keys(parameters).forEach((name) => parameters[name] === undefined && delete parameters[name]);
  return { parameters, checks: { pkceCodeVerifier, expectedState, expectedNonce } };
}

/** From the request to the address with the code. */
async function answered(config, more, who = browser) {
  const { parameters, checks } = await prepared(more);
  const { url, text } = await who.go(client.buildAuthorizationUrl(config, parameters), { until: CALLBACK });
  assert.ok(url.href.startsWith(CALLBACK), `the browser stands at ${url.origin}${url.pathname}: ${words(text)}`);
  return { url, checks };
}

async function signedIn(config, more, options) {
  const { url, checks } = await answered(config, more);
  return client.authorizationCodeGrant(config, url, { ...checks, idTokenExpected: true }, undefined, options);
}

/** How a request for authorization is refused: to the client, or on a page. */
async function unauthorized(config, more, who = browser) {
  const { parameters } = await prepared(more);
  const { url, status } = await who.go(client.buildAuthorizationUrl(config, parameters), { until: CALLBACK, patience: 0 });
  if (!url.href.startsWith(CALLBACK)) return `page ${status}`;
  const said = url.hash ? new URLSearchParams(url.hash.slice(1)) : url.searchParams;
  assert.ok(!said.has('code'), 'it was allowed');
  assert.equal(said.get('state'), parameters.state ?? null);
  assert.equal(said.get('iss'), place.issuer, 'RFC 9207');
  return `${said.get('error')}${url.hash ? ' in the fragment' : ''}`;
}

let web;
await check('discovery', async () => {
  web = await discovered(place.clients.web);
  const metadata = web.serverMetadata();
  assert.equal(metadata.issuer, place.issuer);
  assert.deepEqual(metadata.code_challenge_methods_supported, ['S256']);
});

async function codeFlow() {
  await check('code with PKCE, state and nonce: the ID token is for this client', async () => {
    const tokens = await signedIn(web);
    const claims = tokens.claims();
    assert.equal(claims.aud, place.clients.web.client_id);
    assert.ok(tokens.refresh_token && tokens.expires_in > 0 && tokens.token_type === 'bearer');
    const about = await client.fetchUserInfo(web, tokens.access_token, claims.sub);
    assert.equal(about.email, place.account.email);
  });
  await check('userinfo of somebody else is noticed', async () => {
    const { access_token } = await signedIn(web);
    return refusal(() => client.fetchUserInfo(web, access_token, 'somebody-else'));
  });
  await check('a public client, without a secret', async () => {
    const tokens = await signedIn(await discovered(place.clients.native));
    assert.equal(tokens.claims().aud, place.clients.native.client_id);
  });
  await check('a client with its secret in the body', async () => {
    const { client_secret } = place.clients.post;
    const tokens = await signedIn(await discovered(place.clients.post, client.ClientSecretPost(client_secret)));
    assert.equal(tokens.claims().aud, place.clients.post.client_id);
  });
  await check('max_age is honoured and auth_time told', async () => {
    const { url, checks } = await answered(web, { max_age: '3600' });
    const tokens = await client.authorizationCodeGrant(web, url, { ...checks, maxAge: 3600 });
    assert.equal(typeof tokens.claims().auth_time, 'number');
  });
  await check('prompt=login asks again', async () => {
    const { parameters } = await prepared({ prompt: 'login' });
    const { text } = await browser.go(client.buildAuthorizationUrl(web, parameters), { until: CALLBACK, patience: 0 });
    assert.match(text, /type="?password/);
    await signedIn(web, { prompt: 'login' });
  });
  await check('prompt=none for somebody who is signed in and has allowed it', async () => {
    const tokens = await signedIn(web, { prompt: 'none', scope: 'openid email' });
    assert.ok(tokens.claims().sub);
  });
}

async function refusedRequests() {
  const stranger = () => new Browser();
  await check('prompt=none for a stranger', () => unauthorized(web, { prompt: 'none' }, stranger()).then(must('login_required')));
  await check('a request without PKCE', () => unauthorized(web, { code_challenge: undefined, code_challenge_method: undefined }).then(must('invalid_request')));
  await check('PKCE by plain', () => unauthorized(web, { code_challenge_method: 'plain' }).then(must('invalid_request')));
  await check('another redirect URI', () => unauthorized(web, { redirect_uri: 'http://127.0.0.1:9/other' }).then(must('page 400')));
  await check('an implicit request', () => unauthorized(web, { response_type: 'id_token' }).then(must('unsupported_response_type', 'invalid_request in the fragment')));
  await check('a hybrid request', () => unauthorized(web, { response_type: 'code id_token' }).then(must('unsupported_response_type', 'invalid_request in the fragment')));
  await check('a request object', () => unauthorized(web, { request: 'e30.e30.' }).then(must('request_not_supported')));
  await check('the user says no', async () => {
    const { parameters } = await prepared({ scope: 'openid read', prompt: 'consent' });
    const no = new Browser({ press: /^(sign.?in|cancel|\[ cancel \])$/i });
    const { url } = await no.go(client.buildAuthorizationUrl(web, parameters), { until: CALLBACK });
    return must('access_denied')(url.searchParams.get('error'));
  });
}

function must(...expected) {
  return (said) => {
    assert.ok(expected.includes(said), `"${said}", not ${expected.join(' or ')}`);
    return said;
  };
}

async function refusedCodes() {
  await check('an answer for another state is refused by the client', async () => {
    const { url, checks } = await answered(web);
    return refusal(() => client.authorizationCodeGrant(web, url, { ...checks, expectedState: 'another' }));
  });
  await check('an answer of another issuer is refused by the client (mix-up)', async () => {
    const { url, checks } = await answered(web);
    url.searchParams.set('iss', 'https://elsewhere.example');
    return refusal(() => client.authorizationCodeGrant(web, url, checks));
  });
  await check('an answer for another nonce is refused by the client', async () => {
    const { url, checks } = await answered(web);
    return refusal(() => client.authorizationCodeGrant(web, url, { ...checks, expectedNonce: 'another' }));
  });
  await check('a code with another verifier', async () => {
    const { url, checks } = await answered(web);
    const pkceCodeVerifier = client.randomPKCECodeVerifier();
    return refusal(() => client.authorizationCodeGrant(web, url, { ...checks, pkceCodeVerifier }), '400 invalid_grant');
  });
  await check('a code with a wrong secret', async () => {
    const { url, checks } = await answered(web);
    const thief = await discovered({ ...place.clients.web, client_secret: 'wrong' });
    return refusal(() => client.authorizationCodeGrant(thief, url, checks), '401 invalid_client', '401 OAUTH_WWW_AUTHENTICATE_CHALLENGE');
  });
  await check('a code of another client', async () => {
    const { url, checks } = await answered(web);
    const other = await discovered(place.clients.native);
    return refusal(() => client.authorizationCodeGrant(other, url, checks), '400 invalid_grant');
  });
  await check('a code used twice ends what it gave', async () => {
    const { url, checks } = await answered(web);
    const tokens = await client.authorizationCodeGrant(web, url, checks);
    const said = await refusal(() => client.authorizationCodeGrant(web, url, checks), '400 invalid_grant');
    assert.equal((await client.tokenIntrospection(web, tokens.access_token)).active, false);
    await refusal(() => client.refreshTokenGrant(web, tokens.refresh_token), '400 invalid_grant');
    return said;
  });
}

async function refreshing() {
  await check('refresh rotates, and a used token ends the family', async () => {
    const first = await signedIn(web);
    const second = await client.refreshTokenGrant(web, first.refresh_token);
    assert.notEqual(second.refresh_token, first.refresh_token);
    assert.equal(second.claims().sub, first.claims().sub);
    const third = await client.refreshTokenGrant(web, second.refresh_token);
    const said = await refusal(() => client.refreshTokenGrant(web, first.refresh_token), '400 invalid_grant');
    await refusal(() => client.refreshTokenGrant(web, third.refresh_token), '400 invalid_grant');
    return said;
  });
  await check('a refresh may ask for less', async () => {
    const { refresh_token } = await signedIn(web);
    const less = await client.refreshTokenGrant(web, refresh_token, { scope: 'openid' });
    assert.equal(less.scope, 'openid');
  });
  await check('and not for more', async () => {
    const { refresh_token } = await signedIn(web, { scope: 'openid offline_access' });
    return refusal(() => client.refreshTokenGrant(web, refresh_token, { scope: 'openid email' }), '400 invalid_scope');
  });
  await check('a refresh token of another client', async () => {
    const { refresh_token } = await signedIn(web);
    const native = await discovered(place.clients.native);
    return refusal(() => client.refreshTokenGrant(native, refresh_token), '400 invalid_grant');
  });
}

async function tokens() {
  await check('introspection, and revocation of the refresh token ends the access token too', async () => {
    const { access_token, refresh_token } = await signedIn(web);
    const told = await client.tokenIntrospection(web, access_token);
    assert.equal(told.active, true);
    assert.equal(told.client_id, place.clients.web.client_id);
    await client.tokenRevocation(web, refresh_token);
    assert.deepEqual(await client.tokenIntrospection(web, access_token), { active: false });
    await refusal(() => client.refreshTokenGrant(web, refresh_token), '400 invalid_grant');
  });
  await check('revocation of an access token', async () => {
    const { access_token } = await signedIn(web);
    await client.tokenRevocation(web, access_token);
    assert.deepEqual(await client.tokenIntrospection(web, access_token), { active: false });
    return refusal(() => client.fetchUserInfo(web, access_token, client.skipSubjectCheck));
  });
  await check('introspection of a refresh token', async () => {
    const { refresh_token } = await signedIn(web);
    return `active: ${(await client.tokenIntrospection(web, refresh_token)).active}`;
  });
  await check('what is no token: revoked without a word, introspected as dead', async () => {
    await client.tokenRevocation(web, 'garbage');
    assert.deepEqual(await client.tokenIntrospection(web, 'garbage'), { active: false });
  });
  await check('introspection by a stranger', async () => {
    const stranger = await discovered({ ...place.clients.web, client_secret: 'wrong' });
    return refusal(() => client.tokenIntrospection(stranger, 'garbage'), '401 invalid_client', '401 OAUTH_WWW_AUTHENTICATE_CHALLENGE');
  });
  await check('an ID token is no access token', async () => {
    const { id_token } = await signedIn(web);
    return refusal(() => client.fetchUserInfo(web, id_token, client.skipSubjectCheck), '401 OAUTH_WWW_AUTHENTICATE_CHALLENGE');
  });
}

async function machines() {
  const service = await discovered(place.clients.service);
  await check('client credentials', async () => {
    const tokens = await client.clientCredentialsGrant(service, { scope: 'read' });
    assert.equal(tokens.refresh_token, undefined, 'RFC 6749 §4.4.3');
    assert.equal((await client.tokenIntrospection(service, tokens.access_token)).active, true);
  });
  await check('client credentials of a client that may not', async () =>
    refusal(() => client.clientCredentialsGrant(web, { scope: 'openid' }), '400 unauthorized_client', '400 invalid_request'));
}

async function pushing() {
  await check('a pushed request (RFC 9126)', async () => {
    const { parameters, checks } = await prepared();
    const address = await client.buildAuthorizationUrlWithPAR(web, parameters);
    assert.deepEqual([...address.searchParams.keys()].sort(), ['client_id', 'request_uri']);
    const { url } = await browser.go(address, { until: CALLBACK });
    const tokens = await client.authorizationCodeGrant(web, url, checks);
    assert.ok(tokens.claims().sub);
  });
  await check('a client that must push', async () => {
    const pushes = await discovered(place.clients.pushes);
    const said = await unauthorized(pushes).then(must('invalid_request'));
    const { parameters, checks } = await prepared();
    const { url } = await browser.go(await client.buildAuthorizationUrlWithPAR(pushes, parameters), { until: CALLBACK });
    await client.authorizationCodeGrant(pushes, url, checks);
    return said;
  });
}

async function proofs() {
  await check('DPoP: code, userinfo and refresh by one key (RFC 9449)', async () => {
    const DPoP = client.getDPoPHandle(web, await client.randomDPoPKeyPair('ES256'));
    const tokens = await signedIn(web, {}, { DPoP });
    assert.equal(tokens.token_type, 'dpop');
    await client.fetchUserInfo(web, tokens.access_token, tokens.claims().sub, { DPoP });
    const next = await client.refreshTokenGrant(web, tokens.refresh_token, undefined, { DPoP });
    assert.equal(next.token_type, 'dpop');
    await refusal(() => client.fetchUserInfo(web, next.access_token, client.skipSubjectCheck), '401 OAUTH_WWW_AUTHENTICATE_CHALLENGE');
    const other = client.getDPoPHandle(web, await client.randomDPoPKeyPair('ES256'));
    await refusal(() => client.fetchUserInfo(web, next.access_token, client.skipSubjectCheck, { DPoP: other }), '401 OAUTH_WWW_AUTHENTICATE_CHALLENGE');
  });
  await check('DPoP: a public client refreshes with its key only, and revokes without it', async () => {
    const native = await discovered(place.clients.native);
    const DPoP = client.getDPoPHandle(native, await client.randomDPoPKeyPair('ES256'));
    const { refresh_token } = await signedIn(native, {}, { DPoP });
    const other = client.getDPoPHandle(native, await client.randomDPoPKeyPair('ES256'));
    await refusal(() => client.refreshTokenGrant(native, refresh_token, undefined, { DPoP: other }));
    const next = await client.refreshTokenGrant(native, refresh_token, undefined, { DPoP });
    // The library revokes without a proof (RFC 7009 §2.1 asks for none).
    await client.tokenRevocation(native, next.refresh_token, { token_type_hint: 'refresh_token' });
    await refusal(() => client.refreshTokenGrant(native, next.refresh_token, undefined, { DPoP }));
  });
}

async function devices() {
  await check('device flow: pending, then allowed (RFC 8628)', async () => {
    const device = await discovered(place.clients.device);
    const begun = await client.initiateDeviceAuthorization(device, { scope: 'openid email offline_access' });
    assert.ok(begun.user_code && begun.verification_uri && begun.verification_uri_complete);
    const polled = client.pollDeviceAuthorizationGrant(device, begun, undefined, { signal: AbortSignal.timeout(20_000) });
    polled.catch(() => {});
    const user = new Browser({ answers: { user_code: begun.user_code } });
    const page = await user.go(begun.verification_uri_complete);
    assert.equal(page.status, 200, words(page.text));
    const tokens = await polled.catch((cause) => assert.fail(`${cause}: ${words(page.text)}`));
    assert.ok(tokens.access_token && tokens.claims().sub);
  });
}

/** The client did not prove who it is: with a challenge or without one. */
async function unproven(attempt) {
  await refusal(attempt, '401 invalid_client', '401 OAUTH_WWW_AUTHENTICATE_CHALLENGE');
  return 'invalid_client';
}

async function keys() {
  await check('a client with a key instead of a secret (private_key_jwt)', async () => {
    const config = await discovered(place.clients.keyed, client.PrivateKeyJwt(keyed.key));
    const first = await signedIn(config);
    assert.equal(first.claims().aud, place.clients.keyed.client_id);
    const next = await client.refreshTokenGrant(config, first.refresh_token);
    await client.tokenRevocation(config, next.refresh_token);
    return refusal(() => client.refreshTokenGrant(config, next.refresh_token), '400 invalid_grant');
  });
  await check('another key under the same name', async () => {
    const thief = await discovered(place.clients.keyed, client.PrivateKeyJwt(keyed.strange));
    return unproven(() => client.refreshTokenGrant(thief, 'x'));
  });
  await check('an assertion that is used twice (RFC 7523 §3)', async () => {
    const jti = client.randomState();
    const again = { [client.modifyAssertion]: (_, payload) => { payload.jti = jti; } };
    const config = await discovered(place.clients.keyed, client.PrivateKeyJwt(keyed.key, again));
    await refusal(() => client.refreshTokenGrant(config, 'x'), '400 invalid_grant');
    return unproven(() => client.refreshTokenGrant(config, 'x'));
  });
}

/** With the first client that wants an algorithm comes a key, which signs once everybody may have read it: 503 until then, and nothing is used up. */
async function patiently(attempt) {
  for (let tries = 0; ; tries += 1) {
    try {
      return await attempt();
    } catch (error) {
      if (error.cause?.status !== 503 || tries === 20) throw error;
      await new Promise((done) => setTimeout(done, 1000));
    }
  }
}

async function registration() {
  const register = (token, more) =>
    client.dynamicClientRegistration(new URL(place.issuer), { client_name: 'By itself', redirect_uris: [CALLBACK], grant_types: ['authorization_code', 'refresh_token'], ...more }, undefined,
      { execute: [client.allowInsecureRequests], initialAccessToken: token });
  /** RFC 7592: the client's own registration, by its own token. */
  const own = async (config, method, body) => {
    const { registration_access_token, registration_client_uri } = config.clientMetadata();
    const headers = new Headers(body && { 'content-type': 'application/json' });
    const answer = await client.fetchProtectedResource(config, registration_access_token, new URL(registration_client_uri), method, body && JSON.stringify(body), headers);
    return { status: answer.status, body: answer.status === 204 ? undefined : await answer.json() };
  };
  await check('registration without the token that lets one in (RFC 7591 §3)', () => refusal(() => register(undefined)));
  await check('registration with an address that is none', () =>
    refusal(() => register(place.registration_token, { redirect_uris: ['not an address'] }), '400 invalid_redirect_uri'));
  await check('a client registers itself, and signs people in', async () => {
    const config = await register(place.registration_token);
    client.enableNonRepudiationChecks(config);
    const { url, checks } = await answered(config, { scope: 'openid offline_access' });
    const tokens = await patiently(() => client.authorizationCodeGrant(config, url, { ...checks, idTokenExpected: true }));
    assert.equal(tokens.claims().aud, config.clientMetadata().client_id);
  });
  await check('its registration is read, written anew and deleted (RFC 7592)', async () => {
    const config = await register(place.registration_token);
    const { client_id, client_secret } = config.clientMetadata();
    const read = await own(config, 'GET');
    assert.deepEqual([read.status, read.body.client_id, read.body.client_name], [200, client_id, 'By itself']);
    const others = ['http://127.0.0.1:9/elsewhere'];
    const { registration_access_token: _, registration_client_uri: __, client_secret_expires_at: ___, client_id_issued_at: ____, ...metadata } = read.body;
    const written = await own(config, 'PUT', { ...metadata, client_id, client_secret, client_name: 'Under another name', redirect_uris: others });
    assert.equal(written.status, 200, JSON.stringify(written.body));
    assert.deepEqual([written.body.client_name, written.body.redirect_uris], ['Under another name', others]);
    // The old address is none of its own any more.
    await unauthorized(config, { scope: 'openid' }, new Browser()).then(must('page 400'));
    assert.equal((await own(config, 'DELETE')).status, 204);
    await unproven(() => client.tokenRevocation(config, 'x'));
    return refusal(() => own(config, 'GET'));
  });
}

async function exchange() {
  const TYPE = 'urn:ietf:params:oauth:token-type:access_token';
  const calls = await discovered(place.clients.calls);
  const exchanged = (subject_token, more) =>
    client.genericGrantRequest(calls, 'urn:ietf:params:oauth:grant-type:token-exchange', { subject_token, subject_token_type: TYPE, resource: 'https://orders.example.org/', ...more });
  await check('token exchange: who acts stands in the token (RFC 8693 §4.1)', async () => {
    const first = await signedIn(web, { scope: 'openid read offline_access' });
    const next = await exchanged(first.access_token, { scope: 'read' });
    assert.deepEqual([next.issued_token_type, next.scope, next.refresh_token], [TYPE, 'read', undefined]);
    const [claims, before] = [next.access_token, first.access_token].map(claimsOf);
    const { client_id } = place.clients.calls;
    const { service_account } = await asAdmin('GET', `/v1/admin/clients/${client_id}`);
    assert.deepEqual([claims.sub, claims.client_id, claims.aud, claims.act], [before.sub, client_id, 'https://orders.example.org/', { sub: service_account }]);
    const told = await client.tokenIntrospection(web, next.access_token);
    assert.deepEqual([told.active, told.act], [true, { sub: service_account }]);
    // What ends the first one's grant ends the other.
    await client.tokenRevocation(web, first.refresh_token);
    assert.deepEqual(await client.tokenIntrospection(web, next.access_token), { active: false });
  });
  await check('token exchange for more than there was, or for somebody else\'s service', async () => {
    const first = await signedIn(web, { scope: 'openid offline_access' });
    await refusal(() => exchanged(first.access_token, { resource: 'https://strange.example.org/' }), '400 invalid_target');
    await refusal(() => exchanged(first.id_token), '400 invalid_request');
    return refusal(() => exchanged(first.access_token, { scope: 'read' }), '400 invalid_scope');
  });
}

async function logout() {
  await check('RP-initiated logout', async () => {
    const who = new Browser();
    const { url, checks } = await answered(web, {}, who);
    const tokens = await client.authorizationCodeGrant(web, url, checks);
    const address = client.buildEndSessionUrl(web, { id_token_hint: tokens.id_token, post_logout_redirect_uri: SIGNED_OUT, state: 'a-state' });
    const out = await who.go(address, { until: SIGNED_OUT, press: LEAVING });
    assert.ok(out.url.href.startsWith(SIGNED_OUT), `the browser stands at ${out.url}: ${words(out.text)}`);
    assert.equal(out.url.searchParams.get('state'), 'a-state');
    return unauthorized(web, { prompt: 'none' }, who).then(must('login_required'));
  });
}

await codeFlow();
await refusedRequests();
await refusedCodes();
await refreshing();
await tokens();
const metadata = web.serverMetadata();
const grants = metadata.grant_types_supported ?? [];
if (offered('client credentials', grants.includes('client_credentials'))) await machines();
if (offered('PAR', metadata.pushed_authorization_request_endpoint)) await pushing();
if (offered('DPoP', metadata.dpop_signing_alg_values_supported)) await proofs();
if (offered('device flow', metadata.device_authorization_endpoint)) await devices();
if (offered('private_key_jwt', metadata.token_endpoint_auth_methods_supported?.includes('private_key_jwt'))) await keys();
if (offered('registration', metadata.registration_endpoint)) await registration();
if (offered('token exchange', grants.includes('urn:ietf:params:oauth:grant-type:token-exchange'))) await exchange();
if (offered('RP-initiated logout', metadata.end_session_endpoint)) await logout();
finish();
