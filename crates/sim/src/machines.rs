//! Machines: devices without a browser that ask until somebody says yes, programs with API keys, and services that exchange the
//! tokens that they were called with, one behind the other.
use crate::applications::{AppRequest, Call};
use crate::decide::Outcome;
use crate::mutant::Mutant;
use crate::server::{Op, Reply, Request};
use crate::truth::{DeviceFact, Hand};
use crate::world::{Event, World};
use portcullis_domain::changes::{Change, Changes, Expect};
use portcullis_domain::client::{GrantType, Profile};
use portcullis_domain::code::Redeem;
use portcullis_domain::device_code::{self, INTERVAL_S, Waiting};
use portcullis_domain::exchange::{self, ExchangeView};
use portcullis_domain::kernel::{Door, Scope};
use portcullis_domain::model::{Account, Client, ClientKind, Session, Status};
use portcullis_domain::refused::{OAuthError, Refused};
use portcullis_domain::sign_in::Issued;
use portcullis_domain::ticket::{self, Ticket, TicketKind};
use portcullis_domain::view::{AppView, ClientView, GrantView, RefreshView, SessionView, Stamp, TicketView};
use portcullis_domain::{Chance as _, Cut, Decision, api_key, authorize, mass, refresh, service};
use portcullis_wire::{AccessClaims, AccountId, ClientId, Digest, Entry, SecretString, SessionId, Time};

/// What they ask for.
#[derive(Debug, Clone)]
pub enum MachineRequest {
    /// RFC 8628 §3.1.
    Begin { client: ClientId },
    /// What somebody says to a device's request.
    Answer { actor: (AccountId, SessionId), user_code: SecretString, allow: bool },
    /// RFC 8628 §3.4.
    Poll { client: ClientId, code: SecretString },
    /// Somebody makes an API key.
    MakeKey { actor: (AccountId, SessionId) },
    /// A program asks for a token.
    UseKey { key: SecretString },
    /// RFC 8693: `token` is the number of the token that is exchanged.
    Exchange { client: ClientId, token: usize },
}

/// What is loaded for that.
#[derive(Debug, Clone)]
pub enum MachineFacts {
    Client(Box<ClientView>),
    Waiting(Box<Waiting>, Box<AppView>),
    Ticket(Box<TicketView>, Vec<GrantView>),
    Session(Box<SessionView>, Vec<SessionView>),
    Key(Box<RefreshView>, Digest),
    Exchange(Box<ExchangeView>, Box<AccessClaims>),
}

#[derive(Debug, Clone)]
struct Asking {
    client: ClientId,
    code: SecretString,
    user_code: SecretString,
    answered: bool,
    /// When its device asks next.
    next: i64,
}

/// The machines.
#[derive(Debug, Default)]
pub struct Machines {
    asking: Vec<Asking>,
    keys: Vec<SecretString>,
    /// Clients that exchange, with the accounts that they act as.
    services: Vec<(ClientId, AccountId)>,
    /// Tokens that somebody may show to a service.
    tokens: Vec<usize>,
}

impl World {
    pub fn make_machines(&mut self) {
        let now = self.database.now(0);
        for n in 0..2 {
            let profile = Profile {
                grant_types: vec![GrantType::TokenExchange],
                scopes: vec!["read".into()],
                ..Profile::default()
            };
            let name = format!("service {n}");
            let Some(account) = service::account_for(&name, &profile, now, &mut self.rng) else { continue };
            let id = ClientId::from_bits(self.rng.bits());
            let client = Client::new(
                id,
                name,
                ClientKind::Confidential,
                Some(Digest::of(b"secret")),
                Profile { service_account: Some(account.id), ..profile },
                now,
            );
            self.machines.services.push((id, account.id));
            let steps = vec![Change::InsertAccount(account), Change::InsertClient(client)];
            self.disk.set_up(Changes { steps, ..Changes::default() }, now);
        }
        self.after(4_000, Event::Machine);
    }

    // ---- what they do ----

    pub fn machine_acts(&mut self) {
        let pause = self.rng.range(200, 1_200);
        self.after(pause, Event::Machine);
        match self.rng.range(0, 49) {
            0..=3 => {
                let client = self.some_application();
                self.machine_calls(Call::Begin(client), MachineRequest::Begin { client });
            }
            4..=9 => self.somebody_answers(),
            10..=23 => self.a_device_asks(),
            24 | 25 => {
                let Some(actor) = self.somebody() else { return };
                self.machine_calls(Call::Key, MachineRequest::MakeKey { actor });
            }
            26..=33 => {
                let keys = self.machines.keys.len();
                if keys > 0 {
                    let key = self.machines.keys[keys - 1 - self.rng.index(keys.min(4))].clone();
                    self.machine_calls(Call::Token, MachineRequest::UseKey { key });
                }
            }
            34..=47 => self.a_service_exchanges(),
            48 => self.admin_of_service_account(),
            _ => {
                let (client, _) = self.rng.pick(&self.machines.services);
                let off = self.client_is_on(client);
                if !off || self.rng.chance(400) {
                    self.admin_of_client(client, off);
                }
            }
        }
    }

    fn machine_calls(&mut self, kind: Call, request: MachineRequest) {
        self.application_calls(kind, AppRequest::Machine(request));
    }

    fn somebody_answers(&mut self) {
        let Some(actor) = self.somebody() else { return };
        let Some(n) = self.machines.asking.iter().position(|one| !one.answered) else { return };
        self.machines.asking[n].answered = true;
        let (user_code, allow) = (self.machines.asking[n].user_code.clone(), self.rng.chance(850));
        self.machine_calls(Call::Other, MachineRequest::Answer { actor, user_code, allow });
        // In the same moments somebody takes it away.
        if self.rng.chance(250) {
            let key = format!("k{}", self.fresh());
            let request = match self.rng.range(0, 2) {
                0 => Request::Block { account: actor.0, key },
                1 => Request::AdminEnd { door: Door::AdminEndAccount, scope: Scope::Account(actor.0), key },
                _ => {
                    let scope = Scope::Session { account: actor.0, session: actor.1 };
                    Request::AdminEnd { door: Door::AdminEndSession, scope, key }
                }
            };
            self.admin_calls(request, 0);
        }
    }

    /// Mostly as often as it may; sometimes sooner, and sometimes by another client.
    fn a_device_asks(&mut self) {
        let (now, asking) = (self.now, self.machines.asking.len());
        if asking == 0 {
            return;
        }
        let n = asking - 1 - self.rng.index(asking.min(5));
        if self.machines.asking[n].next > now && self.rng.chance(700) {
            return;
        }
        self.machines.asking[n].next = now + INTERVAL_S * 1000;
        let one = self.machines.asking[n].clone();
        let client = if self.rng.chance(50) { self.some_application() } else { one.client };
        let times = if self.rng.chance(150) { 2 } else { 1 };
        for _ in 0..times {
            let request = MachineRequest::Poll { client, code: one.code.clone() };
            self.machine_calls(Call::Redeem(client), request);
        }
    }

    fn a_service_exchanges(&mut self) {
        let tokens = self.machines.tokens.len();
        if tokens == 0 {
            return;
        }
        let token = self.machines.tokens[tokens - 1 - self.rng.index(tokens.min(6))];
        let (client, _) = self.rng.pick(&self.machines.services);
        self.machine_calls(Call::Token, MachineRequest::Exchange { client, token });
    }

    /// The account that a service acts as is blocked for a while.
    fn admin_of_service_account(&mut self) {
        let (_, account) = self.rng.pick(&self.machines.services);
        let view = self.disk.visible.load_account(account, Time::ZERO);
        let key = format!("k{}", self.fresh());
        match view.map(|view| view.account.status) {
            Some(Status::Active) => self.admin_calls(Request::Block { account, key }, 0),
            _ => self.admin_calls(Request::Unblock { account }, 0),
        }
    }

    pub fn at_machine(&mut self, kind: &Call, reply: &Reply) {
        match (kind, reply) {
            (Call::Begin(client), Reply::Begun(begun)) => {
                let (code, user_code) = (begun.device_code.clone(), begun.user_code.clone());
                let next = self.now + INTERVAL_S * 1000;
                self.machines.asking.push(Asking { client: *client, code, user_code, answered: false, next });
            }
            (Call::Key, Reply::Code(key)) => self.machines.keys.push(key.clone()),
            (_, Reply::Tokens { token, .. }) => {
                self.machines.tokens.push(*token);
                if self.machines.tokens.len() > 24 {
                    self.machines.tokens.remove(0);
                }
            }
            _ => {}
        }
    }

    // ---- the server ----

    pub fn load_for_machine(&self, request: &MachineRequest) -> Result<MachineFacts, Reply> {
        let (now, db, rules) = (self.database.now(self.now), &self.disk.visible, &self.settings.rules);
        let gone = || Reply::Unauthenticated { code: portcullis_wire::Code::TokenRevoked };
        let missing = || Reply::Refused(Refused::NotFound);
        Ok(match request {
            MachineRequest::Begin { client } => {
                MachineFacts::Client(Box::new(db.load_client(*client, now).ok_or_else(missing)?))
            }
            MachineRequest::Answer { actor, user_code, .. } => {
                let typed = device_code::typed(user_code.expose()).ok_or_else(missing)?;
                let user = db.load_ticket(device_code::user_ticket(&typed), now).ok_or_else(missing)?.ticket;
                let device = device_code::device_ticket(&user).and_then(|id| db.load_ticket(id, now));
                let device = device.ok_or_else(missing)?.ticket;
                let client = device.client.ok_or_else(missing)?;
                let view = db.load_app(actor.1, client, now).ok_or_else(gone)?;
                let view = authorize::usable(view, rules).ok_or_else(gone)?;
                MachineFacts::Waiting(Box::new(Waiting { user, device }), Box::new(view))
            }
            MachineRequest::Poll { code, .. } => {
                let view = db.load_ticket(ticket::id(TicketKind::Device, code.expose()), now).ok_or_else(missing)?;
                let others = match (view.ticket.account, view.ticket.client) {
                    (Some(account), Some(client)) => db.list_grants(account, Some(client), 1000, now),
                    _ => Vec::new(),
                };
                MachineFacts::Ticket(Box::new(view), others)
            }
            MachineRequest::MakeKey { actor } => {
                let alive = |view: &SessionView| view.dead(rules.idle_ttl).is_none();
                let view = db.load_session(actor.1, now).filter(alive).ok_or_else(gone)?;
                let mut live = db.list_sessions(actor.0, 4096, now);
                live.retain(alive);
                MachineFacts::Session(Box::new(view), live)
            }
            MachineRequest::UseKey { key } => {
                let (grant, secret) = api_key::parse(key.expose()).ok_or_else(missing)?;
                MachineFacts::Key(Box::new(db.load_refresh(grant, now).ok_or_else(missing)?), secret)
            }
            MachineRequest::Exchange { client, token } => {
                let fact = self.truth.tokens.get(*token).ok_or_else(missing)?;
                let claims = fact.claims.clone();
                let mut subject = db.load_refresh(fact.grant, now).ok_or_else(missing)?;
                if self.has(Mutant::ExchangeOutlivesSubject) {
                    subject = as_if_alive(subject);
                }
                if refresh::is_dead(&subject, rules) || claims.expires_at() <= now {
                    return Err(gone());
                }
                // As every service judges it, the token itself included (RFC 7009).
                let entries = db.read_live(now).1;
                // They are looked at twice, here and by what is said of each in its row.
                let looked_at = match self.has(Mutant::ExchangeByAnyHands) {
                    true => AccessClaims { via: Vec::new(), act: None, ..claims.clone() },
                    false => claims.clone(),
                };
                let ended = |entry: &Entry| entry.rev > claims.rev && crate::truth::matches(entry, &looked_at);
                if !self.has(Mutant::ExchangeOutlivesSubject) && entries.iter().any(ended) {
                    return Err(gone());
                }
                if !self.has(Mutant::ExchangeByAnyHands) && !self.hands_are_clean(&claims) {
                    return Err(gone());
                }
                let client = db.load_client(*client, now).ok_or_else(missing)?.client;
                let account = client.profile.service_account.and_then(|id| db.load_account(id, now));
                let account = account.ok_or_else(missing)?.account;
                MachineFacts::Exchange(Box::new(ExchangeView { subject, client, account }), Box::new(claims))
            }
        })
    }

    /// As `app::oauth::exchange` looks at those that a token came through.
    fn hands_are_clean(&self, claims: &AccessClaims) -> bool {
        let (now, db) = (self.database.now(self.now), &self.disk.visible);
        let clients = claims.clients().filter(|client| *client != claims.origin()).all(|client| {
            let view = db.load_client(client, now);
            view.is_some_and(|view| !view.client.disabled && !view.client.cut.kills(claims.rev, claims.sid))
        });
        let acts = |account: &Account| account.usable_at(now) && !account.cut.kills(claims.rev, claims.sid);
        clients && claims.accounts().skip(1).all(|id| db.load_account(id, now).is_some_and(|view| acts(&view.account)))
    }

    pub fn decide_for_machine(&mut self, request: &MachineRequest, facts: &MachineFacts) -> Decision<Outcome> {
        let rules = self.settings.rules.clone();
        match (request, facts) {
            (MachineRequest::Begin { .. }, MachineFacts::Client(view)) => {
                let asked = device_code::Asked { scope: Some("read".into()), ..device_code::Asked::default() };
                let made = device_code::begin(view, &view.client, &asked, &mut self.rng);
                Decision { outcome: made.outcome.map(|begun| Outcome::Begun(Box::new(begun))), changes: made.changes }
            }
            (MachineRequest::Answer { allow, .. }, MachineFacts::Waiting(waiting, app)) => {
                let told = device_code::answer(waiting, app, *allow, None, &rules, &mut self.rng);
                Decision { outcome: told.outcome.map(|()| Outcome::Done), changes: told.changes }
            }
            (MachineRequest::Poll { client, .. }, MachineFacts::Ticket(view, others)) => {
                self.decide_poll(view, others, *client)
            }
            (MachineRequest::MakeKey { .. }, MachineFacts::Session(view, live)) => {
                let expires_at = Some(view.stamp.now.plus(rules.absolute_ttl));
                let wanted = api_key::Wanted {
                    name: "a script".into(),
                    scopes: vec!["read".into()],
                    expires_at,
                    ..api_key::Wanted::default()
                };
                let allowed = ["read".to_owned()];
                let (mac, rng) = (&self.mac, &mut self.rng);
                let made = api_key::create(view, live, &wanted, &allowed, i64::MAX, &rules, mac, rng);
                Decision { outcome: made.outcome.map(|made| Outcome::Code(made.key)), changes: made.changes }
            }
            (MachineRequest::UseKey { .. }, MachineFacts::Key(view, secret)) => {
                let view =
                    if self.has(Mutant::KeySurvivesBlock) { as_if_alive((**view).clone()) } else { (**view).clone() };
                match api_key::token(&view, *secret, &rules, &mut self.rng) {
                    Err(_) => Decision::refuse(Refused::NotFound),
                    Ok(Decision { outcome, changes }) => {
                        let issued = |claims| Outcome::Issued(Box::new(access_only(&view, claims)));
                        Decision { outcome: outcome.map(issued), changes }
                    }
                }
            }
            (MachineRequest::Exchange { token, .. }, MachineFacts::Exchange(view, claims)) => {
                let asked = exchange::Asked::default();
                match exchange::exchange(view, &view.client, claims, &asked, &rules, &mut self.rng) {
                    Err(refused) => Decision::refuse(refused),
                    Ok(mut new) => {
                        match self.mutant {
                            Some(Mutant::ExchangeWithoutVia) => new.via.clear(),
                            Some(Mutant::ExchangeWithoutActor) => new.act = None,
                            _ => {}
                        }
                        let hand = (view.client.id, view.account.id);
                        let issued = Box::new(access_only(&view.subject, new));
                        Decision::answer(Outcome::Exchanged(issued, *token, hand))
                    }
                }
            }
            _ => Decision::refuse(Refused::NotFound),
        }
    }

    fn decide_poll(&mut self, view: &TicketView, others: &[GrantView], client: ClientId) -> Decision<Outcome> {
        let presented = Redeem {
            client,
            proven: true,
            redirect_uri: None,
            verifier: None,
            sender: None,
            user_agent: None,
            ip: None,
        };
        let mut view = view.clone();
        if self.has(Mutant::DeviceForgetsEnds) {
            view.stamp.all = Cut::default();
            if let Some(app) = &mut view.app {
                app.client.cut = Cut::default();
                live_on(&mut app.session.stamp, &mut app.session.session, &mut app.session.account);
                app.session.standing = mass::Rules::default();
            }
        }
        let rules = self.settings.rules.clone();
        let decision = device_code::poll(&view, others, &presented, &rules, &self.mac, &mut self.rng);
        let mut changes = decision.changes;
        match self.mutant {
            Some(Mutant::DeviceForgetsEnds) => {
                changes.expects.retain(|e| !matches!(e, Expect::Unborn { .. } | Expect::Alive { .. }));
            }
            Some(Mutant::DeviceCodeTwice) => changes.steps.retain(|step| !matches!(step, Change::UseTicket { .. })),
            Some(Mutant::DevicePaceForgotten) => {
                changes.steps.retain(|step| !matches!(step, Change::UpdateTicket(_)));
            }
            _ => {}
        }
        Decision { outcome: decision.outcome.map(|granted| Outcome::Issued(Box::new(granted.issued))), changes }
    }

    // ---- what really happened ----

    /// A device has asked.
    pub fn device_asked(&mut self, about: &crate::disk::About, ticket: &Ticket) {
        self.counts.add("device codes made");
        let fact =
            DeviceFact { proof: about.facts, allowed: about.facts, proven: None, given: Vec::new(), waited: None };
        self.truth.devices.insert(ticket.id.0, fact);
    }

    /// Somebody has said something to it.
    pub fn device_answered(&mut self, about: &crate::disk::About, ticket: &Ticket) {
        let proven = ticket.session.map(|session| (session, self.proofs_of(session)));
        if let Some(fact) = self.truth.devices.get_mut(&ticket.id.0).filter(|_| ticket.account.is_some()) {
            fact.allowed = about.facts;
            fact.proven = proven;
        }
    }

    /// I12: a device that is told to wait waits as long as it was told, or is told to ask more slowly.
    pub fn check_polled(&mut self, op: &Op, code: &SecretString, reply: &Reply) {
        let Reply::Refused(Refused::OAuth { error, .. }) = reply else { return };
        match error {
            OAuthError::SlowDown => return self.counts.add("device polls: slow down"),
            OAuthError::AccessDenied => return self.counts.add("device polls: denied"),
            OAuthError::ExpiredToken => return self.counts.add("device polls: expired"),
            OAuthError::AuthorizationPending => self.counts.add("device polls: pending"),
            _ => return,
        }
        let Some(at) = polled_at(op) else { return };
        let id = ticket::id(TicketKind::Device, code.expose());
        let Some(fact) = self.truth.devices.get_mut(&id.0) else { return };
        let before = fact.waited.replace((at, self.now));
        let Some((last, told)) = before.filter(|(last, _)| *last <= at) else { return };
        if at.since(last) < INTERVAL_S * 1000 - 500 && !self.database.was_set_since(told - 10_000) {
            let detail = format!("a device was told to wait twice within {} ms", at.since(last));
            self.violate("I12", detail);
        }
    }

    /// Whoever acts by an exchanged token, and as of when that was looked at.
    pub fn token_exchanged(&mut self, token: usize, parent: usize, (client, account): (ClientId, AccountId)) {
        let Some(before) = self.truth.tokens.get(parent).cloned() else { return };
        let fact = &mut self.truth.tokens[token];
        let hand = Hand { client, account, proof: fact.facts };
        fact.client = before.client;
        fact.hands = before.hands.into_iter().chain([hand]).collect();
        self.counts.add(if fact.hands.len() > 1 { "tokens exchanged again" } else { "tokens exchanged" });
    }
}

/// The database time at which a poll was looked at.
fn polled_at(op: &Op) -> Option<Time> {
    match op.facts.as_ref()? {
        crate::decide::Facts::App(crate::applications::AppFacts::Machine(MachineFacts::Ticket(view, _))) => {
            Some(view.stamp.now)
        }
        _ => None,
    }
}

/// A bug: whatever has ended above it, it looks alive.
fn as_if_alive(mut view: RefreshView) -> RefreshView {
    live_on(&mut view.stamp, &mut view.session, &mut view.account);
    (view.grant.ended, view.client_cut, view.client_disabled) = (None, Cut::default(), false);
    view.standing = mass::Rules::default();
    view
}

fn live_on(stamp: &mut Stamp, session: &mut Session, account: &mut Account) {
    (stamp.all, session.ended) = (Cut::default(), None);
    (account.cut, account.status) = (Cut::default(), Status::Active);
}

/// A token without a refresh token, as the book of tokens takes it.
fn access_only(view: &RefreshView, claims: AccessClaims) -> Issued {
    Issued {
        session: view.session.clone(),
        account: view.account.clone(),
        claims,
        refresh: SecretString::new(String::new()),
        current: (view.grant.id, view.grant.family.counter),
    }
}
