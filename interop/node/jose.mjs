// jose: access and ID tokens verified offline, by the public keys alone.
import assert from 'node:assert/strict';
import * as jose from 'jose';
import { check, finish, refusal } from './lib/checks.mjs';
import { CALLBACK, place } from './lib/place.mjs';
import { bad, granted, headerOf } from './lib/tokens.mjs';

const metadata = await (await fetch(`${place.issuer}/.well-known/openid-configuration`)).json();
const keys = jose.createRemoteJWKSet(new URL(metadata.jwks_uri));
const { access_token, id_token } = await granted();
const client = place.clients.web.client_id;
const access = { issuer: place.issuer, audience: place.audience, typ: 'at+jwt', requiredClaims: ['sub', 'client_id', 'jti', 'iat', 'exp'] };
const identity = { issuer: place.issuer, audience: client, requiredClaims: ['sub', 'iat', 'exp', 'auth_time'] };

await check('an access token (RFC 9068)', async () => {
  const { payload, protectedHeader } = await jose.jwtVerify(access_token, keys, access);
  assert.equal(payload.client_id, client);
  assert.equal(protectedHeader.alg, place.algorithm);
});
await check('an ID token (OpenID Connect Core §3.1.3.7)', async () => {
  const { payload, protectedHeader } = await jose.jwtVerify(id_token, keys, identity);
  assert.equal(payload.azp ?? client, client);
  assert.ok(metadata.id_token_signing_alg_values_supported.includes(protectedHeader.alg), `${protectedHeader.alg} is not announced`);
});
await check('userinfo as a JWT (OpenID Connect Core §5.3.2)', async () => {
  const body = JSON.stringify({
    client_name: 'Signed', redirect_uris: [CALLBACK], scope: 'openid email',
    id_token_signed_response_alg: place.algorithm, userinfo_signed_response_alg: place.algorithm,
  });
  const headers = { 'content-type': 'application/json', authorization: `Bearer ${place.registration_token}` };
  const registered = await (await fetch(metadata.registration_endpoint, { method: 'POST', headers, body })).json();
  const tokens = await granted(registered);
  const answer = await fetch(metadata.userinfo_endpoint, { headers: { authorization: `Bearer ${tokens.access_token}` } });
  assert.ok(answer.headers.get('content-type').startsWith('application/jwt'), answer.headers.get('content-type'));
  const said = await answer.text();
  const wanted = { issuer: place.issuer, audience: registered.client_id, requiredClaims: ['sub'] };
  const { payload } = await jose.jwtVerify(said, keys, wanted);
  assert.equal(payload.sub, jose.decodeJwt(tokens.id_token).sub);
  await refusal(() => jose.jwtVerify(said, keys, { ...wanted, audience: client }), 'ERR_JWT_CLAIM_VALIDATION_FAILED');
});
await check('every key is one that jose can use', async () => {
  const { keys: listed } = await (await fetch(metadata.jwks_uri)).json();
  for (const jwk of listed) {
    await jose.importJWK(jwk, jwk.alg);
    assert.ok(jwk.kid && jwk.use === 'sig' && !('d' in jwk), JSON.stringify(jwk));
  }
});
await check('an ID token as access token', () => refusal(() => jose.jwtVerify(id_token, keys, access), 'ERR_JWT_CLAIM_VALIDATION_FAILED'));
await check('an access token as ID token', () => refusal(() => jose.jwtVerify(access_token, keys, identity), 'ERR_JWT_CLAIM_VALIDATION_FAILED'));
await check('for another audience', () => refusal(() => jose.jwtVerify(access_token, keys, { ...access, audience: 'https://other.example' }), 'ERR_JWT_CLAIM_VALIDATION_FAILED'));
await check('of another issuer', () => refusal(() => jose.jwtVerify(access_token, keys, { ...access, issuer: 'https://other.example' }), 'ERR_JWT_CLAIM_VALIDATION_FAILED'));
await check('after its time', () => {
  const currentDate = new Date(Date.now() + 3600_000);
  return refusal(() => jose.jwtVerify(access_token, keys, { ...access, currentDate }), 'ERR_JWT_EXPIRED');
});
const { keys: listed } = await (await fetch(metadata.jwks_uri)).json();
const jwk = listed.find(({ kid }) => kid === headerOf(access_token).kid);
for (const [name, token] of Object.entries(bad(access_token, jwk))) {
  await check(name, () => refusal(() => jose.jwtVerify(token, keys, access)));
}
finish();
