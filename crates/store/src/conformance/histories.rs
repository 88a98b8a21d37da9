//! The same random history on two stores: every commit must have the same result, and every view must stay the same.
//!
//! The world is small (a few ids of each kind at a time, wrong and right versions), so that things collide, and moves on, so that
//! there is always something alive. The seed decides everything, and a difference is told with seed and step.
mod apps;

use super::show::{KEPT, Known, looks_agree, show};
use super::{Backend, LOG, START, audit, clock_of, wait};
use crate::{CommitError, Store};
use portcullis_domain::audit::Sealing;
use portcullis_domain::changes::{
    BoundRow, Change, Changes, Committed, Conflict, Counted, Expect, Idempotency, Revoke,
};
use portcullis_domain::event::{EventKind, NewEvent};
use portcullis_domain::family::Family;
use portcullis_domain::mass::{Filter, Job, JobStep, Standing};
use portcullis_domain::model::{Account, Block, Grant, Instance, Key, KeyPurpose, Session, SessionKind, Status};
use portcullis_domain::throttle::{Attempt, BucketKey, Budget, Verdict};
use portcullis_domain::ticket::TicketKind;
use portcullis_domain::{Actor, Cut};
use portcullis_wire::{
    AccountId, ClientId, Digest, Epoch, EventId, GrantId, InstanceId, JobId, KeyId, Rev, SecretBytes, SessionId,
    Target, Time, TokenId, Verb,
};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering::SeqCst};

const ACCOUNTS: u128 = 6;
const SESSIONS: u128 = 14;
const GRANTS: u128 = 16;
const EMAILS: u64 = 5;
const FEW: u128 = 4;
const ACCOUNT_EVERY: u64 = 150;
const SESSION_EVERY: u64 = 8;

/// How often what came out, over a history.
#[derive(Debug, Clone, Default)]
pub struct Counts {
    /// By the word for the result.
    pub results: BTreeMap<String, u64>,
    /// Commits that wrote an entry.
    pub revs: u64,
    /// Sessions counted as ended.
    pub ended: u64,
    /// Records about tombstones that were looked at to be erased.
    pub erased: u64,
    /// Attempts taken, by verdict.
    pub attempts: BTreeMap<Verdict, u64>,
}

impl Counts {
    /// Adds those of another history.
    pub fn join(&mut self, other: Self) {
        for (word, n) in other.results {
            *self.results.entry(word).or_default() += n;
        }
        for (verdict, n) in other.attempts {
            *self.attempts.entry(verdict).or_default() += n;
        }
        (self.revs, self.ended) = (self.revs + other.revs, self.ended + other.ended);
        self.erased += other.erased;
    }
    /// Whether everything that can come out did, often.
    pub fn is_varied(&self) -> bool {
        let words = [
            "committed",
            "NotAlive",
            "BornDead",
            "Moved",
            "EmailTaken",
            "Repeated",
            "Missing",
            "TooMany",
            "Used",
            "failed",
        ];
        words.iter().all(|word| self.results.get(*word).is_some_and(|n| *n >= 5))
            && self.revs > 100
            && self.ended > 50
            && self.erased > 5
            && self.attempts.len() == 4
    }
}

/// Runs `steps` random commits with this seed on a new database of each kind; panics at the first difference.
pub fn compare(one: &dyn Backend, two: &dyn Backend, seed: u64, steps: u64) -> Counts {
    let clock = Arc::new(AtomicI64::new(START.0));
    let stores = [one, two].map(|backend| backend.make(LOG, clock_of(&clock)));
    let (mut dice, mut counts) = (Dice { state: seed, step: 0 }, Counts::default());
    let mut sealer = Dice { state: !seed, step: 0 };
    let mut looker = Dice { state: seed.rotate_left(32), step: 0 };
    for step in 0..steps {
        dice.step = step;
        clock.fetch_add(dice.below(40) as i64, SeqCst);
        let head = wait(stores[0].stamp()).unwrap().head;
        let changes = dice.changes(Time(clock.load(SeqCst)), head);
        let [a, b] = [0, 1].map(|at| wait(stores[at].commit(changes.clone())));
        let (a, b) = (result(&a), result(&b));
        assert_eq!(a, b, "seed {seed}, step {step}: {changes:?}");
        counts.add(a);
        if sealer.one_in(20) {
            let changes = sealer.chain(&*stores[0], Time(clock.load(SeqCst)));
            let [a, b] = [0, 1].map(|at| result(&wait(stores[at].commit(changes.clone()))));
            assert_eq!(a, b, "seed {seed}, step {step}: {changes:?}");
            if let ([Change::EraseRecords { .. }], Ok(committed)) = (&changes.steps[..], &a) {
                counts.erased += committed.pruned;
            }
        }
        // Where several processes write, nothing is kept of what was looked at.
        let (grants, clients) = (dice.known().grants, (0..FEW).map(ClientId::from_bits).collect::<Vec<_>>());
        for store in stores.iter().filter(|store| looker.one_in(3) && !store.is_shared()) {
            looks_agree(&**store, &grants, &clients);
        }
        // Each view now and then, all the more often in the beginning.
        if step < 50 || dice.one_in(40) || step + 1 == steps {
            let known = dice.known();
            let [a, b] = [0, 1].map(|at| show(&*stores[at], &known));
            if a != b {
                let differ = a.lines().zip(b.lines()).find(|(a, b)| a != b);
                panic!("seed {seed}, step {step}: views differ\n{differ:#?}\nafter {changes:?}");
            }
        }
    }
    counts
}

/// What must be equal: all but the words of a fault.
fn result(result: &Result<Committed, CommitError>) -> Result<Committed, Option<Conflict>> {
    match result {
        Ok(committed) => Ok(*committed),
        Err(CommitError::Conflict(conflict)) => Err(Some(*conflict)),
        Err(CommitError::Failed(_)) => Err(None),
        Err(CommitError::Unknown(error)) => panic!("nothing is unknown here: {error}"),
    }
}

impl Counts {
    fn add(&mut self, result: Result<Committed, Option<Conflict>>) {
        let word = match result {
            Ok(committed) => {
                self.revs += u64::from(committed.rev.is_some());
                self.ended += committed.ended.unwrap_or(0);
                if let Some(verdict) = committed.attempt {
                    *self.attempts.entry(verdict).or_default() += 1;
                }
                "committed".to_owned()
            }
            Err(Some(conflict)) => format!("{conflict:?}").split('(').next().unwrap_or_default().to_owned(),
            Err(None) => "failed".to_owned(),
        };
        *self.results.entry(word).or_default() += 1;
    }
}

fn email(n: u64) -> String {
    format!("user{n}@example.org")
}

/// SplitMix64.
struct Dice {
    state: u64,
    step: u64,
}

impl Dice {
    fn next(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
    fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }
    fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }
    fn id(&mut self, n: u128) -> u128 {
        u128::from(self.next()) % n
    }
    /// One of those that are there now: every so many steps one leaves and one comes.
    fn one_of(&mut self, there: u128, every: u64) -> u128 {
        u128::from(self.step / every) + self.id(there)
    }
    fn account(&mut self) -> AccountId {
        AccountId::from_bits(self.one_of(ACCOUNTS, ACCOUNT_EVERY))
    }
    fn session(&mut self) -> SessionId {
        SessionId::from_bits(self.one_of(SESSIONS, SESSION_EVERY))
    }
    fn email(&mut self) -> String {
        let n = self.step / ACCOUNT_EVERY + self.below(EMAILS);
        email(n)
    }
    /// What is there now, and a few that were.
    fn known(&self) -> Known {
        let there =
            |n: u128, every: u64| u128::from((self.step / every).saturating_sub(3))..u128::from(self.step / every) + n;
        Known {
            sessions: there(SESSIONS, SESSION_EVERY).map(SessionId::from_bits).collect(),
            grants: there(GRANTS, SESSION_EVERY).map(GrantId::from_bits).collect(),
            accounts: there(ACCOUNTS, ACCOUNT_EVERY).map(AccountId::from_bits).collect(),
            emails: there(EMAILS.into(), ACCOUNT_EVERY).map(|n| email(n as u64)).collect(),
            tickets: there(apps::TICKETS, apps::TICKET_EVERY).map(apps::ticket_id).collect(),
            jobs: (0..FEW).map(JobId::from_bits).collect(),
            calls: (0..FEW).flat_map(|a| (0..FEW).map(move |k| (format!("actor{a}"), format!("key{k}")))).collect(),
        }
    }
    fn session_if(&mut self) -> Option<SessionId> {
        self.one_in(2).then(|| self.session())
    }
    fn grant(&mut self) -> GrantId {
        GrantId::from_bits(self.one_of(GRANTS, SESSION_EVERY))
    }
    fn client(&mut self) -> ClientId {
        ClientId::from_bits(self.id(FEW))
    }
    fn time(&mut self, now: Time) -> Time {
        now.plus(self.below(2000) as i64 - 1000)
    }
    fn time_if(&mut self, now: Time) -> Option<Time> {
        self.one_in(2).then(|| self.time(now))
    }
    fn some_born(&mut self, head: Rev) -> Rev {
        Rev(head.0.saturating_sub(if self.one_in(3) { self.below(6) } else { 0 }))
    }
    fn role(&mut self) -> Option<&'static str> {
        [None, None, Some("admin"), Some("ops")][self.below(4) as usize]
    }
    fn roles(&mut self) -> Vec<String> {
        ["admin", "ops"].into_iter().filter(|_| self.one_in(2)).map(Into::into).collect()
    }

    fn changes(&mut self, now: Time, head: Rev) -> Changes {
        if self.one_in(10) {
            let steps = (0..=self.below(2)).map(|_| self.attempt()).collect();
            return Changes { steps, ..Changes::default() };
        }
        if self.one_in(4) {
            return self.sign_in(now, head);
        }
        if self.one_in(16) {
            return self.mass(now);
        }
        if self.one_in(12) {
            return Changes { steps: (0..=self.below(2)).map(|_| self.risk()).collect(), ..Changes::default() };
        }
        if self.one_in(5) {
            return self.app(now, head);
        }
        let mut times = |few: &[usize]| few[self.below(few.len() as u64) as usize];
        let (expects, steps, events) =
            (times(&[0, 0, 0, 0, 0, 1, 1, 2]), times(&[0, 1, 1, 1, 1, 2, 3]), times(&[0, 0, 1, 2]));
        let id = EventId::from_bits(if self.one_in(8) { self.id(50) } else { u128::from(self.next()) });
        let events = (0..events).map(|n| self.event(EventId::from_bits(id.bits() + n as u128))).collect();
        Changes {
            expects: (0..expects).map(|_| self.expect(head)).collect(),
            steps: (0..steps).map(|_| self.step(now, head)).collect(),
            events,
            idempotency: self.one_in(6).then(|| Idempotency {
                actor: format!("actor{}", self.id(FEW)),
                key: format!("key{}", self.id(FEW)),
                request: Digest::of(&self.next().to_be_bytes()),
                made: self.one_in(2).then(|| "made".into()),
            }),
            idle_ttl: self.one_in(3).then(|| self.below(3000) as i64),
        }
    }

    /// The chain over audit records goes on, or its beginning goes; now and then by somebody who is late.
    fn chain(&mut self, store: &dyn Store, now: Time) -> Changes {
        let most = self.below(30) as u32 + 1;
        let what = match self.below(8) {
            1 | 2 => Some(Change::EraseRecords { most: self.below(4) + 1 }),
            0 => audit::pruning(store, self.time(now).minus(2_000), most),
            _ => audit::sealing(store, most, u128::from(self.next()) << 64).map(Change::Seal),
        };
        let late = self.one_in(6);
        let what = what.map(|what| match what {
            Change::Seal(sealing) if late => Change::Seal(Sealing { from: audit::key().genesis(LOG).place, ..sealing }),
            what => what,
        });
        Changes { steps: vec![what.unwrap_or_else(audit::begun)], ..Changes::default() }
    }

    /// A session with its grant, sometimes with its account: else most of what is random would miss.
    fn sign_in(&mut self, now: Time, head: Rev) -> Changes {
        let account = self.new_account(now);
        let session = Session { account: account.id, ..self.new_session(now, head) };
        let grant = Grant { session: session.id, client: ClientId::FIRST_PARTY, ..self.new_grant(now, head) };
        let expects =
            vec![Expect::Unborn { account: account.id, client: grant.client, born: session.born, under: None }];
        if self.one_in(3) {
            return Changes { steps: vec![Change::InsertAccount(account)], ..Changes::default() };
        }
        let steps = vec![Change::InsertSession(session), Change::InsertGrant(grant)];
        Changes { expects, steps, ..Changes::default() }
    }

    /// A revocation by filter: made, or gone on with.
    fn mass(&mut self, now: Time) -> Changes {
        let id = JobId::from_bits(self.id(FEW));
        if self.one_in(3) {
            let network = ["10.0.0.0/8", "10.0.0.1", "::/0"][self.below(3) as usize].parse().ok();
            let filter = Filter {
                accounts: if self.one_in(3) { vec![self.account()] } else { vec![] },
                clients: if self.one_in(9) { vec![self.client()] } else { vec![] },
                created_before: self.time_if(now),
                network: network.filter(|_| self.one_in(2)),
            };
            let rule = Standing { rev: Rev::ZERO, filter, except: self.session_if() };
            let job = Job::new(id, rule, self.one_in(2), "system".into(), "r", now);
            let stale = Revoke { verb: Verb::Stale, target: Target::All, ..self.revoke() };
            let expects = vec![Expect::StandingBelow(self.below(4) as u32)];
            let steps = if self.one_in(9) { vec![] } else { vec![Change::Revoke(stale)] };
            return Changes { expects, steps: [steps, vec![Change::InsertJob(job)]].concat(), ..Changes::default() };
        }
        let from = if self.one_in(2) { None } else { self.session_if() };
        let step = JobStep {
            job: id,
            from,
            to: if self.one_in(2) { None } else { Some(self.session()) },
            scanned: self.below(9),
            sessions: (0..self.below(4)).map(|_| self.session()).collect(),
            log: self.one_in(2),
            silent: self.one_in(2),
        };
        Changes { steps: vec![Change::StepJob(step)], ..Changes::default() }
    }

    fn event(&mut self, id: EventId) -> NewEvent {
        let kind = EventKind::ALL[self.below(EventKind::ALL.len() as u64) as usize];
        let event = NewEvent::new(id, kind, &Actor::System).reason(format!("r{}", self.below(9)));
        let event = event.ip(self.one_in(2).then(|| [192, 0, 2, 2].into()));
        if self.one_in(3) { event } else { event.account(self.account()) }
    }

    fn expect(&mut self, head: Rev) -> Expect {
        match self.below(10) {
            9 => self.app_expect(head),
            8 => {
                let counted = [Counted::All, Counted::SignIns, Counted::ApiKeys][self.below(3) as usize];
                let (account, besides, at_most) = (self.account(), vec![self.session()], self.below(4));
                Expect::LiveSessions { account, counted, besides, at_most }
            }
            0 | 1 => Expect::Alive { session: self.session(), role: self.role() },
            2 => Expect::Unborn {
                under: None,
                account: self.account(),
                client: self.client(),
                born: self.some_born(head),
            },
            3 => Expect::AccountVersion { account: self.account(), version: 1 + self.below(3) as u32 },
            4 => Expect::PasswordVersion { account: self.account(), version: 1 + self.below(2) as u32 },
            5 => {
                let (counter, predecessor) = self.position();
                Expect::Family { grant: self.grant(), counter, predecessor }
            }
            6 if self.one_in(2) => Expect::Handouts { grant: self.grant(), handouts: self.below(5) as u32 },
            6 => Expect::SessionNotEnded(self.session()),
            _ if self.one_in(30) => Expect::NoAccounts,
            _ => Expect::EmailFree(self.email()),
        }
    }

    fn position(&mut self) -> (u64, Option<u64>) {
        let counter = 1 + self.below(3);
        (counter, (!self.one_in(3)).then_some(counter.saturating_sub(1)).filter(|n| *n > 0))
    }

    fn family(&mut self, now: Time) -> Family {
        let (counter, predecessor) = self.position();
        Family {
            secret: [self.below(256) as u8; 32],
            key: KeyId(self.below(3) as u32),
            epoch: Epoch(1),
            counter,
            made_at: self.time(now),
            handed_at: self.time(now),
            handouts: self.below(5) as u32,
            predecessor,
        }
    }

    fn status(&mut self, now: Time) -> Status {
        match self.below(8) {
            0..=2 => Status::Active,
            3 | 4 => {
                let until = self.time_if(now);
                Status::Blocked(Block { reason: "r".into(), actor: "system".into(), at: now, until })
            }
            5 => Status::Deleting { at: now, until: self.time(now), rev: Rev(self.below(9)) },
            _ => Status::Deleted { at: now, rev: Rev(self.below(9)) },
        }
    }

    fn step(&mut self, now: Time, head: Rev) -> Change {
        match self.below(25) {
            24 => {
                Change::SetEmail { account: self.account(), email: Some(self.email()), verified_at: self.time_if(now) }
            }
            0 | 1 => Change::InsertAccount(self.new_account(now)),
            2 => Change::SetStatus { account: self.account(), status: self.status(now) },
            3 if self.one_in(3) => Change::SetUnused { account: self.account(), unused: self.one_in(2) },
            3 => Change::SetProfile { account: self.account(), name: None, roles: self.roles() },
            4 => Change::SetPassword { account: self.account(), hash: "h".into(), rehash: self.one_in(2) },
            5..=7 => Change::InsertSession(self.new_session(now, head)),
            8 => Change::RenameSession { session: self.session(), device_name: format!("d{}", self.below(9)) },
            9 | 10 => Change::InsertGrant(self.new_grant(now, head)),
            11 | 12 => {
                let (counter, predecessor) = self.position();
                Change::SetFamily { grant: self.grant(), counter, predecessor, family: self.family(now) }
            }
            13 => Change::HandOut { grant: self.grant(), counter: 1 + self.below(3), at: self.time(now) },
            14..=18 => Change::Revoke(self.revoke()),
            19 => Change::Seen((0..self.below(4)).map(|_| (self.session(), self.time(now))).collect()),
            20 => Change::RaiseHorizon(now.plus(self.below(5000) as i64)),
            21 => Change::RaiseFloor(self.time(now)),
            _ => self.rare(now),
        }
    }

    fn attempt(&mut self) -> Change {
        let key = |kind: u8, n: u64, m: u64| {
            let mut key = [kind; 16];
            (key[1], key[2]) = (n as u8, m as u8);
            BucketKey(key)
        };
        let (who, from) = (self.below(2), self.below(14));
        let device = self.one_in(3).then(|| key(4, who, self.below(2)));
        let attempt = Attempt {
            account: key(1, who, 0),
            network: key(2, who, from),
            prefix: key(3, from, 0),
            device,
            mail: false,
        };
        match self.below(12) {
            0 => {
                let verdicts = [Verdict::Stranger, Verdict::Network, Verdict::Device, Verdict::Throttled];
                Change::GiveBack { attempt, verdict: verdicts[self.below(4) as usize] }
            }
            1 => Change::KnowNetwork { account: attempt.account, network: attempt.network },
            2 if self.one_in(6) => Change::PruneAttempts { keep: self.below(60), most: self.below(9) },
            3 | 4 => Change::Draw { bucket: attempt.account, budget: Budget { burst: 3, every: 600_000 } },
            _ => Change::TakeAttempt(attempt),
        }
    }

    /// What is remembered for the rules of risk; now and then by somebody who is late.
    fn risk(&mut self) -> Change {
        match self.one_in(3) {
            true => Change::SetNetwork { grant: self.grant(), network: [self.below(3) as u8; 8] },
            false => Change::PutMemory {
                account: self.account(),
                version: self.below(4) as u32,
                memory: format!("{{\"n\": {}}}", self.below(99)),
            },
        }
    }

    fn prune(&mut self, now: Time) -> Change {
        let keep = KEPT[self.below(2) as usize];
        let (before, most) = (self.time(now).minus(2_000), self.below(6));
        match self.below(8) {
            7 if self.one_in(2) => Change::PruneGrants { most },
            7 => Change::PruneClients { clients: (0..3).map(|_| self.client()).collect(), unused: 1_000 },
            6 => Change::CrowdOutTickets { session: self.session(), kind: TicketKind::Code, open: 1, used: 1 },
            5 => Change::PruneTickets { before: before.plus(2_000), most },
            0 | 1 => Change::PruneSessions { sessions: (0..5).map(|_| self.session()).collect(), keep },
            2 => Change::ForgetSessionAddresses { sessions: (0..3).map(|_| self.session()).collect(), keep },
            _ => Change::ForgetEventAddresses { before, most },
        }
    }

    fn rare(&mut self, now: Time) -> Change {
        if self.one_in(2) {
            return self.attempt();
        }
        if self.one_in(3) {
            return self.prune(now);
        }
        match self.below(8) {
            0 => Change::InsertClient(self.new_client(now)),
            1 => Change::SetClientDisabled { client: self.client(), disabled: self.one_in(3) },
            2 => Change::InsertInstance(self.instance(now)),
            3 => Change::UpdateInstance(self.instance(now)),
            4 => Change::RemoveInstances(vec![InstanceId::from_bits(self.id(FEW)); 2]),
            5 => Change::InsertKey(Key {
                id: KeyId(self.below(4) as u32),
                purpose: KeyPurpose::Mac,
                public_jwk: String::new(),
                sealed: SecretBytes::new([self.below(2) as u8]),
                created_at: now,
                active_from: self.time_if(now),
                retired_at: None,
                dead: None,
            }),
            6 => {
                let key = KeyId(self.below(4) as u32);
                let (active_from, retired_at) = (self.time_if(now), self.time_if(now));
                let (before, sealed) =
                    (SecretBytes::new([self.below(2) as u8]), SecretBytes::new([self.below(2) as u8]));
                match self.one_in(2) {
                    true => Change::SetKeyTimes { key, active_from, retired_at },
                    false => Change::SetKeySealed { key, before, sealed },
                }
            }
            _ if self.one_in(2) => {
                let (current_ms, next_ms) = (self.below(9000), self.below(9000));
                Change::SetBound(BoundRow { current_ms, next_ms, next_from: self.time(now) })
            }
            _ if self.one_in(2) => Change::ForgetJobs(self.time(now)),
            _ => Change::ForgetIdempotency(self.time(now)),
        }
    }

    fn new_account(&mut self, now: Time) -> Account {
        Account {
            id: self.account(),
            email: (!self.one_in(9)).then(|| self.email()),
            name: self.one_in(2).then(|| "n".into()),
            password_hash: Some("h".into()),
            password_version: 1,
            email_verified_at: self.time_if(now),
            roles: self.roles(),
            status: Status::Active,
            created_at: now,
            cut: Cut::default(),
            version: 1,
        }
    }

    fn new_session(&mut self, now: Time, head: Rev) -> Session {
        Session {
            id: self.session(),
            account: self.account(),
            kind: [SessionKind::App, SessionKind::Browser, SessionKind::ApiKey][self.below(3) as usize],
            client: self.client_if(),
            device_name: "d".into(),
            agent: "a".into(),
            ip: self.one_in(2).then(|| std::net::IpAddr::from([10, 0, 0, self.below(3) as u8])),
            created_at: now,
            auth_time: now,
            amr: self.amr(),
            last_seen_at: self.time(now),
            absolute_expires_at: now.plus(self.below(20_000) as i64),
            born: self.some_born(head),
            epoch: Epoch(u32::from(!self.one_in(20))),
            cookie: self.one_in(2).then(|| Digest::of(b"cookie")),
            old_cookie: None,
            allowed_in: self.one_in(3).then(|| self.session()),
            ended: None,
        }
    }

    fn new_grant(&mut self, now: Time, head: Rev) -> Grant {
        Grant {
            id: self.grant(),
            session: self.session(),
            client: self.client(),
            scope: "account".into(),
            audience: self.one_in(2).then(|| "https://api.example".into()),
            sender: self.one_in(3).then(|| Digest::of(b"key")),
            agent: self.one_in(2).then(|| "agent".into()),
            proof: self.one_in(2).then(|| self.proof(now)),
            born: self.some_born(head),
            network: self.one_in(2).then(|| [self.below(3) as u8; 8]),
            family: Family { counter: 1, predecessor: None, ..self.family(now) },
            ended: None,
        }
    }

    fn instance(&mut self, now: Time) -> Instance {
        Instance {
            id: InstanceId::from_bits(self.id(FEW)),
            client: self.client(),
            name: format!("i{}", self.below(9)),
            policy: "closed".into(),
            bound_ms: self.below(9000),
            secret: Digest::of(b"i"),
            created_at: now,
        }
    }

    fn revoke(&mut self) -> Revoke {
        let verb = if self.one_in(4) { Verb::Stale } else { Verb::End };
        let (verb, target) = match self.below(12) {
            0 => (verb, Target::Token(TokenId::from_bits(self.id(9)))),
            1 | 2 => (verb, Target::Grant(self.grant())),
            3..=6 => (verb, Target::Session(self.session())),
            7 | 8 => (verb, Target::Account(self.account())),
            9 => (verb, Target::Client(self.client())),
            10 => (Verb::Key, Target::Key(KeyId(self.below(4) as u32))),
            _ if self.one_in(6) => (verb, Target::All),
            _ => (verb, Target::Other { scope: "tenant".into(), id: "x".into() }),
        };
        let spread_ms = self.one_in(3).then(|| self.below(99));
        let owned = matches!(target, Target::Token(_) | Target::Grant(_));
        let owner = owned.then(|| AccountId::from_bits(u128::from(self.below(2)) + 1));
        Revoke { verb, target, except: self.session_if(), spread_ms, owner, reason: "door".into() }
    }
}
