// npm's oidc-provider as a peer of `cargo xtask bench`; README.md beside this says why it is fair.
//
// Usage: node provider.mjs PORT FOLDER CHAINS TOKENS. Leaves in FOLDER, before /readyz says 200: `refresh.tokens` with so many
// refresh tokens, each of a grant of its own, and `opaque.tokens` with so many opaque access tokens.
import { generateKeyPairSync } from "node:crypto";
import { writeFileSync } from "node:fs";
import { createServer } from "node:http";
import path from "node:path";
import { Provider } from "oidc-provider";

const [port, folder, chains, tokens] = process.argv.slice(2);
const issuer = `http://127.0.0.1:${port}`;
const resource = "http://127.0.0.1/service";
const scope = "offline_access account";

const key = generateKeyPairSync("ec", { namedCurve: "P-256" }).privateKey.export({ format: "jwk" });

// The one that comes with it keeps 1,000 entries and forgets the rest; this one keeps all, and does as little.
const rows = new Map();
const members = new Map();
class Memory {
  constructor(model) {
    this.model = model;
  }
  key(id) {
    return `${this.model}:${id}`;
  }
  async upsert(id, payload) {
    const key = this.key(id);
    rows.set(key, payload);
    if (payload.grantId) {
      const of = members.get(payload.grantId) ?? new Set();
      of.add(key);
      members.set(payload.grantId, of);
    }
  }
  async find(id) {
    return rows.get(this.key(id));
  }
  async findByUid() {}
  async findByUserCode() {}
  async consume(id) {
    rows.get(this.key(id)).consumed = Math.floor(Date.now() / 1000);
  }
  async destroy(id) {
    rows.delete(this.key(id));
  }
  async revokeByGrantId(grantId) {
    for (const key of members.get(grantId) ?? []) rows.delete(key);
    members.delete(grantId);
  }
}

const provider = new Provider(issuer, {
  adapter: Memory,
  clients: [
    {
      client_id: "bench",
      client_secret: "only-for-measurements-and-long-enough",
      token_endpoint_auth_method: "client_secret_basic",
      grant_types: ["authorization_code", "refresh_token"],
      redirect_uris: ["http://127.0.0.1/callback"],
      id_token_signed_response_alg: "ES256",
    },
  ],
  jwks: { keys: [{ ...key, use: "sig", alg: "ES256" }] },
  scopes: ["openid", "offline_access", "account"],
  rotateRefreshToken: true,
  ttl: { AccessToken: 300, RefreshToken: 86_400, Grant: 86_400 },
  findAccount: (_ctx, accountId) => ({ accountId, claims: () => ({ sub: accountId }) }),
  features: {
    devInteractions: { enabled: false },
    introspection: { enabled: true, allowedPolicy: () => true },
    resourceIndicators: {
      enabled: true,
      defaultResource: () => resource,
      useGrantedResource: () => true,
      getResourceServerInfo: () => ({
        scope: "account",
        audience: resource,
        accessTokenTTL: 300,
        accessTokenFormat: "jwt",
        jwt: { sign: { alg: "ES256" } },
      }),
    },
  },
});

const client = await provider.Client.find("bench");

async function grant(accountId) {
  const grant = new provider.Grant({ accountId, clientId: client.clientId });
  grant.addOIDCScope(scope);
  grant.addResourceScope(resource, "account");
  return grant.save();
}

const of = async (n, make) => Promise.all(Array.from({ length: Number(n) }, (_, n) => make(`acc_${n}`)));
const common = { client, gty: "authorization_code", scope, expiresWithSession: false };

const refresh = await of(chains, async (accountId) =>
  new provider.RefreshToken({ ...common, accountId, resource, grantId: await grant(accountId), rotations: 0 }).save(),
);
const opaque = await of(tokens, async (accountId) =>
  new provider.AccessToken({ ...common, accountId, grantId: await grant(accountId) }).save(),
);
writeFileSync(path.join(folder, "refresh.tokens"), refresh.map((token) => `${token}\n`).join(""));
writeFileSync(path.join(folder, "opaque.tokens"), opaque.map((token) => `${token}\n`).join(""));

const callback = provider.callback();
createServer((request, response) => {
  if (request.url === "/readyz") response.end("ready");
  else callback(request, response);
}).listen(Number(port), "127.0.0.1");
