// Programs of Debian's, each with a folder of its own under the working directory, on loopback, ended with the script.
import { spawn } from 'node:child_process';
import { readFileSync, writeFileSync } from 'node:fs';
import { createServer } from 'node:net';
import { fileURLToPath } from 'node:url';

/** A configuration from the file beside this one, its `{words}` filled in. */
export function configured(name, words) {
  const text = readFileSync(fileURLToPath(new URL(name, import.meta.url)), 'utf8');
  const filled = text.replace(/\{(\w+)\}/g, (all, word) => words[word] ?? all);
  writeFileSync(name, filled);
  return `${process.cwd()}/${name}`;
}

/** A port that is free now. */
export function freePort() {
  return new Promise((done) => {
    const server = createServer().listen(0, '127.0.0.1', () => {
      const { port } = server.address();
      server.close(() => done(port));
    });
  });
}

/** Starts a program and waits until this address answers. */
export async function started(program, args, address) {
  const child = spawn(program, args, { stdio: ['ignore', 'inherit', 'inherit'], env: { PATH: '/usr/sbin:/usr/bin:/sbin:/bin' } });
  process.on('exit', () => child.kill('SIGTERM'));
  for (let tries = 0; tries < 100; tries += 1) {
    if (child.exitCode !== null) throw new Error(`${program} ended with ${child.exitCode}`);
    const answer = await fetch(address, { redirect: 'manual' }).catch(() => null);
    if (answer) {
      await answer.body?.cancel();
      return child;
    }
    await new Promise((done) => setTimeout(done, 100));
  }
  throw new Error(`${program} does not answer at ${address}`);
}
