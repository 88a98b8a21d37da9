// Tokens of a signed-in user without a library, for scripts that try what verifies them; and bad ones made from them.
import { createHash, createHmac, randomBytes } from 'node:crypto';
import { Browser } from './browser.mjs';
import { CALLBACK, place } from './place.mjs';

/** What the token endpoint gave a client for the demo account. */
export async function granted(registered = place.clients.web, scope = 'openid email', browser = new Browser()) {
  const verifier = randomBytes(32).toString('base64url');
  const request = new URLSearchParams({
    client_id: registered.client_id,
    response_type: 'code',
    redirect_uri: CALLBACK,
    scope,
    code_challenge: createHash('sha256').update(verifier).digest('base64url'),
    code_challenge_method: 'S256',
  });
  const { url } = await browser.go(`${place.issuer}/oauth2/authorize?${request}`, { until: CALLBACK });
  return posted('/oauth2/token', registered, {
    grant_type: 'authorization_code',
    code: url.searchParams.get('code'),
    redirect_uri: CALLBACK,
    code_verifier: verifier,
  });
}

/** A call of one of OAuth's endpoints by a client with a secret. */
export async function posted(path, { client_id, client_secret }, form) {
  const basic = Buffer.from(`${client_id}:${client_secret}`).toString('base64');
  const answer = await fetch(`${place.issuer}${path}`, {
    method: 'POST',
    headers: { authorization: `Basic ${basic}` },
    body: new URLSearchParams(form),
  });
  const text = await answer.text();
  if (!answer.ok) throw new Error(`${path}: ${answer.status} ${text}`);
  return text ? JSON.parse(text) : {};
}

/** What introspection says of a token, asked by the client `web`. */
export const introspected = (token, registered = place.clients.web) => posted('/oauth2/introspect', registered, { token });

const part = (value) => Buffer.from(JSON.stringify(value)).toString('base64url');
export const headerOf = (token) => JSON.parse(Buffer.from(token.split('.')[0], 'base64url'));
export const claimsOf = (token) => JSON.parse(Buffer.from(token.split('.')[1], 'base64url'));

/** Tokens that nobody may take for good, each made from a good one. `jwk` is the public key. */
export function bad(token, jwk) {
  const [header, claims, signature] = token.split('.');
  const said = headerOf(token);
  const bytes = Buffer.from(signature, 'base64url');
  bytes[bytes.length >> 1] ^= 1;
  const asSecret = `${part({ ...said, alg: 'HS256' })}.${claims}`;
  const mac = createHmac('sha256', JSON.stringify(jwk)).update(asSecret).digest('base64url');
  return {
    'a tampered signature': `${header}.${claims}.${bytes.toString('base64url')}`,
    'no signature': `${header}.${claims}.`,
    'tampered claims': `${header}.${part({ ...claimsOf(token), sub: 'acc_somebodyelse' })}.${signature}`,
    'alg none': `${part({ ...said, alg: 'none' })}.${claims}.`,
    'alg none, with a signature': `${part({ ...said, alg: 'none' })}.${claims}.${signature}`,
    'HS256 by the public key': `${asSecret}.${mac}`,
    'an unknown key': `${part({ ...said, kid: 'nothing' })}.${claims}.${signature}`,
  };
}
