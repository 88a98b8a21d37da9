//! Clients: devices that follow the rules, thieves that copy refresh tokens, administrators.
//!
//! A device keeps one refresh token. Without an answer it repeats the same token: at once, or after it was offline for a
//! while. It never uses a new token while a message of the exchange that brought it may still be on its way
//! (`retry_window`), for that would look like a copy.
use crate::clock::At;
use crate::decide::new_account;
use crate::guesses::Origin;
use crate::net::{From, ToClient};
use crate::server::{Reply, Request};
use crate::verifiers::Judged;
use crate::world::{Event, World, tell};
use portcullis_domain::account::{self, Email};
use portcullis_domain::kernel::{By, Door, Scope};
use portcullis_domain::model::{Account, Status};
use portcullis_domain::sign_in::Issued;
use portcullis_verify::Reason;
use portcullis_wire::{AccountId, ClientId, GrantId, KeyId, SecretString, SessionId};
use std::collections::BTreeMap;

const AGENTS: [&str; 3] = [
    "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0",
    "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/140.0.0.0 Safari/537.36",
    "Mozilla/5.0 (Macintosh; Intel Mac OS X 10_15_7) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/18.0 Safari/605.1.15",
];

/// A device or browser of an account.
#[derive(Debug)]
pub struct Device {
    pub account: usize,
    agent: &'static str,
    cookie: bool,
    /// It signed in before, and keeps the mark of a known device.
    known: bool,
    pub held: Option<Held>,
    seq: u64,
    calls: BTreeMap<u64, Call>,
}

/// What a signed-in device holds.
#[derive(Debug, Clone)]
pub struct Held {
    pub refresh: SecretString,
    pub session: SessionId,
    pub grant: GrantId,
    account: AccountId,
    token: usize,
    refresh_at: At,
    /// When the exchange that runs began, and when its last message was sent.
    since: Option<At>,
    last_sent: At,
}

impl Held {
    /// Whose session it is, and which.
    pub fn who(&self) -> (AccountId, SessionId) {
        (self.account, self.session)
    }
}

#[derive(Debug, Clone)]
enum Call {
    SignIn,
    /// It leaves for another provider.
    Leave,
    Refresh {
        presented: SecretString,
    },
    End {
        door: Door,
    },
}

/// Somebody with a copy of a refresh token.
#[derive(Debug, Default)]
pub struct Thief {
    loot: Option<Loot>,
}

#[derive(Debug, Clone)]
struct Loot {
    refresh: SecretString,
    older: Option<SecretString>,
    grant: GrantId,
    agent: &'static str,
    cookie: bool,
}

/// The administrators.
#[derive(Debug, Default)]
pub struct Admin {
    waiting: BTreeMap<u64, (Request, u32)>,
}

impl World {
    pub fn make_accounts(&mut self, n: usize) {
        for account in 0..n {
            let email = format!("user{account}@example.org");
            self.accounts.push((AccountId::from_bits(0), email.clone()));
            let now = self.database.now(0);
            let Ok(parsed) = Email::parse(&email) else { continue };
            let stamp = self.disk.durable.stamp(now);
            let made = account::create(&stamp, new_account(parsed), &By::SYSTEM, &mut self.rng);
            if let Ok(row) = made.outcome
                && self.disk.set_up(made.changes, now)
            {
                self.account_made(&row);
            }
        }
    }

    /// An account is in the database: its slot has its id from now on.
    pub fn account_made(&mut self, row: &Account) {
        if let Some(slot) = self.accounts.iter_mut().find(|(_, email)| Some(email) == row.email.as_ref()) {
            slot.0 = row.id;
        }
    }

    pub fn add_device(&mut self, account: usize) {
        let device = self.devices.len();
        let agent = self.rng.pick(&AGENTS);
        let cookie = self.rng.chance(350);
        self.devices.push(Device { account, agent, cookie, known: false, held: None, seq: 0, calls: BTreeMap::new() });
        let first = self.rng.range(100, 3_000);
        self.after(first, Event::Device { device, seq: 0 });
    }

    fn device_next(&mut self, device: usize, delay: i64) {
        self.devices[device].seq += 1;
        let seq = self.devices[device].seq;
        self.after(delay, Event::Device { device, seq });
    }

    fn device_calls(&mut self, device: usize, kind: Call, request: Request) {
        let call = self.fresh();
        self.devices[device].calls.insert(call, kind);
        self.call(From::Device(device), call, request);
        let timeout = self.rng.range(1_200, 2_500);
        self.after(timeout, Event::DeviceTimeout { device, call });
    }

    pub fn device_acts(&mut self, device: usize, seq: u64) {
        if self.devices[device].seq != seq {
            return;
        }
        let pause = self.rng.range(300, 2_500);
        self.device_next(device, pause);
        let Some(held) = self.devices[device].held.clone() else {
            let (account, agent, cookie) = {
                let d = &self.devices[device];
                (d.account, d.agent.to_owned(), d.cookie)
            };
            if self.devices[device].calls.is_empty() && self.has_link(account) && self.rng.chance(300) {
                let leave = Request::Upstream(crate::upstream::UpstreamRequest::Leave);
                self.device_calls(device, Call::Leave, leave);
            } else if self.devices[device].calls.is_empty() {
                let known = self.devices[device].known.then_some(device as u128);
                let origin = Origin { network: device as u16, known, right: true };
                self.device_calls(device, Call::SignIn, Request::SignIn { account, agent, cookie, origin });
            }
            return;
        };
        if held.since.is_none() && self.now >= held.refresh_at {
            return self.device_refreshes(device);
        }
        match self.rng.range(0, 399) {
            0..=9 => self.device_ends(device, &held),
            10 => {
                let quiet = self.rng.range(20_000, 110_000);
                tell!(self, "device {device}: quiet for {quiet} ms");
                self.device_next(device, quiet);
            }
            _ => self.device_uses(device, &held),
        }
    }

    /// A request with the access token, at some service.
    fn device_uses(&mut self, device: usize, held: &Held) {
        let verifier = self.rng.index(self.verifiers.len());
        if self.verifiers[verifier].suspended.is_some() {
            return;
        }
        let judged = self.judge(verifier, held.token);
        self.check_judged(verifier, held.token, judged);
        if let Judged::Refused(Reason::Stale { .. } | Reason::Ended { .. } | Reason::Expired | Reason::KeyDead) = judged
        {
            let earliest = held.last_sent + self.settings.rules.retry_window;
            if let Some(held) = &mut self.devices[device].held {
                held.refresh_at = held.refresh_at.min(earliest.max(self.now));
            }
        }
    }

    fn device_refreshes(&mut self, device: usize) {
        let now = self.now;
        let times = if self.rng.chance(80) { self.rng.range(2, 3) } else { 1 };
        if times > 1 {
            self.counts.add("parallel duplicates");
        }
        let d = &mut self.devices[device];
        let (agent, cookie) = (d.agent.to_owned(), d.cookie);
        let Some(held) = &mut d.held else { return };
        held.since = held.since.or(Some(now));
        held.last_sent = now;
        let presented = held.refresh.clone();
        for _ in 0..times {
            let (by, network) = (ClientId::FIRST_PARTY, self.network_of_device(device));
            let request = Request::Refresh { token: presented.clone(), agent: agent.clone(), cookie, by, network };
            self.device_calls(device, Call::Refresh { presented: presented.clone() }, request);
        }
        if cookie && self.rng.chance(300) {
            // Another tab wakes up a little later, with the same jar.
            let delay = self.rng.range(0, 2_500);
            if let Some(held) = &mut self.devices[device].held {
                held.refresh_at = now + delay;
            }
            self.device_next(device, delay);
        }
    }

    fn device_ends(&mut self, device: usize, held: &Held) {
        let actor = (held.account, held.session);
        let (door, session, except_self) = match self.rng.range(0, 10) {
            0..=2 => (Door::SignOut, Some(held.session), false),
            3..=5 => {
                let now = self.database.now(self.now);
                let listed = self.disk.visible.list_sessions(held.account, 20, now);
                let others: Vec<SessionId> =
                    listed.iter().map(|v| v.session.id).filter(|id| *id != held.session).collect();
                if others.is_empty() {
                    return;
                }
                (Door::EndOne, Some(self.rng.pick(&others)), false)
            }
            6 | 7 => (Door::EndOthers, None, true),
            8 => (Door::PasswordChange, None, true),
            // By a link in a mail: whoever has it needs no session.
            9 => (Door::PasswordReset, None, false),
            _ => (Door::EndAll, None, false),
        };
        self.device_calls(device, Call::End { door }, Request::End { door, actor, session, except_self });
        if except_self && self.rng.chance(400) {
            // At the same moment somebody else ends everything of that account.
            let key = format!("k{}", self.fresh());
            let request = Request::AdminEnd { door: Door::AdminEndAccount, scope: Scope::Account(held.account), key };
            self.admin_calls(request, 0);
        }
    }

    pub fn device_timeout(&mut self, device: usize, call: u64) {
        let Some(kind) = self.devices[device].calls.remove(&call) else { return };
        match kind {
            Call::SignIn | Call::Leave | Call::End { .. } => {}
            Call::Refresh { presented } => self.device_retries(device, &presented),
        }
    }

    /// No answer, or 503: the same token again, soon or after having been offline.
    fn device_retries(&mut self, device: usize, presented: &SecretString) {
        let (now, rules) = (self.now, self.settings.rules.clone());
        let late = self.rng.chance(200);
        let quick = self.rng.range(10, 1_500);
        // Sometimes until it is later than late: where the device was before, that is nothing.
        let (longer, last) = (self.rng.chance(300), rules.late_retry_at_home - 2_000);
        let offline = match longer {
            true => self.rng.range(rules.late_retry, last),
            false => self.rng.range(rules.retry_window, rules.late_retry / 2),
        };
        let d = &mut self.devices[device];
        let busy = d.calls.values().any(|call| matches!(call, Call::Refresh { .. }));
        let Some(held) = d.held.as_mut().filter(|held| held.refresh.expose() == presented.expose()) else { return };
        if busy {
            return;
        }
        let since = held.since.take().unwrap_or(now);
        let most = if longer { last } else { rules.late_retry * 7 / 10 };
        let delay = if late && now + offline < since + most { offline } else { quick };
        held.refresh_at = now + delay;
        self.device_next(device, delay);
        // The exchange goes on: what counts is when it began.
        if let Some(held) = &mut self.devices[device].held {
            held.last_sent = now;
        }
    }

    pub fn at_client(&mut self, message: ToClient) {
        let ToClient { to, call, reply } = message;
        match to {
            From::Device(device) => self.at_device(device, call, reply),
            From::Thief(thief) => self.at_thief(thief, reply),
            From::Application => self.at_application(call, reply),
            From::Provider => self.at_provider(call, &reply),
            From::Admin => self.at_admin(call, &reply),
            From::Guesser => self.at_guesser(&reply),
            From::Newcomer => self.at_newcomer(call, reply),
            // What a link has become is seen when it is followed again.
            From::Reader => {}
        }
    }

    /// A device comes back from another provider.
    pub fn device_arrives(&mut self, device: usize, begun: portcullis_domain::upstream::Begun) {
        if self.devices[device].held.is_some() || !self.devices[device].calls.is_empty() {
            return;
        }
        let d = &self.devices[device];
        let (account, agent, cookie) = (d.account, d.agent.to_owned(), d.cookie);
        let request = self.arrival(account, begun, agent, cookie);
        self.device_calls(device, Call::SignIn, request);
    }

    fn hold(&mut self, device: usize, issued: &Issued, token: usize) {
        let life = (issued.claims.exp - issued.claims.iat) * 1000;
        let early = self.rng.range(life / 4, life * 9 / 10);
        let (now, window) = (self.now, self.settings.rules.retry_window);
        let last_sent = self.devices[device].held.as_ref().map_or(now, |held| held.last_sent);
        self.devices[device].held = Some(Held {
            refresh: issued.refresh.clone(),
            session: issued.session.id,
            grant: issued.current.0,
            account: issued.account.id,
            token,
            refresh_at: (now + early).max(last_sent + window),
            since: None,
            last_sent,
        });
    }

    fn at_device(&mut self, device: usize, call: u64, reply: Reply) {
        let Some(kind) = self.devices[device].calls.remove(&call) else { return };
        match (kind, reply) {
            // There its user takes a while; the device does nothing else meanwhile.
            (Call::Leave, Reply::Away(begun)) if self.devices[device].held.is_none() => {
                let away = self.rng.range(200, 5_000);
                self.device_next(device, away + 3_000);
                self.after(away, Event::Arrive { device, begun });
            }
            (Call::SignIn, Reply::Tokens { issued, token, .. }) if self.devices[device].held.is_none() => {
                self.hold(device, &issued, token);
                self.devices[device].known = self.devices[device].cookie;
            }
            (Call::Refresh { presented }, Reply::Tokens { issued, token, set_cookie }) => {
                let d = &self.devices[device];
                let Some(held) = &d.held else { return };
                let answers = held.refresh.expose() == presented.expose();
                let takes = if d.cookie { set_cookie && held.grant == issued.current.0 } else { answers };
                if takes {
                    self.hold(device, &issued, token);
                }
            }
            (Call::Refresh { presented }, Reply::Unavailable) => self.device_retries(device, &presented),
            (Call::Refresh { presented }, Reply::Refused(refused)) => {
                let held = self.devices[device].held.as_ref();
                if held.is_some_and(|held| held.refresh.expose() == presented.expose()) {
                    tell!(self, "device {device}: signed out by {refused:?}");
                    self.devices[device].held = None;
                    let pause = self.rng.range(500, 6_000);
                    self.device_next(device, pause);
                }
            }
            (Call::End { door: Door::SignOut | Door::EndAll | Door::PasswordReset }, Reply::Revoked { .. }) => {
                self.devices[device].held = None;
                let pause = self.rng.range(200, 6_000);
                self.device_next(device, pause);
            }
            _ => {}
        }
    }

    // ---- thieves ----

    pub fn thief_acts(&mut self, thief: usize) {
        let pause = self.rng.delay(12_000, 40_000) + 500;
        self.after(pause, Event::Thief { thief });
        match self.thieves[thief].loot.clone() {
            None => self.steals(thief),
            Some(loot) => {
                // Sometimes the one that it had before: it may be the predecessor.
                let older = loot.older.clone().filter(|_| self.rng.chance(250));
                let token = older.unwrap_or_else(|| loot.refresh.clone());
                let (agent, by) = (loot.agent.to_owned(), ClientId::FIRST_PARTY);
                let network = 900 + thief as u16;
                let request = Request::Refresh { token, agent, cookie: loot.cookie, by, network };
                let call = self.fresh();
                self.call(From::Thief(thief), call, request);
            }
        }
    }

    fn steals(&mut self, thief: usize) {
        let victims: Vec<usize> = (0..self.devices.len()).filter(|d| self.devices[*d].held.is_some()).collect();
        if victims.is_empty() || self.rng.chance(500) {
            return;
        }
        let victim = self.rng.pick(&victims);
        let agent = if self.rng.chance(600) { self.devices[victim].agent } else { self.rng.pick(&AGENTS) };
        let cookie = self.devices[victim].cookie;
        let Some(held) = self.devices[victim].held.as_ref() else { return };
        let (refresh, grant) = (held.refresh.clone(), held.grant);
        tell!(self, "thief {thief}: copies the token of device {victim}, grant {grant}");
        let family = self.truth.families.entry(grant).or_default();
        family.stolen = true;
        family.moves.clear(); // another copy, another story
        family.presented = [None; 2];
        self.thieves[thief].loot = Some(Loot { refresh, older: None, grant, agent, cookie });
    }

    fn at_thief(&mut self, thief: usize, reply: Reply) {
        let Some(loot) = &mut self.thieves[thief].loot else { return };
        match reply {
            Reply::Tokens { issued, .. } if issued.current.0 == loot.grant => {
                loot.older = Some(std::mem::replace(&mut loot.refresh, issued.refresh));
            }
            Reply::Refused(_) => self.thieves[thief].loot = None,
            _ => {}
        }
    }

    // ---- administrators ----

    pub fn admin_acts(&mut self) {
        let pause = self.rng.range(1_000, 7_000);
        self.after(pause, Event::Admin);
        self.admin_does();
    }

    /// An administrator does something to somebody.
    pub fn admin_does(&mut self) {
        let slot = self.rng.index(self.accounts.len());
        let account = self.accounts[slot].0;
        let now = self.database.now(self.now);
        let Some(view) = self.disk.visible.load_account(account, now) else { return };
        let key = format!("k{}", self.fresh());
        let request = match (&view.account.status, self.rng.range(0, 19)) {
            (Status::Deleted { .. }, _) => {
                let email = format!("user{slot}-{}@example.org", self.fresh());
                self.accounts[slot].1.clone_from(&email);
                Request::Create { email }
            }
            (Status::Deleting { .. }, 0..=5) => Request::Unblock { account },
            (Status::Deleting { .. }, _) => return,
            (Status::Blocked(_), 0..=15) => Request::Unblock { account },
            (_, 0..=3) => Request::Block { account, key },
            (_, 4) if slot > 1 => Request::Delete { account, key },
            (_, 5 | 6) => {
                let door = if self.rng.chance(300) { Door::GlobalRevocation } else { Door::AdminEndAccount };
                Request::AdminEnd { door, scope: Scope::Account(account), key }
            }
            (_, 7) if self.rng.chance(400) => Request::AdminEnd { door: Door::Everyone, scope: Scope::All, key },
            (_, 14) => self.some_filter(key),
            (_, 11) if self.rng.chance(800) => return self.admin_of_keys(key),
            (_, 12 | 13) => Request::Import { emails: self.lines_to_import() },
            (_, 8..=10) => {
                let admin = !view.account.has_role(portcullis_domain::model::ADMIN);
                Request::Roles { account, admin }
            }
            _ => {
                let listed = self.disk.visible.list_sessions(account, 20, now);
                if listed.is_empty() {
                    return;
                }
                let session = listed[self.rng.index(listed.len())].session.id;
                Request::AdminEnd { door: Door::AdminEndSession, scope: Scope::Session { account, session }, key }
            }
        };
        self.admin_calls(request, 0);
    }

    /// An administrator rotates, or revokes a key, often several: whoever has one may have more.
    fn admin_of_keys(&mut self, key: String) {
        if self.rng.chance(350) {
            return self.admin_calls(Request::RotateKeys, 0);
        }
        let rows = self.disk.visible.list_keys();
        let signing: Vec<KeyId> =
            rows.iter().filter(|row| row.purpose.algorithm().is_some()).map(|row| row.id).collect();
        let newest = signing.len() - 1;
        let first = if self.rng.chance(700) { newest.saturating_sub(1) } else { self.rng.index(signing.len()) };
        self.admin_calls(Request::RevokeKey { id: signing[first], key }, 0);
        if self.rng.chance(700) {
            let key = format!("k{}", self.fresh());
            self.admin_calls(Request::RevokeKey { id: signing[newest], key }, 0);
        }
    }

    pub fn admin_calls(&mut self, request: Request, tries: u32) {
        let call = self.fresh();
        self.admin.waiting.insert(call, (request.clone(), tries));
        self.call(From::Admin, call, request);
        let timeout = self.rng.range(1_500, 3_000);
        self.after(timeout, Event::AdminTimeout { call });
    }

    /// No answer: the same again, under the same key.
    pub fn admin_timeout(&mut self, call: u64) {
        if let Some((request, tries)) = self.admin.waiting.remove(&call)
            && tries < 5
        {
            self.admin_calls(request, tries + 1);
        }
    }

    fn at_admin(&mut self, call: u64, reply: &Reply) {
        if !matches!(reply, Reply::Unavailable) {
            self.admin.waiting.remove(&call);
        }
    }
}
