//! Who is told of an end: two nodes that make messages of notices, claim them, send them and write down what came of it, and that
//! die between any two of these steps, while receivers fail. And the proof that whoever must be told is told, or will be; that
//! nobody is told of what did not end; and that no message is in two hands at once.
use crate::clock::At;
use crate::disk::{About, Owner};
use crate::mutant::Mutant;
use crate::rng::Rng;
use crate::truth::Act;
use crate::world::{Event, World, tell};
use portcullis_domain::changes::{Change, Changes, Committed};
use portcullis_domain::kernel::{Door, Scope};
use portcullis_domain::model::SessionKind;
use portcullis_domain::outbox::{self, Message, MessageState, Notice, NoticeStep};
use portcullis_store::CommitError;
use portcullis_store::memory::Memory;
use portcullis_wire::{ClientId, GrantId, MessageId, Rev, SessionId, Time};
use std::collections::BTreeMap;

/// How many nodes send.
const SENDERS: usize = 2;
/// So many sessions are looked at in one step: few, so that most notices take several.
const LOOK: u32 = 2;

#[derive(Debug, Clone)]
enum Doing {
    Nothing,
    Spreading,
    Claiming(Message),
    Sending(Message),
    Settling,
}

/// A node that sends.
#[derive(Debug)]
pub struct Sender {
    life: u32,
    doing: Doing,
    since: At,
}

/// That a client must hear of an end.
#[derive(Debug, Clone, Copy)]
struct Must {
    client: ClientId,
    session: SessionId,
    rev: Rev,
    at: At,
}

/// The senders, and what really happened.
#[derive(Debug, Default)]
pub struct Told {
    senders: Vec<Sender>,
    must: Vec<Must>,
    /// When each client was last told of each session.
    sent: BTreeMap<(ClientId, SessionId), At>,
    /// The session in which an application's own one was allowed.
    pub allowed_in: BTreeMap<SessionId, SessionId>,
    /// Who holds a message, and until when by the database.
    in_hand: BTreeMap<MessageId, (usize, Time, At)>,
    /// In some worlds nobody makes messages of notices for a while.
    rest: std::ops::Range<At>,
}

impl Told {
    /// By a source of its own, so that the other worlds are what they are without it.
    pub fn new(seed: u64) -> Self {
        let mut rng = Rng::new(seed ^ 0x2f61_d05c_9b1e_4a00);
        let from = if rng.chance(250) { rng.range(15_000, 50_000) } else { At::MAX };
        Self { rest: from..from.saturating_add(rng.range(50_000, 90_000)), ..Self::default() }
    }
}

impl World {
    pub fn make_senders(&mut self) {
        for sender in 0..SENDERS {
            self.told.senders.push(Sender { life: 0, doing: Doing::Nothing, since: 0 });
            self.after(2_000, Event::Sender { sender, life: 0 });
        }
    }

    /// The next step of a node that sends.
    pub fn sender_acts(&mut self, sender: usize, life: u32) {
        if self.told.senders[sender].life != life {
            return;
        }
        let pause = self.rng.range(60, 400);
        self.after(pause, Event::Sender { sender, life });
        if !self.node.up {
            return self.sender_does(sender, Doing::Nothing); // what it waited for is lost
        }
        match self.told.senders[sender].doing.clone() {
            Doing::Nothing if self.rng.chance(500) => self.spreads(sender),
            Doing::Nothing => self.claims(sender),
            Doing::Sending(message) => self.sends(sender, &message),
            // An answer that comes late is nobody's any more.
            _ if self.now - self.told.senders[sender].since > 8_000 => {
                self.sender_does(sender, Doing::Nothing);
                self.told.senders[sender].life += 1;
                self.after(pause, Event::Sender { sender, life: life + 1 });
            }
            _ => {}
        }
    }

    fn sender_does(&mut self, sender: usize, doing: Doing) {
        let one = &mut self.told.senders[sender];
        (one.doing, one.since) = (doing, self.now);
    }

    /// Rarely, the node dies at this point, and another one takes its place later.
    fn sender_may_die(&mut self, sender: usize) -> bool {
        if !self.rng.chance(25) {
            return false;
        }
        self.counts.add("outbox: a sender died");
        self.told.senders[sender].life += 1;
        self.sender_does(sender, Doing::Nothing);
        let (life, pause) = (self.told.senders[sender].life, self.rng.range(500, 5_000));
        self.after(pause, Event::Sender { sender, life });
        true
    }

    fn receives(&self, client: ClientId) -> bool {
        self.client_is_on(client)
    }

    fn spreads(&mut self, sender: usize) {
        let notices = self.disk.visible.list_notices(4);
        if notices.is_empty() || self.told.rest.contains(&self.now) {
            return;
        }
        let notice = notices[self.rng.index(notices.len())].clone();
        let told = self.disk.visible.read_told(&notice, LOOK);
        let (now, idle_ttl) = (self.database.now(self.now), self.settings.rules.idle_ttl);
        let mut to = told.next;
        if self.has(Mutant::NoticeFirstPage) {
            to = None;
        }
        let step = NoticeStep { seq: notice.seq, from: notice.cursor, to };
        let mut steps = vec![Change::StepNotice(step)];
        for under in &told.found {
            let mut clients = outbox::clients_told(&notice, under, told.all, idle_ttl);
            if self.has(Mutant::ToldOfTheSpared) {
                clients = under.grants.iter().map(|grant| (grant.client, under.session.id)).collect();
            }
            if self.has(Mutant::AppsForgotten) {
                clients.retain(|(_, session)| *session == under.session.id);
            }
            for (client, session) in clients {
                if session != under.session.id {
                    self.counts.add("outbox: an application is told of the browser that allowed it");
                }
                if self.receives(client) {
                    let message = outbox::logout(client, under.session.account, session, now, &mut self.rng);
                    steps.push(Change::InsertMessage(message));
                }
            }
        }
        self.counts.add("outbox: notices spread");
        self.sender_does(sender, Doing::Spreading);
        self.sender_commits(sender, steps);
    }

    fn claims(&mut self, sender: usize) {
        let now = self.database.now(self.now);
        let due = self.disk.visible.due_messages(&[], None, 100, now).messages;
        if due.is_empty() {
            return;
        }
        let claim = due[self.rng.index(due.len())].claimed(now);
        self.sender_does(sender, Doing::Claiming(claim.clone()));
        self.sender_commits(sender, vec![Change::UpdateMessage(claim)]);
    }

    fn sender_commits(&mut self, sender: usize, steps: Vec<Change>) {
        let life = self.told.senders[sender].life;
        self.submit(Owner::Sender(sender, life), Changes { steps, ..Changes::default() }, About::default());
    }

    /// What a node committed was told to it.
    pub fn sender_committed(&mut self, sender: usize, life: u32, result: &Result<Committed, CommitError>) {
        if self.told.senders[sender].life != life || self.sender_may_die(sender) {
            return;
        }
        let doing = self.told.senders[sender].doing.clone();
        // Without the version that it was read at, whoever was refused would send all the same.
        let blind = self.has(Mutant::ClaimedBlindly) && matches!(result, Err(CommitError::Conflict(_)));
        match doing {
            Doing::Claiming(claim) if result.is_ok() || blind => self.claimed(sender, claim),
            Doing::Settling | Doing::Spreading | Doing::Claiming(_) => self.sender_does(sender, Doing::Nothing),
            Doing::Sending(_) | Doing::Nothing => {}
        }
    }

    /// A message is in its hands. Nobody else's, as long as the claim lasts.
    fn claimed(&mut self, sender: usize, claim: Message) {
        let now = self.database.now(self.now);
        let held = self.told.in_hand.insert(claim.id, (sender, claim.next_at, self.now));
        if let Some((other, until, at)) = held
            && other != sender
            && now < until
            && !self.database.was_set_since(at - 5_000)
        {
            return self.violate("I13", format!("a message is in the hands of sender {other} and of {sender}"));
        }
        let claim = Message { version: claim.version + 1, ..claim };
        if self.has(Mutant::SettledBeforeSent) {
            // Written down as sent; what is sent afterwards is lost with the node.
            self.sender_commits(sender, vec![Change::UpdateMessage(claim.done(now))]);
        }
        self.sender_does(sender, Doing::Sending(claim));
    }

    fn sends(&mut self, sender: usize, message: &Message) {
        if self.sender_may_die(sender) {
            return;
        }
        let (Some(client), Some(body)) = (message.client, message.logout_body()) else { return };
        let now = self.database.now(self.now);
        let next = match (self.receives(client), self.rng.chance(120)) {
            (false, _) => message.dead(now, "the client is switched off"),
            (true, true) => {
                self.counts.add("outbox: a receiver failed");
                message.failed(now, "answered 503", &mut self.rng)
            }
            (true, false) => {
                self.hears(client, body.session);
                message.done(now)
            }
        };
        if self.sender_may_die(sender) {
            return;
        }
        self.told.in_hand.remove(&message.id);
        self.sender_does(sender, Doing::Settling);
        if self.has(Mutant::SettledBeforeSent) {
            return;
        }
        self.sender_commits(sender, vec![Change::UpdateMessage(next)]);
    }

    /// I11: what a client hears is true.
    fn hears(&mut self, client: ClientId, session: SessionId) {
        tell!(self, "{client} hears that {session} has ended");
        self.counts.add("outbox: told");
        self.told.sent.insert((client, session), self.now);
        let account = self.truth.sessions.get(&session).map(|fact| fact.account);
        let grants = self.truth.under.get(&session).cloned().unwrap_or_default();
        let ended = account.is_some_and(|account| {
            let mut its = grants.iter().filter(|(_, whose)| *whose == client);
            its.any(|(grant, _)| {
                self.truth.acts.iter().any(|act| {
                    act.only.as_ref().is_none_or(|only| only.contains(&session))
                        && act.is_about_grant(account, session, *grant, client)
                })
            })
        });
        // Whoever signs out in a browser signs out of the applications that were allowed there.
        let browser = self.told.allowed_in.get(&session).zip(account);
        let signed_out = browser.is_some_and(|(browser, account)| {
            let own = self.truth.sessions.get(&session).is_some_and(|fact| fact.client == Some(client));
            own && self.truth.acts.iter().any(|act| act.is_about(account, *browser, GrantId::from_bits(0)))
        });
        if !ended && !signed_out {
            let detail = format!("{client} was told of {session}, where nothing of it has ended");
            self.violate("I11", detail);
        }
    }

    // ---- what really happened ----

    /// Whoever has something living under what was ended must hear of it. `before` is the database as it was.
    pub fn truth_of_told(&mut self, before: &Memory, first_act: usize, at: Time) {
        let acts: Vec<Act> = self.truth.acts[first_act..].to_vec();
        for act in acts {
            // Of a filter's sessions their job tells, each in its turn; what a client gave up itself it knows.
            let quiet = matches!(act.door, Door::Filter | Door::KeyRevoked | Door::Refound)
                || matches!(act.scope, Scope::Token { .. })
                || matches!(act.scope, Scope::Grant { .. }) && act.door == Door::TokenRevoked;
            if !quiet {
                self.must_hear(before, &act, at);
            }
        }
    }

    fn must_hear(&mut self, before: &Memory, act: &Act, at: Time) {
        let idle_ttl = self.settings.rules.idle_ttl;
        let mut must = Vec::new();
        for session in self.truth.under.keys() {
            let Some(view) = before.load_session(*session, at) else { continue };
            let kind = view.session.kind;
            let people = matches!(kind, SessionKind::Browser | SessionKind::App | SessionKind::Connected);
            if !people || view.dead(idle_ttl).is_some() {
                continue;
            }
            let account = view.account.id;
            if let (Some(browser), Some(client)) = (view.session.allowed_in, view.session.client) {
                let off = before.load_client(client, at).is_none_or(|view| view.client.disabled);
                let lives = before.load_session(browser, at).is_some_and(|view| view.dead(idle_ttl).is_none());
                if matches!(act.scope, Scope::Session { session, .. } if session == browser) && lives && !off {
                    must.push(Must { client, session: *session, rev: act.rev, at: self.now });
                }
            }
            for under in before.list_grants(account, None, 1000, at) {
                let (grant, client) = (under.grant.id, under.grant.client);
                let off = before.load_client(client, at).is_none_or(|view| view.client.disabled);
                if under.session.id == *session
                    && client != ClientId::FIRST_PARTY
                    && !off
                    && act.is_about_grant(account, *session, grant, client)
                {
                    must.push(Must { client, session: *session, rev: act.rev, at: self.now });
                }
            }
        }
        self.told.must.extend(must);
    }

    /// I9, at the end: whoever must hear has heard, or there is a row that will make it so.
    pub fn check_told_at_the_end(&mut self) {
        let waiting: Vec<Message> = {
            let all = self.disk.durable.list_messages(&portcullis_store::MessageFilter::default(), None, u32::MAX);
            all.rows.into_iter().filter(|one| one.state == MessageState::Waiting).collect()
        };
        let notices: Vec<Notice> = self.disk.durable.list_notices(u32::MAX);
        for must in &self.told.must {
            let heard = self.told.sent.get(&(must.client, must.session)).is_some_and(|at| *at >= must.at);
            let will = waiting.iter().any(|one| {
                one.client == Some(must.client) && one.logout_body().is_some_and(|body| body.session == must.session)
            });
            // One act may write several entries, each with a notice.
            let noticed = notices.iter().any(|one| one.rev <= must.rev && one.rev.0 + 40 > must.rev.0);
            // Nobody is told who was switched off since.
            let off = self.truth.acts.iter().any(|act| {
                act.door == Door::ClientOff && act.scope == Scope::Client(must.client) && act.rev >= must.rev
            });
            if !(heard || will || noticed || off) {
                let (client, session, rev) = (must.client, must.session, must.rev);
                return self.violate("I9", format!("{client} is never told that {session} was ended by {rev}"));
            }
        }
    }
}
