// What `cargo xtask interop` started for this script: a server of its own, people, registered clients.

/**
 * @typedef {{ client_id: string, client_secret?: string }} Registered
 * @type {{ issuer: string, audience: string, server: string, account: { id: string, email: string, password: string },
 *          admin: { id: string, email: string, password: string }, port: number,
 *          bystander: { id: string, email: string, password: string }, demo_api: string, bound_ms: number,
 *          clients: Record<string, Registered>, algorithm: string, registration_token: string,
 *          upstream: { id: string, issuer: string, port: number, client_id: string, client_secret: string },
 *          tolerated?: string[] }}  (`tolerated`: what the oracle need not offer)
 */
export const place = JSON.parse(process.env.PORTCULLIS_INTEROP ?? 'null') ?? missing();

/** Where most clients are sent back to. Nothing listens there: the browser stops before it. */
export const CALLBACK = 'http://127.0.0.1:9/cb';
/** Where they send a browser after a logout. */
export const SIGNED_OUT = 'http://127.0.0.1:9/out';

function missing() {
  console.error('start this by `cargo xtask interop`, which says by PORTCULLIS_INTEROP where the server is');
  process.exit(2);
}

/** A call of the server's own API as the administrator. */
export async function asAdmin(method, path, body) {
  const call = (token, method, path, body) =>
    fetch(`${place.server}${path}`, {
      method,
      headers: { 'content-type': 'application/json', ...(token && { authorization: `Bearer ${token}` }) },
      body: body && JSON.stringify(body),
    });
  const { email: identifier, password } = place.admin;
  const signedIn = await (await call(null, 'POST', '/v1/sessions', { identifier, password })).json();
  const answer = await call(signedIn.access_token, method, path, body);
  if (!answer.ok) throw new Error(`${method} ${path}: ${answer.status} ${await answer.text()}`);
  return answer.json();
}
