// A browser as far as plain HTTP goes: cookies, redirects, and forms that it fills in and sends. It runs no scripts; a page that
// needs one is a finding.
import { request } from 'node:http';
import { text } from 'node:stream/consumers';
import { place } from './place.mjs';

const MAX_STEPS = 20;
const AGENT = 'Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0';
/** What somebody who wants to go on presses. */
const ONWARD = /^(sign.?in|allow|continue|go on|confirm|approve|yes\b.*)$/i;

/** What somebody presses who wants to be signed out. */
export const LEAVING = /^(sign out|continue|yes\b.*)$/i;

const ENTITIES = { amp: '&', lt: '<', gt: '>', quot: '"', apos: "'" };
const decoded = (text) =>
  text.replace(/&(#x[0-9a-f]+|#\d+|\w+);/gi, (all, name) => {
    if (name.startsWith('#x')) return String.fromCodePoint(parseInt(name.slice(2), 16));
    if (name.startsWith('#')) return String.fromCodePoint(parseInt(name.slice(1), 10));
    return ENTITIES[name] ?? all;
  });

function attributes(tag) {
  const found = {};
  for (const [, name, , , quoted, single, bare] of tag.matchAll(/([\w-]+)(=("([^"]*)"|'([^']*)'|([^\s>]*)))?/g)) {
    found[name.toLowerCase()] = decoded(quoted ?? single ?? bare ?? '');
  }
  return found;
}

/** What a page says, for messages about it. */
export const words = (html) =>
  decoded(html.replace(/<head.*?<\/head>|<[^>]*>/gis, ' ')).replace(/\s+/g, ' ').trim().slice(0, 400);

/** Elements that can be pressed, with what stands on them. */
const pressed = (html, name) =>
  [...html.matchAll(new RegExp(`<${name}\\b([^>]*)>(.*?)</${name}>`, 'gis'))].map(([, tag, label]) => ({ ...attributes(tag), label: words(label) }));

/** The forms of a page; a button may stand elsewhere and name its form. */
export function forms(html) {
  return [...html.matchAll(/<form\b([^>]*)>(.*?)<\/form>/gis)].map(([, tag, inside]) => {
    const form = attributes(tag);
    const inputs = [...inside.matchAll(/<input\b([^>]*)>/gi)].map(([, input]) => attributes(input));
    const elsewhere = pressed(html, 'button').filter((button) => form.id && button.form === form.id);
    return { ...form, inputs, buttons: [...pressed(inside, 'button').filter((button) => !button.form), ...elsewhere] };
  });
}

export class Browser {
  #cookies = [];

  /** `answers` are what its user types, by the names of inputs; `press` is what its user presses. */
  constructor({ answers = {}, press = ONWARD } = {}) {
    const { email, password } = place.account;
    this.answers = { identifier: email, login: email, password, ...answers };
    this.press = press;
  }

  /**
   * Goes to an address and on from there, until a redirect leads to an address that begins with `until` (which is not called),
   * or a page has nothing to fill in. `patience` is how many forms are answered: 0 shows what is asked.
   */
  async go(address, { until, patience = 6, press = this.press } = {}) {
    let next = { method: 'GET', url: new URL(address) };
    for (let step = 0; step < MAX_STEPS; step += 1) {
      const answer = await this.#fetch(next);
      const location = answer.headers.get('location');
      if (answer.status >= 300 && answer.status < 400 && location) {
        const url = new URL(location, next.url);
        if (until && url.href.startsWith(until)) return { url, status: answer.status, text: '', headers: answer.headers };
        next = answer.status === 307 || answer.status === 308 ? { ...next, url } : { method: 'GET', url };
        continue;
      }
      const page = await answer.text();
      const onward = page.match(/<meta http-equiv="refresh" content="\d+; ?url=([^"]+)"/i);
      const filled = patience > 0 && (onward ? { method: 'GET', url: new URL(decoded(onward[1]), next.url) } : this.#fill(page, next.url, press));
      if (!filled) return { url: next.url, status: answer.status, text: page, headers: answer.headers };
      patience -= 1;
      if (until && filled.url.href.startsWith(until)) return { ...filled, status: answer.status, text: page };
      next = filled;
    }
    throw new Error(`after ${MAX_STEPS} steps still on the way, at ${next.url}`);
  }

  /** The value of a cookie that would be sent there. */
  cookie(name, url) {
    return this.#sent(new URL(url)).find((cookie) => cookie.name === name)?.value;
  }

  /** The first form whose every question has an answer, filled in. */
  #fill(html, url, press) {
    for (const form of forms(html)) {
      const asked = form.inputs.filter((input) => !['hidden', 'submit', 'checkbox'].includes(input.type ?? 'text'));
      const button = form.buttons.find(({ label }) => press.test(label));
      const action = new URL(form.action || url, url);
      // A page that sends its form by a script has a form and nothing to press (OAuth 2.0 Form Post Response Mode).
      const sendsItself = form.buttons.length === 0 && asked.length === 0 && /\.submit\(\)/.test(html);
      if (asked.some((input) => !(input.name in this.answers)) || !(button || sendsItself)) continue;
      const pairs = form.inputs.filter(({ name }) => name).map(({ name, value, type }) =>
        [name, type !== 'hidden' && name in this.answers ? this.answers[name] : (value ?? '')]);
      if (button?.name) pairs.push([button.name, button.value ?? '']);
      const body = new URLSearchParams(pairs);
      if ((form.method ?? 'get').toLowerCase() === 'get') {
        action.search = body;
        return { method: 'GET', url: action };
      }
      return { method: 'POST', url: action, body, origin: url.origin };
    }
    const link = press !== ONWARD && pressed(html, 'a').find(({ label }) => press.test(label));
    return link ? { method: 'GET', url: new URL(link.href, url) } : null;
  }

  /** By node:http: `fetch` would say that it is a script (`Sec-Fetch-Mode: cors`), and be treated like one. */
  async #fetch({ method, url, body, origin }) {
    const headers = { accept: 'text/html,*/*;q=0.8', 'user-agent': AGENT, 'sec-fetch-mode': 'navigate', 'sec-fetch-dest': 'document' };
    const cookie = this.#sent(url).map(({ name, value }) => `${name}=${value}`).join('; ');
    if (cookie) headers.cookie = cookie;
    if (origin) headers.origin = origin;
    if (body) headers['content-type'] = 'application/x-www-form-urlencoded';
    const answer = await new Promise((done, failed) => {
      request(url, { method, headers, agent: false }, done).on('error', failed).end(body?.toString());
    });
    const told = new Headers();
    for (let at = 0; at < answer.rawHeaders.length; at += 2) told.append(answer.rawHeaders[at], answer.rawHeaders[at + 1]);
    told.getSetCookie().forEach((line) => this.#keep(line, url));
    return { status: answer.statusCode, headers: told, text: () => text(answer) };
  }

  #sent(url) {
    return this.#cookies.filter(({ origin, path }) => origin === url.origin && url.pathname.startsWith(path));
  }

  /** Ports are told apart here, unlike in browsers: nothing rests on a cookie that another server set. */
  #keep(line, url) {
    const [pair, ...rest] = line.split(';').map((part) => part.trim());
    const at = pair.indexOf('=');
    const [name, value] = [pair.slice(0, at), pair.slice(at + 1)];
    const said = Object.fromEntries(rest.map((part) => part.split('=')).map(([key, word]) => [key.toLowerCase(), word ?? '']));
    const path = said.path ?? '/';
    this.#cookies = this.#cookies.filter((old) => !(old.name === name && old.origin === url.origin && old.path === path));
    const gone = said['max-age'] !== undefined ? Number(said['max-age']) <= 0 : said.expires && new Date(said.expires) <= new Date();
    if (!gone) this.#cookies.push({ name, value, origin: url.origin, path });
  }
}
