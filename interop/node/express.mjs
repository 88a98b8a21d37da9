// express-openid-connect: an Express application that signs people in, and learns of their logout.
import assert from 'node:assert/strict';
import { createServer } from 'node:http';
import express from 'express';
import openid from 'express-openid-connect';
import { Browser, LEAVING, words } from './lib/browser.mjs';
import { check, finish, offered } from './lib/checks.mjs';
import { throughDoors } from './lib/doors.mjs';
import { asAdmin, place } from './lib/place.mjs';

const base = `http://localhost:${place.port}`;
const metadata = await (await fetch(`${place.issuer}/.well-known/openid-configuration`)).json();
const logouts = offered('RP-initiated logout', metadata.end_session_endpoint);
const told = offered('back-channel logout', metadata.backchannel_logout_supported);

/** What the middleware remembers of sessions and logouts. */
function memory() {
  const rows = new Map();
  return {
    get: (id, done) => done(null, rows.get(id)),
    set: (id, row, done) => { rows.set(id, row); done(null); },
    destroy: (id, done) => { rows.delete(id); done(null); },
  };
}

const { client_id: clientID, client_secret: clientSecret } = place.clients.listens;
const app = express();
app.use(openid.auth({
  issuerBaseURL: place.issuer,
  baseURL: base,
  clientID,
  clientSecret,
  secret: 'only-for-this-run-and-long-enough-for-it',
  idTokenSigningAlg: place.algorithm,
  authRequired: false,
  idpLogout: Boolean(logouts),
  routes: { postLogoutRedirect: '/signed-out' },
  authorizationParams: { response_type: 'code', response_mode: 'query', scope: 'openid profile email' },
  session: { store: memory() },
  ...(told && { backchannelLogout: { store: memory() } }),
}));
app.get('/me', openid.requiresAuth(), (request, response) => response.json(request.oidc.user));
app.get('/open', (request, response) => response.json({ signed_in: request.oidc.isAuthenticated() }));
app.get('/signed-out', (request, response) => response.send('Signed out.'));
app.get('/', (request, response) => response.send('Home.'));
const server = createServer(app);
await new Promise((done) => server.listen(place.port, '127.0.0.1', done));

async function signedIn() {
  const browser = new Browser();
  const page = await browser.go(`${base}/me`);
  assert.equal(page.url.href, `${base}/me`, words(page.text));
  return { browser, me: JSON.parse(page.text) };
}
const isSignedIn = async (browser) => JSON.parse((await browser.go(`${base}/open`)).text).signed_in;

await check('a protected page asks to sign in and is shown then', async () => {
  const { me, browser } = await signedIn();
  assert.equal(me.email, place.account.email);
  assert.equal(await isSignedIn(browser), true);
});
await check('the application alone is left', async () => {
  if (logouts) return 'by the server, see below';
  const { browser } = await signedIn();
  await browser.go(`${base}/logout`);
  assert.equal(await isSignedIn(browser), false);
});
if (logouts) {
  await check('logout at the application signs out at the server too', async () => {
    const { browser } = await signedIn();
    const page = await browser.go(`${base}/logout`, { press: LEAVING });
    assert.equal(page.url.pathname, '/signed-out', words(page.text));
    assert.equal(await isSignedIn(browser), false);
    const asked = await browser.go(`${base}/me`, { patience: 0 });
    assert.match(asked.text, /type="?password/);
  });
}
if (told) {
  await check('back-channel logout: the application learns that the session has ended', async () => {
    const { browser } = await signedIn();
    const another = await signedIn();
    await asAdmin('DELETE', `/v1/admin/sessions/${another.me.sid}`);
    for (let tries = 0; tries < 100 && (await isSignedIn(another.browser)); tries += 1) await new Promise((done) => setTimeout(done, 100));
    assert.equal(await isSignedIn(another.browser), false);
    // Told of a session and its person it ends all of the person's, not only that session: docs/interop.md.
    return `another session of the same person is ${(await isSignedIn(browser)) ? 'kept' : 'ended too'}`;
  });
  await throughDoors(async () => {
    const { browser, me } = await signedIn();
    return { browser, sid: me.sid };
  }, isSignedIn);
}
finish();
