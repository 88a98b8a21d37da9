// The private key of the client `keyed`, whose public half stands in clients.json. For this only: everybody can read it.
import { readFileSync } from 'node:fs';

export const jwk = JSON.parse(readFileSync(new URL('../../keyed.json', import.meta.url)));
const algorithm = { name: 'ECDSA', namedCurve: jwk.crv };

/** As openid-client and oauth4webapi take it. */
export const key = { key: await crypto.subtle.importKey('jwk', jwk, algorithm, false, ['sign']), kid: jwk.kid };
/** One that nobody knows, under the same name. */
export const strange = { key: (await crypto.subtle.generateKey(algorithm, false, ['sign'])).privateKey, kid: jwk.kid };
