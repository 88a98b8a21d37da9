//! People, what they hold, and who steals it.
use super::{Lapse, World, tell};
use portcullis_domain::account::{self, Email};
use portcullis_domain::changes::{Change, Changes};
use portcullis_domain::family::{MacKey, Presented};
use portcullis_domain::kernel::{self, By, Door, Scope};
use portcullis_domain::model::{KeyPurpose, SessionKind, Status};
use portcullis_domain::refresh::{How, refresh};
use portcullis_domain::replay::{self, Line, Touch};
use portcullis_domain::sign_in::{Issued, SignIn, sign_in};
use portcullis_domain::view::{AccountView, Stamp};
use portcullis_domain::{Decision, Refused, keys, time_rules};
use portcullis_store::memory::Memory;
use portcullis_wire::{AccessClaims, AccountId, ClientId, KeyId, SecretString, SessionId, Time};

/// A token, and the key that signed it.
pub type Token = (AccessClaims, KeyId);

/// A session, as its person and the truth know it.
#[derive(Debug, Clone)]
pub struct Person {
    account: AccountId,
    pub session: SessionId,
    pub tokens: Vec<Token>,
    current: SecretString,
    /// What `current` came from.
    before: Option<SecretString>,
    /// Superseded for good: their successors were used.
    used: Vec<SecretString>,
    pub ended: Option<i64>,
    /// Founding anew ended it with everything else.
    pub void: Option<i64>,
}

impl Person {
    pub fn lives(&self) -> bool {
        self.dead_since().is_none()
    }
    pub fn dead_since(&self) -> Option<i64> {
        self.ended.into_iter().chain(self.void).min()
    }
}

fn email(n: u64) -> String {
    format!("user{n}@example.org")
}

pub fn account(db: &mut Memory, n: u64, now: Time, rng: &mut crate::rng::Rng) {
    if let Ok(email) = Email::parse(&email(n)) {
        let new = crate::decide::new_account(email);
        let made = account::create(&db.stamp(now), new, &By::SYSTEM, rng);
        let _ = db.commit(made.changes, now);
    }
}

impl World {
    pub fn serves(&self) -> bool {
        self.node.as_ref().is_some_and(|node| node.shut.is_none())
    }

    fn see_to_horizon(&mut self) {
        let (now, max_life) = (self.time(), self.rules.max_life());
        let known = self.volume.db.stamp(now).horizon;
        if let Some(next) = time_rules::raise_horizon(known, now, max_life) {
            self.commit(Changes { steps: vec![Change::RaiseHorizon(next)], ..Changes::default() });
        }
    }

    fn key_that(&self, purpose: KeyPurpose) -> Option<KeyId> {
        let (rows, floor) = (self.volume.db.list_keys(), self.volume.db.stamp(self.time()).floor);
        match purpose {
            KeyPurpose::Mac => {
                let active = rows
                    .iter()
                    .filter(|row| row.purpose == KeyPurpose::Mac && keys::state(row, floor) == keys::State::Active);
                active.map(|row| row.id).max()
            }
            _ => keys::signing(&rows, floor).map(|row| row.id),
        }
    }

    fn mac(&self) -> Option<MacKey> {
        self.macs.get(&self.key_that(KeyPurpose::Mac)?).cloned()
    }

    pub fn somebody_signs_in(&mut self) {
        if self.people.iter().filter(|person| person.lives()).count() < 12 {
            self.signs_in();
        }
    }

    /// Somebody signs in anew; their token.
    pub fn signs_in(&mut self) -> Option<Token> {
        if !self.serves() {
            return None;
        }
        self.see_to_horizon();
        let (mac, signs) = (self.mac()?, self.key_that(KeyPurpose::Es256)?);
        let who = email(self.rng.word() % if self.blocked { 2 } else { 3 } + u64::from(self.blocked));
        let view = self.volume.db.load_sign_in(&who, ClientId::FIRST_PARTY, self.time());
        let request = SignIn { kind: SessionKind::App, device_name: None, user_agent: None, ip: None, cookie: None };
        let Decision { outcome, changes } = sign_in(&view, true, &request, &self.rules, &mac, &mut self.rng);
        let issued = outcome.ok()?;
        self.commit(changes).then_some(())?;
        self.counts.add("rollback: sign-ins");
        let token = (issued.claims.clone(), signs);
        self.people.push(Person {
            account: issued.claims.sub,
            session: issued.claims.sid,
            tokens: vec![token.clone()],
            current: issued.refresh,
            before: None,
            used: Vec::new(),
            ended: None,
            void: None,
        });
        Some(token)
    }

    /// A refresh at the server: what it issues.
    fn presents(&mut self, token: &SecretString) -> Result<(Issued, KeyId), Option<Refused>> {
        if !self.serves() {
            return Err(None);
        }
        self.see_to_horizon();
        let presented = Presented::parse(token).ok_or(None)?;
        let key = self.macs.get(&presented.key()).cloned();
        let listed = self.volume.db.list_keys().iter().any(|row| row.id == presented.key() && row.dead.is_none());
        let (Some(key), true) = (key, listed) else { return Err(Some(Refused::RefreshExpired)) };
        let signs = self.key_that(KeyPurpose::Es256).ok_or(None)?;
        let mac = self.mac().ok_or(None)?;
        let view =
            self.volume.db.load_refresh(presented.grant(), self.time()).ok_or(Some(Refused::RefreshForgotten))?;
        let how = How {
            client: ClientId::FIRST_PARTY,
            proven: false,
            sender: None,
            at_home: false,
            cookie: false,
            user_agent: None,
            ip: None,
        };
        let Decision { outcome, changes } = refresh(&view, &presented, &how, &self.rules, &key, &mac, &mut self.rng);
        if presented.epoch() == view.stamp.epoch && presented.counter() > view.grant.family.counter {
            self.refresh_ahead(&view, &presented);
        }
        if !changes.is_empty() && !self.commit(changes) {
            return Err(None);
        }
        outcome.map(|issued| (issued, signs)).map_err(Some)
    }

    pub fn somebody_refreshes(&mut self) {
        let who = self.rng.index(self.people.len());
        if self.people.get(who).is_some_and(Person::lives) {
            self.refreshes(who);
        }
    }

    /// The person goes on with what they have. Whether they could.
    pub fn refreshes(&mut self, who: usize) -> bool {
        let token = self.people[who].current.clone();
        let Ok((issued, signs)) = self.presents(&token) else { return false };
        self.counts.add("rollback: refreshes");
        let person = &mut self.people[who];
        person.tokens.push((issued.claims, signs));
        let successor = std::mem::replace(&mut person.current, issued.refresh);
        person.used.extend(person.before.replace(successor));
        true
    }

    /// The first account is blocked, or its block is lifted; the journal hears of it.
    pub fn somebody_is_blocked(&mut self) {
        let Some(view) = self.first_account().filter(|_| self.serves()) else { return };
        let decision = match view.account.status {
            Status::Active => account::block(&view, "in this world", None, &By::SYSTEM, &mut self.rng),
            _ => account::unblock(&view, &By::SYSTEM, &mut self.rng),
        };
        if !self.commit(decision.changes) {
            return;
        }
        self.blocked = view.account.status == Status::Active;
        tell!(self, "the first account is blocked: {}; {}", self.blocked, self.place());
        self.counts.add(if self.blocked { "rollback: blocks" } else { "rollback: blocks lifted" });
        if self.blocked {
            let (account, now) = (view.account.id, self.now);
            let theirs = self.people.iter_mut().filter(|person| person.account == account && person.lives());
            theirs.for_each(|person| person.ended = Some(now));
        }
        let line = self.first_account().map(|view| Line::of(&view, Touch::Status));
        self.journal.lines.extend(line);
    }

    /// The first account gets another password; the journal hears of it.
    pub fn somebody_has_another_password(&mut self) {
        let Some(view) = self.first_account().filter(|_| self.serves()) else { return };
        let sessions = self.volume.db.list_sessions(view.account.id, 20, self.time());
        let Some(keep) = sessions.first().map(|view| view.session.id) else { return };
        let next = self.rng.word();
        let decision = account::change_password(&view, next.to_string(), keep, &By::SYSTEM, &mut self.rng);
        if !self.commit(decision.changes) {
            return;
        }
        self.password = next;
        tell!(self, "the first account has another password; {}", self.place());
        self.counts.add("rollback: passwords changed");
        let (account, now) = (view.account.id, self.now);
        let others = self.people.iter_mut().filter(|one| one.account == account && one.lives() && one.session != keep);
        others.for_each(|person| person.ended = Some(now));
        let line = self.first_account().map(|view| Line::of(&view, Touch::Password));
        self.journal.lines.extend(line);
    }

    fn first_account(&self) -> Option<AccountView> {
        let found = self.volume.db.load_sign_in(&email(0), ClientId::FIRST_PARTY, self.time()).account?;
        self.volume.db.load_account(found.id, self.time())
    }

    /// Whoever is blocked in truth cannot sign in, nobody else is blocked, and no old password is right.
    pub fn check_block(&mut self) {
        let now = self.time();
        let is = self.first_account().is_some_and(|view| view.account.block_at(now).is_some());
        if is != self.blocked {
            self.violate(format!("the first account is blocked: {is}, and should be: {}", self.blocked));
        }
        let hash = self.first_account().and_then(|view| view.account.password_hash);
        if self.password != 0 && hash != Some(self.password.to_string()) {
            self.violate("the first account has a password of before".into());
        }
    }

    /// What a refounding without a journal has lost is lost: the operator is told to do it again, and does not here.
    pub fn blocks_as_they_are(&mut self) {
        let now = self.time();
        self.blocked = self.first_account().is_some_and(|view| view.account.block_at(now).is_some());
        let hash = self.first_account().and_then(|view| view.account.password_hash);
        self.password = hash.and_then(|hash| hash.parse().ok()).unwrap_or_default();
        let line = self.first_account().map(|view| Line::of(&view, Touch::Password));
        self.journal.lines.extend(line);
    }

    /// `restore --replay`: into a copy that stood at `copy` before its log was founded anew.
    pub fn replay(&mut self, db: &mut Memory, copy: &Stamp) {
        let now = self.time();
        let mut journal = self.journal.clone();
        if self.has(Lapse::ReplayFirstLine) {
            journal.lines.reverse();
        }
        for (id, mut unknown) in journal.unknown_to(copy) {
            if self.has(Lapse::ReplayLastLineAlone) {
                unknown.password = unknown.line.password.as_deref();
            }
            while let Some(view) = db.load_account(id, now) {
                let decision = replay::decide(&view, &unknown, &By::SYSTEM, &mut self.rng);
                if !decision.changes.is_empty() && db.commit(decision.changes, now).is_ok() {
                    self.counts.add("rollback: acts replayed");
                }
                if !matches!(decision.outcome, Ok(replay::Fate::More)) {
                    break;
                }
            }
        }
    }

    pub fn somebody_is_ended(&mut self) {
        let who = self.rng.index(self.people.len());
        if !self.serves() || !self.people.get(who).is_some_and(Person::lives) {
            return;
        }
        let Person { account, session, .. } = self.people[who];
        if self.volume.db.load_session(session, self.time()).is_none() {
            return; // this database never knew it
        }
        let scope = Scope::Session { account, session };
        let changes = kernel::end(Door::AdminEndSession, scope, None, &By::SYSTEM, &mut self.rng);
        if self.commit(changes) {
            self.counts.add("rollback: ends");
            tell!(self, "{session:?} is ended; {}", self.place());
            self.people[who].ended = Some(self.now);
        }
    }

    /// Somebody who has an old refresh token tries it.
    pub fn a_thief_refreshes(&mut self) {
        let who = self.rng.index(self.people.len());
        let Some(person) = self.people.get(who) else { return };
        let Some(token) = person.used.get(self.rng.index(person.used.len())).cloned() else { return };
        if self.right.is_none() && self.rng.chance(800) {
            return; // it ends the session, and some should live
        }
        let session = person.session;
        match self.presents(&token) {
            Ok(_) if self.told || self.ahead_shown => {
                self.violate(format!("a superseded refresh token of {session:?} brings a successor"));
            }
            Ok(_) => self.counts.add("rollback: superseded tokens taken, the mark lost"),
            Err(Some(Refused::RefreshReused)) => {
                self.counts.add("rollback: thefts caught");
                self.people[who].ended.get_or_insert(self.now);
            }
            Err(_) => self.counts.add("rollback: superseded tokens refused"),
        }
    }
}
