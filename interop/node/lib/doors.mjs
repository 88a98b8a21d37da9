// The doors of a person and of an administrator, as an application meets them that is told by back-channel logout.
import assert from 'node:assert/strict';
import { words } from './browser.mjs';
import { check } from './checks.mjs';
import { asAdmin, place } from './place.mjs';

const page = (path, press) => async ({ browser }) => {
  const at = await browser.go(`${place.issuer}${path}`, { press });
  assert.ok(at.status < 400, `${at.url}: ${at.status} ${words(at.text)}`);
};
const account = `/v1/admin/accounts/${place.account.id}`;
const DOORS = {
  'end this session': { enter: page('/account/devices', /^sign out$/i) },
  'log out everywhere': { enter: page('/account/devices', /^yes, sign out everywhere$/i) },
  'disconnect the app': { enter: page('/account/apps', /^disconnect$/i) },
  'a session is ended by an administrator': { enter: ({ sid }) => asAdmin('DELETE', `/v1/admin/sessions/${sid}`) },
  'the account is blocked': {
    enter: () => asAdmin('POST', `${account}/block`, { reason: 'a check' }),
    leave: () => asAdmin('POST', `${account}/unblock`),
  },
};

/**
 * After each door the application has signed its user out, and after none of them before. `signedIn` gives a new browser that is
 * signed in there, and the session's id; `isSignedIn` asks the application.
 */
export async function throughDoors(signedIn, isSignedIn) {
  for (const [door, { enter, leave }] of Object.entries(DOORS)) {
    await check(`back-channel logout: ${door}`, async () => {
      const who = await signedIn();
      assert.equal(await isSignedIn(who.browser), true);
      await enter(who);
      try {
        for (let tries = 0; tries < 100 && (await isSignedIn(who.browser)); tries += 1) await new Promise((done) => setTimeout(done, 50));
        assert.equal(await isSignedIn(who.browser), false);
      } finally {
        await leave?.();
      }
    });
  }
}
