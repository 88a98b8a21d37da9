//! What the operations load and decide: the real rules, called as `app` calls them.
use crate::mutant::Mutant;
use crate::server::{Op, Reply, Request};
use crate::truth::Act;
use crate::world::World;
use portcullis_domain::account::{self, Email, NewAccount};
use portcullis_domain::changes::{Change, Changes, Expect, Idempotency};
use portcullis_domain::event::Actor;
use portcullis_domain::family::Presented;
use portcullis_domain::kernel::{self, By, Door, Scope};
use portcullis_domain::keys::{self, Revocation, Wanted};
use portcullis_domain::mail::{self, Letter, Template};
use portcullis_domain::model::{ADMIN, Key, SessionKind};
use portcullis_domain::proof::Proof;
use portcullis_domain::recovery::Around;
use portcullis_domain::refresh::{How, Likeness, Outcome as Judged, outcome, refresh};
use portcullis_domain::refused::Refused;
use portcullis_domain::sign_in::{Issued, SignIn, sign_in};
use portcullis_domain::throttle::{Attempt, Verdict};
use portcullis_domain::view::{AccountView, Dead, RefreshView, SessionView, SignInView, Stamp};
use portcullis_domain::{Decision, device, recovery};
use portcullis_wire::{ClientId, Code, Digest, Rev, Target, Time, Verb};

/// What was loaded for an operation.
#[derive(Debug, Clone)]
pub enum Facts {
    SignIn(SignInView),
    Refresh(Box<RefreshView>, Presented),
    Session(SessionView),
    Account(AccountView),
    Keys(Stamp, Vec<Key>),
    Import(Vec<(portcullis_domain::import::Checked, portcullis_wire::AccountId, portcullis_domain::import::Found)>),
    App(crate::applications::AppFacts),
    Upstream(crate::upstream::UpstreamFacts),
    Letter(crate::letters::LetterFacts),
    /// Only where the log stands.
    Nothing,
}

/// What was decided, if it was not refused.
#[derive(Debug, Clone)]
pub enum Outcome {
    Issued(Box<Issued>),
    Ended,
    /// It had been ended before, by this entry.
    Before(Rev),
    Imported(Vec<(Email, portcullis_domain::import::Fate)>),
    Code(portcullis_wire::SecretString),
    /// A device's request.
    Begun(Box<portcullis_domain::device_code::Begun>),
    /// A sign-in by another provider has begun.
    Away(portcullis_domain::upstream::Begun),
    /// A token that was exchanged for another one, by which client and account.
    Exchanged(Box<Issued>, usize, (ClientId, portcullis_wire::AccountId)),
    Done,
}

impl World {
    /// Reads what the request is about, in one snapshot; or answers at once.
    pub fn load(&mut self, request: &Request) -> Result<Facts, Reply> {
        let now = self.database.now(self.now);
        let db = &self.disk.visible;
        let missing = || Reply::Refused(Refused::NotFound);
        match request {
            Request::SignIn { account, .. } => {
                Ok(Facts::SignIn(db.load_sign_in(&self.accounts[*account].1, ClientId::FIRST_PARTY, now)))
            }
            Request::Refresh { token, .. } => {
                let presented = Presented::parse(token).filter(|p| p.is_ours(&self.mac));
                let presented = presented.ok_or(Reply::Refused(Refused::RefreshInvalid))?;
                match db.load_refresh(presented.grant(), now) {
                    Some(mut view) => {
                        if self.mutant == Some(Mutant::RuleUncheckedAtRefresh) {
                            view.standing = None;
                        }
                        if self.mutant == Some(Mutant::ApplicationsKeepAwake) && view.idle_since().is_some() {
                            let family = &view.grant.family;
                            view.refreshed_at = Some(family.handed_at.max(family.made_at));
                        }
                        Ok(Facts::Refresh(Box::new(view), presented))
                    }
                    None => Err(Reply::Refused(Refused::RefreshForgotten)),
                }
            }
            Request::End { actor, session, door, .. } => {
                let view = db.load_session(actor.1, now).ok_or_else(missing)?;
                // A sign-out that is repeated with the dead token is answered like the first.
                if !matches!(door, Door::SignOut | Door::PasswordReset) {
                    match view.dead(self.settings.rules.idle_ttl) {
                        None => {}
                        Some(Dead::Expired) => return Err(Reply::Unauthenticated { code: Code::TokenExpired }),
                        Some(_) => return Err(Reply::Unauthenticated { code: Code::TokenRevoked }),
                    }
                }
                match session {
                    Some(session) => {
                        let view = db.load_session(*session, now).filter(|view| view.account.id == actor.0);
                        view.map(Facts::Session).ok_or_else(missing)
                    }
                    None if matches!(door, Door::PasswordChange | Door::PasswordReset) => {
                        let view = db.load_account(actor.0, now);
                        view.map(Facts::Account).ok_or_else(missing)
                    }
                    None => Ok(Facts::Nothing),
                }
            }
            Request::AdminEnd { scope, key, .. } => {
                self.remembered(key)?;
                match scope {
                    Scope::Session { session, .. } => {
                        self.disk.visible.load_session(*session, now).map(Facts::Session).ok_or_else(missing)
                    }
                    _ => Ok(Facts::Nothing),
                }
            }
            Request::Block { account, key } | Request::Delete { account, key } => {
                self.remembered(key)?;
                self.disk.visible.load_account(*account, now).map(Facts::Account).ok_or_else(missing)
            }
            Request::RevokeKey { key, .. } => {
                self.remembered(key)?;
                Ok(Facts::Keys(self.stamp(), self.disk.visible.list_keys()))
            }
            Request::Create { .. } | Request::RotateKeys => Ok(Facts::Nothing),
            Request::Filter { now, key, .. } => match self.remembered(key) {
                Err(Reply::Revoked { .. }) if !now => Err(Reply::Done),
                Err(reply) => Err(reply),
                Ok(()) => Ok(Facts::Nothing),
            },
            Request::Import { emails } => Ok(self.load_import(emails)),
            Request::App(request) => self.load_for_app(request).map(Facts::App),
            Request::Upstream(request) => Ok(Facts::Upstream(self.load_for_upstream(request))),
            Request::Letter(request) => self.load_for_letter(request).map(Facts::Letter),
            Request::Unblock { account } | Request::Roles { account, .. } | Request::Signal { account, .. } => {
                db.load_account(*account, now).map(Facts::Account).ok_or_else(missing)
            }
        }
    }

    /// The answer that was given under this key before.
    fn remembered(&mut self, key: &str) -> Result<(), Reply> {
        match self.disk.visible.load_remembered("operator", key).and_then(|before| before.rev) {
            Some(rev) => {
                self.counts.add("acts repeated under their key");
                Err(Reply::Revoked { rev })
            }
            None => Ok(()),
        }
    }

    /// Decides.
    pub fn decide(&mut self, op: &mut Op) {
        let Some(mut facts) = op.facts.take() else { return };
        let fresh = self.stamp();
        if self.has(Mutant::HeadAfterFacts)
            && let Facts::Refresh(view, _) = &mut facts
        {
            view.stamp = fresh;
        }
        if let Some(stamp) = stamp_of(&mut facts) {
            match self.mutant {
                Some(Mutant::BeyondHorizon) => stamp.horizon = Time(i64::MAX),
                Some(Mutant::IssueByClockAlone) => stamp.floor = Time::ZERO,
                _ => {}
            }
        }
        let admin = |reason| By { actor: Actor::Operator, role: Some(ADMIN), ip: None, reason };
        let decision = match (&op.request, &facts) {
            (Request::SignIn { agent, cookie, origin, .. }, Facts::SignIn(view)) => {
                let right = origin.right && op.verdict.is_some_and(Verdict::is_checked);
                let mut decision = self.decide_sign_in(view, agent, *cookie, right);
                if let (Ok(Outcome::Issued(issued)), None) = (&decision.outcome, origin.known) {
                    let mail = self.mail_of_sign_in(issued, &view.stamp);
                    decision.changes.steps.extend(mail);
                }
                decision
            }
            (Request::App(request), Facts::App(facts)) => self.decide_for_app(request, facts),
            (Request::Letter(request), Facts::Letter(facts)) => self.decide_for_letter(request, facts),
            (Request::Signal { .. }, Facts::Account(_)) => Decision::answer(Outcome::Done),
            (Request::Upstream(request), Facts::Upstream(facts)) => self.decide_for_upstream(request, facts),
            (Request::Refresh { agent, cookie, by, network, .. }, Facts::Refresh(view, presented)) => {
                let by = if self.has(Mutant::RefreshByAnyClient) { view.grant.client } else { *by };
                let (decision, judged) = self.decide_refresh(view, presented, agent, *cookie, by, *network);
                op.judged = Some(judged);
                decision
            }
            (Request::End { door: Door::PasswordChange, actor, .. }, Facts::Account(view)) => {
                let who = Actor::Account { account: actor.0, session: actor.1 };
                let by = By { actor: who, role: None, ip: None, reason: None };
                let mut decision = account::change_password(view, "right, too".into(), actor.1, &by, &mut self.rng);
                let mail = self.mail_of_change(view, actor.1);
                decision.changes.steps.extend(mail);
                ended(decision)
            }
            (Request::End { door: Door::PasswordReset, actor, .. }, Facts::Account(view)) => {
                let mut decision = self.decide_reset(view);
                if self.has(Mutant::ResetSparesASession) {
                    for step in &mut decision.changes.steps {
                        if let Change::Revoke(revoke) = step {
                            revoke.except = Some(actor.1);
                        }
                    }
                }
                decision
            }
            (Request::End { door, actor, session, except_self }, facts) => {
                let who = Actor::Account { account: actor.0, session: actor.1 };
                let who = if *door == Door::SignOut { Actor::System } else { who };
                let by = By { actor: who, role: None, ip: None, reason: None };
                let scope = match session {
                    Some(session) => Scope::Session { account: actor.0, session: *session },
                    None => Scope::Account(actor.0),
                };
                self.decide_end(*door, scope, except_self.then_some(actor.1), facts, &by)
            }
            (Request::AdminEnd { door, scope, .. }, facts) => {
                let reason = (*door == Door::Everyone).then_some("an exercise");
                self.decide_end(*door, *scope, None, facts, &admin(reason))
            }
            (Request::Block { .. }, Facts::Account(view)) => {
                // Some lift themselves.
                let until = self.rng.chance(400).then(|| view.stamp.now.plus(6_000));
                ended(account::block(view, "an exercise", until, &admin(None), &mut self.rng))
            }
            (Request::RevokeKey { id, .. }, Facts::Keys(stamp, rows)) => {
                match keys::revoke(rows, *id, stamp, &self.key_rules()) {
                    Err(refused) => Decision::refuse(refused),
                    Ok(Revocation::Before(rev)) => Decision::answer(Outcome::Before(rev)),
                    Ok(Revocation::Now(plan)) => {
                        let changes = self.changes_of_revocation(plan, *id, &admin(Some("an exercise")), stamp.now);
                        Decision { outcome: Ok(Outcome::Ended), changes }
                    }
                }
            }
            (Request::Filter { filter, now, .. }, _) => {
                let Decision { outcome, changes } = self.decide_filter(filter, *now, &admin(Some("an exercise")));
                // Only with `now` the answer says that access is gone.
                let told = if *now { Outcome::Ended } else { Outcome::Done };
                Decision { outcome: outcome.map(|()| told), changes }
            }
            (Request::RotateKeys, _) => {
                self.load_keys();
                self.rotate_keys(Wanted { signing: true, mac: false });
                Decision::answer(Outcome::Done)
            }
            (Request::Unblock { .. }, Facts::Account(view)) => {
                done(account::unblock(view, &admin(None), &mut self.rng))
            }
            (Request::Delete { .. }, Facts::Account(view)) => {
                let Decision { outcome, changes } =
                    account::delete(view, self.settings.policy.grace, &admin(None), &mut self.rng);
                Decision { outcome: outcome.map(|before| before.map_or(Outcome::Ended, Outcome::Before)), changes }
            }
            (Request::Roles { admin: make, .. }, Facts::Account(view)) => {
                let roles = if *make { vec![ADMIN.to_owned()] } else { vec![] };
                done(account::change(view, None, &account::Roles::Set(roles), None, &admin(None), &mut self.rng))
            }
            (Request::Import { .. }, Facts::Import(found)) => self.decide_import(found, &admin(None)),
            (Request::Create { email }, _) => match Email::parse(email) {
                Ok(email) => done(account::create(&fresh, new_account(email), &admin(None), &mut self.rng)),
                Err(refused) => Decision::refuse(refused),
            },
            _ => Decision::refuse(Refused::NotFound),
        };
        let right = decision.outcome.is_ok();
        let Decision { outcome, mut changes } = self.judged(op, &facts, decision);
        if let (Request::SignIn { .. }, true, Some(attempt), Some(verdict)) =
            (&op.request, right, op.attempt, op.verdict)
        {
            let Attempt { account, network, .. } = attempt;
            changes.steps.push(Change::GiveBack { attempt, verdict });
            // What a rule refuses was no wrong guess, and its network does not become a known one.
            changes.steps.extend(outcome.is_ok().then_some(Change::KnowNetwork { account, network }));
        }
        self.post(&mut changes);
        if let (Request::Upstream(request), Ok(Outcome::Done)) = (&op.request, &outcome) {
            op.rest = self.rest_of_answer(request, &facts);
        }
        if !changes.is_empty() {
            changes.idle_ttl = Some(self.settings.rules.idle_ttl);
        }
        if let (Some(key), Ok(_)) = (key_of(&op.request), &outcome) {
            let request = Digest::of(key.as_bytes());
            changes.idempotency =
                Some(Idempotency { actor: "operator".into(), key: key.to_owned(), request, made: None });
        }
        (op.outcome, op.changes) = (Some(outcome), changes);
        if self.has(Mutant::RowByRowEnd) && matches!(op.request, Request::End { .. } | Request::AdminEnd { .. }) {
            self.row_by_row(op);
        }
        op.facts = Some(facts);
    }

    fn decide_sign_in(&mut self, view: &SignInView, agent: &str, cookie: bool, right: bool) -> Decision<Outcome> {
        let request = SignIn {
            kind: if cookie { SessionKind::Browser } else { SessionKind::App },
            device_name: None,
            user_agent: Some(agent.to_owned()),
            ip: self.some_address(),
            cookie: None,
        };
        let mut decision = sign_in(view, right, &request, &self.settings.rules, &self.mac, &mut self.rng);
        if self.has(Mutant::BornAtCommit) {
            let born = self.disk.durable.stamp(view.stamp.now).head;
            decision.changes.expects.retain(|expect| !matches!(expect, Expect::Unborn { .. }));
            for step in &mut decision.changes.steps {
                match step {
                    Change::InsertSession(session) => session.born = born,
                    Change::InsertGrant(grant) => grant.born = born,
                    _ => {}
                }
            }
        }
        if let Some(account) = &view.account {
            decision = self.limited(account.id, decision);
        }
        issued(decision)
    }

    fn decide_refresh(
        &mut self,
        view: &RefreshView,
        presented: &Presented,
        agent: &str,
        cookie: bool,
        by: ClientId,
        network: u16,
    ) -> (Decision<Outcome>, Judged) {
        let at_home = self.is_at_home(view, network) || self.has(Mutant::LateFromAnywhere);
        let how = How {
            client: by,
            proven: by != ClientId::FIRST_PARTY,
            sender: None,
            at_home,
            cookie,
            user_agent: Some(agent.to_owned()),
            ip: None,
        };
        let mut rules = self.settings.rules.clone();
        let mut view = view.clone();
        if self.has(Mutant::PresentProofAtRefresh) {
            view.grant.proof = Some(Proof::of(&view.session));
        }
        let family = &view.grant.family;
        let same_agent = how.proven || device::family(Some(agent)) == view.session.agent;
        let likeness = match (same_agent, at_home) {
            (false, _) => Likeness::Other,
            (true, false) => Likeness::Same,
            (true, true) => Likeness::AtHome,
        };
        let real = outcome(family, presented.counter(), cookie, likeness, view.stamp.now, &rules);
        let since = view.stamp.now.since(family.handed_at.max(family.made_at));
        let planted = match self.mutant {
            Some(Mutant::TwoSuccessors) if real == Judged::Again => {
                rules.retry_window = 0;
                true
            }
            Some(Mutant::TheftEager) => {
                (rules.late_retry, rules.late_retry_at_home) = (0, 0);
                true
            }
            Some(Mutant::TheftIgnored) if real == Judged::Theft => {
                (view.grant.family.predecessor, rules.late_retry) = (Some(presented.counter()), i64::MAX);
                true
            }
            _ => false,
        };
        let expected = self.disk.visible.load_refresh(view.grant.id, view.stamp.now).map(|v| v.grant.family);
        let mut decision = refresh(&view, presented, &how, &rules, &self.mac, &self.mac, &mut self.rng);
        if planted && let Some(real) = expected {
            for step in &mut decision.changes.steps {
                if let Change::SetFamily { predecessor, .. } = step {
                    *predecessor = real.predecessor;
                }
            }
        }
        let kind = match (decision.outcome.is_ok(), real) {
            (true, Judged::Again) if cookie && presented.counter() == family_counter(&decision) => "second tabs",
            (true, Judged::Again) => "retries inside the window",
            (true, Judged::Skip) if since >= rules.late_retry => "later than late retries (skips)",
            (true, Judged::Skip) => "late retries (skips)",
            (false, Judged::OtherDevice) => "thief refused: other device",
            _ => "",
        };
        if !kind.is_empty() {
            self.counts.add(kind);
        }
        (issued(decision), real)
    }

    fn decide_end(
        &mut self,
        door: Door,
        scope: Scope,
        except: Option<portcullis_wire::SessionId>,
        facts: &Facts,
        by: &By<'_>,
    ) -> Decision<Outcome> {
        if let Facts::Session(view) = facts
            && let Some(Dead::Ended { rev, .. } | Dead::Cut { rev, .. }) = view.dead(i64::MAX)
        {
            return Decision::answer(Outcome::Before(rev));
        }
        let mut changes = kernel::end(door, scope, except, by, &mut self.rng);
        if self.has(Mutant::SparedUnchecked) && except.is_some() {
            changes.expects.clear();
        }
        Decision { outcome: Ok(Outcome::Ended), changes }
    }

    /// A new password by a link that was asked for just now.
    fn decide_reset(&mut self, view: &AccountView) -> Decision<Outcome> {
        let letter = Letter::of(Template::ResetPassword, &view.account);
        let mail = mail::write(letter, &view.stamp, &self.mac, &mut self.rng);
        let ticket = mail.iter().find_map(|step| match step {
            Change::InsertTicket(ticket) => Some(ticket.clone()),
            _ => None,
        });
        let Some(ticket) = ticket else { return Decision::refuse(Refused::NotFound) };
        let mut decision = recovery::reset(view, &ticket, Around::default(), "right, too", &By::SYSTEM, &mut self.rng);
        if decision.outcome.is_ok() {
            decision.changes.steps.insert(0, Change::InsertTicket(ticket));
        }
        ended(decision)
    }

    /// A bug: an account's end is many ends, of the sessions that are listed.
    fn row_by_row(&mut self, op: &mut Op) {
        let ends = op.changes.steps.iter().find_map(|step| match step {
            Change::Revoke(revoke) => match (&revoke.verb, &revoke.target) {
                (Verb::End, Target::Account(account)) => Some((*account, revoke.except)),
                _ => None,
            },
            _ => None,
        });
        let Some((account, except)) = ends else { return };
        let now = self.database.now(self.now);
        let listed = self.disk.visible.list_sessions(account, 100, now);
        let mut parts: Vec<Changes> = Vec::new();
        for view in listed.iter().filter(|view| Some(view.session.id) != except) {
            let scope = Scope::Session { account, session: view.session.id };
            parts.push(kernel::end(Door::AdminEndAccount, scope, None, &By::SYSTEM, &mut self.rng));
        }
        let mut whole = std::mem::take(&mut op.changes);
        whole.steps.retain(|step| !matches!(step, Change::Revoke(_)));
        // Something must carry a rev: the last session's end goes with the rest of it.
        match parts.pop() {
            Some(last) => {
                whole.steps.extend(last.steps);
                whole.events.extend(last.events);
            }
            None => return op.changes = whole,
        }
        op.rest = vec![whole];
        op.rest.extend(parts);
        op.changes = op.rest.pop().unwrap_or_default();
    }

    /// The answer to an operation whose commit was told, or that needed none.
    pub fn render(&mut self, op: &mut Op) -> Reply {
        let Some(outcome) = op.outcome.take() else { return Reply::Unavailable };
        match outcome {
            Err(refused) => Reply::Refused(refused),
            Ok(Outcome::Done) => Reply::Done,
            Ok(Outcome::Code(code)) => Reply::Code(code),
            Ok(Outcome::Begun(begun)) => Reply::Begun(begun),
            Ok(Outcome::Away(begun)) => Reply::Away(begun),
            Ok(Outcome::Imported(lines)) => Reply::Imported(lines),
            Ok(Outcome::Before(rev)) => Reply::Revoked { rev },
            Ok(Outcome::Ended) => match op.committed.and_then(|committed| committed.rev) {
                Some(rev) => Reply::Revoked { rev },
                None => Reply::Done,
            },
            Ok(Outcome::Issued(_) | Outcome::Exchanged(..)) if !self.may_sign() => Reply::Unavailable,
            Ok(Outcome::Exchanged(issued, parent, hand)) => {
                let token = self.register_token(&issued, op.facts_head);
                self.token_exchanged(token, parent, hand);
                Reply::Tokens { issued, token, set_cookie: false }
            }
            Ok(Outcome::Issued(issued)) => {
                let token = self.register_token(&issued, op.facts_head);
                let (grant, counter) = issued.current;
                let now = self.database.now(self.now);
                let current = self.disk.visible.load_refresh(grant, now);
                let set_cookie = current.is_some_and(|view| view.grant.family.counter == counter);
                Reply::Tokens { issued, token, set_cookie }
            }
        }
    }
}

fn family_counter(decision: &Decision<Issued>) -> u64 {
    decision.outcome.as_ref().map_or(0, |issued| issued.current.1)
}

fn issued(decision: Decision<Issued>) -> Decision<Outcome> {
    Decision { outcome: decision.outcome.map(|issued| Outcome::Issued(Box::new(issued))), changes: decision.changes }
}

fn ended(decision: Decision<()>) -> Decision<Outcome> {
    Decision { outcome: decision.outcome.map(|()| Outcome::Ended), changes: decision.changes }
}

/// What every account of this world is made with.
pub fn new_account(email: Email) -> NewAccount {
    NewAccount { email, password_hash: Some("right".into()), name: None, roles: Vec::new(), verified: false }
}

fn done<T>(decision: Decision<T>) -> Decision<Outcome> {
    Decision { outcome: decision.outcome.map(|_| Outcome::Done), changes: decision.changes }
}

fn stamp_of(facts: &mut Facts) -> Option<&mut Stamp> {
    match facts {
        Facts::Refresh(view, _) => Some(&mut view.stamp),
        Facts::SignIn(view) => Some(&mut view.stamp),
        _ => None,
    }
}

fn key_of(request: &Request) -> Option<&str> {
    match request {
        Request::AdminEnd { key, .. }
        | Request::Block { key, .. }
        | Request::Delete { key, .. }
        | Request::RevokeKey { key, .. }
        | Request::Filter { key, .. } => Some(key),
        _ => None,
    }
}

/// What an operation takes away, if its commit succeeds: told by the request, not by what it wrote.
pub fn act_of(op: &Op) -> Option<Act> {
    let act = |door, scope, except| {
        let key = key_of(&op.request).map(str::to_owned);
        let (only, asked, account) = (None, None, None);
        Some(Act { door, scope, except, only, asked, rev: Rev::ZERO, key, acked: None, enforced: None, account })
    };
    match (&op.request, op.outcome.as_ref()?) {
        (Request::End { door, actor, session, except_self }, Ok(Outcome::Ended)) => {
            let scope = match session {
                Some(session) => Scope::Session { account: actor.0, session: *session },
                None => Scope::Account(actor.0),
            };
            act(*door, scope, except_self.then_some(actor.1))
        }
        (Request::AdminEnd { door, scope, .. }, Ok(Outcome::Ended)) => act(*door, *scope, None),
        (Request::Filter { filter, key, .. }, Ok(_)) => Some(crate::filters::act(filter, key)),
        (Request::App(request), _) => crate::applications::act_of(op, request),
        (Request::Letter(request), _) => crate::letters::act_of(op, request),
        (Request::Upstream(request), _) => crate::upstream::act_of(op, request),
        (Request::RevokeKey { id, .. }, Ok(Outcome::Ended)) => act(Door::KeyRevoked, Scope::Key(*id), None),
        (Request::Block { account, .. }, Ok(Outcome::Ended)) => act(Door::Block, Scope::Account(*account), None),
        (Request::Delete { account, .. }, Ok(Outcome::Ended)) => act(Door::Delete, Scope::Account(*account), None),
        (Request::Refresh { .. }, Err(Refused::RefreshReused)) => match op.facts.as_ref()? {
            Facts::Refresh(view, _) => {
                let (account, session, grant) = (view.account.id, view.session.id, view.grant.id);
                let whole = view.grant.client == ClientId::FIRST_PARTY || view.session.client.is_some();
                let scope = Scope::Session { account, session };
                act(Door::Replay, if whole { scope } else { Scope::Grant { account, session, grant } }, None)
            }
            _ => None,
        },
        _ => None,
    }
}

/// For the bug that ends row by row: the end of one row.
pub fn act_on_row(changes: &Changes) -> Option<Act> {
    let door = Door::AdminEndAccount;
    changes.steps.iter().zip(&changes.events).find_map(|(step, event)| match step {
        Change::Revoke(revoke) => match revoke.target {
            Target::Session(session) => {
                let scope = Scope::Session { account: event.account?, session };
                Some(Act::of(door, scope))
            }
            _ => None,
        },
        _ => None,
    })
}
