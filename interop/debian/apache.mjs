// Apache with mod_auth_openidc: pages behind a sign-in, in front of whatever stands there.
import assert from 'node:assert/strict';
import { mkdirSync, writeFileSync } from 'node:fs';
import { Browser, LEAVING, words } from '../node/lib/browser.mjs';
import { check, finish, offered } from '../node/lib/checks.mjs';
import { throughDoors } from '../node/lib/doors.mjs';
import { asAdmin, place } from '../node/lib/place.mjs';
import { configured, started } from './lib.mjs';

const base = `http://localhost:${place.port}`;
const folder = process.cwd();
const metadata = await (await fetch(`${place.issuer}/.well-known/openid-configuration`)).json();
for (const page of ['protected', 'others', 'api', 'signed-out']) {
  mkdirSync(`pages/${page}`, { recursive: true });
  writeFileSync(`pages/${page}/index.html`, `This is ${page}.`);
}
// Root's workers become another user, who must be able to read the pages.
const user = process.getuid() === 0 ? 'User www-data\nGroup www-data' : '';
const { client_id, client_secret } = place.clients.listens;
await asAdmin('PATCH', `/v1/admin/clients/${client_id}`, { backchannel_logout_uri: `${base}/callback?logout=backchannel` });
const config = configured('apache.conf', {
  folder, user, client_id, client_secret, issuer: place.issuer, port: place.port, algorithm: place.algorithm, level: 'info',
});
await started('apache2', ['-f', config, '-DFOREGROUND'], `${base}/signed-out/`);

async function signedIn(browser = new Browser()) {
  const page = await browser.go(`${base}/protected/`);
  assert.ok(page.text === 'This is protected.', `${page.url.origin}${page.url.pathname}: ${page.status} ${words(page.text)}`);
  return { browser, page };
}
const isSignedIn = async (browser) => (await browser.go(`${base}/api/`)).status === 200;

await check('a protected page asks to sign in, by code with PKCE', async () => {
  const { page } = await signedIn();
  assert.equal(page.headers.get('x-user').split('@')[0], place.account.id, page.headers.get('x-user'));
  assert.equal(page.headers.get('x-email'), place.account.email);
});
await check('who is signed in is not asked again', async () => {
  const { browser } = await signedIn();
  assert.equal((await browser.go(`${base}/protected/`, { patience: 0 })).text, 'This is protected.');
  assert.equal(await isSignedIn(browser), true);
});
await check('programs get 401', async () => {
  assert.equal(await isSignedIn(new Browser()), false);
});
await check('a claim that does not fit is refused', async () => {
  const { browser } = await signedIn();
  const { status } = await browser.go(`${base}/others/`);
  assert.ok([401, 403].includes(status), `${status}`);
  return `${status}`;
});
await check('the user says no', async () => {
  const browser = new Browser({ press: /^(sign.?in|cancel)$/i });
  // The consent of before is remembered: another account has given none.
  Object.assign(browser.answers, { identifier: place.bystander.email, password: place.bystander.password });
  const page = await browser.go(`${base}/protected/`);
  assert.equal(page.url.origin, base, 'the answer came back');
  assert.equal(await isSignedIn(browser), false);
  // This version takes an error with `iss` (RFC 9207 §2) for a sign-in that somebody else began, and says so: docs/interop.md.
  return words(page.text);
});
await check('a forged answer is refused', async () => {
  const { browser } = await signedIn();
  const { status } = await browser.go(`${base}/callback?code=pca_forged&state=forged&iss=${encodeURIComponent(place.issuer)}`);
  assert.ok(status >= 400, `${status}`);
  return `${status}`;
});
if (offered('RP-initiated logout', metadata.end_session_endpoint)) {
  await check('logout at Apache signs out at the server too', async () => {
    const { browser } = await signedIn();
    const page = await browser.go(`${base}/callback?logout=${encodeURIComponent(`${base}/signed-out`)}`, { press: LEAVING });
    assert.equal(page.text, 'This is signed-out.', `${page.url.origin}${page.url.pathname}: ${words(page.text)}`);
    assert.equal(await isSignedIn(browser), false);
    const asked = await browser.go(`${base}/protected/`, { patience: 0 });
    assert.match(asked.text, /type="?password/);
  });
}
if (offered('back-channel logout', metadata.backchannel_logout_supported)) {
  await check('back-channel logout: Apache learns that the session has ended', async () => {
    const [kept, ended] = [await signedIn(), await signedIn()];
    await asAdmin('DELETE', `/v1/admin/sessions/${ended.page.headers.get('x-sid')}`);
    for (let tries = 0; tries < 100 && (await isSignedIn(ended.browser)); tries += 1) await new Promise((done) => setTimeout(done, 100));
    assert.equal(await isSignedIn(ended.browser), false);
    assert.equal(await isSignedIn(kept.browser), true, 'and no other session of the same person');
  });
  await throughDoors(async () => {
    const { browser, page } = await signedIn();
    return { browser, sid: page.headers.get('x-sid') };
  }, isSignedIn);
}
finish();
