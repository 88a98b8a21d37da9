//! Links in mails: people ask for a new password, hear of sign-ins and of changed passwords, say that it was not them, and follow links
//! late, twice at once, after they were used, and as something that they are not.
//!
//! A mail is in its reader's hands when its commit is on disk. Checked is that a link works once, of one password, and only as long as
//! nothing cut it off; that what it ends has ended; and that no good one is refused.
use crate::clock::At;
use crate::decide::{Facts, Outcome};
use crate::disk::About;
use crate::mutant::Mutant;
use crate::net::From;
use crate::rng::Rng;
use crate::server::{Op, Reply, Request};
use crate::truth::Act;
use crate::world::{Event, World};
use portcullis_domain::changes::{Change, Changes, Committed, Expect};
use portcullis_domain::kernel::{By, Door, Scope};
use portcullis_domain::mail::{self, LinkBody, Template};
use portcullis_domain::model::Status;
use portcullis_domain::recovery::Around;
use portcullis_domain::refused::Refused;
use portcullis_domain::sign_in::Issued;
use portcullis_domain::ticket::{self, Ticket, TicketKind};
use portcullis_domain::view::{AccountView, SessionView, SignInView, Stamp};
use portcullis_domain::{Cut, Decision, recovery};
use portcullis_wire::{AccountId, ClientId, GrantId, Rev, SecretString, SessionId, Time};
use std::collections::BTreeMap;

type Key = [u8; 32];

/// What is asked for with a link, or about one.
#[derive(Debug, Clone)]
pub enum LetterRequest {
    /// A link to a new password, for this account.
    Ask { account: usize },
    /// A new password by a link.
    Reset { letter: Key, secret: SecretString },
    /// "This was not me"; `all`: everything else ends, too.
    NotMe { letter: Key, secret: SecretString, all: bool },
}

/// What is loaded for that.
#[derive(Debug, Clone)]
pub enum LetterFacts {
    Asked(SignInView),
    Link(Box<(Ticket, AccountView, Option<SessionView>)>),
}

/// A mail with a link, as it is in truth.
#[derive(Debug, Clone)]
struct Letter {
    secret: SecretString,
    kind: TicketKind,
    account: AccountId,
    /// What it is about.
    session: Option<SessionId>,
    born: Rev,
    /// The password that the account had when it was written was set by then.
    of: Rev,
    expires_at: Time,
    made: At,
    used: bool,
    said: bool,
}

/// The post, and what really became of each letter.
#[derive(Debug)]
pub struct Letters {
    /// In half of the worlds no mail is sent.
    pub on: bool,
    rng: Rng,
    /// In some worlds links live for so long only.
    short: Option<i64>,
    /// Secrets of letters that are not on disk yet.
    secrets: BTreeMap<Key, SecretString>,
    rows: BTreeMap<Key, Letter>,
    /// All that came, in this order.
    came: Vec<Key>,
    /// When each account got its last password.
    passwords: BTreeMap<AccountId, Rev>,
}

impl Letters {
    /// By a source of its own, so that the other worlds are what they are without it.
    pub fn new(seed: u64) -> Self {
        let mut rng = Rng::new(seed ^ 0x1e77_e250_43aa_9b00);
        let on = rng.chance(500);
        let short = rng.chance(400).then_some(15_000);
        let (secrets, rows, passwords) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
        Self { on, rng, short, secrets, rows, came: Vec::new(), passwords }
    }
}

impl World {
    pub fn make_letters(&mut self) {
        if self.letters.on {
            self.after(6_000, Event::Reader);
        }
    }

    /// Somebody asks for a link, or follows one.
    pub fn reader_acts(&mut self) {
        let rng = &mut self.letters.rng;
        let pause = rng.range(1_500, 7_000) * if self.settings.slow { 6 } else { 1 };
        let (asks, n) = (rng.chance(250), rng.index(self.letters.came.len().min(10)));
        let (slot, all, crossed) = (rng.index(self.accounts.len()), rng.chance(350), rng.chance(80));
        let times = if rng.chance(200) { 2 } else { 1 };
        self.after(pause, Event::Reader);
        let found = self.letters.came.iter().rev().nth(n).copied();
        let found = found.and_then(|letter| Some((letter, self.letters.rows.get(&letter)?.clone())));
        let Some((letter, row)) = found.filter(|_| !asks) else {
            return self.reader_calls(LetterRequest::Ask { account: slot });
        };
        let resets = row.kind == TicketKind::ResetPassword || row.said;
        for _ in 0..times {
            let secret = row.secret.clone();
            self.reader_calls(match resets != crossed {
                true => LetterRequest::Reset { letter, secret },
                false => LetterRequest::NotMe { letter, secret, all },
            });
        }
    }

    fn reader_calls(&mut self, request: LetterRequest) {
        let call = self.fresh();
        self.call(From::Reader, call, Request::Letter(request));
    }

    // ---- the server ----

    pub fn load_for_letter(&self, request: &LetterRequest) -> Result<LetterFacts, Reply> {
        let (now, db) = (self.database.now(self.now), &self.disk.visible);
        let (secret, kinds) = match request {
            LetterRequest::Ask { account } => {
                let view = db.load_sign_in(&self.accounts[*account].1, ClientId::FIRST_PARTY, now);
                return Ok(LetterFacts::Asked(view));
            }
            LetterRequest::Reset { secret, .. } => (secret, &[TicketKind::ResetPassword, TicketKind::NotMe][..]),
            LetterRequest::NotMe { secret, .. } => (secret, &[TicketKind::NotMe][..]),
        };
        let found = kinds.iter().find_map(|kind| db.load_ticket(ticket::id(*kind, secret.expose()), now));
        let ticket = found.ok_or(Reply::Refused(Refused::NotFound))?.ticket;
        let view = ticket.account.and_then(|account| db.load_account(account, now));
        let view = view.ok_or(Reply::Refused(Refused::NotFound))?;
        let about = ticket.read::<LinkBody>().and_then(|body| body.session);
        let session = about.and_then(|id| db.load_session(id, now));
        Ok(LetterFacts::Link(Box::new((ticket, view, session))))
    }

    pub fn decide_for_letter(&mut self, request: &LetterRequest, facts: &LetterFacts) -> Decision<Outcome> {
        match (request, facts) {
            (LetterRequest::Ask { .. }, LetterFacts::Asked(view)) => {
                let changes = recovery::ask(view, true, &self.mac, &mut self.rng);
                Decision { outcome: Ok(Outcome::Done), changes }
            }
            (LetterRequest::Reset { .. }, LetterFacts::Link(link)) => {
                let (mut ticket, mut view, _) = (**link).clone();
                self.read_wrongly(&mut ticket, &mut view);
                let mac = self.mac.clone();
                let by = By::SYSTEM;
                let around = Around { notice: Some(&mac), ..Around::default() };
                let decision = recovery::reset(&view, &ticket, around, "right, too", &by, &mut self.rng);
                let Decision { outcome, mut changes } = decision;
                if self.has(Mutant::LinkWorksTwice) {
                    changes.steps.retain(|step| !matches!(step, Change::UseTicket { .. }));
                }
                if self.has(Mutant::LinkOutlivesEnds) {
                    changes.expects.retain(|expect| !matches!(expect, Expect::Unended { .. }));
                }
                Decision { outcome: outcome.map(|()| Outcome::Ended), changes }
            }
            (LetterRequest::NotMe { all, .. }, LetterFacts::Link(link)) => {
                let (mut ticket, mut view, session) = (**link).clone();
                self.read_wrongly(&mut ticket, &mut view);
                let decision = recovery::not_me(
                    &view,
                    &ticket,
                    session.as_ref(),
                    *all,
                    Around::default(),
                    &By::SYSTEM,
                    &mut self.rng,
                );
                let Decision { outcome, mut changes } = decision;
                if self.has(Mutant::NotMeEndsNothing) {
                    changes.steps.retain(|step| !matches!(step, Change::Revoke(_)));
                }
                Decision { outcome: outcome.map(|()| Outcome::Done), changes }
            }
            _ => Decision::refuse(Refused::NotFound),
        }
    }

    /// Planted bugs: what is not looked at when a link is opened.
    fn read_wrongly(&self, ticket: &mut Ticket, view: &mut AccountView) {
        let present = |ticket: &mut Ticket, password: u32| {
            if let Some(body) = ticket.read::<LinkBody>() {
                ticket.body = Ticket::write(&LinkBody { password, ..body });
            }
        };
        match self.mutant {
            Some(Mutant::LinkOfAnotherPassword) => present(ticket, view.account.password_version),
            Some(Mutant::LinkWorksTwice) => {
                present(ticket, view.account.password_version);
                (ticket.born, ticket.used) = (view.stamp.head, None);
            }
            Some(Mutant::LinkOutlivesEnds) => (view.all_ended, view.stamp.all) = (Rev::ZERO, Cut::default()),
            _ => {}
        }
    }

    /// The mail about a sign-in on a device that is not known.
    pub fn mail_of_sign_in(&mut self, issued: &Issued, stamp: &Stamp) -> Vec<Change> {
        if !self.letters.on {
            return Vec::new();
        }
        let letter = mail::Letter::of(Template::NewDevice, &issued.account).about(issued.session.id);
        mail::write(letter, stamp, &self.mac, &mut self.rng)
    }

    /// The mail about a new password.
    pub fn mail_of_change(&mut self, view: &AccountView, session: SessionId) -> Vec<Change> {
        if !self.letters.on {
            return Vec::new();
        }
        let letter = mail::Letter::of(Template::PasswordChanged, &view.account).about(session).with_new_password();
        mail::write(letter, &view.stamp, &self.mac, &mut self.rng)
    }

    /// Mails do not wait in the outbox here: their links are kept, to be handed over when they are on disk.
    pub fn post(&mut self, changes: &mut Changes) {
        if !self.letters.on {
            return;
        }
        let (letters, mac, now) = (&mut self.letters, &self.mac, self.database.now(self.now));
        changes.steps.retain(|step| {
            let Change::InsertMessage(message) = step else { return true };
            let Some(body) = message.mail_body() else { return true };
            let kind = Template::parse(&body.template).and_then(Template::link);
            if let Some(kind) = kind {
                let secret = mail::link_secret(mac, kind, message.id);
                letters.secrets.insert(ticket::id(kind, secret.expose()).0, secret);
            }
            false
        });
        let Some(short) = letters.short else { return };
        for step in &mut changes.steps {
            if let Change::InsertTicket(ticket) = step
                && matches!(ticket.kind, TicketKind::ResetPassword | TicketKind::NotMe)
            {
                ticket.expires_at = ticket.expires_at.min(now.plus(short));
            }
        }
    }

    // ---- what really happened ----

    /// What a commit on disk did with links. `about`: on which facts it rests. Before its own act is known.
    pub fn truth_of_letters(&mut self, about: &About, changes: &Changes, committed: Committed) {
        if !self.letters.on {
            return;
        }
        if let Some(used) = &about.letter {
            self.check_link_used(used, committed);
        }
        for step in &changes.steps {
            match step {
                Change::UseTicket { ticket, .. } => {
                    if let Some(letter) = self.letters.rows.get_mut(&ticket.0) {
                        letter.used = true;
                    }
                }
                Change::SetPassword { account, rehash: false, .. } => {
                    self.letters.passwords.insert(*account, committed.rev.unwrap_or_default());
                }
                _ => {}
            }
        }
        if let Some(LetterRequest::Reset { letter, .. }) = &about.letter
            && let Some(row) = self.letters.rows.get_mut(letter)
        {
            row.used = true; // whatever was written
        }
        let sets = changes.steps.iter().any(|step| matches!(step, Change::SetPassword { rehash: false, .. }));
        for step in &changes.steps {
            let Change::InsertTicket(ticket) = step else { continue };
            let (Some(account), Some(secret)) = (ticket.account, self.letters.secrets.remove(&ticket.id.0)) else {
                continue;
            };
            let of = if sets { committed.rev.unwrap_or_default() } else { about.facts };
            let session = ticket.read::<LinkBody>().and_then(|body| body.session);
            let (kind, born, expires_at, made) = (ticket.kind, about.facts, ticket.expires_at, self.now);
            let row = Letter { secret, kind, account, session, born, of, expires_at, made, used: false, said: false };
            self.letters.rows.insert(ticket.id.0, row);
            self.letters.came.push(ticket.id.0);
        }
    }

    /// I13: a link works once, of one password, and while nothing cut it off. I7: of nobody who is blocked. I1: what it ends has ended.
    fn check_link_used(&mut self, request: &LetterRequest, committed: Committed) {
        let (letter, all) = match request {
            LetterRequest::Ask { .. } => return self.counts.add("letters: asked for"),
            LetterRequest::Reset { letter, .. } => (letter, true),
            LetterRequest::NotMe { letter, all, .. } => (letter, *all),
        };
        let Some(row) = self.letters.rows.get(letter).cloned() else { return };
        let resets = matches!(request, LetterRequest::Reset { .. });
        let account = row.account;
        if row.used || (row.said && !resets) {
            return self.violate("I13", format!("a link of {account} works twice"));
        }
        if resets && row.kind == TicketKind::NotMe && !row.said {
            return self
                .violate("I13", format!("a link of {account} sets a password, and nobody said that it was not them"));
        }
        if let Some(rev) = self.letters.passwords.get(&account).filter(|rev| **rev > row.of) {
            return self.violate("I13", format!("a link of {account} works, which has another password since {rev}"));
        }
        if let Some(act) = self.cut_off(&row) {
            let (door, rev) = (act.door, act.rev);
            return self.violate("I13", format!("a link of {account} works after {door:?} at {rev}"));
        }
        let blocked = match self.stands(account) {
            Some(Status::Blocked(block)) => block.until.is_none_or(|until| until > committed.at),
            Some(Status::Deleting { .. } | Status::Deleted { .. }) => true,
            _ => false,
        };
        if blocked && !self.database.was_set_since(self.now - 30_000) {
            return self.violate("I7", format!("a link of {account} works, which may not be used"));
        }
        let now = committed.at;
        let left = match row.session.filter(|_| !all) {
            Some(session) => {
                let view = self.disk.durable.load_session(session, now);
                view.is_some_and(|view| view.dead(i64::MAX).is_none())
            }
            None => self
                .disk
                .durable
                .load_account(account, now)
                .is_none_or(|view| Some(view.account.cut.rev) != committed.rev),
        };
        if left {
            return self
                .violate("I1", format!("a link of {account} was followed ({request:?}), and what it ends lives"));
        }
        self.counts.add(match (resets, all) {
            (true, _) => "letters: a new password",
            (false, false) => "letters: not me",
            (false, true) => "letters: not me, and everything",
        });
        if let Some(row) = self.letters.rows.get_mut(letter)
            && !resets
        {
            row.said = true;
        }
    }

    /// What cut a link to a new password off: an end of everything of its account, and not one of all sessions but one.
    fn cut_off(&self, row: &Letter) -> Option<&Act> {
        let (session, grant) = (SessionId::from_bits(0), GrantId::from_bits(0));
        let whole = |act: &&Act| match act.scope {
            Scope::Account(_) => act.only.is_none() && act.except.is_none(),
            Scope::All => act.only.is_none(),
            _ => false,
        };
        let mut acts = self.truth.acts.iter().filter(whole);
        let cuts = |act: &&Act| act.rev > row.born && act.is_about(row.account, session, grant);
        if row.kind == TicketKind::ResetPassword { acts.find(cuts) } else { None }
    }

    /// What a reader is answered. I11: a good link is not refused.
    pub fn check_letter_reply(&mut self, op: &Op, request: &LetterRequest, reply: &Reply) {
        if let (Reply::Done | Reply::Revoked { .. }, Some(rev)) = (reply, op.committed.and_then(|done| done.rev))
            && let Some(n) = self.truth.by_rev.get(&rev).copied()
            && self.truth.acts[n].acked.is_none()
        {
            self.truth.acts[n].acked = Some(self.now);
            let bound = self.settings.bound;
            self.probe_killed_by(n, bound);
        }
        let (LetterRequest::Reset { letter, .. } | LetterRequest::NotMe { letter, .. }) = request else { return };
        let Reply::Refused(refused) = reply else { return };
        if matches!(refused, Refused::AccountBlocked { .. }) {
            return self.counts.add("letters: told that it is blocked");
        }
        let Some(row) = self.letters.rows.get(letter).cloned() else { return };
        let resets = matches!(request, LetterRequest::Reset { .. });
        let (old, other) = (self.database.highest(self.now) >= row.expires_at, row.kind == TicketKind::ResetPassword);
        let crossed = if resets { !other && !row.said } else { other };
        let password = self.letters.passwords.get(&row.account).is_some_and(|rev| *rev > row.of);
        let cut = self.cut_off(&row).is_some();
        let gone = !matches!(self.stands(row.account), None | Some(Status::Active | Status::Blocked(_)));
        // It may be read before others can see its commit.
        let young = op.facts.is_none() && self.now - row.made < 30_000;
        let raced = matches!(refused, Refused::Conflict { .. });
        if !(row.used || old || crossed || password || cut || gone || young || raced) {
            let (account, kind) = (row.account, row.kind);
            return self.violate("I11", format!("a good link of {account} ({kind:?}) was refused: {refused:?}"));
        }
        self.counts.add(match () {
            () if crossed => "letters: refused: of another kind",
            () if row.used => "letters: refused: used",
            () if password => "letters: refused: of another password",
            () if cut => "letters: refused: cut off",
            () if old => "letters: refused: too old",
            () => "letters: refused for another reason",
        });
    }
}

/// The act of a link, by what was asked for.
pub fn act_of(op: &Op, request: &LetterRequest) -> Option<Act> {
    let Some(Facts::Letter(LetterFacts::Link(link))) = &op.facts else { return None };
    let (account, about) = (link.1.account.id, link.0.read::<LinkBody>().and_then(|body| body.session));
    let (door, scope) = match (request, op.outcome.as_ref()?) {
        (LetterRequest::Reset { .. }, Ok(_)) => (Door::PasswordReset, Scope::Account(account)),
        (LetterRequest::NotMe { all, .. }, Ok(_)) => {
            match about.filter(|_| !all && link.2.as_ref().is_some_and(recovery::lives)) {
                Some(session) => (Door::NotMe, Scope::Session { account, session }),
                None => (Door::NotMe, Scope::Account(account)),
            }
        }
        _ => return None,
    };
    Some(Act::of(door, scope))
}

/// What a request does with a link.
pub fn letter_of(request: &Request) -> Option<LetterRequest> {
    match request {
        Request::Letter(request) => Some(request.clone()),
        _ => None,
    }
}
