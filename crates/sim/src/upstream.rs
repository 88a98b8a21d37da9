//! Another provider, or two: people who sign in by it and are on their way back when they sign out there, and what it tells us then.
//! Two people have the same name at two providers. And people who are new, and are asked whether they want an account: some do not, some
//! never answer, some answer twice.
use crate::decide::{Facts, Outcome};
use crate::mutant::Mutant;
use crate::net::From;
use crate::rng::Rng;
use crate::server::{Op, Reply, Request};
use crate::truth::Act;
use crate::world::{Event, World, tell};
use portcullis_domain::amr::Amr;
use portcullis_domain::changes::{Change, Changes};
use portcullis_domain::kernel::{self, By, Door, Scope};
use portcullis_domain::model::SessionKind;
use portcullis_domain::refused::Refused;
use portcullis_domain::sign_in::SignIn;
use portcullis_domain::ticket::{self, Ticket, TicketKind};
use portcullis_domain::upstream::{self, Begun, CameFrom, Identity, Link, LinkView, Newcomer, Origin};
use portcullis_domain::view::Stamp;
use portcullis_domain::{Chance as _, Decision};
use portcullis_wire::{AccountId, Digest, LinkId, Rev, SecretString, SessionId, Target, Time};
use std::collections::{BTreeMap, BTreeSet};

/// Who is which account where: provider, name there.
const PEOPLE: [(&str, &str); 3] =
    [("https://one.example", "sub"), ("https://two.example", "sub"), ("https://one.example", "another")];

/// What is asked for.
#[derive(Debug, Clone)]
pub enum UpstreamRequest {
    /// A browser leaves for a provider.
    Leave,
    /// And comes back, as this person.
    Arrive { person: usize, sid: String, begun: Begun, agent: String, cookie: bool },
    /// Somebody new says whether they want an account.
    Answer { ticket: SecretString, yes: bool },
    /// A provider says that somebody signed out there: first no sign-in that is under way counts any more,
    MarkOut { from: CameFrom },
    /// and then what came from there ends, one after the other.
    EndFrom { from: CameFrom },
}

/// What is loaded for that.
#[derive(Debug, Clone)]
pub enum UpstreamFacts {
    Stamp(Stamp),
    Link(Box<LinkView>),
    /// What somebody new was asked.
    Question(Stamp, Option<Ticket>),
    Sessions(Vec<(AccountId, SessionId)>),
}

/// The providers, and what really happened there.
#[derive(Debug)]
pub struct Providers {
    calls: BTreeMap<u64, UpstreamRequest>,
    rng: Rng,
    /// Which person each call of somebody new is about.
    new: BTreeMap<u64, usize>,
    /// How many people are new.
    people: usize,
    /// Who has said that they want an account.
    yes: BTreeSet<String>,
    made: BTreeSet<String>,
    /// From where each session came.
    origins: BTreeMap<SessionId, Origin>,
    /// Who signed out where: as of which time of the database.
    outs: Vec<(String, String, Time)>,
    sids: u64,
}

impl Providers {
    /// By a source of its own, which decides when somebody new comes and what they answer.
    pub fn new(seed: u64) -> Self {
        let rng = Rng::new(seed ^ 0x5a2c_0d17_e94b_6600);
        let (calls, new, origins) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
        let (yes, made) = (BTreeSet::new(), BTreeSet::new());
        Self { calls, rng, new, people: 0, yes, made, origins, outs: Vec::new(), sids: 0 }
    }
}

/// A person's name there: of the first few an account is known, the others are new.
fn name_of(person: usize) -> (&'static str, String) {
    let known = PEOPLE.get(person).map(|(issuer, subject)| (*issuer, (*subject).to_owned()));
    known.unwrap_or_else(|| ("https://two.example", format!("new-{person}")))
}

impl World {
    pub fn make_links(&mut self) {
        let now = self.database.now(0);
        for (person, (issuer, subject)) in PEOPLE.iter().enumerate() {
            let link = Link {
                id: LinkId::from_bits(self.rng.bits()),
                issuer: (*issuer).into(),
                subject: (*subject).into(),
                account: self.accounts[person].0,
                upstream: "up".into(),
                label: None,
                created_at: now,
                used_at: now,
                out_at: None,
            };
            self.disk.set_up(Changes { steps: vec![Change::InsertLink(link)], ..Changes::default() }, now);
        }
        self.after(9_000, Event::Provider);
        if self.providers.rng.chance(500) {
            self.after(5_000, Event::Newcomer);
        }
    }

    /// Whether whoever has this account may come by a provider.
    pub fn has_link(&self, account: usize) -> bool {
        account < PEOPLE.len()
    }

    /// A person is back from the provider.
    pub fn arrival(&mut self, person: usize, begun: Begun, agent: String, cookie: bool) -> Request {
        self.providers.sids += 1;
        let sid = format!("sid-{}", self.providers.sids);
        Request::Upstream(UpstreamRequest::Arrive { person, sid, begun, agent, cookie })
    }

    /// Somebody signs out there.
    pub fn provider_acts(&mut self) {
        let pause = self.rng.range(2_000, 9_000);
        self.after(pause, Event::Provider);
        let (issuer, subject) = self.rng.pick(&PEOPLE);
        let known = self.providers.origins.values().filter(|origin| origin.issuer == issuer);
        let sids: Vec<Option<String>> = known.map(|origin| origin.sid.clone()).collect();
        let sid = if sids.is_empty() || self.rng.chance(600) { None } else { sids[self.rng.index(sids.len())].clone() };
        let subject = if sid.is_some() && self.rng.chance(500) { None } else { Some(subject.to_owned()) };
        self.provider_calls(UpstreamRequest::MarkOut { from: CameFrom { issuer: issuer.into(), subject, sid } });
    }

    fn provider_calls(&mut self, request: UpstreamRequest) {
        let call = self.fresh();
        self.providers.calls.insert(call, request.clone());
        self.call(From::Provider, call, Request::Upstream(request));
    }

    pub fn at_provider(&mut self, call: u64, reply: &Reply) {
        let Some(asked) = self.providers.calls.remove(&call) else { return };
        match (asked, reply) {
            (UpstreamRequest::MarkOut { from }, Reply::Done) => {
                self.provider_calls(UpstreamRequest::EndFrom { from });
            }
            (again @ UpstreamRequest::EndFrom { .. }, Reply::Revoked { .. }) | (again, Reply::Unavailable) => {
                self.provider_calls(again);
            }
            _ => {}
        }
    }

    // ---- the server ----

    pub fn load_for_upstream(&self, request: &UpstreamRequest) -> UpstreamFacts {
        let (now, db) = (self.database.now(self.now), &self.disk.visible);
        match request {
            UpstreamRequest::Leave | UpstreamRequest::MarkOut { .. } => UpstreamFacts::Stamp(self.stamp()),
            UpstreamRequest::Arrive { person, .. } => {
                let (issuer, subject) = name_of(*person);
                let mut view = db.load_link(issuer, &subject, now);
                if self.has(Mutant::UpstreamLateArrival)
                    && let Some((link, _)) = &mut view.found
                {
                    link.out_at = None;
                }
                UpstreamFacts::Link(Box::new(view))
            }
            UpstreamRequest::Answer { ticket, .. } => {
                let found = db.load_ticket(question(ticket), now);
                UpstreamFacts::Question(self.stamp(), found.map(|view| view.ticket))
            }
            UpstreamRequest::EndFrom { from } => {
                let mut sessions = db.list_sessions_from(from, None, 100);
                if self.has(Mutant::UpstreamByNameAlone) {
                    for (issuer, _) in PEOPLE {
                        let there = CameFrom { issuer: issuer.into(), ..from.clone() };
                        sessions.extend(db.list_sessions_from(&there, None, 100));
                    }
                }
                UpstreamFacts::Sessions(sessions)
            }
        }
    }

    pub fn decide_for_upstream(&mut self, request: &UpstreamRequest, facts: &UpstreamFacts) -> Decision<Outcome> {
        match (request, facts) {
            (UpstreamRequest::Leave, UpstreamFacts::Stamp(stamp)) => {
                let begun = Begun { born: stamp.head, epoch: stamp.epoch, at: stamp.now };
                Decision::answer(Outcome::Away(begun))
            }
            (UpstreamRequest::Arrive { person, sid, begun, agent, cookie }, UpstreamFacts::Link(view)) => {
                let identity = identity_of(*person, Some(sid.clone()));
                let Some((link, account)) = &view.found else {
                    return self.decide_for_newcomer(&view.stamp, &identity, *begun);
                };
                let request = SignIn {
                    kind: if *cookie { SessionKind::Browser } else { SessionKind::App },
                    device_name: None,
                    user_agent: Some(agent.clone()),
                    ip: None,
                    cookie: None,
                };
                let (rules, mac) = (&self.settings.rules, &self.mac);
                let mut signed_in = upstream::sign_in(
                    &view.stamp,
                    link,
                    account,
                    &identity,
                    *begun,
                    &request,
                    rules,
                    mac,
                    &mut self.rng,
                );
                if self.has(Mutant::UpstreamLateArrival) {
                    signed_in.changes.steps.retain(|step| !matches!(step, Change::UseLink { .. }));
                }
                let Decision { outcome, changes } = self.limited(account.id, signed_in);
                Decision { outcome: outcome.map(|issued| Outcome::Issued(Box::new(issued))), changes }
            }
            (UpstreamRequest::Answer { .. }, UpstreamFacts::Question(stamp, ticket)) => {
                let open = ticket.as_ref().filter(|ticket| ticket.is_open(stamp.epoch, stamp.now));
                let Some(ticket) = open else { return Decision::refuse(Refused::NotFound) };
                let steps = vec![Change::UseTicket { ticket: ticket.id, at: stamp.now, grant: None }];
                Decision { outcome: Ok(Outcome::Done), changes: Changes { steps, ..Changes::default() } }
            }
            (UpstreamRequest::MarkOut { from }, UpstreamFacts::Stamp(stamp)) => {
                let Some(subject) = from.subject.clone() else { return Decision::answer(Outcome::Done) };
                let steps = vec![Change::SignOutLink { issuer: from.issuer.clone(), subject, at: stamp.now }];
                Decision { outcome: Ok(Outcome::Done), changes: Changes { steps, ..Changes::default() } }
            }
            (UpstreamRequest::EndFrom { .. }, UpstreamFacts::Sessions(sessions)) => {
                let Some((account, session)) = sessions.first().copied() else {
                    return Decision::answer(Outcome::Done);
                };
                let scope = Scope::Session { account, session };
                let changes = kernel::end(Door::UpstreamLogout, scope, None, &By::SYSTEM, &mut self.rng);
                Decision { outcome: Ok(Outcome::Ended), changes }
            }
            _ => Decision::refuse(Refused::NotFound),
        }
    }

    // ---- somebody new ----

    /// Somebody who is new leaves for the provider, or somebody who was.
    pub fn newcomer_acts(&mut self) {
        let rng = &mut self.providers.rng;
        let pause = rng.range(4_000, 18_000) * if self.settings.slow { 4 } else { 1 };
        let person = if rng.chance(600) { self.providers.people } else { rng.index(self.providers.people + 1) };
        self.providers.people = self.providers.people.max(person + 1);
        self.after(pause, Event::Newcomer);
        self.newcomer_calls(PEOPLE.len() + person, UpstreamRequest::Leave);
    }

    fn newcomer_calls(&mut self, person: usize, request: UpstreamRequest) {
        let call = self.fresh();
        self.providers.new.insert(call, person);
        self.call(From::Newcomer, call, Request::Upstream(request));
    }

    pub fn newcomer_arrives(&mut self, person: usize, begun: Begun) {
        let (agent, cookie) = ("firefox".to_owned(), true);
        self.providers.sids += 1;
        let sid = format!("sid-{}", self.providers.sids);
        self.newcomer_calls(person, UpstreamRequest::Arrive { person, sid, begun, agent, cookie });
    }

    pub fn newcomer_answers(&mut self, person: usize, ticket: SecretString, yes: bool) {
        if yes {
            self.providers.yes.insert(name_of(person).1);
        }
        self.newcomer_calls(person, UpstreamRequest::Answer { ticket, yes });
    }

    pub fn at_newcomer(&mut self, call: u64, reply: Reply) {
        let Some(person) = self.providers.new.remove(&call) else { return };
        let rng = &mut self.providers.rng;
        match reply {
            Reply::Away(begun) => {
                let away = rng.range(200, 4_000);
                self.after(away, Event::NewcomerArrives { person, begun });
            }
            Reply::Code(ticket) => {
                let (thinks, yes, never) = (rng.range(300, 4_000), rng.chance(650), rng.chance(150));
                let times = if rng.chance(250) { 2 } else { 1 };
                self.counts.add("newcomers: asked");
                for _ in 0..if never { 0 } else { times } {
                    self.after(thinks, Event::NewcomerAnswers { person, ticket: ticket.clone(), yes });
                }
            }
            _ => {}
        }
    }

    /// Nobody gets an account before they have said that they want one.
    fn decide_for_newcomer(&mut self, stamp: &Stamp, who: &Identity, begun: Begun) -> Decision<Outcome> {
        if self.has(Mutant::NewcomerUnasked) {
            let Decision { outcome, changes } = upstream::new_account(stamp, who, None, &mut self.rng);
            return Decision { outcome: outcome.map(|_| Outcome::Done), changes };
        }
        let secret = SecretString::new(format!("{:032x}", self.rng.bits()));
        let identity = Identity { email: None, name: None, auth_time: None, amr: Amr::unknown(), ..who.clone() };
        let newcomer =
            Newcomer { identity, browser: String::new(), return_to: "/".into(), at: begun.at.0, fresh: false };
        let ticket = newcomer.ticket(question(&secret), begun, stamp.now);
        let changes = Changes { steps: vec![Change::InsertTicket(ticket)], ..Changes::default() };
        Decision { outcome: Ok(Outcome::Code(secret)), changes }
    }

    /// What is committed once the answer has used its question up: an account for who said yes.
    pub fn rest_of_answer(&mut self, request: &UpstreamRequest, facts: &Facts) -> Vec<Changes> {
        let (UpstreamRequest::Answer { yes, .. }, Facts::Upstream(UpstreamFacts::Question(stamp, Some(ticket)))) =
            (request, facts)
        else {
            return Vec::new();
        };
        let Some(newcomer) = ticket.read::<Newcomer>().filter(|_| *yes) else {
            self.counts.add("newcomers: wanted none");
            return Vec::new();
        };
        vec![upstream::new_account(stamp, &newcomer.identity, None, &mut self.rng).changes]
    }

    // ---- what really happened ----

    /// I7: what began before somebody signed out at the provider does not come through afterwards. I11: only what came from there
    /// ends.
    pub fn truth_of_upstream(&mut self, changes: &Changes) {
        for step in &changes.steps {
            match step {
                Change::SignOutLink { issuer, subject, at } => {
                    self.providers.outs.push((issuer.clone(), subject.clone(), *at));
                }
                Change::InsertLink(link) => {
                    self.counts.add("newcomers: an account was made");
                    if !self.providers.yes.contains(&link.subject) || !self.providers.made.insert(link.subject.clone())
                    {
                        let subject = &link.subject;
                        return self.violate("I11", format!("an account was made for {subject}, who did not want one"));
                    }
                }
                Change::InsertOrigin(origin) => {
                    self.counts.add("sign-ins by another provider");
                    if self.providers.made.contains(&origin.subject) {
                        self.counts.add("newcomers: came again");
                    }
                    self.providers.origins.insert(origin.session, origin.clone());
                }
                Change::Revoke(revoke) if revoke.reason == Door::UpstreamLogout.as_str() => {
                    self.counts.add("sessions ended by another provider");
                }
                _ => {}
            }
        }
    }

    /// The head that the proof of an upstream sign-in rests on; and whether it was out by then.
    pub fn check_arrival(&mut self, request: &UpstreamRequest) {
        let UpstreamRequest::Arrive { person, begun, .. } = request else { return };
        let (issuer, subject) = name_of(*person);
        let out = self.providers.outs.iter().any(|out| (&*out.0, &out.1) == (issuer, &subject) && out.2 >= begun.at);
        if out {
            let detail = format!("{subject} of {issuer} came through, and had signed out there");
            self.violate("I7", detail);
        }
    }

    /// What a provider is answered.
    pub fn check_upstream_reply(&mut self, op: &Op, request: &UpstreamRequest, reply: &Reply) {
        let UpstreamRequest::EndFrom { from } = request else { return };
        let fits = |origin: &Origin| {
            origin.issuer == from.issuer
                && from.subject.as_ref().is_none_or(|subject| *subject == origin.subject)
                && from.sid.as_ref().is_none_or(|sid| origin.sid.as_ref() == Some(sid))
        };
        match reply {
            Reply::Revoked { .. } => {
                let ended = op.changes.steps.iter().find_map(|step| match step {
                    Change::Revoke(revoke) => match revoke.target {
                        Target::Session(session) => Some(session),
                        _ => None,
                    },
                    _ => None,
                });
                let wrong = ended.filter(|session| !self.providers.origins.get(session).is_some_and(fits));
                if let Some(session) = wrong {
                    self.violate("I11", format!("{session} ended by a logout of {from:?}, from where it did not come"));
                }
            }
            Reply::Done => {
                let now = self.database.highest(self.now);
                tell!(self, "provider: {from:?} is out");
                // What was there when it was looked at is dead. (Whoever comes by a sign-in that began later may be in.)
                let alive = |session: &SessionId| {
                    let view = self.disk.visible.load_session(*session, now);
                    view.is_some_and(|view| view.dead(self.settings.rules.idle_ttl).is_none())
                };
                let seen = |session: &SessionId| {
                    self.truth.sessions.get(session).is_some_and(|fact| fact.proof < op.facts_head)
                        && self.disk.durable.load_session(*session, now).is_some()
                };
                let born = |session: &SessionId| self.truth.sessions.get(session).map_or(Rev::ZERO, |fact| fact.proof);
                let left = self.providers.origins.iter().filter(|(_, origin)| fits(origin)).map(|(id, _)| id);
                let left = left.filter(|id| seen(id) && alive(id)).max_by_key(|id| born(id)).copied();
                self.counts.add("logouts of another provider");
                if let Some(session) = left.filter(|_| from.sid.is_some()) {
                    self.violate("I1", format!("{session} lives after the logout of {from:?} was answered"));
                }
            }
            _ => {}
        }
    }
}

/// What the act of an upstream logout was.
pub fn act_of(op: &Op, request: &UpstreamRequest) -> Option<Act> {
    let (UpstreamRequest::EndFrom { .. }, Some(Ok(Outcome::Ended))) = (request, op.outcome.as_ref()) else {
        return None;
    };
    let Some(Facts::Upstream(UpstreamFacts::Sessions(sessions))) = op.facts.as_ref() else { return None };
    let (account, session) = sessions.first().copied()?;
    let (door, scope) = (Door::UpstreamLogout, Scope::Session { account, session });
    Some(Act::of(door, scope))
}

/// The sign-in by a provider that a request is.
pub fn arrival_of(request: &Request) -> Option<UpstreamRequest> {
    match request {
        Request::Upstream(arrival @ UpstreamRequest::Arrive { .. }) => Some(arrival.clone()),
        _ => None,
    }
}

/// The head that the proof of a sign-in by a provider was read at: when the browser left.
pub fn proof_of(request: &Request) -> Option<Rev> {
    match request {
        Request::Upstream(UpstreamRequest::Arrive { begun, .. }) => Some(begun.born),
        _ => None,
    }
}

fn identity_of(person: usize, sid: Option<String>) -> Identity {
    let (issuer, subject) = name_of(person);
    Identity {
        upstream: "up".into(),
        issuer: issuer.into(),
        subject,
        sid,
        email: None,
        name: None,
        auth_time: None,
        amr: Amr::unknown(),
    }
}

fn question(secret: &SecretString) -> Digest {
    ticket::id(TicketKind::Upstream, secret.expose())
}
