// standardwebhooks: calls of a webhook, verified as their receivers do it.
import assert from 'node:assert/strict';
import { createServer } from 'node:http';
import { text } from 'node:stream/consumers';
import { Webhook } from 'standardwebhooks';
import { check, finish, refusal } from './lib/checks.mjs';
import { asAdmin, place } from './lib/place.mjs';

const PATIENCE_MS = 60_000;

/** What came, the newest last; and which call is failed once. */
const calls = [];
let fails = null;
const receiver = createServer(async (call, answer) => {
  const body = await text(call);
  calls.push({ headers: call.headers, body });
  const failed = fails?.(JSON.parse(body)) ?? false;
  if (failed) fails = null;
  answer.writeHead(failed ? 503 : 204).end();
});
await new Promise((done) => receiver.listen(0, '127.0.0.1', done));

const { id, secret } = await asAdmin('POST', '/v1/admin/webhooks', {
  url: `http://127.0.0.1:${receiver.address().port}/hook`,
  events: ['account.*'],
});

/** Waits until one came for which `is` holds, among those after the first `after`. */
async function came(is, after = 0) {
  const until = Date.now() + PATIENCE_MS;
  for (;;) {
    const found = calls.slice(after).filter(is);
    if (found.length > 0) return found;
    if (Date.now() > until) assert.fail(`it did not come; there are ${JSON.stringify(calls.map(({ body }) => body))}`);
    await new Promise((done) => setTimeout(done, 50));
  }
}

async function signUp(email) {
  const body = JSON.stringify({ email, password: 'a good long password' });
  const answer = await fetch(`${place.server}/v1/accounts`, { method: 'POST', headers: { 'content-type': 'application/json' }, body });
  assert.equal(answer.status, 201);
  return (await answer.json()).id;
}

const about = (account) => ({ body }) => JSON.parse(body).data.account_id === account;
let first;

await check('a record that is signed', async () => {
  const account = await signUp('hook-one@example.test');
  [first] = await came(about(account));
  const said = new Webhook(secret).verify(first.body, first.headers);
  assert.equal(said.type, 'account.created');
  assert.equal(said.data.id, first.headers['webhook-id']);
});
await check('a tampered body', () => refusal(() => new Webhook(secret).verify(first.body.replace('account.created', 'account.deleted'), first.headers)));
await check('under another id', () => refusal(() => new Webhook(secret).verify(first.body, { ...first.headers, 'webhook-id': 'evt_other' })));
await check('at another time', () => {
  const later = String(Number(first.headers['webhook-timestamp']) + 1);
  return refusal(() => new Webhook(secret).verify(first.body, { ...first.headers, 'webhook-timestamp': later }));
});
await check('by another secret', () => refusal(() => new Webhook(`whsec_${Buffer.alloc(24, 7).toString('base64')}`).verify(first.body, first.headers)));
await check('without a signature', () => refusal(() => new Webhook(secret).verify(first.body, { ...first.headers, 'webhook-signature': '' })));
await check('tried again: the same id, a new signature', async () => {
  // Somebody who signs up; other accounts are made by the operator.
  fails = ({ data }) => data.actor === 'anonymous';
  const account = await signUp('hook-two@example.test');
  const [failed] = await came(about(account));
  const [again] = await came(about(account), calls.indexOf(failed) + 1);
  const [before, after] = [failed, again].map(({ body, headers }) => new Webhook(secret).verify(body, headers));
  assert.deepEqual(after, before);
  assert.equal(again.headers['webhook-id'], failed.headers['webhook-id']);
});
await check('two secrets while one is replaced, and then one', async () => {
  const seen = calls.length;
  const { secret: next } = await asAdmin('POST', `/v1/admin/webhooks/${id}/secret`, { overlap_s: 3600 });
  assert.notEqual(next, secret);
  const [both] = await came(about(await signUp('hook-three@example.test')), seen);
  for (const key of [secret, next]) new Webhook(key).verify(both.body, both.headers);
  const { secret: last } = await asAdmin('POST', `/v1/admin/webhooks/${id}/secret`, { overlap_s: 0 });
  const [one] = await came(about(await signUp('hook-four@example.test')), seen);
  new Webhook(last).verify(one.body, one.headers);
  await refusal(() => new Webhook(secret).verify(one.body, one.headers));
});
await check('a call that only tries it', async () => {
  const { secret: now } = await asAdmin('POST', `/v1/admin/webhooks/${id}/secret`, {});
  await asAdmin('POST', `/v1/admin/webhooks/${id}/test`);
  const [tried] = await came(({ body }) => JSON.parse(body).type === 'webhook.test');
  assert.equal(new Webhook(now).verify(tried.body, tried.headers).data.webhook_id, id);
});
finish();
