//! One trace through what a server would do: the rules for refresh tokens, the throttle, `observe`, the policy, and its outcomes.
use crate::rows::{START, Seeded, apply, key, made, rules};
use crate::trace::{Act, Event, Outcome as Said, SignalKind, Step, Trace, What};
use portcullis_domain::family::Presented;
use portcullis_domain::refresh::{How, refresh};
use portcullis_domain::risk::{
    self, ExternalKind, Guesses, Judge, Made, Memory, Origin, Outcome, Place, RefreshSeen, Seen, Spot, observe,
    strongest,
};
use portcullis_domain::throttle::{self, ACCOUNT, Attempt, Bucket, BucketKey, PREFIX};
use portcullis_domain::turned::{Turned, turned};
use portcullis_domain::view::RefreshView;
use portcullis_domain::{Refused, device};
use portcullis_wire::{AccountId, ClientId, SecretString, SessionId, Time};
use std::collections::{BTreeMap, BTreeSet};

/// What a server knows in this run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Given {
    /// A database of places.
    pub places: bool,
    /// Services that report where tokens are used.
    pub sightings: bool,
}

/// What one event came to.
#[derive(Debug, Default)]
pub struct Came {
    /// Rules that held, with whether they are shadows.
    pub hits: Vec<(String, bool)>,
    /// The owner was told.
    pub told: bool,
    /// What was done, beside telling.
    pub done: Option<Outcome>,
    /// It was refused, or never came since what it rests on was dead.
    pub refused: bool,
}

/// What a trace came to.
#[derive(Debug, Default)]
pub struct Run {
    pub events: Vec<Came>,
    /// Sessions that are dead at the end.
    pub dead: BTreeSet<usize>,
    /// Sessions that the policy or the rules for refresh tokens ended, with the event; a sign-in that was refused is its own.
    pub ended: BTreeMap<usize, usize>,
    /// Accounts that were blocked.
    pub blocked: BTreeSet<String>,
    /// Attempts that the throttle refused.
    pub throttled: Vec<usize>,
    /// The longest memory, as text.
    pub bytes: usize,
}

struct World<'a> {
    trace: &'a Trace,
    given: Given,
    policy: Option<&'a dyn Judge>,
    run: Run,
    rows: BTreeMap<usize, RefreshView>,
    network: BTreeMap<usize, Option<[u8; 8]>>,
    tokens: BTreeMap<usize, SecretString>,
    /// When the current token was made, before what is seen.
    token_at: BTreeMap<usize, Time>,
    memories: BTreeMap<String, String>,
    buckets: BTreeMap<BucketKey, Bucket>,
    known: BTreeMap<String, Vec<(BucketKey, Time)>>,
    /// Devices whose mark for an account was never given, since the sign-in was refused.
    unmarked: BTreeSet<(String, String)>,
    blocked_until: BTreeMap<String, Time>,
    chance: Seeded,
}

/// Runs a trace. Without a policy: what the rules for refresh tokens make of it alone.
pub fn run(trace: &Trace, policy: Option<&dyn Judge>, given: Given) -> Run {
    let mut world = World {
        trace,
        given,
        policy,
        run: Run::default(),
        rows: BTreeMap::new(),
        network: BTreeMap::new(),
        tokens: BTreeMap::new(),
        token_at: BTreeMap::new(),
        memories: BTreeMap::new(),
        buckets: BTreeMap::new(),
        known: BTreeMap::new(),
        unmarked: BTreeSet::new(),
        blocked_until: BTreeMap::new(),
        chance: Seeded(7),
    };
    for n in 0..trace.events.len() {
        let came = world.event(n);
        world.run.events.push(came);
    }
    let made = (0..trace.events.len()).filter(|n| trace.session(*n).is_some());
    world.run.dead = made.filter(|n| !world.rows.contains_key(n)).collect();
    world.run
}

/// The same number for the same name.
fn number(name: &str) -> u128 {
    name.bytes().fold(1, |all, b| all.wrapping_mul(1_099_511_628_211).wrapping_add(u128::from(b)))
}

impl World<'_> {
    fn now(&self, n: usize) -> Time {
        START.plus(i64::try_from(self.trace.events[n].t).unwrap() * 1000)
    }

    fn from(&self, event: &Event, account: &str) -> Option<Origin> {
        let network = &self.trace.networks[event.network.as_ref()?];
        let name = Origin::network_of(&key(), AccountId::from_bits(number(account)), network.ip);
        let udeg = |deg: f64| (deg * 1e6) as i32;
        let place = Place {
            country: network.country.as_ref().map(|c| c.as_bytes().try_into().unwrap()),
            asn: network.asn,
            spot: network.lat.zip(network.lon).zip(network.radius_km).map(|((lat, lon), radius)| Spot {
                lat_udeg: udeg(lat),
                lon_udeg: udeg(lon),
                radius_km: radius as u16,
            }),
        };
        Some(Origin { network: name, place: if self.given.places { place } else { Place::default() } })
    }

    fn agent(&self, event: &Event) -> Option<&str> {
        event.device.as_ref().map(|name| self.trace.devices[name].agent.as_str())
    }

    /// The account that an event is about.
    fn account(&self, event: &Event) -> String {
        match &event.act {
            Act::SignUp { account }
            | Act::SignIn { account, .. }
            | Act::Recover { account, .. }
            | Act::Signal { account, .. } => account.clone(),
            Act::Refresh { with, .. } => self.trace.session(self.trace.token_of(*with).unwrap()).unwrap().into(),
            Act::Use { session }
            | Act::Prove { session, .. }
            | Act::Change { session, .. }
            | Act::SignOut { session, .. } => self.trace.session(*session).unwrap().into(),
        }
    }

    fn event(&mut self, n: usize) -> Came {
        let trace = self.trace;
        let event = &trace.events[n];
        let refused = || Came { refused: true, ..Came::default() };
        match &event.act {
            Act::SignUp { .. } => self.begin(n, risk::Act::SignUp, Guesses::default()),
            Act::SignIn { account, outcome, breached, known } => {
                let device = event.device.clone().unwrap();
                let known = *known && !self.unmarked.contains(&(device, account.clone()));
                match self.attempt(n, account, known, *outcome == Said::Ok) {
                    Some(guesses) if *outcome == Said::Ok => {
                        let act = risk::Act::SignIn { known_device: known, breached: *breached };
                        self.begin(n, act, guesses)
                    }
                    Some(_) => Came::default(),
                    None => refused(),
                }
            }
            Act::Refresh { with, lost } => self.refresh(n, *with, *lost),
            Act::Use { session } => {
                if !self.rows.contains_key(session) || !self.given.sightings {
                    return Came { refused: !self.rows.contains_key(session), ..Came::default() };
                }
                self.judge(n, risk::Act::Sighting, Some(*session), Guesses::default())
            }
            Act::Prove { session, outcome } => {
                if !self.rows.contains_key(session) {
                    return refused();
                }
                let ok = *outcome == Said::Ok;
                let account = self.account(event);
                match self.attempt(n, &account, false, ok) {
                    Some(guesses) => self.judge(n, risk::Act::Prove { ok }, Some(*session), guesses),
                    None => refused(),
                }
            }
            Act::Change { session, what } => {
                if !self.rows.contains_key(session) {
                    return refused();
                }
                let act = match what {
                    What::Password => risk::What::Password,
                    What::Email => risk::What::Email,
                    What::Factor => risk::What::Factor,
                    What::App => risk::What::App,
                };
                let came = self.judge(n, risk::Act::Change(act), Some(*session), Guesses::default());
                if *what == What::Password && self.rows.contains_key(session) {
                    let account = self.account(event);
                    self.end_all(&account, Some(*session), None);
                }
                came
            }
            Act::SignOut { session, all } => {
                if !self.rows.contains_key(session) {
                    return refused();
                }
                let account = self.account(event);
                if *all {
                    self.end_all(&account, None, None);
                }
                self.rows.remove(session);
                Came::default()
            }
            Act::Recover { account, step } => {
                let step = if *step == Step::Done {
                    self.end_all(account, None, None);
                    risk::Step::Done
                } else {
                    risk::Step::Asked
                };
                self.judge(n, risk::Act::Recover(step), None, Guesses::default())
            }
            Act::Signal { kind, .. } => {
                let kind = match kind {
                    SignalKind::CredentialLeaked => ExternalKind::CredentialLeaked,
                    SignalKind::DeviceLost => ExternalKind::DeviceLost,
                    SignalKind::Fraud => ExternalKind::Fraud,
                };
                self.judge(n, risk::Act::External(kind), None, Guesses::default())
            }
        }
    }

    /// An attempt takes its place in the budgets. What was outstanding before it, or `None` when it is throttled.
    fn attempt(&mut self, n: usize, account: &str, known: bool, right: bool) -> Option<Guesses> {
        let (event, now) = (&self.trace.events[n], self.now(n));
        let ip = event.network.as_ref().map(|name| self.trace.networks[name].ip);
        let mark = event.device.as_ref().filter(|_| known).map(|name| number(name));
        let attempt = Attempt::of(&key(), account, ip, mark);
        let seen = self.known.entry(account.into()).or_default();
        let remembered =
            seen.iter().any(|(network, at)| *network == attempt.network && throttle::is_remembered(*at, now));
        let keys = attempt.keys();
        let rows = keys.map(|key| self.buckets.get(&key).copied());
        let owed = |row: Option<Bucket>, every: i64| {
            let debt = row.map_or(0, |row| (row.debt - now.since(row.seen_at).max(0)).max(0));
            u32::try_from((debt + every - 1) / every).unwrap()
        };
        let guesses = Guesses { account: owed(rows[0], ACCOUNT.every), prefix: owed(rows[2], PREFIX.every) };
        let (verdict, after) = throttle::take(&attempt, remembered, rows, now);
        for (key, bucket) in keys.iter().zip(after) {
            self.buckets.insert(*key, bucket);
        }
        if !verdict.is_checked() {
            self.run.throttled.push(n);
            return None;
        }
        if right {
            let rows = keys.map(|key| self.buckets.get(&key).copied());
            for (key, bucket) in keys.iter().zip(throttle::give_back(&attempt, verdict, rows, now)) {
                self.buckets.insert(*key, bucket.unwrap());
            }
            let seen = self.known.entry(account.into()).or_default();
            seen.retain(|(network, _)| *network != attempt.network);
            seen.push((attempt.network, now));
        }
        Some(guesses)
    }

    /// A session begins, unless a rule refuses it.
    fn begin(&mut self, n: usize, act: risk::Act, guesses: Guesses) -> Came {
        let event = &self.trace.events[n];
        let (account, now) = (self.account(event), self.now(n));
        if self.blocked_until.get(&account).is_some_and(|until| now < *until) {
            self.run.ended.insert(n, n);
            return Came { refused: true, ..Came::default() };
        }
        let came = self.judge(n, act, Some(n), guesses);
        let device = (event.device.clone().unwrap(), account.clone());
        if matches!(came.done, Some(Outcome::EndSession | Outcome::Block { .. })) {
            self.run.ended.insert(n, n);
            self.unmarked.insert(device);
            return Came { refused: true, ..came };
        }
        self.unmarked.remove(&device);
        let agent = self.agent(event).unwrap();
        let row = made(AccountId::from_bits(number(&account)), SessionId::from_bits(n as u128 + 1), agent, now);
        self.tokens.insert(n, row.grant.family.current_token(&key(), row.grant.id));
        self.network.insert(n, self.from(event, &account).map(|from| from.network));
        self.rows.insert(n, row);
        came
    }

    fn refresh(&mut self, n: usize, with: usize, lost: bool) -> Came {
        let refused = Came { refused: true, ..Came::default() };
        let session = self.trace.token_of(with).unwrap();
        let (event, now) = (&self.trace.events[n], self.now(n));
        let device = &self.trace.devices[event.device.as_ref().unwrap()];
        let account = self.account(event);
        let network = self.from(event, &account).map(|from| from.network);
        let ip = event.network.as_ref().map(|name| self.trace.networks[name].ip);
        let (Some(row), Some(token)) = (self.rows.get_mut(&session), self.tokens.get(&with).cloned()) else {
            return refused;
        };
        (row.stamp.now, row.stamp.horizon) = (now, now.plus(3_600_000));
        self.token_at.insert(session, row.grant.family.made_at);
        let at_home = self.is_at_home(n, session);
        let row = self.rows.get_mut(&session).unwrap();
        let how = How {
            cookie: device.cookie,
            user_agent: Some(device.agent.clone()),
            ip,
            client: ClientId::FIRST_PARTY,
            proven: false,
            sender: None,
            at_home,
        };
        let presented = Presented::parse(&token).unwrap();
        let made = row.session.agent.clone();
        let before = (row.grant.family.counter, row.grant.family.predecessor);
        let decision = refresh(row, &presented, &how, &rules(), &key(), &key(), &mut self.chance);
        apply(row, &decision.changes);
        let family = &row.grant.family;
        let seen = match &decision.outcome {
            Ok(_) if family.counter == before.0 => RefreshSeen::Again,
            Ok(_) if presented.counter() == before.0 => RefreshSeen::Rotated,
            Ok(_) => RefreshSeen::Skipped,
            Err(Refused::RefreshReused) => RefreshSeen::Theft,
            Err(Refused::RefreshInvalid) => RefreshSeen::OtherDevice,
            Err(_) => {
                self.rows.remove(&session);
                return refused;
            }
        };
        let went = decision.outcome.is_ok();
        if let Ok(issued) = decision.outcome
            && !lost
        {
            self.tokens.insert(n, issued.refresh);
        }
        if seen == RefreshSeen::Theft {
            self.rows.remove(&session);
            self.run.ended.entry(session).or_insert(n);
        }
        // As on the hot path: where nothing changed, nothing is looked at.
        let shown = device::family(Some(&device.agent));
        let calm = self.network[&session] == network && turned(&made, &shown) == Turned::No;
        let quiet = matches!(seen, RefreshSeen::Rotated | RefreshSeen::Again) && calm;
        if went {
            self.network.insert(session, network);
        }
        if quiet {
            return Came::default();
        }
        let came = self.judge(n, risk::Act::Refresh(seen), Some(session), Guesses::default());
        Came { refused: !went, ..came }
    }

    /// What is seen at an event.
    fn seen(&self, n: usize, act: risk::Act, session: Option<usize>, guesses: Guesses) -> Seen {
        let event = &self.trace.events[n];
        let account = self.account(event);
        Seen {
            at: self.now(n),
            act,
            session: session.map(|one| SessionId::from_bits(one as u128 + 1)),
            made: session.and_then(|one| self.rows.get(&one)).map(|row| Made {
                at: row.session.created_at,
                agent: row.session.agent.clone(),
                token_at: session.and_then(|one| self.token_at.get(&one).copied()),
            }),
            from: self.from(event, &account),
            agent: self.agent(event).map_or(String::new(), |agent| device::family(Some(agent))),
            build: device::build(self.agent(event)),
            guesses,
        }
    }

    /// Whether a token comes from where its session was last. Without rules nobody remembers anything.
    fn is_at_home(&self, n: usize, session: usize) -> bool {
        let account = self.account(&self.trace.events[n]);
        let seen = self.seen(n, risk::Act::Refresh(RefreshSeen::Theft), Some(session), Guesses::default());
        let memory = self.memories.get(&account).map_or_else(Memory::default, |text| Memory::read(text));
        self.policy.is_some() && self.network[&session].is_some_and(|last| memory.is_at_home(last, &seen))
    }

    /// Observes, judges and carries out.
    fn judge(&mut self, n: usize, act: risk::Act, session: Option<usize>, guesses: Guesses) -> Came {
        let Some(policy) = self.policy else { return Came::default() };
        let event = &self.trace.events[n];
        let (account, now) = (self.account(event), self.now(n));
        let seen = self.seen(n, act, session, guesses);
        let before = self.memories.get(&account).map_or_else(Memory::default, |text| Memory::read(text));
        let (signals, after) = observe(&before, &seen);
        let verdict = policy.judge(&signals);
        let told = verdict.notifies().is_some();
        let done = strongest(&verdict).map(|(_, outcome)| outcome).filter(|outcome| *outcome != Outcome::Notify);
        let without = risk::Signals { guesses_account: 0, guesses_prefix: 0, ..signals };
        let lasts = strongest(&policy.judge(&without)).is_some_and(|(_, outcome)| outcome.ends());
        let after = match (done, act) {
            (Some(Outcome::EndAll), risk::Act::Recover(_)) => after,
            (Some(Outcome::EndAll), risk::Act::SignIn { .. } | risk::Act::External(_)) => after.doubted(&before),
            (Some(outcome), _) if outcome.ends() => after.refused(&before, &seen, lasts),
            _ => after,
        };
        let text = after.write();
        self.run.bytes = self.run.bytes.max(text.len());
        self.memories.insert(account.clone(), text);
        match done {
            Some(Outcome::EndSession) => {
                if let Some(session) = session.filter(|session| self.rows.remove(session).is_some()) {
                    self.run.ended.entry(session).or_insert(n);
                }
            }
            Some(Outcome::EndAll) => self.end_all(&account, None, Some(n)),
            Some(Outcome::Block { for_ms }) => {
                self.end_all(&account, None, Some(n));
                self.run.blocked.insert(account.clone());
                self.blocked_until.insert(account, for_ms.map_or(Time(i64::MAX), |ms| now.plus(ms)));
            }
            _ => {}
        }
        let hits = verdict.hits.iter().map(|hit| (hit.rule.clone(), hit.shadow)).collect();
        Came { hits, told, done, refused: false }
    }

    /// All sessions of an account end but one. `by` a rule at this event, or by its owner.
    fn end_all(&mut self, account: &str, but: Option<usize>, by: Option<usize>) {
        let trace = self.trace;
        let gone: Vec<usize> =
            self.rows.keys().copied().filter(|one| trace.session(*one) == Some(account) && Some(*one) != but).collect();
        for one in gone {
            self.rows.remove(&one);
            if let Some(n) = by {
                self.run.ended.entry(one).or_insert(n);
            }
        }
    }
}
