// Checks with names, counted and closed with a line in the form that `cargo xtask` reads from all tests.
//
// What a check returns is its *fact*: a short text that says what the server did. The oracle compares the facts of two servers.
import assert from 'node:assert/strict';
import { writeFileSync } from 'node:fs';
import { place } from './place.mjs';

const facts = {};
const counts = { passed: 0, failed: 0 };
const notOffered = [];

/** Runs one check. A later one may rely on an earlier one: the first failure ends nothing, and all are told. */
export async function check(name, body) {
  try {
    facts[name] = (await body()) ?? 'ok';
    counts.passed += 1;
    console.log(`ok      ${name}${facts[name] === 'ok' ? '' : ` (${facts[name]})`}`);
  } catch (error) {
    facts[name] = `failed: ${error.code ?? error.name}`;
    counts.failed += 1;
    console.log(`FAILED  ${name}\n${tell(error)}`);
  }
}

/** A part that the server's metadata must offer. One that it does not has failed, unless it is tolerated by name (of the oracle). */
export function offered(what, there) {
  if (there) return true;
  if (place.tolerated?.includes(what)) {
    notOffered.push(what);
  } else {
    facts[`offered: ${what}`] = 'failed: it is not';
    counts.failed += 1;
    console.log(`FAILED  offered: ${what}\n        the metadata do not name it`);
  }
  return false;
}

/** Prints the sums; the process ends with them. */
export function finish() {
  const forgotten = (place.tolerated ?? []).filter((what) => !notOffered.includes(what));
  if (forgotten.length > 0) {
    counts.failed += 1;
    console.log(`FAILED  offered after all, or never asked for: ${forgotten.join(', ')}`);
  }
  if (notOffered.length > 0) console.log(`not offered by this server: ${notOffered.join(', ')}`);
  if (process.env.INTEROP_FACTS) writeFileSync(process.env.INTEROP_FACTS, JSON.stringify(facts));
  const word = counts.failed === 0 ? 'ok' : 'FAILED';
  console.log(`test result: ${word}. ${counts.passed} passed; ${counts.failed} failed; 0 ignored`);
  process.exit(counts.failed === 0 && counts.passed > 0 ? 0 : 1);
}

/** It must be refused; how. */
export async function refusal(attempt, ...expected) {
  let done;
  try {
    done = await attempt();
  } catch (error) {
    const said = [error.status, error.error ?? error.code ?? error.name].filter(Boolean).join(' ');
    if (expected.length > 0) assert.ok(expected.includes(said), `refused as "${said}", not as ${expected.join(' or ')}\n${tell(error)}`);
    return said;
  }
  assert.fail(`it was not refused: ${JSON.stringify(done)?.slice(0, 200)}`);
}

function tell(error) {
  const lines = [error.stack ?? String(error)];
  for (let cause = error.cause; cause && lines.length < 4; cause = cause.cause) {
    lines.push(`caused by ${cause.stack ?? JSON.stringify(cause)}`);
  }
  return lines.join('\n').replace(/^/gm, '        ');
}
