//! Applications: two clients that get codes under the sessions of devices, redeem them, refresh, give up what they have, and
//! are withdrawn from or switched off, while others show their codes and tokens.
use crate::decide::Outcome;
use crate::machines::{MachineFacts, MachineRequest};
use crate::mutant::Mutant;
use crate::net::From;
use crate::server::{Op, Reply, Request};
use crate::truth::{Act, CodeFact, TokenFact};
use crate::world::{Event, World, tell};
use portcullis_domain::amr::Amr;
use portcullis_domain::authorize::{self, Asked, CodeBody, Prompt};
use portcullis_domain::changes::{Change, Changes, Expect};
use portcullis_domain::client::{GrantType, OFFLINE, Profile};
use portcullis_domain::code::{self, Redeem};
use portcullis_domain::event::{Actor, EventKind, NewEvent};
use portcullis_domain::family::Presented;
use portcullis_domain::kernel::{self, By, Door, Scope};
use portcullis_domain::model::{Client, ClientKind, Consent, Session};
use portcullis_domain::refused::{OAuthError, Refused};
use portcullis_domain::sign_in::{Issued, Proving, prove_again};
use portcullis_domain::ticket::{self, Ticket, TicketKind};
use portcullis_domain::view::{AppView, GrantView, RefreshView, SessionView, SignInView, TicketView};
use portcullis_domain::withdraw::withdraw;
use portcullis_domain::{Chance as _, Decision, refresh};
use portcullis_wire::{
    AccountId, ClientId, Digest, EventId, GrantId, Rev, SecretString, SessionId, Time, TokenId, b64,
};
use std::collections::BTreeMap;

const REDIRECT: &str = "https://app.example/cb";
const VERIFIER: &str = "a-code-verifier-that-is-long-enough-for-rfc7636";

/// What is loaded for their requests.
#[derive(Debug, Clone)]
pub enum AppFacts {
    App(Box<AppView>),
    Ticket(Box<TicketView>, Option<Box<Session>>, Vec<GrantView>),
    Grant(Option<Box<RefreshView>>),
    Consent(Consent, Vec<GrantView>),
    Proving(SignInView, Box<Session>),
    Client(Box<Client>),
    Token,
    Machine(MachineFacts),
}

/// What they ask for.
#[derive(Debug, Clone)]
pub enum AppRequest {
    /// A browser with this session lets a client have a code.
    Authorize {
        actor: (AccountId, SessionId),
        client: ClientId,
        offline: bool,
    },
    Redeem {
        code: SecretString,
        client: ClientId,
    },
    /// RFC 7009, of a refresh token.
    GiveUp {
        token: SecretString,
        client: ClientId,
    },
    /// RFC 7009, of an access token.
    GiveUpAccess {
        account: AccountId,
        session: SessionId,
        token: TokenId,
    },
    Withdraw {
        actor: (AccountId, SessionId),
        client: ClientId,
    },
    /// Whoever uses a browser's session proves once more who they are.
    Prove {
        actor: (AccountId, SessionId),
    },
    Switch {
        client: ClientId,
        off: bool,
    },
    /// Of a machine.
    Machine(MachineRequest),
}

/// What an application holds.
#[derive(Debug, Clone)]
struct Held {
    client: ClientId,
    refresh: SecretString,
    account: AccountId,
    token: (SessionId, TokenId),
    refresh_at: i64,
}

#[derive(Debug, Clone)]
struct Code {
    code: SecretString,
    client: ClientId,
    shown: u32,
}

/// What was asked for, for when it is answered.
#[derive(Debug, Clone)]
pub enum Call {
    Authorize(ClientId),
    Redeem(ClientId),
    Refresh(SecretString),
    /// A device's request.
    Begin(ClientId),
    /// An API key.
    Key,
    /// An access token alone.
    Token,
    Other,
}

/// The applications.
#[derive(Debug, Default)]
pub struct Applications {
    clients: Vec<ClientId>,
    codes: Vec<Code>,
    held: Vec<Held>,
    calls: BTreeMap<u64, Call>,
}

impl World {
    pub fn make_applications(&mut self) {
        let now = self.database.now(0);
        for n in 0..2 {
            let client = Client::new(
                ClientId::from_bits(self.rng.bits()),
                format!("app {n}"),
                ClientKind::Confidential,
                Some(Digest::of(b"secret")),
                Profile {
                    grant_types: vec![GrantType::AuthorizationCode, GrantType::RefreshToken, GrantType::DeviceCode],
                    scopes: vec!["read".into(), OFFLINE.into()],
                    ..Profile::default()
                },
                now,
            );
            self.applications.clients.push(client.id);
            self.disk.set_up(Changes { steps: vec![Change::InsertClient(client)], ..Changes::default() }, now);
        }
        self.after(3_000, Event::Application);
    }

    // ---- what they do ----

    pub fn application_acts(&mut self) {
        let pause = self.rng.range(200, 1_500);
        self.after(pause, Event::Application);
        let client = self.rng.pick(&self.applications.clients);
        if !self.client_is_on(client) && self.rng.chance(600) {
            return self.admin_of_client(client, false);
        }
        match self.rng.range(0, 63) {
            0..=17 => self.asks_for_code(client),
            18..=32 => self.shows_code(),
            33..=54 => self.refreshes_for(client),
            55 | 56 => self.gives_up(),
            57 | 58 => self.withdraws(client),
            59..=62 => self.proves(),
            _ => self.admin_of_client(client, true),
        }
    }

    pub fn client_is_on(&self, client: ClientId) -> bool {
        let view = self.disk.visible.load_client(client, Time::ZERO);
        view.is_some_and(|view| !view.client.disabled)
    }

    pub fn admin_of_client(&mut self, client: ClientId, off: bool) {
        self.application_calls(Call::Other, AppRequest::Switch { client, off });
    }

    pub fn application_calls(&mut self, kind: Call, request: AppRequest) {
        let call = self.fresh();
        self.applications.calls.insert(call, kind);
        self.call(From::Application, call, Request::App(request));
    }

    pub fn some_application(&mut self) -> ClientId {
        self.rng.pick(&self.applications.clients)
    }

    /// Of a device that is signed in.
    pub fn somebody(&mut self) -> Option<(AccountId, SessionId)> {
        let all: Vec<_> = self.devices.iter().filter_map(|device| device.held.as_ref()).map(|h| h.who()).collect();
        (!all.is_empty()).then(|| self.rng.pick(&all))
    }

    fn asks_for_code(&mut self, client: ClientId) {
        let Some(actor) = self.somebody() else { return };
        let offline = self.rng.chance(500);
        self.application_calls(Call::Authorize(client), AppRequest::Authorize { actor, client, offline });
    }

    /// Mostly its own and once; sometimes another one's, or one that was shown before: by who lost the answer, or by a thief.
    fn shows_code(&mut self) {
        let codes = self.applications.codes.len();
        if codes == 0 {
            return;
        }
        let n = codes - 1 - self.rng.index(codes.min(4));
        let held = self.applications.codes[n].clone();
        if held.shown > 0 && self.rng.chance(600) {
            return;
        }
        self.applications.codes[n].shown += 1;
        let client = if self.rng.chance(100) { self.rng.pick(&self.applications.clients) } else { held.client };
        let times = if self.rng.chance(120) { 2 } else { 1 };
        for _ in 0..times {
            self.application_calls(Call::Redeem(client), AppRequest::Redeem { code: held.code.clone(), client });
        }
        // At the same moment somebody takes it away.
        match self.rng.range(0, 19) {
            0..=2 => self.withdraws(held.client),
            3 => self.admin_of_client(held.client, true),
            _ => {}
        }
    }

    fn refreshes_for(&mut self, client: ClientId) {
        let due: Vec<usize> =
            (0..self.applications.held.len()).filter(|n| self.applications.held[*n].refresh_at <= self.now).collect();
        if due.is_empty() {
            return;
        }
        let n = self.rng.pick(&due);
        let window = self.settings.rules.retry_window;
        let held = &mut self.applications.held[n];
        held.refresh_at = self.now + window / 2;
        let token = held.refresh.clone();
        let by = if self.rng.chance(120) { client } else { held.client };
        let call = self.fresh();
        self.applications.calls.insert(call, Call::Refresh(token.clone()));
        self.call(
            From::Application,
            call,
            Request::Refresh { token, agent: String::new(), cookie: false, by, network: 0 },
        );
    }

    fn gives_up(&mut self) {
        let n = self.applications.held.len();
        if n == 0 {
            return;
        }
        let held = self.applications.held[self.rng.index(n)].clone();
        let request = match self.rng.chance(500) {
            true => AppRequest::GiveUp { token: held.refresh, client: held.client },
            false => AppRequest::GiveUpAccess { account: held.account, session: held.token.0, token: held.token.1 },
        };
        self.application_calls(Call::Other, request);
    }

    fn withdraws(&mut self, client: ClientId) {
        // Whoever has something of it.
        let held = self.applications.held.iter().filter(|held| held.client == client).map(|held| held.account);
        let accounts: Vec<_> = held.collect();
        let Some(mut actor) = self.somebody() else { return };
        let known: Vec<_> = self.devices.iter().filter_map(|d| d.held.as_ref()).map(|h| h.who()).collect();
        if let Some(other) = known.into_iter().find(|who| accounts.contains(&who.0)) {
            actor = other;
        }
        self.application_calls(Call::Other, AppRequest::Withdraw { actor, client });
    }

    fn proves(&mut self) {
        let Some(actor) = self.somebody() else { return };
        self.application_calls(Call::Other, AppRequest::Prove { actor });
    }

    pub fn at_application(&mut self, call: u64, reply: Reply) {
        let Some(kind) = self.applications.calls.remove(&call) else { return };
        self.at_machine(&kind, &reply);
        match (kind, reply) {
            (Call::Authorize(client), Reply::Code(code)) => {
                self.applications.codes.push(Code { code, client, shown: 0 });
            }
            (Call::Redeem(client), Reply::Tokens { issued, .. }) => {
                self.holds(client, &issued);
                if self.applications.held.len() > 12 {
                    self.applications.held.remove(0);
                }
            }
            (Call::Refresh(presented), Reply::Tokens { issued, .. }) => {
                let held = self.applications.held.iter().find(|held| held.refresh.expose() == presented.expose());
                let Some(client) = held.map(|held| held.client) else { return };
                self.applications.held.retain(|held| held.refresh.expose() != presented.expose());
                self.holds(client, &issued);
            }
            _ => {}
        }
    }

    fn holds(&mut self, client: ClientId, issued: &Issued) {
        let pause = self.rng.range(0, 12_000);
        // Not while a message of the exchange that brought it may be on its way.
        let refresh_at = self.now + self.settings.rules.retry_window + pause;
        self.applications.held.push(Held {
            client,
            refresh: issued.refresh.clone(),
            account: issued.account.id,
            token: (issued.claims.sid, issued.claims.jti),
            refresh_at,
        });
    }

    /// What was refused for good is held no more.
    pub fn application_refused(&mut self, token: &SecretString, refused: &Refused) {
        if *refused != Refused::RefreshInvalid {
            self.applications.held.retain(|held| held.refresh.expose() != token.expose());
        }
    }

    // ---- the server ----

    pub fn load_for_app(&mut self, request: &AppRequest) -> Result<AppFacts, Reply> {
        let now = self.database.now(self.now);
        let db = &self.disk.visible;
        let gone = || Reply::Unauthenticated { code: portcullis_wire::Code::TokenRevoked };
        let missing = || Reply::Refused(Refused::NotFound);
        Ok(match request {
            AppRequest::Authorize { actor, client, .. } => {
                let view = db.load_app(actor.1, *client, now).ok_or_else(gone)?;
                let view = authorize::usable(view, &self.settings.rules).ok_or_else(gone)?;
                AppFacts::App(Box::new(view))
            }
            AppRequest::Redeem { code, .. } => {
                let view = db.load_ticket(ticket::id(TicketKind::Code, code.expose()), now).ok_or_else(missing)?;
                let given = view.ticket.used.and_then(|used| used.grant).and_then(|grant| db.load_refresh(grant, now));
                let given = given.filter(|above| !refresh::is_dead(above, &self.settings.rules));
                let given = given.map(|above| Box::new(above.session));
                let others = match (view.ticket.account, view.ticket.client) {
                    (Some(account), Some(client)) => db.list_grants(account, Some(client), 1000, now),
                    _ => Vec::new(),
                };
                AppFacts::Ticket(Box::new(view), given, others)
            }
            AppRequest::GiveUp { token, .. } => {
                let grant = Presented::parse(token).map(|presented| presented.grant());
                AppFacts::Grant(grant.and_then(|grant| db.load_refresh(grant, now)).map(Box::new))
            }
            AppRequest::GiveUpAccess { .. } => AppFacts::Token,
            AppRequest::Withdraw { actor, client } => {
                db.load_session(actor.1, now)
                    .filter(|view| view.dead(self.settings.rules.idle_ttl).is_none())
                    .ok_or_else(gone)?;
                let consents = db.list_consents(actor.0);
                let consent = consents.into_iter().find(|c| c.client == *client && !c.scope.is_empty());
                AppFacts::Consent(consent.ok_or_else(missing)?, db.list_grants(actor.0, Some(*client), 1000, now))
            }
            AppRequest::Prove { actor } => {
                let alive = |view: &SessionView| view.dead(self.settings.rules.idle_ttl).is_none();
                let view = db.load_session(actor.1, now).filter(alive).ok_or_else(gone)?;
                let email = view.account.email.as_deref().ok_or_else(gone)?;
                let seen = db.load_sign_in(email, ClientId::FIRST_PARTY, now);
                AppFacts::Proving(seen, Box::new(view.session))
            }
            AppRequest::Machine(request) => AppFacts::Machine(self.load_for_machine(request)?),
            AppRequest::Switch { client, .. } => {
                AppFacts::Client(Box::new(db.load_client(*client, now).ok_or_else(missing)?.client))
            }
        })
    }

    pub fn decide_for_app(&mut self, request: &AppRequest, facts: &AppFacts) -> Decision<Outcome> {
        match (request, facts) {
            (AppRequest::Authorize { offline, .. }, AppFacts::App(view)) => {
                let made = authorize::grant_code(view, &asked(*offline), true, None, &mut self.rng);
                Decision { outcome: made.outcome.map(Outcome::Code), changes: made.changes }
            }
            (AppRequest::Redeem { client, .. }, AppFacts::Ticket(view, given, others)) => {
                self.decide_redemption(view, given.as_deref(), others, *client)
            }
            (AppRequest::GiveUp { client, .. }, AppFacts::Grant(view)) => {
                let mine = |view: &&RefreshView| {
                    view.grant.client == *client && view.grant.ended.is_none() && view.session.ended.is_none()
                };
                let Some(view) = view.as_deref().filter(mine) else { return Decision::answer(Outcome::Done) };
                let (account, session, grant) = (view.account.id, view.session.id, view.grant.id);
                let scope = match view.session.client == Some(*client) {
                    true => Scope::Session { account, session },
                    false => Scope::Grant { account, session, grant },
                };
                self.ends(Door::TokenRevoked, scope, &By::SYSTEM)
            }
            (AppRequest::GiveUpAccess { account, session, token }, _) => {
                let scope = Scope::Token { account: *account, session: *session, token: *token };
                self.ends(Door::TokenRevoked, scope, &By::SYSTEM)
            }
            (AppRequest::Withdraw { actor, .. }, AppFacts::Consent(consent, grants)) => {
                let who = Actor::Account { account: actor.0, session: actor.1 };
                let by = By { actor: who, role: None, ip: None, reason: None };
                let mut decision = withdraw(actor.0, consent, grants, &by, &mut self.rng);
                if self.has(Mutant::WithdrawalLooksOnce) {
                    decision.changes.expects.retain(|expect| !matches!(expect, Expect::NoOtherGrants { .. }));
                }
                Decision { outcome: decision.outcome.map(|()| Outcome::Ended), changes: decision.changes }
            }
            (AppRequest::Switch { client, off }, AppFacts::Client(row)) => {
                if row.disabled == *off {
                    return Decision::answer(Outcome::Done);
                }
                let mut changes = if *off {
                    self.ends(Door::ClientOff, Scope::Client(*client), &By::SYSTEM).changes
                } else {
                    self.counts.add("applications switched on");
                    let id = EventId::from_bits(self.rng.bits());
                    let events = vec![NewEvent::new(id, EventKind::ClientEnabled, &Actor::System).client(*client)];
                    Changes { events, ..Changes::default() }
                };
                changes.steps.push(Change::SetClientDisabled { client: *client, disabled: *off });
                Decision { outcome: Ok(if *off { Outcome::Ended } else { Outcome::Done }), changes }
            }
            (AppRequest::Prove { .. }, AppFacts::Proving(seen, session)) => {
                let shown = Digest::of(b"no cookie");
                let proving = Proving { session: (**session).clone(), shown, next: shown, ip: None };
                let proven = prove_again(seen, true, &proving, &self.settings.rules, &mut self.rng);
                Decision { outcome: proven.outcome.map(|()| Outcome::Done), changes: proven.changes }
            }
            (AppRequest::Machine(request), AppFacts::Machine(facts)) => self.decide_for_machine(request, facts),
            _ => Decision::refuse(Refused::NotFound),
        }
    }

    fn ends(&mut self, door: Door, scope: Scope, by: &By<'_>) -> Decision<Outcome> {
        Decision { outcome: Ok(Outcome::Ended), changes: kernel::end(door, scope, None, by, &mut self.rng) }
    }

    fn decide_redemption(
        &mut self,
        view: &TicketView,
        given: Option<&Session>,
        others: &[GrantView],
        client: ClientId,
    ) -> Decision<Outcome> {
        let presented = Redeem {
            client,
            proven: true,
            redirect_uri: Some(REDIRECT.into()),
            verifier: Some(VERIFIER.into()),
            sender: None,
            user_agent: None,
            ip: None,
        };
        let rules = self.settings.rules.clone();
        let mut view = view.clone();
        if self.has(Mutant::PresentProofAtRedemption) {
            proven_last(&mut view);
        }
        let decision = code::redeem(&view, given, others, &presented, &rules, &self.mac, &mut self.rng);
        let mut changes = decision.changes;
        match self.mutant {
            Some(Mutant::CodeNotUsed) => changes.steps.retain(|step| !matches!(step, Change::UseTicket { .. })),
            Some(Mutant::RedeemedUnborn) => changes.expects.retain(|e| !matches!(e, Expect::Unborn { .. })),
            Some(Mutant::RedeemedWithoutConsent) => changes.expects.retain(|e| !matches!(e, Expect::Consent { .. })),
            Some(Mutant::BornAtRedemption) => born_at(view.stamp.head, &mut changes),
            _ => {}
        }
        Decision { outcome: decision.outcome.map(|granted| Outcome::Issued(Box::new(granted.issued))), changes }
    }

    // ---- what really happened ----

    /// I7 and I13: of a code comes one grant at most, and none that an end since its making is about.
    pub fn truth_of_codes(&mut self, about: &crate::disk::About, changes: &Changes) {
        for step in &changes.steps {
            match step {
                Change::UpdateTicket(ticket) if ticket.kind == TicketKind::Device => {
                    self.device_answered(about, ticket)
                }
                Change::InsertTicket(ticket) if ticket.kind == TicketKind::Device => self.device_asked(about, ticket),
                Change::InsertTicket(ticket) if ticket.kind == TicketKind::Code => {
                    self.counts.add("codes made");
                    let (Some(account), Some(session), Some(client)) = (ticket.account, ticket.session, ticket.client)
                    else {
                        return self.violate("I7", "a code is nobody's".into());
                    };
                    let (proof, expires_at, given) = (about.facts, ticket.expires_at, Vec::new());
                    let proofs = self.proofs_of(session);
                    let fact = CodeFact { account, session, client, expires_at, proof, proofs, given };
                    self.truth.codes.insert(ticket.id.0, fact);
                }
                Change::InsertGrant(grant) if grant.client != ClientId::FIRST_PARTY => {
                    self.grant_made(about, grant.id, grant.client, grant.session);
                }
                Change::WithdrawConsent { account, client, .. } => {
                    let now = self.database.highest(self.now);
                    if let Some(view) = self.disk.durable.list_grants(*account, Some(*client), 100, now).first() {
                        let id = view.grant.id;
                        self.violate("I8", format!("{id} outlives the withdrawal of its account's consent"));
                    }
                }
                _ => {}
            }
        }
    }

    fn grant_made(&mut self, about: &crate::disk::About, grant: GrantId, client: ClientId, session: SessionId) {
        let Some(id) = about.code else { return self.violate("I13", format!("{grant} came of no code")) };
        let allowed = self.truth.devices.get(&id).map(|device| device.allowed);
        let (proof, proven, given, what) = match (self.truth.codes.get_mut(&id), self.truth.devices.get_mut(&id)) {
            (Some(code), _) => (code.proof, Some((code.session, code.proofs)), &mut code.given, "codes redeemed"),
            (_, Some(device)) => (device.proof, device.proven, &mut device.given, "device codes redeemed"),
            _ => return self.violate("I13", format!("{grant} came of no code that was made")),
        };
        given.push(grant);
        if given.len() > 1 {
            return self.violate("I13", format!("{grant} came of a code that had given another one"));
        }
        self.counts.add(what);
        if let Some(fact) = self.truth.sessions.get_mut(&session)
            && fact.client.is_some()
        {
            fact.proof = proof;
        }
        self.truth.grants.insert(grant, proof);
        self.truth.proven.extend(proven.map(|proven| (grant, proven)));
        self.truth.allowed.extend(allowed.map(|allowed| (grant, allowed)));
        let allowed = allowed.unwrap_or(proof);
        self.truth.under.entry(session).or_default().push((grant, client));
        let Some(account) = self.truth.sessions.get(&session).map(|fact| fact.account) else { return };
        let passed = self.truth.acts.iter().find(|act| {
            let proof = if act.door == Door::ConsentWithdrawn { allowed } else { proof };
            act.rev > proof && act.only.is_none() && act.is_about_grant(account, session, grant, client)
        });
        if let Some(act) = passed {
            let (door, rev) = (act.door, act.rev);
            let detail = format!("{grant}, begun at {proof}, was born after {door:?} at {rev}, which is about it");
            self.violate("I7", detail);
        }
    }

    /// Whoever uses a session has proven who they are.
    pub fn proven(&mut self, session: SessionId, at: Time, amr: &Amr) {
        self.truth.proofs.entry(session).or_default().push((at.secs(), amr.methods()));
    }

    pub fn proofs_of(&self, session: SessionId) -> usize {
        self.truth.proofs.get(&session).map_or(0, Vec::len)
    }

    /// I3: a token rests on a proof that was made before what it came of was asked for, and each token of a grant on the same one,
    /// whatever its user proves meanwhile.
    pub fn check_proof(&mut self, token: &TokenFact) {
        let Some((session, known)) = self.truth.proven.get(&token.grant).copied() else { return };
        let says = (token.claims.auth_time, token.claims.amr.clone());
        let proofs = self.truth.proofs.get(&session).map_or(&[][..], Vec::as_slice);
        if proofs.len() > known {
            self.counts.add("tokens after a later proof");
        }
        if !proofs.iter().take(known).any(|proof| *proof == says) {
            let detail =
                format!("a token of {} says {says:?}; its code was made under {proofs:?}, of {known}", token.grant);
            return self.violate("I3", detail);
        }
        let first = self.truth.said.entry(token.grant).or_insert_with(|| says.clone()).clone();
        if first != says {
            let detail = format!("a token of {} says {says:?}, one before said {first:?}", token.grant);
            self.violate("I3", detail);
        }
    }

    /// Tokens go to whom they were granted only.
    pub fn check_whose(&mut self, by: ClientId, issued: &Issued) {
        if issued.claims.client_id != by {
            let (id, whose) = (issued.current.0, issued.claims.client_id);
            self.violate("I6", format!("{by} got tokens of {id}, which is {whose}'s"));
        }
        if by != ClientId::FIRST_PARTY {
            self.counts.add("refreshes by applications");
        }
    }

    /// What the answer to an application's request says.
    pub fn check_app_reply(&mut self, op: &Op, request: &AppRequest, reply: &Reply) {
        match (request, reply) {
            (AppRequest::Machine(MachineRequest::Poll { code, .. }), reply) => self.check_polled(op, code, reply),
            (AppRequest::Machine(MachineRequest::UseKey { .. }), Reply::Tokens { .. }) => {
                self.counts.add("tokens of keys");
            }
            // To be repeated, as any 503.
            (AppRequest::Redeem { .. }, Reply::Refused(Refused::Unavailable { .. })) => {}
            (AppRequest::Redeem { .. }, Reply::Refused(_)) => {
                // That it was shown before is said when what it gave has ended.
                let Some(rev) = op.committed.and_then(|committed| committed.rev) else {
                    return self.check_code_refused(op);
                };
                let Some(n) = self.truth.by_rev.get(&rev).copied() else {
                    return self.violate("I9", format!("a code was answered to be reused with {rev}, which is no act"));
                };
                self.truth.acts[n].acked.get_or_insert(self.now);
                let bound = self.settings.bound;
                self.probe_killed_by(n, bound);
            }
            (AppRequest::Switch { .. } | AppRequest::Withdraw { .. }, Reply::Revoked { rev }) => {
                tell!(self, "applications: {request:?} at {rev}");
            }
            _ => {}
        }
    }

    /// I11: a code that waits, shown by whose it is, is refused only when it or something above it has ended.
    fn check_code_refused(&mut self, op: &Op) {
        let Request::App(AppRequest::Redeem { client, .. }) = &op.request else { return };
        let Some(code) = code_of(&op.request).and_then(|code| self.truth.codes.get(&code)) else { return };
        // Late, by any time that the database ever told.
        let highest = self.database.highest(self.now);
        let late = highest >= code.expires_at.minus(5_000);
        if late || code.client != *client || !code.given.is_empty() {
            return;
        }
        let grant = GrantId::from_bits(0);
        // Whom a filter's rule would kill of those who are not born yet is its own question.
        let ended = self.truth.acts.iter().any(|act| {
            let about = || act.is_about_grant(code.account, code.session, grant, code.client);
            act.rev > code.proof && (act.door == Door::Filter || act.except == Some(code.session) || about())
        });
        // A token's times are whole seconds: in the last one of a session there is none left to be given.
        let view = self.disk.durable.load_session(code.session, highest.plus(1_000));
        let alive = view.is_some_and(|view| view.dead(self.settings.rules.idle_ttl).is_none());
        if alive && !ended {
            let detail = format!("a code of {} at {client} was refused for nothing", code.session);
            self.violate("I11", detail);
        }
    }

    /// At the end: what an act is about is dead in the database.
    pub fn check_grants_at_the_end(&mut self) {
        let now = self.database.now(self.now);
        for (grant, proof) in &self.truth.grants {
            let Some(view) = self.disk.durable.load_refresh(*grant, now) else { continue };
            let (account, session, client) = (view.account.id, view.session.id, view.grant.client);
            let killed = self.truth.acts.iter().find(|act| {
                let only = act.only.as_ref().is_none_or(|only| only.contains(&session));
                let allowed = self.truth.allowed.get(grant).filter(|_| act.door == Door::ConsentWithdrawn);
                act.rev > *allowed.unwrap_or(proof) && only && act.is_about_grant(account, session, *grant, client)
            });
            if let Some(act) = killed
                && !refresh::is_dead(&view, &self.settings.rules)
            {
                let (door, rev) = (act.door, act.rev);
                let detail = format!("{grant} was ended by {door:?} at {rev} and lives in the database");
                return self.violate("I8", detail);
            }
        }
    }
}

/// A bug: a code says what its session's user has proven last.
fn proven_last(view: &mut TicketView) {
    if let (Some(app), Some(body)) = (&view.app, view.ticket.read::<CodeBody>()) {
        let Session { auth_time, amr, .. } = app.session.session.clone();
        view.ticket.body = Ticket::write(&CodeBody { auth_time: auth_time.0, amr, ..body });
    }
}

/// A bug: what comes of a code is born when it is redeemed.
fn born_at(head: Rev, changes: &mut Changes) {
    for step in &mut changes.steps {
        match step {
            Change::InsertSession(session) => session.born = head,
            Change::InsertGrant(grant) => grant.born = head,
            _ => {}
        }
    }
    for expect in &mut changes.expects {
        if let Expect::Unborn { born, .. } = expect {
            *born = head;
        }
    }
}

fn asked(offline: bool) -> Asked {
    let scope = if offline { vec![OFFLINE.to_owned(), "read".to_owned()] } else { vec!["read".to_owned()] };
    Asked {
        version: 1,
        pushed: None,
        redirect_uri: REDIRECT.into(),
        scope,
        state: None,
        nonce: None,
        challenge: b64::encode(&Digest::of(VERIFIER.as_bytes()).0),
        prompt: Prompt::default(),
        max_age: None,
        login_hint: None,
        id_token_hint: None,
        audience: None,
        sender: None,
    }
}

/// The code that a request redeems, as the database knows it.
pub fn code_of(request: &Request) -> Option<[u8; 32]> {
    match request {
        Request::App(AppRequest::Redeem { code, .. }) => Some(ticket::id(TicketKind::Code, code.expose()).0),
        Request::App(AppRequest::Machine(MachineRequest::Poll { code, .. })) => {
            Some(ticket::id(TicketKind::Device, code.expose()).0)
        }
        _ => None,
    }
}

/// What an application's operation takes away, if its commit succeeds.
pub fn act_of(op: &Op, request: &AppRequest) -> Option<Act> {
    let act = |door, scope, account| Some(Act { account, ..Act::of(door, scope) });
    let (ended, refused) = match op.outcome.as_ref()? {
        Ok(Outcome::Ended) => (true, false),
        Err(Refused::OAuth { error: OAuthError::InvalidGrant, .. }) => (false, true),
        _ => (false, false),
    };
    match request {
        AppRequest::Withdraw { actor, client } if ended => {
            act(Door::ConsentWithdrawn, Scope::Client(*client), Some(actor.0))
        }
        AppRequest::Switch { client, .. } if ended => act(Door::ClientOff, Scope::Client(*client), None),
        AppRequest::GiveUp { .. } | AppRequest::GiveUpAccess { .. } if ended => {
            act(Door::TokenRevoked, scope_of(&op.changes)?, None)
        }
        AppRequest::Redeem { .. } if refused => act(Door::CodeReplay, scope_of(&op.changes)?, None),
        _ => None,
    }
}

/// What the entry of these changes is about, with whose it is by their record.
fn scope_of(changes: &Changes) -> Option<Scope> {
    let event = changes.events.first()?;
    let (account, session) = (event.account?, event.session?);
    changes.steps.iter().find_map(|step| match step {
        Change::Revoke(revoke) => match revoke.target {
            portcullis_wire::Target::Session(session) => Some(Scope::Session { account, session }),
            portcullis_wire::Target::Grant(grant) => Some(Scope::Grant { account, session, grant }),
            portcullis_wire::Target::Token(token) => Some(Scope::Token { account, session, token }),
            _ => None,
        },
        _ => None,
    })
}
